"""The results that OPC UA clients can get, and how far the line's journal is acknowledged."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from heatline.edge.bridge.opcua.fields import Values
from heatline.edge.delivery.durable.subscription import BYTES_UNACKNOWLEDGED
from heatline.edge.wire.following import Delivered


@dataclass(frozen=True)
class HeldResult:
    """A result as its fields, and its event."""

    id: str
    values: Values
    content: str
    """The event as JSON; empty if it is too long to be held."""


@dataclass
class _InHand:
    event: Delivered
    done: bool
    settles: bool
    """Whether a client has, with this event, also what came before it. A report of a loss has no acknowledgement."""


class HeldResults:
    """Holds results in the order of the journal.

    Args:
        at_most: number of results that are held. If they wait for clients, the line limits their number instead.
        wait: whether each is held until a client acknowledges it; otherwise it is done at once.
    """

    def __init__(self, at_most: int, wait: bool) -> None:
        self._at_most, self._wait = at_most, wait
        self._results: dict[str, HeldResult] = {}
        self._in_hand: deque[_InHand] = deque()
        """Events that the line has no acknowledgement of."""
        self._bytes = 0
        """Size of these events. The line sends no more beyond a limit."""
        self._waiting: dict[str, _InHand] = {}
        """Those of them that wait for a client."""
        self.latest: HeldResult | None = None
        """It can be got even if it is acknowledged."""
        self.done_through: Delivered | None = None
        """Up to this event, none needs room at the line any more. Any thread may read it."""
        self.settled_through: Delivered | None = None
        """After this event, all come again at the next start. Any thread may read it."""

    @property
    def is_full(self) -> bool:
        """Whether no more results come before clients have acknowledged some: the latest may not be the line's."""
        return self._wait and (len(self._in_hand) >= self._at_most or self._bytes >= BYTES_UNACKNOWLEDGED)

    def __iter__(self) -> Iterator[HeldResult]:
        return iter(self._results.values())

    def __len__(self) -> int:
        return len(self._results)

    def add(self, event: Delivered, result: HeldResult | None) -> None:
        """Add the next event of the journal, and its result; None: it has none."""
        in_hand = _InHand(event, result is None or not self._wait, result is not None or not self._wait)
        self._in_hand.append(in_hand)
        self._bytes += len(event.header)
        if result is not None:
            self._results[result.id] = self.latest = result
            if self._wait:
                self._waiting[result.id] = in_hand
            elif len(self._results) > self._at_most:
                del self._results[next(iter(self._results))]
        self._advance()

    def find(self, result_id: str) -> HeldResult | None:
        """Return the result with that id; None: it is not held."""
        if self.latest is not None and self.latest.id == result_id:
            return self.latest
        return self._results.get(result_id)

    def acknowledge(self, result_id: str) -> bool:
        """Record that a client has stored a result; return whether it was held. One that waited is held no more."""
        waited = self._waiting.pop(result_id, None)
        if waited is None:
            return result_id in self._results
        waited.done = True
        del self._results[result_id]
        self._advance()
        return True

    def _advance(self) -> None:
        while self._in_hand and self._in_hand[0].done:
            in_hand = self._in_hand.popleft()
            self._bytes -= len(in_hand.event.header)
            if in_hand.settles:
                self.settled_through = in_hand.event
            self.done_through = in_hand.event
