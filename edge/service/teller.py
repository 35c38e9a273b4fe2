"""The one way out: every event is made and handed to the publisher under one lock, so that none overtakes another."""

import threading
from collections.abc import Callable, Mapping

from edge.cameras.state import CameraAlarm, CameraState
from edge.delivery.publisher import Publisher
from edge.inspection.flight_recorder import FlightRecorder
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome
from edge.inspection.setup import Setup
from edge.service.aftermath import ToldLiveAlone
from edge.service.heartbeat import Heartbeat
from edge.service.implausible_log import ImplausibleLog
from edge.service.reporter import Reporter
from edge.wire.events import Change, Handshake, State


class Teller:
    """Tells what happens on a line; any thread.

    Args:
        heartbeat: beats as a verdict or a probe leaves the publisher.
        setup: in force at first.
    """

    def __init__(self, reporter: Reporter, publisher: Publisher, heartbeat: Heartbeat, setup: Setup) -> None:
        self._reporter, self._publisher, self._heartbeat = reporter, publisher, heartbeat
        self._setup = setup
        self._implausible = ImplausibleLog()
        self._recorder: FlightRecorder | None = None
        self._lock = threading.Lock()

    def note_in(self, recorder: FlightRecorder | None) -> None:
        """Note there which frames' events are out from now on."""
        self._recorder = recorder

    @property
    def boot_id(self) -> str:
        return self._reporter.boot_id

    @property
    def events(self) -> int:
        """How many were told, statuses not counted."""
        return self._reporter.events

    def verdict(self, outcome: Outcome) -> None:
        """A frame's end."""

        def sent() -> None:
            if self._recorder is not None:
                self._recorder.told(outcome.stamp)
            if outcome.judgement is not None:  # a frame that was not judged is no sign that inspection goes on
                self._heartbeat.beat()

        with self._lock:
            self._publisher.send(self._reporter.verdict(outcome), sent)
            self._implausible.log(outcome)

    def probe(self) -> None:
        """A probe's end: it takes the way of an event, and is none."""
        with self._lock:
            self._publisher.probe(self._heartbeat.beat)

    def after_all(self, sent: Callable[[], None]) -> None:
        """Call back, on the publisher's thread, once all that was told so far is sent."""
        with self._lock:
            self._publisher.probe(sent)

    def alarm(self, alarm: CameraAlarm) -> None:
        """A camera's death or return."""
        with self._lock:
            self._publisher.send(self._reporter.alarm(alarm, self._setup))

    def unrecorded(self, missing: ToldLiveAlone) -> None:
        """What the boot before told of, and the journal does not hold."""
        with self._lock:
            self._publisher.send(self._reporter.unrecorded(missing))

    def exchange(self, change: Change, setup: Setup, put_in_force: Callable[[Setup], None]) -> None:
        """Put another setup in force and tell of it: no event of a frame inspected by it comes before."""
        with self._lock:
            put_in_force(setup)
            self._setup = setup
            self._publisher.send(self._reporter.change(change, setup))

    def refusal(self, change: Change) -> None:
        """What was in force still is."""
        with self._lock:
            self._publisher.send(self._reporter.change(change, self._setup))

    def status(
        self,
        state: State,
        ledger: Ledger,
        cameras: Mapping[str, CameraState],
        handshake: Handshake,
        last_change: Callable[[], Change | None],
        refused: Mapping[str, int],
    ) -> None:
        """How the line is; the account is taken after all events that it counts, and the last change as well."""
        with self._lock:
            message = self._reporter.status(
                state, ledger.accounts(), cameras, self._setup, handshake, last_change(), refused
            )
            self._publisher.send(message)
