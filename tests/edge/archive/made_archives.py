"""Archives with made-up verdicts: written as workers write them, without an engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from heatline.edge.archive.plan import Plan, Row, UsedBundle, encode, file_of, write_plan
from heatline.edge.archive.storage import Storage
from heatline.edge.wire.events import Verdict

OLD, NEW = "0" * 64, "1" * 64
PART = 4
THRESHOLDS = {OLD: 1.5, NEW: -0.25}
Box = tuple[int, int, int, int]
BOX: Box = (0, 0, 10, 10)


@dataclass(frozen=True)
class Seen:
    """What a bundle finds in a picture: a margin to its threshold, or a reason."""

    margin: float | None
    reason: str = "failed.implausible"
    content: str | None = "c0"
    boxes: tuple[Box, ...] = (BOX,)

    @property
    def verdict(self) -> Verdict:
        return "NO_VERDICT" if self.margin is None else "DEFECT" if self.margin >= 0 else "GOOD"


UNREADABLE = Seen(None, "failed.unreadable", content=None)


@dataclass(frozen=True)
class Made:
    """A picture and what the bundles find in it, by digest."""

    group: str
    label: str | None
    seen: Mapping[str, Seen] = field(default_factory=dict)


def made_archive(
    folder: Path,
    pictures: Sequence[Made],
    part_pictures: int = PART,
) -> Plan:
    """Write a DEST."""
    digests = list(pictures[0].seen)
    plan = write_plan(
        Storage.at(str(folder)),
        "/pictures",
        "/pictures",
        [(f"{each.group}/{number}.png", each.group, each.label) for number, each in enumerate(pictures)],
        part_pictures,
    )
    used = {
        digest: UsedBundle(
            name="boards",
            version="2" if digest == NEW else "1",
            engine="openvino",
            precision="f32",
            score_threshold=THRESHOLDS[digest],
            evidence_threshold=3.0,
        )
        for digest in digests
    }
    plan = plan.with_bundles(used)
    for digest in digests:
        rows = [_row(number, each, digest, used[digest]) for number, each in enumerate(pictures)]
        for part in range(plan.parts):
            rows_of_part = rows[part_pictures * part : part_pictures * (part + 1)]
            plan.dest.write(file_of(digest, part), encode(rows_of_part))
    return plan


def _row(number: int, made: Made, digest: str, used: UsedBundle) -> Row:
    seen = made.seen[digest]
    is_judged = seen.margin is not None
    boxes = seen.boxes if seen.verdict == "DEFECT" else ()
    return Row(
        number=number,
        picture=f"{made.group}/{number}.png",
        group=made.group,
        label=made.label,
        content=seen.content,
        width=100,
        height=80,
        verdict=seen.verdict,
        reason=None if is_judged else seen.reason,
        detail=None if is_judged else f"the picture <{number}> is odd",
        score=None if seen.margin is None else seen.margin + used.score_threshold,
        score_threshold=used.score_threshold,
        evidence_threshold=used.evidence_threshold,
        regions=[{"box_xyxy": box, "peak_xy": box[:2], "area_px": 9, "score": 4.0} for box in boxes],
        precision=used.precision,
        bundle_name=used.name,
        bundle_version=used.version,
    )
