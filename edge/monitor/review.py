"""Combines the marks of all reviewers of a picture into one review."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from heatline.edge.wire.events import ReviewEvent
from heatline.edge.wire.marks import Mark, MarkKind

Truth = Literal["good", "defective"]


@dataclass(frozen=True)
class Review:
    """The marks that count for one picture: the last one of each reviewer, oldest first. At least one."""

    marks: tuple[Mark, ...]

    @property
    def picture(self) -> str:
        return self.marks[-1].picture

    @property
    def truths(self) -> set[Truth]:
        """What the reviewers say that the part is."""
        return {truth_of(mark) for mark in self.marks}

    @property
    def truth(self) -> Truth | None:
        """What the part is; None: the reviewers contradict each other."""
        truths = self.truths
        return truths.pop() if len(truths) == 1 else None

    @property
    def kind(self) -> MarkKind | None:
        """Whether the verdict is right, a false alarm, or missed a defect; None: the reviewers contradict each other.

        A DEFECT that one calls right, while another finds a further defect, missed a defect.
        """
        if self.truth is None:
            return None
        kinds = {mark.kind for mark in self.marks}
        return "missed" if "missed" in kinds else kinds.pop()

    @property
    def missed_xy(self) -> list[tuple[int, int]]:
        """Where the missed defects are, px of the frame, each position once."""
        return list(dict.fromkeys(xy for mark in self.marks for xy in mark.at_xy))

    @property
    def reviewers(self) -> list[str]:
        """The names of the reviewers whose marks count."""
        return [mark.by for mark in self.marks]


def truth_of(mark: Mark) -> Truth:
    """Return what a reviewer says that the part is. The mark is not withdrawn."""
    if mark.kind == "right":
        return "good" if mark.verdict == "GOOD" else "defective"
    return "good" if mark.kind == "false_alarm" else "defective"


def combine(events: Iterable[ReviewEvent]) -> dict[str, Review]:
    """Return the review of each picture that has one.

    The last mark of a reviewer replaces the reviewer's former marks of that picture; a withdrawn one leaves none.

    Args:
        events: in the order of their journal.
    """
    by_picture: dict[str, dict[str, Mark]] = {}
    for event in events:
        marks = by_picture.setdefault(event.mark.picture, {})
        marks.pop(event.mark.by, None)
        if event.mark.kind != "withdrawn":
            marks[event.mark.by] = event.mark
    return {picture: Review(tuple(marks.values())) for picture, marks in by_picture.items() if marks}
