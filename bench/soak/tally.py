"""What became of every event of a long run: counts only, as a bench that kept events would itself grow with the run."""

from collections import Counter

from bench.soak.latency_tenths import LatencyTenths
from edge.wire.events import Account, AlarmEvent, Event, StatusEvent, VerdictEvent


class SoakTally:
    """Hears a line with one camera from its first event to its last.

    Args:
        frames: how many are planned.
    """

    def __init__(self, frames: int) -> None:
        self.frames = 0
        """That were told of."""
        self.verdicts: Counter[str] = Counter()
        """Frames by verdict, those without one by the reason."""
        self.missing = 0
        """Events that were sent and not heard."""
        self.out_of_order = 0
        """Events that came after a later one, or twice, or of another boot."""
        self.alarms: Counter[str] = Counter()
        self.unbalanced = 0
        """Status events whose account does not add up."""
        self.account: Account | None = None
        """As the last status event tells it."""
        self.stopped = False
        self.latencies = LatencyTenths(frames)
        self._last_seq = 0
        self._boot_id: str | None = None

    def add(self, event: Event) -> None:
        """The next event as it was heard."""
        self._boot_id = self._boot_id or event.boot_id
        if event.boot_id != self._boot_id:
            self.out_of_order += 1
            return
        if isinstance(event, StatusEvent):
            self._look(event)
            return
        if event.seq <= self._last_seq:
            self.out_of_order += 1
            return
        self._up_to(event.seq - 1)
        self._last_seq = event.seq
        if isinstance(event, AlarmEvent):
            self.alarms[event.alarm] += event.active
        elif isinstance(event, VerdictEvent):
            self.frames += event.frames
            self.verdicts[event.reason or event.verdict] += event.frames
            self.latencies.add(event.latency_ms)

    @property
    def inspected(self) -> int:
        return self.verdicts["GOOD"] + self.verdicts["DEFECT"]

    @property
    def balanced(self) -> bool:
        """Whether the account added up whenever it was told, and at the end says what the events said."""
        last = self.account
        if last is None or self.unbalanced or not self.stopped:
            return False
        return (last.captured, last.inspected, last.in_flight) == (self.frames, self.inspected, 0)

    def _look(self, status: StatusEvent) -> None:
        self._up_to(status.last_seq)
        (self.account,) = status.ledger.values()
        self.unbalanced += not self.account.balanced
        self.stopped = status.state == "STOPPED"

    def _up_to(self, seq: int) -> None:
        """All events up to this one have been sent before what has just come."""
        self.missing += max(seq - self._last_seq, 0)
        self._last_seq = max(seq, self._last_seq)
