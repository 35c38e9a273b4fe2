"""The result of a frame as the OPC UA and the Modbus bridge give it."""

from dataclasses import dataclass

from heatline.edge.bridge.line import EVALUATIONS, Evaluation
from heatline.edge.wire.events import VerdictEvent
from heatline.edge.wire.following import Delivered


@dataclass(frozen=True)
class Result:
    """A journalled verdict."""

    id: str
    """The event's idempotency key: the same whenever the result comes again."""
    event: VerdictEvent

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
    return Result(delivered.key, event) if isinstance(event, VerdictEvent) else None
