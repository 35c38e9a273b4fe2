"""Inspects an archive: plans it once, has Ray inspect the missing parts, and checks that nothing is missing.

Each part is one task. Ray places it where a processor is free, also on a node that joined later, and starts it again,
`RETRIES` times, if its process or its node ends. The command writes what comes back into DEST.
"""

import os
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import pyarrow as pa
import xxhash
from msgspec.structs import asdict

from heatline.archive.source import folder_of, list_source
from heatline.archive.verdicts import (
    PART_PICTURES,
    PICTURES,
    SCHEMA,
    Plan,
    Row,
    compare,
    count_verdicts,
    missing_parts,
    read_plan,
    read_verdicts,
    write_plan,
    write_verdicts,
)
from heatline.edge import __version__
from heatline.edge.bundle import Bundle, open_bundle, open_verified_engine
from heatline.edge.bundle.signature import SIGNATURE
from heatline.edge.bundle.store import MANIFEST
from heatline.edge.cluster import STORE_BYTES, check_same_version, interruptible, open_cluster
from heatline.edge.errors import EngineError, HeatlineError, InputError, last_line
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.images import decode_image
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.offline import BundleInspector, InspectionResult
from heatline.edge.util.process import cores
from heatline.edge.util.text import format_count

PARTS_PER_WORKER = 4
"""The least number of parts per worker: in a small archive, a part has fewer pictures."""
RETRIES = 3
"""One does not suffice: a node may lose its power at any part."""
MOST_QUEUED = 1000
"""Parts that Ray knows at a time, without --workers."""
WORST = 20
"""How many flips are named."""
READ_AHEAD = 2
"""How many pictures are read and decoded while others are inspected."""

