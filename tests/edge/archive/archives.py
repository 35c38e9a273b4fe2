"""Archives to inspect, or with made-up verdicts; workers that fail on purpose; and what DEST holds."""

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import xxhash

from heatline.edge import __version__
from heatline.edge.archive.run import Job, Loaded, Worker, files_of, inspect_part, key_of
from heatline.edge.archive.source import Listed, folder_of, list_source
from heatline.edge.archive.verdicts import SCHEMA, Plan, Row, write_plan, write_verdicts
from heatline.edge.bundle import Bundle
from heatline.edge.frames import BadFrame
from heatline.edge.wire.events import Verdict
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


def load_and_die(worker: Worker, row: Row) -> Loaded:
    """Load a picture; one with the content `DEADLY` kills this process."""
    loaded = load_as_ever(worker, row)
    if isinstance(loaded.frame, BadFrame) and loaded.content == xxhash.xxh3_64_hexdigest(DEADLY):
        os.kill(os.getpid(), signal.SIGKILL)
    return loaded


def inspect_part_and_die(*arguments: Any) -> tuple[list[pa.Table], list[str]]:
    """The task of Ray, whose process is killed at pictures with the content `DEADLY`."""
    Worker.load = load_and_die  # type: ignore[method-assign]
    return inspect_part(*arguments)


# Made-up verdicts, written as workers write them.

OLD, NEW = "0" * 64, "1" * 64
THRESHOLDS = {OLD: 1.5, NEW: -0.25}


@dataclass(frozen=True)
class Seen:
    """What a bundle finds in a picture: a margin to its threshold, or a reason."""

    margin: float | None
    content: str | None = "c0"

    @property
    def verdict(self) -> Verdict:
        return "NO_VERDICT" if self.margin is None else "DEFECT" if self.margin >= 0 else "GOOD"


@dataclass(frozen=True)
class Made:
    """A picture and what the bundles find in it, by key."""

    group: str
    label: str | None
    seen: Mapping[str, Seen] = field(default_factory=dict)


def made_archive(dest: Path, pictures: Sequence[Made], part_pictures: int = 4) -> Plan:
    """Write a DEST."""
    listed = [Listed(f"{each.group}/{number}.png", each.group, each.label) for number, each in enumerate(pictures)]
    plan = write_plan(dest, Path("/pictures"), listed, part_pictures)
    for key in pictures[0].seen:
        for part in range(plan.parts):
            rows = [row | _verdict(pictures[row["number"]].seen[key], key) for row in plan.rows_of(part)]
            write_verdicts(dest, key, part, pa.Table.from_pylist(rows, SCHEMA))
    return plan


def _verdict(seen: Seen, key: str) -> Row:
    judged = seen.margin is not None
    return Row(
        content=seen.content, width=100, height=80, verdict=seen.verdict,
        reason=None if judged else "failed.implausible", detail=None if judged else "the picture is odd",
        score=seen.margin + THRESHOLDS[key] if judged else None,
        score_threshold=THRESHOLDS[key], evidence_threshold=3.0, regions=[], precision="f32", bundle_name="boards",
        bundle_version="2" if key == NEW else "1",
    )  # fmt: skip
