"""The result of a frame as every bridge gives it: one id and one evaluation everywhere."""

from dataclasses import dataclass
from enum import IntEnum

from heatline.edge.wire.events import JournalEvent, Verdict, VerdictEvent
from heatline.edge.wire.following import Delivered


class Evaluation(IntEnum):
    """ResultEvaluationEnum of OPC 40001-101, Machinery Result Transfer 1.01."""

    UNDEFINED = 0
    OK = 1
    NOT_OK = 2
    NOT_DECIDABLE = 3


EVALUATIONS: dict[Verdict, Evaluation] = {
    "GOOD": Evaluation.OK,
    "DEFECT": Evaluation.NOT_OK,
    "NO_VERDICT": Evaluation.NOT_DECIDABLE,
}
VERDICTS = "verdict."
"""Prefix of the topics of results."""


@dataclass(frozen=True)
class Result:
    """A journalled verdict."""

    id: str
    """The event's idempotency key: the same whenever the result comes again."""
    event: VerdictEvent
    heatmap_png: bytes | None = None

    @property
    def evaluation(self) -> Evaluation:
        return EVALUATIONS[self.event.verdict]

    @property
    def is_simulated(self) -> bool:
        """Whether the line is being commissioned, so that nobody may act on the result."""
        return not self.event.acting


def result_of(delivered: Delivered) -> Result | None:
    """Return the result in a journalled event; None: the event is not a verdict.

    Raises:
        MessageError: it is of another schema version, or of an unknown type.
    """
    event = delivered.event
    return Result(delivered.key, event, delivered.png) if isinstance(event, VerdictEvent) else None


def unjournalled_results(event: JournalEvent) -> int | None:
    """Return how many results the line could not journal, by its report; 0: it reports none; None: a number unknown."""
    if event.kind not in ("recording", "unrecorded"):
        return 0
    if event.by_topic:
        return sum(count for topic, count in event.by_topic.items() if topic.startswith(VERDICTS))
    return event.events
