"""A bundle on disk, a folder with `manifest.json` and the files that it lists, each with its sha256; and its engine,
which is verified on this machine by the golden tiles.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from heatline.edge.bundle.golden import GoldenTiles, GoldenTilesError, check_golden
from heatline.edge.bundle.manifest import (
    PRODUCT_TILES,
    SCREENING_GRAPH,
    SCREENING_TILES,
    Manifest,
    Plausible,
    decode_manifest,
    product_tiles_of,
)
from heatline.edge.bundle.plausibility import Plausibility, ProductTiles
from heatline.edge.bundle.signature import read_signature, write_signature
from heatline.edge.errors import BundleError, EngineError
from heatline.edge.geometry import RegionOfInterest
from heatline.edge.inference import infer, open_engine, require_supported
from heatline.edge.inference.engine import (
    ONNX_GRAPH,
    OPENVINO_GRAPH,
    OPENVINO_WEIGHTS,
    PROCESSOR,
    Engine,
    EngineKind,
    Precision,
    ReducingEngine,
    weights_of,
)
from heatline.edge.reference.reference import Reference
from heatline.edge.util.files import require_writable, writing
from heatline.edge.util.text import encode_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
MOST_CACHED = 8
"""Compiled graphs in the cache; when there are more, the oldest are deleted."""
REQUIRED = (ONNX_GRAPH, OPENVINO_GRAPH, OPENVINO_WEIGHTS, GOLDEN)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are complete and unchanged. Reading one that does not fit the manifest is a BundleError."""

    path: Path
    manifest: Manifest
    digest: str
    """sha256 of the manifest, which identifies all files that it lists."""
    signed_by: "Ed25519PublicKey | None" = None
    """The key of its valid signature; the user of the bundle decides whether that key is trusted."""

    def graph_for(self, precision: Precision) -> str:
        """Return the file of the graph that is compiled for a precision; raise a BundleError if there is none."""
        graph = self.manifest.graph_for(precision)
        if graph is None:
            raise BundleError(
                f"{self.path} has no {precision} ({self.manifest.why_without(precision)}); choose "
                f"{' or '.join(self.manifest.precisions)}, or export the bundle again"
            )
        return graph

    def plausibility(self) -> Plausibility | None:
        """Read what frames must look like; None: the bundle does not say."""
        plausible = self.manifest.calibration.plausible
        return None if plausible is None else self._plausibility(plausible, PRODUCT_TILES)

    def plausibility_by_camera(self) -> dict[str, tuple[RegionOfInterest, Plausibility]]:
        """Read the same for cameras that were calibrated separately, each with its region of interest."""
        return {
            camera: (
                RegionOfInterest.from_polygons(each.roi, each.exclude),
                self._plausibility(each.plausible, product_tiles_of(camera)),
            )
            for camera, each in self.manifest.calibration.plausible_by_camera.items()
        }

    def screening_plausibility(self) -> Plausibility | None:
        """Read what frames must look like to the screening stage; None: the bundle has none."""
        screening = self.manifest.screening
        return None if screening is None else self._plausibility(screening.plausible, SCREENING_TILES)

    def _plausibility(self, plausible: Plausible, file: str) -> Plausibility:
        tensor = self.manifest.tensors.features
        if plausible.distance is None or tensor is None:
            return Plausibility(plausible)
        return Plausibility(plausible, ProductTiles.load(self.path / file, int(tensor.shape[-1] or 0)))

    def references(self) -> dict[str, Reference]:
        """Read the references that frames are compared with, by camera, "" for all others; empty: there is none."""
        return {
            camera: Reference.load(self.path / each.file, each.frame_hw, each.frames, each.frames_are)
            for camera, each in self.manifest.references.items()
        }

    def golden(self) -> GoldenTiles:
        """Read the golden tiles."""
        return GoldenTiles.load(self.path / GOLDEN, self.manifest)


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Read and check the manifest of a bundle alone; return it with the bundle's digest. Errors are BundleErrors."""
    try:
        data = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path} is not a bundle: its {MANIFEST} cannot be read ({error.strerror}); name a folder made by "
            "heatline export"
        ) from error
    return decode_manifest(data, str(path / MANIFEST)), hashlib.sha256(data).hexdigest()


