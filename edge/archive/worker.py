"""The Ray task of `heatline archive inspect`, and the worker that does it: verified engines and one part at a time.

A worker's memory holds a few decoded pictures and the rows of one part, however many pictures the archive has.
"""

import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import msgspec
import openvino
import pyarrow as pa
import xxhash
from pyarrow.fs import FileType

from heatline.edge import __version__
from heatline.edge.archive.plan import ARCHIVE, Archive, Pictures, Row, WorkerNote, encode, file_of, read_plan
from heatline.edge.archive.storage import Storage
from heatline.edge.bundle import Bundle, VerifiedEngine, open_bundle, open_verified_engine
from heatline.edge.bundle.signature import SIGNATURE
from heatline.edge.bundle.store import MANIFEST
from heatline.edge.cluster import check_same_version
from heatline.edge.errors import BundleError, InputError, StorageError
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.images import decode_image
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.offline import BundleInspector, InspectionResult
from heatline.edge.util.process import processor

READ_AHEAD = 2
"""How many pictures are read and decoded while others are inspected."""

Files = dict[str, bytes]
"""The files of a bundle, by name."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker must know, besides the bundles."""

    heatline: str
    """The version of the process that asks."""
    source: str
    dest: str
    archive: Archive
    engine: EngineKind
    precision: Precision


class Loaded(NamedTuple):
    """A picture that was read."""

    content: str | None
    """xxh3_64 of its bytes; None: they cannot be read."""
    frame: Frame | BadFrame


class Worker:
    """Inspects parts with verified engines, on one processor.

    Args:
        bundles: files by digest.
    Raises:
        ConfigError: another version of heatline is installed here.
        EngineError: an engine does not start.
        BundleError: the golden tiles fail here.
        StorageError: SOURCE or DEST cannot be seen from here.
    """

    def __init__(self, job: Job, bundles: Mapping[str, Files]) -> None:
        check_same_version(job.heatline)
        cv2.setNumThreads(1)
        pa.set_cpu_count(1)
        host = socket.gethostname()
        self._dest, self._pictures = Storage.at(job.dest), Pictures(job.source, job.archive.folder)
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
        opened = {digest: _open_shipped(digest, files, job) for digest, files in bundles.items()}
        self._inspectors = {digest: inspector for digest, (inspector, _) in opened.items()}
        self._notes = {
            digest: WorkerNote(
                host=host,
                processor=processor(),
                heatline=__version__,
                openvino=openvino.get_version(),
                golden=verified.differences,
            )
            for digest, (_, verified) in opened.items()
        }
        self.warnings = [f"{host}: {verified.fell_back}" for _, verified in opened.values() if verified.fell_back]
        """Why it computes in another precision than the requested one."""

    def inspect(self, part: int, digests: Sequence[str]) -> int:
        """Inspect a part with some of the bundles, and write their files. Return how many rows have no verdict.

        Raises:
            StorageError: SOURCE or DEST does not answer.
        """
        rows: dict[str, list[Row]] = {digest: [] for digest in digests}
        planned = self._plan.read_part(part).to_pylist()
        for row, (loaded, results) in zip(planned, self._results(planned, digests), strict=True):
            for digest, result in zip(digests, results, strict=True):
                rows[digest].append(row | _found(loaded, result))
        for digest in digests:
            self._dest.write(file_of(digest, part), encode(rows[digest], self._notes[digest]))
        return sum(row["verdict"] == "NO_VERDICT" for each in rows.values() for row in each)

    def _results(
        self, rows: Sequence[Row], digests: Sequence[str]
    ) -> Iterator[tuple[Loaded, Sequence[InspectionResult]]]:
        """Inspect pictures with each bundle; a picture is read and decoded once for all."""
        loaded = read_ahead(lambda row: load(self._pictures, row["number"], row["picture"]), rows)
        first, *copies = tee(loaded, 1 + len(digests))
        results = [
            self._inspectors[digest].inspect_frames(each.frame for each in copy)
            for digest, copy in zip(digests, copies, strict=True)
        ]
        for each, *found in zip(first, *results, strict=True):
            yield each, found


