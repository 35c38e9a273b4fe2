"""Inspects an archive: plans it once, has Ray inspect the missing parts, and checks that nothing is missing.

Each part is one task. Ray places it where a processor is free, also on a node that joined later, and starts it again,
`RETRIES` times, if its process or its node ends. What is finished is in DEST.
"""

import os
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from pyarrow.fs import FileType

from heatline.edge import __version__
from heatline.edge.archive.plan import (
    ARCHIVE,
    PART_PICTURES,
    PICTURES,
    Pictures,
    Plan,
    UsedBundle,
    finished_parts,
    read_plan,
    write_plan,
)
from heatline.edge.archive.report import drawer, write_overlays, write_report
from heatline.edge.archive.results import Inspected, difference_of, outcome_of, read_results
from heatline.edge.archive.sources import list_source, require_apart
from heatline.edge.archive.storage import Storage, is_uri, without_password
from heatline.edge.archive.worker import Job, files_of, inspect_part
from heatline.edge.bundle import Bundle
from heatline.edge.cluster import STORE_BYTES, interruptible, open_cluster
from heatline.edge.errors import EngineError, HeatlineError, InputError, Interrupted, last_line
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.util.process import cores
from heatline.edge.util.text import format_count, is_are

PARTS_PER_WORKER = 4
"""The least number of parts per worker: in a small archive, a part has fewer pictures."""
RETRIES = 3
"""One does not suffice: a node may lose its power at any part."""
MOST_QUEUED = 1000
"""Parts that Ray knows at a time, without --workers."""


class Observer(Protocol):
    """Shows what happens."""

    def say(self, sentence: str) -> None:
        """Show a sentence."""

    def progress(self, what: str, done: int, of: int, more: str) -> None:
        """Show how many pictures are inspected, or overlays drawn, and more about them."""


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
    require_apart(source, dest)
    used = {bundle.digest: _used(bundle, engine, precision) for bundle in bundles}
    plan, listing = read_plan(dest), None
    if plan is None:
        _require_empty(dest, out)
        listing = list_source(source)
        if listing.repeated:
            observer.say(f"{format_count(listing.repeated, 'row')} left out, as the same picture comes before")
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

            if listing is not None:
                most = workers or max(1, int(ray.cluster_resources().get("CPU", 0)))  # type: ignore[no-untyped-call]
                part_pictures = min(PART_PICTURES, max(1, len(listing.pictures) // (PARTS_PER_WORKER * most)))
                plan = write_plan(dest, _normal(source), listing.folder, listing.pictures, part_pictures)
                listing, plan = None, plan.with_bundles(used)
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
        differ_in=difference_of(bundles[0], bundles[1], engine, precision) if len(bundles) > 1 else None,
    )
    draw = drawer(bundles, Pictures(_absolute(source), plan.archive.folder), engine, precision)
    write_overlays(
        dest, results, draw, lambda done, of: observer.progress("overlays", done, of, "drawn for the report")
    )
    write_report(plan, results)
    return outcome_of(out, results, inspected)


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
