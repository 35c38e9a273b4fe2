"""Inspects an archive: plans it once, has Ray inspect the missing parts, and checks that nothing is missing.

Each part is one task. Ray places it where a processor is free, also on a node that joined later, and starts it again,
`RETRIES` times, if its process or its node ends. What is finished is in DEST. The memory of a worker holds a few
decoded pictures and the rows of one part, however many pictures the archive has.
"""

import os
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import cv2
import msgspec
import pyarrow as pa
import xxhash
from pyarrow.fs import FileType

from heatline.edge import __version__
from heatline.edge.archive.plan import (
    ARCHIVE,
    PART_PICTURES,
    PICTURES,
    Archive,
    Pictures,
    Plan,
    Row,
    UsedBundle,
    encode,
    file_of,
    finished_parts,
    read_plan,
    write_plan,
)
from heatline.edge.archive.report import Draw, write_overlays, write_report
from heatline.edge.archive.results import Finding, Inspected, outcome_of, read_results
from heatline.edge.archive.storage import Storage, is_uri, list_source, without_password
from heatline.edge.bundle import Bundle, VerifiedEngine, open_bundle, open_verified_engine
from heatline.edge.bundle.signature import SIGNATURE
from heatline.edge.bundle.store import MANIFEST
from heatline.edge.cluster import STORE_BYTES, check_same_version, interruptible, open_cluster
from heatline.edge.errors import (
    BundleError,
    EngineError,
    HeatlineError,
    InputError,
    Interrupted,
    StorageError,
    last_line,
)
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.heatmap_picture import jpeg
from heatline.edge.images import decode_image
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.offline import BundleInspector, InspectionResult
from heatline.edge.util.process import cores
from heatline.edge.util.text import format_count, is_are

PARTS_PER_WORKER = 4
"""The least number of parts per worker: in a small archive, a part has fewer pictures."""
RETRIES = 3
"""One does not suffice: a node may lose its power at any part."""
MOST_QUEUED = 1000
"""Parts that Ray knows at a time, without --workers."""
OVERLAY_QUALITY = 90
"""At full size. PNG takes five times the space: 3.5 instead of 0.65 MB for boards of 1600 x 1250 px."""
READ_AHEAD = 2
"""How many pictures are read and decoded while others are inspected."""

Files = dict[str, bytes]
"""The files of a bundle, by name."""
Item = TypeVar("Item")
Result = TypeVar("Result")


class Observer(Protocol):
    """Shows what happens."""

    def say(self, sentence: str) -> None:
        """Show a sentence."""

    def progress(self, what: str, done: int, of: int, more: str) -> None:
        """Show how many pictures are inspected, or overlays drawn, and more about them."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker must know, besides the bundles."""

    heatline: str
    """The version of the process that asks."""
    source: str
    dest: str
    archive: Archive
    engine: EngineKind
    precision: Precision


class Part(NamedTuple):
    """A part to inspect, and by which bundles."""

    number: int
    digests: Sequence[str]


