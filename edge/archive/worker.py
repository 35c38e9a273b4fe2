"""A worker: one process with one verified engine per bundle, which inspects parts on one processor.

Its memory holds a few decoded pictures and the rows of one part, however many pictures the archive has.
"""

import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import tee
from pathlib import Path
from typing import Any

import cv2
import msgspec
import openvino
import pyarrow as pa
from pyarrow.fs import FileType

from heatline.edge import __version__
from heatline.edge.archive import verdicts
from heatline.edge.archive.loading import Loaded, load, read_ahead
from heatline.edge.archive.plan import ARCHIVE, Archive, Pictures, read_plan
from heatline.edge.archive.storage import Storage
from heatline.edge.archive.verdicts import Row, WorkerNote
from heatline.edge.bundle import Bundle, VerifiedEngine, open_bundle, open_verified_engine
from heatline.edge.bundle.signature import SIGNATURE
from heatline.edge.bundle.store import MANIFEST
from heatline.edge.cluster import check_same_version
from heatline.edge.errors import BundleError, StorageError
from heatline.edge.frames import Frame
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.offline import BundleInspector, InspectionResult
from heatline.edge.util.processor import processor

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


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker must know, besides the bundles."""

    source: str
    dest: str
    archive: Archive
    engine: EngineKind
    precision: Precision


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that is ready."""

    host: str
    warnings: list[str]
    """Why it computes in another precision than the requested one."""


class Worker:
    """Inspects parts. `open` comes first."""

    def open(self, heatline: str, job: Job, bundles: Mapping[str, Files]) -> Opened:
        """Open the bundles, and check that this machine can do the job.

        Args:
            heatline: the version of the process that asks.
            bundles: files by digest.
        Raises:
            ConfigError: another version of heatline is installed here.
            EngineError: an engine does not start.
            BundleError: the golden tiles fail here.
            StorageError: SOURCE or DEST cannot be seen from here.
        """
        host = socket.gethostname()
        check_same_version(heatline)
        cv2.setNumThreads(1)
        pa.set_cpu_count(1)
        self._dest = Storage.at(job.dest)
        self._pictures = Pictures(job.source, job.archive.folder)
        plan = read_plan(self._dest)
        if plan is None or not plan.is_of(job.archive):
            raise StorageError(
                f"{host} does not see {self._dest.path(ARCHIVE)}; --out must be a place that every node reaches by "
                "the same name"
            )
        self._plan = plan
        if self._pictures.folder.kind() == FileType.NotFound and self._pictures.folder.is_local:
            raise StorageError(
                f"{host} does not see {job.archive.folder}; SOURCE must be a place that every node reaches by the same "
                "name"
            )
        self._inspectors, self._notes, warnings = {}, {}, []
        for digest, files in bundles.items():
            inspector, verified = open_shipped(digest, files, job.engine, job.precision)
            self._inspectors[digest] = inspector
            self._notes[digest] = WorkerNote(
                host=host,
                processor=processor(),
                heatline=__version__,
                openvino=openvino.get_version(),
                golden=verified.differences,
            )
            if verified.fell_back is not None:
                warnings.append(f"{host}: {verified.fell_back}")
        return Opened(host=host, warnings=warnings)

    def inspect(self, part: int, digests: Sequence[str]) -> int:
        """Inspect a part with some of the bundles, and write their files. Return how many rows have no verdict.

        Raises:
            StorageError: SOURCE or DEST does not answer.
        """
        try:
            rows = self._rows(part, digests)
        except MemoryError:  # what the kernel does if it notices first: the part is tried again
            os._exit(1)
        for digest in digests:
            self._dest.write(verdicts.file_of(digest, part), verdicts.encode(rows[digest], self._notes[digest]))
        return sum(row["verdict"] == "NO_VERDICT" for each in rows.values() for row in each)

    def _rows(self, part: int, digests: Sequence[str]) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = {digest: [] for digest in digests}
        planned = self._plan.read_part(part).to_pylist()
        for row, (loaded, results) in zip(planned, self._results(planned, digests), strict=True):
            for digest, result in zip(digests, results, strict=True):
                rows[digest].append(_row(row, loaded, result))
        return rows

    def _results(
        self, rows: Sequence[Mapping[str, Any]], digests: Sequence[str]
    ) -> Iterator[tuple[Loaded, Sequence[InspectionResult]]]:
        """Inspect pictures with each bundle; a picture is read and decoded once for all."""
        first, *copies = tee(read_ahead(self._load, rows), 1 + len(digests))
        results = [
            self._inspectors[digest].inspect_frames(each.frame for each in copy)
            for digest, copy in zip(digests, copies, strict=True)
        ]
        for each, *found in zip(first, *results, strict=True):
            yield each, found

    def _load(self, row: Mapping[str, Any]) -> Loaded:
        return load(self._pictures, row["number"], row["picture"])


def _row(row: Mapping[str, Any], loaded: Loaded, result: InspectionResult) -> Row:
    event, frame = result.event, loaded.frame
    height, width = frame.image.shape[:2] if isinstance(frame, Frame) else (None, None)
    return Row(
        number=row["number"],
        picture=row["picture"],
        group=row["group"],
        label=row["label"],
        content=loaded.content,
        width=width,
        height=height,
        verdict=event.verdict,
        reason=event.reason,
        detail=event.detail,
        score=event.frame_score,
        score_threshold=event.score_threshold,
        evidence_threshold=event.evidence_threshold,
        regions=[verdicts.region_row(region) for region in event.regions],
        precision=event.precision,
        bundle_name=event.bundle.name,
        bundle_version=event.bundle.version,
    )