def open_bundle(path: Path) -> Bundle:
    """Read and verify a bundle: a signature if there is one, manifest, sha256 of every file, golden tiles' shapes.

    It runs nothing, and does not check whether the signer is trusted. If a check fails, it raises a BundleError.
    """
    manifest, digest = read_manifest(path)
    signed_by = read_signature(path, digest)
    screening = () if manifest.screening is None else (SCREENING_GRAPH, weights_of(SCREENING_GRAPH))
    for name in (*REQUIRED, *screening):
        if name not in manifest.files:
            raise BundleError(f"{path / MANIFEST} lists no {name}, which it must have; export the bundle again")
    for name, expected in manifest.files.items():
        try:
            with (path / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BundleError(
                f"{path / name} is listed in the manifest and cannot be read ({error.strerror}); copy the bundle again"
            ) from error
        if actual != expected:
            raise BundleError(
                f"{path / name} has sha256 {actual[:12]}…, the manifest says {expected[:12]}…; it was changed or "
                "damaged, copy the bundle again"
            )
    bundle = Bundle(path, manifest, digest, signed_by)
    bundle.golden()
    bundle.references()
    bundle.plausibility()
    bundle.plausibility_by_camera()
    bundle.screening_plausibility()
    return bundle


def require_new_folder(path: Path) -> None:
    """Raise a BundleError if a folder exists or cannot be written, before any work is done for a new bundle there."""
    if path.exists():
        raise BundleError(f"{path} exists already; bundles are never overwritten, name a new folder with --to")
    with writing(path, BundleError, or_else=", or name another folder with --to"):
        require_writable(path.absolute().parent)


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle atomically, and open it. This function fills in `manifest.files`. It raises a BundleError if the
    folder exists or cannot be written, or the content is not a valid bundle.
    """
    if path.exists():
        raise BundleError(f"{path} exists already; bundles are never overwritten, name a new folder")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    manifest = msgspec.structs.replace(manifest, files=hashes)
    text = msgspec.json.format(encode_json(manifest, order="deterministic"), indent=2) + b"\n"
    with writing(path, BundleError):
        path.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            for name, data in {**files, MANIFEST: text}.items():
                with (half / name).open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            opened = open_bundle(half)  # before the rename, so that a folder with a bundle's name is always valid
            half.chmod(0o755)
            half.rename(path)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    return Bundle(path, opened.manifest, opened.digest)


def sign_bundle(bundle: Bundle, key: "Ed25519PrivateKey") -> Bundle:
    """Sign a bundle as it was opened, and replace an earlier signature; a BundleError if that cannot be written."""
    write_signature(bundle.path, bundle.digest, key)
    return replace(bundle, signed_by=key.public_key())


@dataclass(frozen=True)
class VerifiedEngine:
    """An engine whose golden tiles passed. `engine.precision` is the precision that it actually uses."""

    engine: Engine
    differences: dict[str, float]
    """The largest difference of each output on the golden tiles, as a share of its scale."""
    requested: Precision
    fell_back: str | None = None
    """Why it computes in f32 and not in the requested precision, in one sentence; none: it uses the requested one."""
    screening: Engine | None = None
    """Of the bundle's screening stage, in f32; None: it has none, or is not used."""

    @property
    def computes_in(self) -> str:
        """Its precision, for people: `f32`, or `f32 instead of int8`."""
        return self.engine.precision + ("" if self.fell_back is None else f" instead of {self.requested}")


def open_verified_engine(
    bundle: Bundle,
    kind: EngineKind = "openvino",
    precision: Precision = "f32",
    *,
    device: str = PROCESSOR,
    threads: int = 0,
    streams: int = 0,
    batch: int = 0,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> VerifiedEngine:
    """Compile a bundle's graph for a precision and run its golden tiles.

    If this machine cannot compute in bf16 or int8, or its answers differ by more than the bundle allows, f32 is used
    instead, with a warning; f32 itself has no fallback. Another warning names the limits that a precision fails
    although it is in the bundle.

    Args:
        device, threads, streams, batch: as in `open_engine`.
        cache: folder for compiled graphs; None: no cache.
        say: called with a description of each step.
    Raises:
        BundleError: the bundle lacks that precision, or must not be used on this machine.
        EngineError: this kind of engine does not support that precision, or f32 does not load or compile.
    """
    require_supported(kind, precision, device)
    manifest, golden = bundle.manifest, bundle.golden()

    def verify(precision: Precision, cache: Path | None = cache) -> tuple[Engine, dict[str, float]]:
        graph = bundle.graph_for(precision)
        if cache is not None:
            _delete_oldest(cache, keep=MOST_CACHED - 1)
        try:
            say("compiling")
            engine = open_engine(
                kind,
                bundle.path,
                manifest.grid.tile_px,
                device=device,
                precision=precision,
                graph=graph,
                threads=threads,
                streams=streams,
                batch=batch,
                cache=cache,
            )
            try:
                say("running the golden tiles")
                differences = check_golden(golden, engine, manifest)
            except Exception:
                engine.close()
                raise
        except (EngineError, BundleError) as error:
            if cache is None:
                raise
            logger.warning("compiled without the cache in %s, which is emptied: %s", cache, error)
            _delete_oldest(cache, keep=0)
            return verify(precision, None)
        return engine, differences

    if precision == "f32":
        return VerifiedEngine(*verify("f32"), "f32")
    try:
        verified = VerifiedEngine(*verify(precision), precision)
    except (EngineError, GoldenTilesError) as error:
        fell_back = f"f32 is used instead of {precision}: {error}"
    else:
        if (fails := manifest.fails(precision)) is not None:
            logger.warning("%s is in %s although it fails the map gate: %s", precision, bundle.path, fails)
        return verified
    logger.warning("%s", fell_back)
    return VerifiedEngine(*verify("f32"), precision, fell_back)


SMALL_TILES = 4
"""Per request of a screening stage: tiles of 64 px then take 0.070 of the whole graph's time, and 0.083 one by one."""


def open_screening(bundle: Bundle, *, device: str = PROCESSOR, threads: int = 0, cache: Path | None = None) -> Engine:
    """Compile the small graph of a bundle's screening stage, in f32, and run the golden tiles.

    Raises:
        EngineError: it does not load or compile.
        GoldenTilesError: its answers on this machine are not those of the export.
    """
    manifest, golden = bundle.manifest, bundle.golden()
    assert manifest.screening is not None, "the caller checks"
    expected = np.array(manifest.screening.golden)
    seen = manifest.screening.seen_px
    small = open_engine(
        "openvino",
        bundle.path,
        seen,
        device=device,
        graph=SCREENING_GRAPH,
        threads=threads,
        batch=SMALL_TILES,
        cache=cache,
    )
    engine = ReducingEngine(small, manifest.grid.tile_px)
    peaks = infer(engine, golden.tiles, golden.difference)[1].max(axis=(1, 2))
    if (
        peaks.shape != expected.shape
        or not np.abs(peaks - expected).max() <= manifest.tolerances["f32"] * np.abs(expected).max()
    ):
        engine.close()
        raise GoldenTilesError(
            f"on this machine the screening stage of {bundle.path} gives {peaks.round(3)} on the golden tiles, "
            f"expected {expected.round(3)}; set engine.screening = false, or export the bundle again"
        )
    return engine


def _delete_oldest(cache: Path, *, keep: int) -> None:
    """Delete compiled graphs of OpenVINO, except the newest ones."""
    with contextlib.suppress(OSError):  # then the engine reports what is wrong with the folder
        for graph in sorted(cache.glob("*.blob"), key=lambda path: path.stat().st_mtime_ns, reverse=True)[keep:]:
            graph.unlink()
