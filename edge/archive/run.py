"""Inspects an archive: plans it once, has the missing parts inspected, and checks that nothing is missing."""

import contextlib
import os
from collections.abc import Sequence
from typing import Protocol

from pyarrow.fs import FileType

from heatline.edge.archive import verdicts
from heatline.edge.archive.cluster import Part, WorkerPool, processors
from heatline.edge.archive.difference import difference_of
from heatline.edge.archive.outcome import Inspected, outcome_of
from heatline.edge.archive.overlays import drawer, write_overlays
from heatline.edge.archive.plan import (
    ARCHIVE,
    PART_PICTURES,
    PICTURES,
    Pictures,
    Plan,
    UsedBundle,
    read_plan,
    write_plan,
)
from heatline.edge.archive.report import write_report
from heatline.edge.archive.results import read_results
from heatline.edge.archive.sources import list_source, require_apart
from heatline.edge.archive.storage import Storage, is_uri, without_password
from heatline.edge.archive.worker import Job, files_of
from heatline.edge.bundle import Bundle
from heatline.edge.cluster import STORE_BYTES, interruptible, open_cluster
from heatline.edge.errors import InputError, Interrupted
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.util.processor import cores
from heatline.edge.util.text import format_count, is_are

PARTS_PER_WORKER = 4
"""The least number of parts per worker: in a small archive, a part has fewer pictures."""


class Observer(Protocol):
    """Shows what happens."""

    def say(self, sentence: str) -> None:
        """Show a sentence."""

    def progress(self, pictures: int, of: int, unjudged: int, workers: int) -> None:
        """Show how many of this run's pictures are inspected, the rows without verdict, and the workers at work."""

    def drawing(self, overlays: int, of: int) -> None:
        """Show how many overlays of the report are drawn."""


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
        EngineError, BundleError: a worker cannot use a bundle.
        Interrupted: Ctrl-C or SIGTERM.
    """
    dest = Storage.at(out)
    if dest.kind() == FileType.File:
        raise InputError(f"{without_password(out)} is a file; name a folder with --out")
    require_apart(source, dest)
    plan = read_plan(dest)
    listing = None
    if plan is not None:
        _require_source(plan, source)
        observer.say(
            f"{without_password(out)} has a plan of {format_count(plan.archive.pictures, 'picture')}; "
            "SOURCE is not listed again"
        )
    else:
        _require_empty(dest, out)
        listing = list_source(source)
        if listing.repeated:
            observer.say(f"{format_count(listing.repeated, 'row')} left out, as the same picture comes before")
        if listing.lost_links:
            lost = len(listing.lost_links)
            observer.say(
                f"{format_count(lost, 'link')} left out, as {'it leads' if lost == 1 else 'they lead'} nowhere: "
                f"{listing.lost_links[0]}{', ...' if lost > 1 else ''}"
            )
    used = {bundle.digest: _used(bundle, engine, precision) for bundle in bundles}
    files = {bundle.digest: files_of(bundle) for bundle in bundles}
    inspected = 0
    with contextlib.ExitStack() as stack:
        missing: list[Part] = []
        if plan is not None:
            plan = plan.with_bundles(used)
            missing = _missing(plan, list(used))
        if plan is None or missing:
            size = sum(len(data) for each in files.values() for data in each.values())
            stack.enter_context(open_cluster(address, workers or cores(), store_bytes=STORE_BYTES + 2 * size))
        if plan is None:
            assert listing is not None
            most = workers or max(1, processors())
            part_pictures = min(PART_PICTURES, max(1, len(listing.pictures) // (PARTS_PER_WORKER * most)))
            plan = write_plan(dest, _normal(source), listing.folder, listing.pictures, part_pictures).with_bundles(used)
            del listing
            missing = _missing(plan, list(used))
        if missing:
            job = Job(
                source=_absolute(source),
                dest=_absolute(out),
                archive=plan.archive,
                engine=engine,
                precision=precision,
            )
            inspected = _inspect(WorkerPool(job, files, workers, observer.say), plan, missing, observer)
    results = read_results(
        plan,
        *used,
        worst=worst,
        called={bundle.digest: str(bundle.path) for bundle in bundles},
        differ_in=difference_of(bundles[0], bundles[1], engine, precision) if len(bundles) > 1 else None,
    )
    pictures = Pictures(_absolute(source), plan.archive.folder)
    write_overlays(dest, results, drawer(bundles, pictures, engine, precision), observer.drawing)
    write_report(plan, results)
    return outcome_of(out, results, inspected)


def _inspect(pool: WorkerPool, plan: Plan, missing: Sequence[Part], observer: Observer) -> int:
    inspected = unjudged = 0
    total = sum(plan.part_size(part.number) for part in missing)
    try:
        for part, without_verdict in pool.inspect(missing, plan.name_of_part):
            if part is not None:
                inspected += plan.part_size(part.number)
                unjudged += without_verdict
            observer.progress(inspected, total, unjudged, pool.working)
    except KeyboardInterrupt as error:
        there = plan.archive.pictures - total + inspected
        raise Interrupted(
            f"interrupted; {there} of {format_count(plan.archive.pictures, 'picture')} {is_are(there)} inspected, and "
            "the same command continues with the others"
        ) from error
    return inspected


def _missing(plan: Plan, digests: Sequence[str]) -> list[Part]:
    """Return the parts of which DEST lacks verdicts, with the bundles that lack them."""
    finished = {digest: verdicts.finished_parts(plan.dest, digest) for digest in digests}
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
