"""A line that is killed and started again, with one subscriber that stays connected."""

import contextlib
import os
import select
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from heatline.bench.watched_line import POLL_SECONDS
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import JournalError
from heatline.edge.frames import Stamp
from heatline.edge.inspection.in_flight_log import FILE_NAME, InFlightLog, read_previous_run
from heatline.edge.wire.events import VerdictEvent
from tests.command import HEATLINE, WITHIN_SECONDS
from tests.edge.lines import ReceivedEvents, RunningLine, children, line_started


class Boots:
    """Receives the events of all boots of one line, over one subscription."""

    def __init__(self, events: Subscriber, line: Path, env: Mapping[str, str]) -> None:
        self._events, self._line, self._env = events, line, env
        self.received: dict[str, ReceivedEvents] = {}
        """Events by boot id, in the order of the boots."""

    @contextlib.contextmanager
    def boot(self, command: Sequence[str | Path] = (HEATLINE, "run")) -> Iterator[RunningLine]:
        """Start the next boot. Late events of the boot before are added to that boot."""
        with line_started(self._line, self._env, command) as process:
            run = RunningLine(process, self._events)
            first = run.until(lambda event: event.boot_id not in self.received)
            self._add_to_earlier_boots(run)
            run.received = ReceivedEvents([], [], [])
            run.received.add(first)
            self.received[first.boot_id] = run.received
            yield run

    def of(self, boot: int) -> ReceivedEvents:
        return list(self.received.values())[boot]

    def _add_to_earlier_boots(self, run: RunningLine) -> None:
        for event in run.received.in_order:
            if event.boot_id in self.received:
                self.received[event.boot_id].add(event)


@contextlib.contextmanager
def boots(line: Path, address: str, state: Path) -> Iterator[Boots]:
    with Subscriber(address, timeout_s=POLL_SECONDS) as events:
        yield Boots(events, line, {"STATE_DIRECTORY": str(state)})


def die(run: RunningLine) -> None:
    """Kill the line by SIGKILL, and check that its cameras' processes end too."""
    cameras = [os.pidfd_open(pid) for pid in children(run.process.pid)]
    run.process.kill()
    run.process.wait(WITHIN_SECONDS)
    for camera in cameras:
        try:
            assert select.select([camera], [], [], WITHIN_SECONDS)[0], "a camera's process outlives its line"
        finally:
            os.close(camera)


def crashed(received: ReceivedEvents) -> list[VerdictEvent]:
    """Return the events of frames that were in flight when the boot before was killed."""
    return [event for event in received.verdicts if event.reason == "dropped.crashed"]


def assert_the_crash_is_reported_first(received: ReceivedEvents) -> None:
    """Check also that frame numbers and seq have no gap."""
    in_flight = crashed(received)
    assert in_flight == received.verdicts[: len(in_flight)]
    number = 0
    events = sorted([*received.verdicts, *received.journal_events], key=lambda event: event.seq)
    first = events[0].seq if events else 0  # the boot may have been killed before its first event
    assert [event.seq for event in events] == list(range(first, first + len(events)))
    for event in received.verdicts:
        assert event.frame_number == number + 1
        number += event.frames
    assert all(account.balanced for status in received.statuses for account in status.ledger.values())


def in_flight(state: Path) -> list[Stamp]:
    """The frames in flight of a crashed line: those in its in-flight log without an event in its journal."""
    try:
        with JournalReader.open(state) as reader:
            journalled = reader.progress()
    except JournalError as error:
        if error.kind != "missing":
            raise  # otherwise the line crashed before it created a journal
        journalled = {}
    return read_previous_run(state / FILE_NAME, journalled).in_flight


def ids(events: Sequence[VerdictEvent]) -> list[int]:
    """Return the frame ids that events report, runs expanded."""
    frame_ids: list[int] = []
    for event in events:
        assert event.frame_id is not None
        frame_ids += range(event.frame_id, event.frame_id + event.frames)
        assert event.last_frame_id == (frame_ids[-1] if event.frames > 1 else None)
    return frame_ids


def begin_log(path: Path, reported: Mapping[str, int], boot_id: str = "") -> InFlightLog:
    """Begin an in-flight log, with this number of reported frames of each camera."""
    log = InFlightLog(path, boot_id)
    log.begin(reported)
    return log