_worker: Worker | None = None
"""That of this process. Ray gives a process the tasks of one job only."""


def inspect_part(job: Job, bundles: Sequence[Any], part: int, digests: Sequence[str]) -> tuple[int, list[str]]:
    """Inspect a part, as a task of Ray. Return the number of rows without verdict, and the worker's warnings.

    Args:
        bundles: one reference to the files by digest, which Ray would otherwise send with each part.
    Raises:
        HeatlineError: as `Worker`.
    """
    global _worker
    if _worker is None:
        import ray

        _worker = Worker(job, ray.get(bundles[0]))
    return _worker.inspect(part, digests), _worker.warnings


def files_of(bundle: Bundle) -> Files:
    """Read the files of a bundle, its signature included."""
    names = [MANIFEST, *bundle.manifest.files]
    if bundle.signed_by is not None:
        names.append(SIGNATURE)
    return {name: (bundle.path / name).read_bytes() for name in names}


def load(pictures: Pictures, number: int, picture: str) -> Loaded:
    """Read and decode a picture. A file that cannot be read, or holds no picture, is a bad frame.

    Raises:
        StorageError: the storage does not answer.
    """
    stamp, content = Stamp("archive", number, picture), None
    try:
        data = _read(*pictures.place(picture), picture)
        content = xxhash.xxh3_64_hexdigest(data)
        return Loaded(content, Frame(stamp, *decode_image(picture, data)))
    except InputError as error:
        return Loaded(content, BadFrame(stamp, "unreadable", str(error)))


def read_ahead(load: Callable[[Item], Result], items: Iterable[Item], depth: int = READ_AHEAD) -> Iterator[Result]:
    """Yield `load(item)` of each item in order; a thread loads the next ones meanwhile."""
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        ahead = deque[Any]()
        for item in items:
            ahead.append(pool.submit(load, item))
            if len(ahead) > depth:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _open_shipped(digest: str, files: Files, job: Job) -> tuple[BundleInspector, VerifiedEngine]:
    """Open a bundle, and run its golden tiles."""
    with tempfile.TemporaryDirectory(prefix="heatline-bundle-") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        bundle = open_bundle(Path(folder))
        if bundle.digest != digest:
            raise BundleError(f"bundle {bundle.digest[:12]}… came, expected {digest[:12]}…; do not change it meanwhile")
        verified = open_verified_engine(bundle, job.engine, job.precision, threads=1)
        return BundleInspector(bundle, verified), verified


def _read(storage: Storage, name: str, picture: str) -> bytes:
    """Read a picture's file.

    Raises:
        InputError: the file cannot be read, now or later.
        StorageError: the storage does not answer.
    """
    try:
        return storage.read(name)
    except (FileNotFoundError, StorageError) as error:
        if isinstance(error, StorageError) and not storage.is_local:  # it may answer later
            raise
        cause = error if isinstance(error, FileNotFoundError) else error.__cause__
        reason = getattr(cause, "strerror", None) or "No such file or directory"
        raise InputError(f"{picture} cannot be read ({reason}); check the path and its permissions") from error


def _found(loaded: Loaded, result: InspectionResult) -> Row:
    """Return what a bundle found in a picture, in the columns that the plan does not have."""
    event, frame = result.event, loaded.frame
    height, width = frame.image.shape[:2] if isinstance(frame, Frame) else (None, None)
    return {
        "content": loaded.content,
        "width": width,
        "height": height,
        "verdict": event.verdict,
        "reason": event.reason,
        "detail": event.detail,
        "score": event.frame_score,
        "score_threshold": event.score_threshold,
        "evidence_threshold": event.evidence_threshold,
        "regions": [
            {"box_xyxy": each.box_xyxy, "peak_xy": each.peak_xy, "area_px": each.area_px, "score": each.score}
            for each in event.regions
        ],
        "precision": event.precision,
        "bundle_name": event.bundle.name,
        "bundle_version": event.bundle.version,
    }
