"""The result for a frame: a judgement, or the reason why there is none."""

from dataclasses import dataclass, field
from typing import Literal

from heatline.edge.frames import Frame, Stamp
from heatline.edge.inspection.setup import Setup
from heatline.edge.inspection.verdict import Judgement


@dataclass(frozen=True)
class Outcome:
    """The result for one frame. Exactly one of `judgement` and `unjudged` is set."""

    stamp: Stamp
    judgement: Judgement | None = None
    unjudged: "Unjudged | None" = None
    setup: Setup | None = field(default=None, compare=False)
    """The setup by which the frame was, or would have been, inspected; the reorder buffer adds it."""
    frame: Frame | None = field(default=None, compare=False)
    """The frame with its pixels, which the holder of the outcome must release; None: no pixels came, or the frame was
    dropped."""

    @property
    def shown(self) -> Judgement | None:
        """The judgement whose heatmap and areas may be shown; None: there is none."""
        inspected = self.inspected
        return None if inspected is None or inspected.misaligned else inspected

    @property
    def inspected(self) -> Judgement | None:
        """The judgement that tells the frame's size and pose; None: there is none."""
        return self.judgement if self.unjudged is None else self.unjudged.judgement

    def release(self) -> None:
        """Release the pixels, if there are any."""
        if self.frame is not None:
            self.frame.release()


def outcome_of(stamp: Stamp, judgement: Judgement, frame: Frame | None = None) -> Outcome:
    """Return the outcome of a judged frame. A frame that does not show the product, or cannot be compared with its
    reference, or shows the product only in part and no defect, counts as failed.
    """
    if (reject_reason := judgement.reject_reason) is None:
        return Outcome(stamp, judgement=judgement, frame=frame)
    if judgement.implausible is not None:
        return Outcome(stamp, unjudged=Unjudged("failed", "implausible", reject_reason), frame=frame)
    if judgement.misaligned is not None:
        return Outcome(stamp, unjudged=Unjudged("failed", "misaligned", reject_reason, judgement), frame=frame)
    return Outcome(stamp, unjudged=Unjudged("failed", "foreign_area", reject_reason, judgement), frame=frame)


@dataclass(frozen=True)
class Unjudged:
    """Why a frame has no judgement: the ledger's bin, the reason in one word, and a description for people."""

    kind: Literal["dropped", "failed"]
    reason: str
    detail: str
    judgement: Judgement | None = None
    """Of a frame that shows the product in part: for its heatmap and areas; of a misaligned one: for its pose. Its
    verdict must not be used."""
