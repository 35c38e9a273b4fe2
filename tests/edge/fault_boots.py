"""Faults injected into a real line: kills between boots, stages that hang, and a clock that leaps."""

import contextlib
import os
import select
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from heatline.edge.delivery.journal import JournalReader
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import JournalError
from heatline.edge.frames import Stamp
from heatline.edge.inspection.in_flight_log import FILE_NAME, read_previous_run
from heatline.edge.wire.events import VerdictEvent
from tests.command import HEATLINE, WITHIN_SECONDS
from tests.edge.lines import POLL_SECONDS, ReceivedEvents, RunningLine, children, line_started
from tests.needs import need

PATIENT = {
    "kind": "pattern", "draw_size": [230, 230], "rate_fps": 20, "silent_after_periods": 1200,
    "waiting_frames": 8, "on_overload": "block",
}  # fmt: skip
"""A camera that loses no frame, however slow the machine is: only a minute of silence is an alarm."""


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
            run.received = ReceivedEvents()
            run.received.add(first)
            self.received[first.boot_id] = run.received
            yield run

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
            journalled = reader.contents().progress
    except JournalError as error:
        if error.kind != "missing":
            raise  # otherwise the line crashed before it created a journal
        journalled = {}
    return read_previous_run(state / FILE_NAME, journalled).in_flight


def ids(events: Sequence[VerdictEvent]) -> list[int]:
    """Return the frame ids that events report, runs expanded."""
    frame_ids: list[int] = []
    for event in events:
        frame_ids += range(event.frame_id, event.frame_id + event.frames)
        assert event.last_frame_id == (frame_ids[-1] if event.frames > 1 else None)
    return frame_ids


STAGES = {
    "infer": "heatline.edge.inspection.inspector:Inspector.start",
    "judge": "heatline.edge.inspection.inspector:Inspector.finish",
    "publish": "zmq:Socket.send_multipart",
}
"""The function that each stage calls for every frame."""

_CODE = """
import functools, importlib, os, sys, time

def hang(name, while_there):
    module, _, path = name.partition(":")
    owner_name, _, method = path.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    real = getattr(owner, method)

    @functools.wraps(real)
    def hanging(*args, **kwargs):
        while os.path.exists(while_there):
            time.sleep(0.01)
        return real(*args, **kwargs)

    setattr(owner, method, hanging)

if any(os.path.basename(argument) == "heatline" for argument in sys.orig_argv):  # not in the processes of cameras
    hang({name!r}, {hung!r})
"""


def at_start(folder: Path, code: str) -> Mapping[str, str]:
    """Return environment variables with which Python runs `code` at its start, and has the same import path otherwise.
    `folder`: a new folder for the code."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


class Hang:
    """Hangs a stage of a line within `hung`. `folder`: a new folder. `stage`: one of `STAGES`."""

    def __init__(self, folder: Path, stage: str) -> None:
        self._hung = folder / "hung"
        code = _CODE.replace("{name!r}", repr(STAGES[stage])).replace("{hung!r}", repr(str(self._hung)))
        self.env = at_start(folder, code)

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        self._hung.touch()
        try:
            yield
        finally:
            self._hung.unlink()


class LeapingClock:
    """A wall clock that leaps, for a process and its children; their monotonic clock is unchanged.

    Skips the test if libfaketime is not installed.

    Args:
        folder: for the file with the leap, which is read at every use of the clock.
    """

    def __init__(self, folder: Path) -> None:
        self._leap = folder / "leap"
        self.leap(0)
        self.env = {
            "LD_PRELOAD": need("libfaketime"),
            "FAKETIME_TIMESTAMP_FILE": str(self._leap),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",  # it would remain in /dev/shm
        }

    def leap(self, seconds: int) -> None:
        """Set the clock this far ahead of the true time, or behind it if negative."""
        new = self._leap.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        os.replace(new, self._leap)
