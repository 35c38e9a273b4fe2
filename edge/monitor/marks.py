"""Marks of people: how one is made, and what those of all reviewers of a picture say together. docs/review.md."""

import math
import uuid
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.wire.events import COLLECTING, LABELS, Areas, Mark, MarkKind, ReviewEvent, Stroke, VerdictEvent

Truth = Literal["good", "defective"]
AROUND_PX = 8
"""People click beside small defects."""
MANIFEST = "manifest.jsonl"
"""Beside exported frames: a `ManifestRow` for each."""


class OneMark(Areas, frozen=True, kw_only=True):
    """The last mark of one reviewer."""

    by: str
    kind: MarkKind
    at_xy: list[tuple[int, int]]
    """Points of missed defects, px of the frame."""
    at_ns: int
    """UTC, ns since 1970."""


class Missed(Areas, frozen=True, kw_only=True):
    """Where people see defects that the line missed."""

    missed_xy: list[tuple[int, int]] = msgspec.field(default_factory=list)
    """Points, px of the frame, at each of which a defect of unknown extent lies."""

    @classmethod
    def union(cls, parts: Sequence["Missed"]) -> "Missed":
        """Return the places of all parts, each once."""
        names = cls.__struct_fields__
        return cls(
            **{name: list(dict.fromkeys(each for part in parts for each in getattr(part, name))) for name in names}
        )

    def strongest_of(self, heatmap: NDArray[np.float32], cell_px: int) -> float | None:
        """Return the highest value of a heatmap [H, W] with cells of so many px at these places; NaN: there is none;
        None: no place is known.
        """
        brushes = [(xy, stroke.width_px // 2) for stroke in self.strokes for xy in stroke.points_xy]
        discs = [*((xy, AROUND_PX) for xy in self.missed_xy), *brushes]
        boxes = [*self.boxes_xywh, *((x - r, y - r, 2 * r + 1, 2 * r + 1) for (x, y), r in discs)]
        parts = [
            heatmap[
                max(y, 0) // cell_px : -(-(y + height) // cell_px), max(x, 0) // cell_px : -(-(x + width) // cell_px)
            ]
            for x, y, width, height in boxes
        ]
        return float(np.fmax.reduce(np.concatenate([part.ravel() for part in parts]))) if parts else None


class Review(Missed, frozen=True, kw_only=True):
    """What all reviewers of a frame say of its verdict; each point, box and stroke once."""

    truth: Truth | None
    """What the part is; null: they contradict each other."""
    kind: MarkKind | None
    """Whether the verdict is right, a false alarm, or missed a defect; null likewise. A DEFECT that one calls right,
    while another finds a further defect, missed a defect."""
    by: list[str]
    """The reviewers whose marks count."""
    at_ns: int = 0
    """Of the last mark."""
    marks: list[OneMark] = msgspec.field(default_factory=list)
    """Those that count, oldest first."""


class ManifestRow(msgspec.Struct, frozen=True, kw_only=True):
    """An exported frame, and the event that it belongs to."""

    file: str
    """Path of the copy in the folder."""
    picture: str
    line: str
    day: str
    event: VerdictEvent
    review: Review | None = None
    """Null: nobody has reviewed the frame."""


def truth_of(mark: Mark) -> Truth:
    """Return what a reviewer says that the part is. The mark is not withdrawn."""
    if mark.kind == "right":
        return "good" if mark.verdict == "GOOD" else "defective"
    return "good" if mark.kind in ("good", "false_alarm") else "defective"


def merged(events: Iterable[ReviewEvent]) -> list[ReviewEvent]:
    """Return events in the order in which they came, each once, although they were read in several places."""
    each = {(event.journal_id, event.seq): event for event in events}
    return sorted(each.values(), key=lambda event: (event.at_ns, event.seq))


def combine(events: Iterable[ReviewEvent]) -> dict[str, Review]:
    """Return the review of each picture that has one, of events in the order of their journal.

    The last mark of a reviewer replaces the reviewer's former marks of that picture; a withdrawn one leaves none.
    """
    by_picture: dict[str, dict[str, ReviewEvent]] = {}
    for event in events:
        last = by_picture.setdefault(event.mark.picture, {})
        last.pop(event.mark.by, None)
        if event.mark.kind != "withdrawn":
            last[event.mark.by] = event
    return {picture: _review_of(list(last.values())) for picture, last in by_picture.items() if last}


def _review_of(events: Sequence[ReviewEvent]) -> Review:
    marks = [event.mark for event in events]
    truths, kinds = {truth_of(mark) for mark in marks}, {mark.kind for mark in marks}
    is_agreed = len(truths) == 1
    kind: MarkKind | None = "missed" if "missed" in kinds else marks[0].kind
    return Review(
        truth=truths.pop() if is_agreed else None,
        kind=kind if is_agreed else None,
        missed_xy=list(dict.fromkeys(xy for mark in marks for xy in mark.at_xy)),
        boxes_xywh=list(dict.fromkeys(box for mark in marks for box in mark.boxes_xywh)),
        strokes=list(dict.fromkeys(stroke for mark in marks for stroke in mark.strokes)),
        by=[mark.by for mark in marks],
        at_ns=events[-1].at_ns,
        marks=[
            OneMark(
                by=mark.by,
                kind=mark.kind,
                at_xy=mark.at_xy,
                boxes_xywh=mark.boxes_xywh,
                strokes=mark.strokes,
                at_ns=event.at_ns,
            )
            for mark, event in zip(marks, events, strict=True)
        ],
    )


def mark_of(
    event: VerdictEvent,
    kind: MarkKind,
    by: str,
    at_xy: Sequence[tuple[int, int]] = (),
    boxes_xywh: Sequence[tuple[int, int, int, int]] = (),
    strokes: Sequence[Stroke] = (),
) -> Mark:
    """Return a new mark of a frame's verdict, with points, boxes and strokes of missed defects, px of the frame; an
    InputError if such a verdict cannot be marked so.
    """
    if event.picture is None or (event.verdict == "NO_VERDICT" and event.reason != COLLECTING):
        raise InputError("the frame has no verdict, so there is nothing to mark; mark a frame with GOOD or DEFECT")
    if kind != "withdrawn" and (kind in LABELS) != (event.reason == COLLECTING):
        raise InputError(
            f"{kind} is no mark of this frame: while a line collects, a frame is kept as good or defective; once it "
            "inspects, its verdict is right, false_alarm or missed"
        )
    if kind == "false_alarm" and event.verdict == "GOOD":
        raise InputError(
            f"the verdict of picture {event.picture} is GOOD, which is not a false alarm; mark it as right or missed"
        )
    if kind == "missed" and not (at_xy or boxes_xywh or strokes):
        raise InputError("no place of the missed defect came; give a point, a box or a stroke, in px of the frame")
    if not by.strip():
        raise InputError("the name of the reviewer is empty; say who marks the picture")
    height, width = event.frame_hw or (math.inf, math.inf)
    places = [*at_xy, *(xy for stroke in strokes for xy in stroke.points_xy)]
    for x, y, box_width, box_height in boxes_xywh:
        places += [(x, y), (x + max(box_width, 1) - 1, y + max(box_height, 1) - 1)]
    outside = next(((x, y) for x, y in places if not (0 <= x < width and 0 <= y < height)), None)
    if outside is not None:
        raise InputError(f"{outside} lies outside the frame, which is {width} px wide and {height} px high")
    fields = {
        "id": str(uuid.uuid4()),
        "picture": event.picture,
        "camera": event.camera,
        "captured_at_ns": event.times.captured_at_ns,
        "verdict": event.verdict,
        "bundle": event.bundle and event.bundle.digest,
        "kind": kind,
        "at_xy": list(at_xy),
        "boxes_xywh": list(boxes_xywh),
        "strokes": [msgspec.structs.asdict(stroke) for stroke in strokes],  # else they would not be verified
        "by": by.strip(),
    }
    try:
        return msgspec.convert(fields, Mark)
    except msgspec.ValidationError as error:
        raise InputError(f"picture {event.picture!a} cannot be marked: {error}") from error