@interruptible()
def inspect_archive(
    bundles: Sequence[Bundle],
    source: str,
    out: str,
    observer: Observer,
    *,
    address: str | None = None,
    workers: int | None = None,
    engine: EngineKind = "openvino",
    precision: Precision = "f32",
    worst: int = 50,
) -> Inspected:
    """Inspect each picture of SOURCE with each bundle, as far as DEST does not have it, and write the report.

    Args:
        bundles: BUNDLE, and OLD if there is one.
        out: DEST, a path or a URI.
        address: of a Ray cluster; None: this machine.
        workers: the most workers; None: one per processor.
        worst: how many pictures the report shows, and how many flips.
    Raises:
        InputError: SOURCE or DEST cannot be used.
        StorageError: SOURCE or DEST does not answer.
        DeliveryError: the cluster does not answer.
        EngineError, BundleError: a worker cannot use a bundle, or a part ended all its workers.
        Interrupted: Ctrl-C or SIGTERM.
    """
    dest = Storage.at(out)
    if dest.kind() == FileType.File:
        raise InputError(f"{without_password(out)} is a file; name a folder with --out")
    used = {bundle.digest: _used(bundle, engine, precision) for bundle in bundles}
    plan, listed = read_plan(dest), None
    if plan is None:
        _require_empty(dest, out)
        listed = list_source(source)
    else:
        _require_source(plan, source)
        plan = plan.with_bundles(used)
        observer.say(
            f"{without_password(out)} has a plan of {format_count(plan.archive.pictures, 'picture')}; "
            "SOURCE is not listed again"
        )
    missing = [] if plan is None else _missing(plan, list(used))
    inspected = 0
    if plan is None or missing:
        files = {bundle.digest: files_of(bundle) for bundle in bundles}
        size = sum(len(data) for each in files.values() for data in each.values())
        with open_cluster(address, workers or cores(), store_bytes=STORE_BYTES + 2 * size):
            import ray

            if listed is not None:
                most = workers or max(1, int(ray.cluster_resources().get("CPU", 0)))  # type: ignore[no-untyped-call]
                part_pictures = min(PART_PICTURES, max(1, len(listed[1]) // (PARTS_PER_WORKER * most)))
                plan = write_plan(dest, _normal(source), *listed, part_pictures)
                listed, plan = None, plan.with_bundles(used)
                missing = _missing(plan, list(used))
            assert plan is not None
            job = Job(
                heatline=__version__,
                source=_absolute(source),
                dest=_absolute(out),
                archive=plan.archive,
                engine=engine,
                precision=precision,
            )
            inspected = _inspect(job, ray.put(files), plan, missing, workers or MOST_QUEUED, observer)
    results = read_results(
        plan,
        *used,
        worst=worst,
        called={bundle.digest: str(bundle.path) for bundle in bundles},
    )
    draw = drawer(bundles, Pictures(_absolute(source), plan.archive.folder), engine, precision)
    write_overlays(
        dest, results, draw, lambda done, of: observer.progress("overlays", done, of, "drawn for the report")
    )
    write_report(plan, results)
    return outcome_of(out, results, inspected)


def drawer(bundles: Iterable[Bundle], pictures: Pictures, engine: EngineKind, precision: Precision) -> Draw:
    """Return the function that draws overlays with some bundles."""
    by_digest = {bundle.digest: bundle for bundle in bundles}

    def draw(digest: str, findings: Sequence[Finding]) -> Iterator[tuple[Finding, bytes | None]]:
        bundle = by_digest[digest]
        with BundleInspector(bundle, open_verified_engine(bundle, engine, precision)) as inspector:
            ahead = read_ahead(lambda each: load(pictures, each.number, each.picture), findings)
            for finding, loaded in zip(findings, ahead, strict=True):
                if loaded.content != finding.content:  # the file has changed
                    yield finding, None
                    continue
                (result,) = inspector.inspect_frames([loaded.frame])
                picture = result.overlay() if result.has_overlay else result.picture
                yield finding, None if result.frame is None else jpeg(picture, OVERLAY_QUALITY)

    return draw


def _inspect(job: Job, files: Any, plan: Plan, missing: Sequence[Part], most: int, observer: Observer) -> int:
    """Have Ray inspect parts, `most` at a time, and return the number of their pictures.

    Args:
        files: the reference of the bundles' files.
    """
    import ray
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

    task = ray.remote(num_cpus=1, max_retries=RETRIES)(inspect_part).options(retry_exceptions=[MemoryError])
    waiting, running, failed, said = deque(missing), dict[Any, Part](), list[str](), set[str]()
    inspected = unjudged = 0
    total = sum(plan.part_size(part.number) for part in missing)
    try:
        while waiting or running:
            observer.progress("pictures", inspected, total, f"{unjudged} without verdict")
            while waiting and len(running) < most:
                part = waiting.popleft()
                running[task.remote(job, [files], *part)] = part
            (ended, *_), _ = ray.wait([*running], num_returns=1)
            part = running.pop(ended)
            try:
                without_verdict, warnings = ray.get(ended)
            except RayError as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                if isinstance(cause, HeatlineError):
                    raise cause from error
                if not isinstance(cause, WorkerCrashedError | NodeDiedError | OutOfMemoryError | MemoryError):
                    raise EngineError(
                        f"a worker ended with an unexpected error ({last_line(error)}); install heatline with the "
                        "extra cluster on every node, and look at Ray's logs"
                    ) from error
                failed.append(plan.name_of_part(part.number))
                observer.say(f"part {part.number} ended its worker {RETRIES + 1} times and has failed")
                continue
            inspected += plan.part_size(part.number)
            unjudged += without_verdict
            for sentence in warnings:
                if sentence not in said:
                    observer.say(sentence)
            said.update(warnings)
        observer.progress("pictures", inspected, total, f"{unjudged} without verdict")
    except KeyboardInterrupt as error:
        there = plan.archive.pictures - total + inspected
        raise Interrupted(
            f"interrupted; {there} of {format_count(plan.archive.pictures, 'picture')} {is_are(there)} inspected, and "
            "the same command continues with the others"
        ) from error
    if failed:
        raise EngineError(
            f"a picture among {', and among '.join(failed)} ended its worker {RETRIES + 1} times, and they have no "
            "verdicts; look at these files and at the memory of the nodes, take the picture out of SOURCE, and "
            "call the same command again"
        )
    return inspected


def _missing(plan: Plan, digests: Sequence[str]) -> list[Part]:
    """Return the parts of which DEST lacks verdicts, with the bundles that lack them."""
    finished = {digest: finished_parts(plan.dest, digest) for digest in digests}
    wanted = (
        Part(number, [digest for digest in digests if number not in finished[digest]]) for number in range(plan.parts)
    )
    return [part for part in wanted if part.digests]


def _used(bundle: Bundle, engine: EngineKind, precision: Precision) -> UsedBundle:
    bundle.graph_for(precision)
    manifest = bundle.manifest
    return UsedBundle(
        name=manifest.name,
        version=manifest.version,
        engine=engine,
        precision=precision,
        score_threshold=manifest.calibration.score_threshold,
        evidence_threshold=manifest.calibration.evidence_threshold,
    )


def _require_source(plan: Plan, source: str) -> None:
    if plan.archive.source != _normal(source):
        raise InputError(
            f"{plan.dest.root} has the verdicts of {plan.archive.source}, and {_normal(source)} came; name another "
            "--out"
        )


def _require_empty(dest: Storage, out: str) -> None:
    entries = [info.base_name for info in dest.entries()]
    if any(not name.startswith(".") and name != PICTURES for name in entries):  # a plan that was cut off may be there
        raise InputError(
            f"{without_password(out)} is not empty and has no {ARCHIVE}, so it holds something else; name another "
            "folder with --out"
        )


def _absolute(address: str) -> str:
    """Return an address that means the same in every process."""
    return address if is_uri(address) else os.path.abspath(address)


def _normal(source: str) -> str:
    """Return SOURCE as `archive.json` has it."""
    return without_password(_absolute(source))


# On a node.


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
            self._dest.write(file_of(digest, part), encode(rows[digest]))
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
    storage, name = pictures.place(picture)
    try:
        data = storage.read(name)
        content = xxhash.xxh3_64_hexdigest(data)
        return Loaded(content, Frame(stamp, *decode_image(picture, data)))
    except InputError as error:
        sentence = str(error)
    except (FileNotFoundError, StorageError) as error:
        if isinstance(error, StorageError) and not storage.is_local:  # it may answer later
            raise
        cause = error if isinstance(error, FileNotFoundError) else error.__cause__
        reason = getattr(cause, "strerror", None) or "No such file or directory"
        sentence = f"{picture} cannot be read ({reason}); check the path and its permissions"
    return Loaded(content, BadFrame(stamp, "unreadable", sentence))


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
