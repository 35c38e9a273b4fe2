"""A line that dies and starts again, and one client that stays."""

import contextlib
import os
import select
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.watched_line import POLL_SECONDS
from edge.delivery.client.subscriber import Subscriber
from edge.delivery.journal.errors import JournalMissingError
from edge.delivery.journal.reader import JournalReader
from edge.frames import Stamp
from edge.inspection.in_flight_log import FILE_NAME, InFlightLog, read_previous_run
from edge.inspection.ledger import Ledger
from edge.wire.events import VerdictEvent
from tests.command import HEATLINE, WITHIN_SECONDS
from tests.edge.lines import Heard, RunningLine, children, line_started


class Boots:
    """Hears all boots of one line, one after the other, over one subscription that is never given up."""

    def __init__(self, events: Subscriber, line: Path, env: Mapping[str, str]) -> None:
        self._events, self._line, self._env = events, line, env
        self.heard: dict[str, Heard] = {}
        """Per boot id, in the order of the boots."""

    @contextlib.contextmanager
    def boot(self, command: Sequence[str | Path] = (HEATLINE, "run")) -> Iterator[RunningLine]:
        """The line's next life. What is still on the wire of the one before comes first, and is kept with that one."""
        with line_started(self._line, self._env, command) as process:
            run = RunningLine(process, self._events)
            first = run.until(lambda event: event.boot_id not in self.heard)
            self._sort(run)
            run.heard = Heard([], [], [])
            run.heard.add(first)
            self.heard[first.boot_id] = run.heard
            yield run

    def of(self, boot: int) -> Heard:
        return list(self.heard.values())[boot]

    def _sort(self, run: RunningLine) -> None:
        for event in run.heard.came:
            if event.boot_id in self.heard:
                self.heard[event.boot_id].add(event)


@contextlib.contextmanager
def boots(line: Path, address: str, state: Path) -> Iterator[Boots]:
    with Subscriber(address, timeout_s=POLL_SECONDS) as events:
        yield Boots(events, line, {"STATE_DIRECTORY": str(state)})


def die(run: RunningLine) -> None:
    """Kill it by SIGKILL, and see its cameras' processes gone as well."""
    cameras = [os.pidfd_open(pid) for pid in children(run.process.pid)]
    run.process.kill()
    run.process.wait(WITHIN_SECONDS)
    for camera in cameras:
        try:
            assert select.select([camera], [], [], WITHIN_SECONDS)[0], "a camera's process outlives its line"
        finally:
            os.close(camera)


def crashed(heard: Heard) -> list[VerdictEvent]:
    """What a boot tells of the one before."""
    return [event for event in heard.verdicts if event.reason == "dropped.crashed"]


def assert_the_crash_is_told_first(heard: Heard) -> None:
    """And in order: numbers and seq go on without a gap as far as the boot was heard."""
    told = crashed(heard)
    assert told == heard.verdicts[: len(told)]
    number = 0
    told = sorted([*heard.verdicts, *heard.of_journal], key=lambda event: event.seq)
    first = told[0].seq if told else 0  # it may have died before it told of anything
    assert [event.seq for event in told] == list(range(first, first + len(told)))
    for event in heard.verdicts:
        assert event.frame_number == number + 1
        number += event.frames
    assert all(account.balanced for status in heard.statuses for account in status.ledger.values())


def in_flight(state: Path) -> list[Stamp]:
    """The frames in flight of a crashed line: those in its in-flight log without an event in its journal."""
    try:
        with JournalReader.open(state) as reader:
            journalled = reader.progress()
    except JournalMissingError:  # it crashed before it created one
        journalled = {}
    return read_previous_run(state / FILE_NAME, journalled).in_flight


def ids(events: Sequence[VerdictEvent]) -> list[int]:
    """The frame ids that events tell of, one by one."""
    told: list[int] = []
    for event in events:
        assert event.frame_id is not None
        told += range(event.frame_id, event.frame_id + event.frames)
        assert event.last_frame_id == (told[-1] if event.frames > 1 else None)
    return told


def begin_log(path: Path, reported: Mapping[str, int], boot_id: str = "") -> InFlightLog:
    """Begin an in-flight log, with this number of reported frames of each camera."""
    ledger = Ledger(list(reported))
    for camera, frames in reported.items():
        ledger.captured(camera, frames)
        ledger.dropped(camera, "overload", frames)
    log = InFlightLog(path, ledger, boot_id)
    log.begin()
    return log
