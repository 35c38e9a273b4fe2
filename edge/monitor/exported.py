"""The manifest of exported pictures, `manifest.jsonl`: a row for each copied frame."""

import msgspec

from heatline.edge.monitor.review import Review, Truth
from heatline.edge.wire.events import VerdictEvent
from heatline.edge.wire.marks import MarkKind

MANIFEST = "manifest.jsonl"


class ReviewRow(msgspec.Struct, frozen=True, kw_only=True):
    """What reviewers say of a frame."""

    truth: Truth | None
    """Null: they contradict each other."""
    kind: MarkKind | None
    """Null likewise."""
    missed_xy: list[tuple[int, int]]
    """Where the missed defects are, px of the frame."""
    by: list[str]

    @classmethod
    def of(cls, review: Review) -> "ReviewRow":
        return cls(truth=review.truth, kind=review.kind, missed_xy=review.missed_xy, by=review.reviewers)


class ManifestRow(msgspec.Struct, frozen=True, kw_only=True):
    """A copied frame, and the event that it belongs to."""

    file: str
    """Path of the copy in the folder."""
    picture: str
    line: str
    day: str
    event: VerdictEvent
    review: ReviewRow | None = None
    """Null: nobody has reviewed the frame."""
