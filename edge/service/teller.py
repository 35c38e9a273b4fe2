"""The one way out: every event is made and handed to the publisher under one lock, so that none overtakes another."""

import threading
from collections.abc import Mapping

from edge.cameras.state import CameraAlarm, CameraState
from edge.delivery.messages import State
from edge.delivery.publisher import Publisher
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome
from edge.service.reporter import Reporter


class Teller:
    """Tells what happens on a line; any thread.

    Args:
        line: its name.
    """

    def __init__(self, line: str, reporter: Reporter, publisher: Publisher) -> None:
        self._line, self._reporter, self._publisher = line, reporter, publisher
        self._lock = threading.Lock()

    @property
    def last_seq(self) -> int:
        return self._reporter.last_seq

    def verdict(self, outcome: Outcome) -> None:
        """A frame's end."""
        with self._lock:
            self._publisher.send(self._reporter.verdict(outcome))

    def alarm(self, alarm: CameraAlarm) -> None:
        """A camera's death or return."""
        with self._lock:
            self._publisher.send(self._reporter.alarm(self._line, alarm))

    def status(self, state: State, ledger: Ledger, cameras: Mapping[str, CameraState]) -> None:
        """How the line is; the account is taken after all events that it counts."""
        with self._lock:
            self._publisher.send(self._reporter.status(self._line, state, ledger.accounts(), cameras))
