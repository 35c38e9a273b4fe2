"""Archives to inspect, workers that fail on purpose, and what DEST holds."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import xxhash

from heatline.archive.run import Job, Worker, files_of, inspect_part, key_of
from heatline.archive.source import folder_of, list_source
from heatline.archive.verdicts import Plan, Row, write_plan, write_verdicts
from heatline.edge import __version__
from heatline.edge.bundle import Bundle
from heatline.edge.frames import BadFrame, Frame
from tests.conftest import write_picture
from tests.small_bundle import dark_square, white_frame

DEADLY = b"\x89PNG deadly IEND\xaeB`\x82"
"""The content of a picture that ends each worker that reads it."""

Table = list[dict[str, Any]]
load_as_ever = Worker.load


def write_archive(folder: Path, count: int, hw: tuple[int, int] = (230, 300)) -> Path:
    """Write pictures of two groups; every third one has a defect, at a place of its own."""
    for number in range(count):
        frame = white_frame(hw)
        if number % 3 == 0:
            frame = dark_square(frame, 10 + number % 100, 20 + 2 * number % 100)
        frame[0, 0] = number % 256
        write_picture(folder / ("left", "right")[number % 2] / f"{number:04d}.png", frame)
    return folder


def plan_of(source: Path, dest: Path, part_pictures: int = 4) -> Plan:
    """Write a plan as the command does, with parts of this size."""
    return write_plan(dest, source, list_source(source), part_pictures)


def worker_of(bundles: Sequence[Bundle], source: Path) -> Worker:
    """Return a worker with the bundles."""
    files = {bundle.digest: files_of(bundle) for bundle in bundles}
    return Worker(Job(__version__, folder_of(source), "openvino", "f32", files))


def inspected_here(bundles: Sequence[Bundle], source: Path, dest: Path, part_pictures: int = 4) -> Table:
    """Inspect an archive in this process, without Ray and without faults, and return the table."""
    plan = plan_of(source, dest, part_pictures)
    here, digests = worker_of(bundles, source), [bundle.digest for bundle in bundles]
    for part in range(plan.parts):
        for digest, verdicts in zip(digests, here.inspect(plan.rows_of(part), digests), strict=True):
            write_verdicts(plan.dest, key_of(digest, "openvino", "f32"), part, verdicts)
    return table_of(dest)


def table_of(dest: Path) -> Table:
    """Return all rows of DEST, as any reader of Parquet sees them, by bundle and number."""
    table = ds.dataset(dest / "verdicts", partitioning="hive").to_table()
    return sorted(table.to_pylist(), key=lambda row: (row["bundle"], row["number"]))


def parts_in(dest: Path) -> list[Path]:
    """Return the finished parts."""
    return sorted(dest.glob("verdicts/*/part-*.parquet"))


def load_and_die(worker: Worker, row: Row) -> tuple[str | None, Frame | BadFrame]:
    """Load a picture; one with the content `DEADLY` kills this process."""
    content, frame = load_as_ever(worker, row)
    if isinstance(frame, BadFrame) and content == xxhash.xxh3_64_hexdigest(DEADLY):
        os.kill(os.getpid(), signal.SIGKILL)
    return content, frame


def inspect_part_and_die(*arguments: Any) -> tuple[list[pa.Table], list[str]]:
    """The task of Ray, whose process is killed at pictures with the content `DEADLY`."""
    Worker.load = load_and_die  # type: ignore[method-assign]
    return inspect_part(*arguments)
