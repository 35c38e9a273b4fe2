"""Archives to inspect, workers that fail on purpose, and what DEST holds."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import xxhash

from heatline.edge import __version__
from heatline.edge.archive import run
from heatline.edge.archive.plan import Pictures, Plan, UsedBundle, read_plan, write_plan
from heatline.edge.archive.run import Job, Loaded, Worker, files_of, inspect_part
from heatline.edge.archive.storage import Storage, list_source, without_password
from heatline.edge.bundle import Bundle
from heatline.edge.frames import BadFrame
from tests.conftest import write_picture
from tests.small_bundle import dark_square, white_frame

DEADLY = b"\x89PNG deadly IEND\xaeB`\x82"
"""The content of a picture that ends each worker that reads it."""
DEADLY_CONTENT = xxhash.xxh3_64_hexdigest(DEADLY)

Table = list[dict[str, Any]]
load_as_ever = run.load


def write_archive(folder: Path, count: int, hw: tuple[int, int] = (230, 300)) -> Path:
    """Write pictures of two groups; every third one has a defect, at a place of its own."""
    for number in range(count):
        frame = white_frame(hw)
        if number % 3 == 0:
            frame = dark_square(frame, 10 + number % 100, 20 + 2 * number % 100)
        frame[0, 0] = number % 256
        write_picture(folder / ("left", "right")[number % 2] / f"{number:04d}.png", frame)
    return folder


def plan_of(bundles: Sequence[Bundle], source: Path | str, dest: Path | str, part_pictures: int = 4) -> Plan:
    """Write a plan as the command does, with parts of this size."""
    listed = list_source(str(source))
    used = {
        bundle.digest: UsedBundle(
            name=bundle.manifest.name,
            version=bundle.manifest.version,
            engine="openvino",
            precision="f32",
            score_threshold=bundle.manifest.calibration.score_threshold,
            evidence_threshold=bundle.manifest.calibration.evidence_threshold,
        )
        for bundle in bundles
    }
    plan = write_plan(Storage.at(str(dest)), without_password(str(source)), *listed, part_pictures)
    return plan.with_bundles(used)


def opened(bundles: Sequence[Bundle], dest: Path | str, source: Path | str | None = None) -> Worker:
    """Return a worker with the bundles, for the plan of DEST."""
    plan = read_plan(Storage.at(str(dest)))
    assert plan is not None
    job = Job(
        heatline=__version__,
        source=str(source or plan.archive.source),
        dest=str(dest),
        archive=plan.archive,
        engine="openvino",
        precision="f32",
    )
    return Worker(job, {bundle.digest: files_of(bundle) for bundle in bundles})


def inspected_here(bundles: Sequence[Bundle], source: Path | str, dest: Path | str, part_pictures: int = 4) -> Table:
    """Inspect an archive in this process, without Ray and without faults, and return the table."""
    plan = plan_of(bundles, source, dest, part_pictures)
    here = opened(bundles, dest, source)
    for part in range(plan.parts):
        here.inspect(part, [bundle.digest for bundle in bundles])
    return table_of(dest)


def table_of(dest: Path | str) -> Table:
    """Return all rows of DEST, as any reader of Parquet sees them, by bundle and number."""
    storage = Storage.at(str(dest)).under("verdicts")
    table = ds.dataset(storage.root, filesystem=storage.files, partitioning="hive").to_table()
    return sorted(table.to_pylist(), key=lambda row: (row["bundle"], row["number"]))


def parts_in(dest: Path) -> list[Path]:
    """Return the finished parts."""
    return sorted(dest.glob("verdicts/*/part-*.parquet"))


def load_and_die(pictures: Pictures, number: int, picture: str) -> Loaded:
    """Load a picture; one with the content `DEADLY` kills this process."""
    loaded = load_as_ever(pictures, number, picture)
    if is_deadly(loaded):
        os.kill(os.getpid(), signal.SIGKILL)
    return loaded


def inspect_part_and_die(*arguments: Any) -> tuple[int, list[str]]:
    """The task of Ray, whose process is killed at pictures with the content `DEADLY`."""
    run.load = load_and_die
    return inspect_part(*arguments)


def is_deadly(loaded: Loaded) -> bool:
    return isinstance(loaded.frame, BadFrame) and loaded.content == DEADLY_CONTENT
