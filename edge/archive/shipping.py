"""Sends bundles to workers: the driver reads a bundle's files once, each worker opens and verifies them."""

import tempfile
from pathlib import Path

from edge.bundle import Bundle, VerifiedEngine, open_bundle, open_verified_engine
from edge.bundle.signature import SIGNATURE
from edge.bundle.store import MANIFEST
from edge.errors import BundleError
from edge.inference import EngineKind, Precision
from edge.offline import BundleInspector

Files = dict[str, bytes]
"""The files of a bundle, by name."""


def files_of(bundle: Bundle) -> Files:
    """Read the files of a bundle, its signature included."""
    names = [MANIFEST, *bundle.manifest.files]
    if bundle.signed_by is not None:
        names.append(SIGNATURE)
    return {name: (bundle.path / name).read_bytes() for name in names}


def open_shipped(
    digest: str, files: Files, kind: EngineKind, precision: Precision
) -> tuple[BundleInspector, VerifiedEngine]:
    """Open a bundle on one processor, and run its golden tiles there.

    Raises:
        BundleError: another bundle arrived, or it must not be used on this machine.
        EngineError: its graph does not load or compile.
    """
    with tempfile.TemporaryDirectory(prefix="heatline-bundle-") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        bundle = open_bundle(Path(folder))
        if bundle.digest != digest:
            raise BundleError(f"bundle {bundle.digest[:12]}… came, expected {digest[:12]}…; do not change it meanwhile")
        verified = open_verified_engine(bundle, kind, precision, threads=1)
        return BundleInspector(bundle, verified), verified
