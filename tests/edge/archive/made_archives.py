"""Archives with made-up verdicts: written as workers write them, without an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from heatline.edge.archive.source import Listed
from heatline.edge.archive.verdicts import SCHEMA, Plan, Row, write_plan, write_verdicts
from heatline.edge.wire.events import Verdict

OLD, NEW = "0" * 64, "1" * 64
THRESHOLDS = {OLD: 1.5, NEW: -0.25}


@dataclass(frozen=True)
class Seen:
    """What a bundle finds in a picture: a margin to its threshold, or a reason."""

    margin: float | None
    reason: str = "failed.implausible"
    content: str | None = "c0"

    @property
    def verdict(self) -> Verdict:
        return "NO_VERDICT" if self.margin is None else "DEFECT" if self.margin >= 0 else "GOOD"


UNREADABLE = Seen(None, "failed.unreadable", content=None)


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
    return Row(
        content=seen.content,
        width=100,
        height=80,
        verdict=seen.verdict,
        reason=None if seen.margin is not None else seen.reason,
        detail=None if seen.margin is not None else "the picture is odd",
        score=None if seen.margin is None else seen.margin + THRESHOLDS[key],
        score_threshold=THRESHOLDS[key],
        evidence_threshold=3.0,
        regions=[{"box_xyxy": [0, 0, 10, 10], "peak_xy": [0, 0], "area_px": 9, "score": 4.0}],
        precision="f32",
        bundle_name="boards",
        bundle_version="2" if key == NEW else "1",
    )