Files = dict[str, bytes]
"""The files of a bundle, by name."""
Progress = Callable[[int, int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Job(NamedTuple):
    """What a worker must know."""

    heatline: str
    """Its version."""
    folder: Path
    """The folder that relative paths of pictures start from."""
    engine: EngineKind
    precision: Precision
    bundles: Mapping[str, Files]
    """By digest."""


@interruptible()
def inspect_archive(
    bundles: Sequence[Bundle],
    source: Path,
    dest: Path,
    say: Callable[[str], None],
    progress: Progress,
    *,
    address: str | None = None,
    workers: int | None = None,
    engine: EngineKind = "openvino",
    precision: Precision = "f32",
) -> dict[str, Any]:
    """Inspect each picture of SOURCE with each bundle, as far as DEST does not have it, and return the report that
    docs/archive.md describes.

    Args:
        bundles: BUNDLE, and OLD if there is one.
        say: shows a sentence.
        progress: shows how many pictures are inspected, of how many, and how many of them have no verdict.
        address: of a Ray cluster; None: this machine.
        workers: the most workers; None: one per processor.
    """
    dest, source = dest.absolute(), Path(os.path.abspath(source))
    for bundle in bundles:
        bundle.graph_for(precision)
    keys = {bundle.digest: key_of(bundle.digest, engine, precision) for bundle in bundles}
    plan = _plan(dest, source, PARTS_PER_WORKER * (workers or cores()), say)
    lacking = {digest: set(missing_parts(plan, key)) for digest, key in keys.items()}
    parts = {
        part: [digest for digest in keys if part in lacking[digest]] for part in sorted(set().union(*lacking.values()))
    }
    if parts:
        files = {bundle.digest: files_of(bundle) for bundle in bundles}
        job = Job(__version__, folder_of(source), engine, precision, files)
        size = sum(len(data) for each in files.values() for data in each.values())
        with open_cluster(address, workers or cores(), store_bytes=STORE_BYTES + 2 * size):
            _inspect(job, plan, parts, workers or MOST_QUEUED, say, progress)
    verdicts = [read_verdicts(plan, key) for key in keys.values()]
    new, *old = verdicts
    against, worst = compare(old[0], new, WORST) if old else (None, [])
    counts = {
        bundle.digest: {
            "path": str(bundle.path),
            "name": bundle.manifest.name,
            "version": bundle.manifest.version,
            **count_verdicts(found),
        }
        for bundle, found in zip(bundles, verdicts, strict=True)
    }
    inspected = sum(map(plan.size_of, parts))
    report = {"dest": str(dest), "pictures": plan.pictures, "inspected": inspected, "bundles": counts}
    return report | {"against": against, "worst": worst}


def key_of(digest: str, engine: EngineKind, precision: Precision) -> str:
    """Return what names a bundle's verdicts in DEST: another engine or precision may give others."""
    return f"{digest}-{engine}-{precision}"


def _plan(dest: Path, source: Path, fewest_parts: int, say: Callable[[str], None]) -> Plan:
    """Return the plan of DEST, and write it before if DEST is new."""
    plan = read_plan(dest)
    if plan is None:
        if dest.exists() and any(dest.iterdir()):
            raise InputError(
                f"{dest} is not empty and has no {PICTURES}, so it holds something else; name another folder with --out"
            )
        listed = list_source(source)
        return write_plan(dest, source, listed, min(PART_PICTURES, max(1, len(listed) // fewest_parts)))
    if plan.source != str(source):
        raise InputError(f"{dest} has the verdicts of {plan.source}, and {source} came; name another --out")
    say(f"{dest} has a plan of {format_count(plan.pictures, 'picture')}; SOURCE is not listed again")
    return plan


def _inspect(
    job: Job, plan: Plan, parts: Mapping[int, Sequence[str]], most: int, say: Callable[[str], None], progress: Progress
) -> None:
    """Have Ray inspect parts, each by the bundles with these digests, `most` at a time, and write their verdicts."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    # In a list, as Ray would send the bundles with each part.
    shipped = [ray.put(job)]
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(inspect_part)
    waiting, running, failed, said = deque(parts), dict[Any, int](), list[str](), set[str]()
    inspected = unjudged = 0
    total = sum(map(plan.size_of, parts))
    while waiting or running:
        progress(inspected, total, unjudged)
        while waiting and len(running) < most:
            part = waiting.popleft()
            running[task.remote(shipped, plan.rows_of(part), parts[part])] = part
        (ended, *_), _ = ray.wait([*running], num_returns=1)
        part = running.pop(ended)
        try:
            tables, warnings = ray.get(ended)
        except RayTaskError as error:
            if isinstance(error.cause, HeatlineError):
                raise error.cause from error
            raise EngineError(
                f"a worker ended with an unexpected error ({last_line(error)}); install heatline with the extra "
                "cluster on every node, and look at Ray's logs"
            ) from error
        except RayError:  # the task's process or node has ended each time
            pictures = [row["picture"] for row in plan.rows_of(part)]
            failed.append(f"{pictures[0]} to {pictures[-1]}")
            say(f"part {part} ended its worker {RETRIES + 1} times and has failed")
            continue
        for digest, table in zip(parts[part], tables, strict=True):
            write_verdicts(plan.dest, key_of(digest, job.engine, job.precision), part, table)
            unjudged += table["verdict"].to_pylist().count("NO_VERDICT")
        inspected += plan.size_of(part)
        for sentence in [each for each in warnings if each not in said]:
            say(sentence)
            said.add(sentence)
    progress(inspected, total, unjudged)
    if failed:
        raise EngineError(
            f"a picture among {', and among '.join(failed)} ended its worker {RETRIES + 1} times, and they have no "
            "verdicts; look at these files and at the memory of the nodes, take the picture out of SOURCE, and "
            "call the same command again"
        )


def files_of(bundle: Bundle) -> Files:
    """Read the files of a bundle, its signature included."""
    names = [MANIFEST, *bundle.manifest.files, *([] if bundle.signed_by is None else [SIGNATURE])]
    return {name: (bundle.path / name).read_bytes() for name in names}


class Worker:
    """Inspects parts with verified engines, on one processor."""

    def __init__(self, job: Job) -> None:
        check_same_version(job.heatline)
        cv2.setNumThreads(1)
        pa.set_cpu_count(1)
        host, self._folder = socket.gethostname(), job.folder
        if not self._folder.exists():
            raise InputError(
                f"{host} does not see {job.folder}; SOURCE must be a place that every node reaches by the same name"
            )
        self._inspectors = dict[str, BundleInspector]()
        self.warnings = list[str]()
        """Why it computes in another precision than the requested one."""
        for digest, files in job.bundles.items():
            with tempfile.TemporaryDirectory(prefix="heatline-bundle-") as folder:
                for name, data in files.items():
                    (Path(folder) / name).write_bytes(data)
                bundle = open_bundle(Path(folder))
                verified = open_verified_engine(bundle, job.engine, job.precision, threads=1)
                self._inspectors[digest] = BundleInspector(bundle, verified)
            self.warnings += [f"{host}: {verified.fell_back}"] if verified.fell_back else []

    def inspect(self, rows: Sequence[Row], digests: Sequence[str]) -> list[pa.Table]:
        """Inspect pictures, each read once for all bundles, and return the verdicts of each bundle."""
        first, *copies = tee(read_ahead(self.load, rows), 1 + len(digests))
        results = [
            self._inspectors[digest].inspect_all(frame for _, frame in copy)
            for digest, copy in zip(digests, copies, strict=True)
        ]
        found: list[list[Row]] = [[] for _ in digests]
        for row, (content, frame), *of_picture in zip(rows, first, *results, strict=True):
            for verdicts, result in zip(found, of_picture, strict=True):
                verdicts.append(row | {"content": content} | _verdict(frame, result))
        return [pa.Table.from_pylist(verdicts, SCHEMA) for verdicts in found]

    def load(self, row: Row) -> tuple[str | None, Frame | BadFrame]:
        """Read and decode a picture; return the xxh3_64 of its bytes, and the frame. A file that cannot be read, which
        has no xxh3_64, or holds no picture, is a bad frame.
        """
        picture, content = row["picture"], None
        stamp = Stamp("archive", row["number"], picture)
        try:
            data = (self._folder / picture).read_bytes()
            content = xxhash.xxh3_64_hexdigest(data)
            return content, Frame(stamp, *decode_image(picture, data))
        except OSError as error:
            sentence = f"{picture} cannot be read ({error.strerror}); check the path and its permissions"
        except InputError as error:
            sentence = str(error)
        return content, BadFrame(stamp, "unreadable", sentence)


@cache
def _worker(job: Any) -> Worker:
    """Return this process's worker for a job, by its reference. Ray gives a process the tasks of one job only."""
    import ray

    return Worker(ray.get(job))


def inspect_part(job: Sequence[Any], rows: Sequence[Row], digests: Sequence[str]) -> tuple[list[pa.Table], list[str]]:
    """Inspect a part, as a task of Ray: `job` holds its reference. Return the verdicts of each bundle, and warnings."""
    worker = _worker(job[0])
    return worker.inspect(rows, digests), worker.warnings


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


def _verdict(frame: Frame | BadFrame, result: InspectionResult) -> Row:
    """Return what a bundle found in a picture, as columns."""
    event = result.event
    height, width = frame.image.shape[:2] if isinstance(frame, Frame) else (None, None)
    return {
        "width": width,
        "height": height,
        "verdict": event.verdict,
        "reason": event.reason,
        "detail": event.detail,
        "score": event.frame_score,
        "score_threshold": event.score_threshold,
        "evidence_threshold": event.evidence_threshold,
        "regions": [asdict(region) for region in event.regions],
        "precision": event.precision,
        "bundle_name": event.bundle and event.bundle.name,
        "bundle_version": event.bundle and event.bundle.version,
    }
