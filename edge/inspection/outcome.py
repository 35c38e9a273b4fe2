"""How a frame's way ended: with a judgement, or without one and why."""

from dataclasses import dataclass, field
from typing import Literal

from edge.frames import Stamp
from edge.inspection.setup import Setup
from edge.inspection.verdict import Judgement


@dataclass(frozen=True)
class Outcome:
    """The end of one frame's way. Exactly one of `judgement` and `unjudged` is there."""

    stamp: Stamp
    judgement: Judgement | None = None
    unjudged: "Unjudged | None" = None
    setup: Setup | None = field(default=None, compare=False)
    """What the frame was, or was to be, inspected by; the reorder buffer adds it."""


def outcome_of(stamp: Stamp, judgement: Judgement) -> Outcome:
    """Of a frame that was judged; nothing rests on the judgement of one that does not show the product."""
    if judgement.implausible is None:
        return Outcome(stamp, judgement=judgement)
    return Outcome(stamp, unjudged=Unjudged("failed", "implausible", judgement.implausible))


@dataclass(frozen=True)
class Unjudged:
    """Why a frame has no judgement: the ledger's bin, the reason in one word, and in words."""

    kind: Literal["dropped", "failed"]
    reason: str
    detail: str
