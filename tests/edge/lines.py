"""A line as in production: a folder with line.toml and pictures, and the real `heatline` command."""

import contextlib
import glob
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle, VerifiedEngine
from heatline.edge.delivery.auth import ClientKeys
from heatline.edge.delivery.subscriber import Gap, Subscriber
from heatline.edge.geometry import RegionOfInterest
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Heatmaps, Inspector, Setup
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.wire.events import (
    AlarmEvent,
    ChangeEvent,
    Event,
    Handshake,
    JournalEvent,
    Message,
    StatusEvent,
    VerdictEvent,
)
from tests.command import HEATLINE, WITHIN_SECONDS, process_env
from tests.small_bundle import dark_square, white_frame

OneEvent = TypeVar("OneEvent", bound=Event)
POLL_SECONDS = 0.02
"""How long a line's subscriber waits for an event before it looks at the clock and at the process."""


def write_pictures(folder: Path, pictures: Mapping[str, NDArray[np.uint8]]) -> Path:
    """Write pictures, RGB or grey, by their file names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        assert cv2.imwrite(str(folder / name), picture if picture.ndim == 2 else picture[..., ::-1])
    return folder


def small_frames(count: int, hw: tuple[int, int] = (230, 300)) -> dict[str, NDArray[np.uint8]]:
    """Return white frames; every third one has a black square."""
    white = white_frame(hw)
    return {f"{i:03d}.png": dark_square(white, 40, 60) if i % 3 == 0 else white for i in range(1, count + 1)}


def write_line(
    folder: Path,
    bundle: Path,
    address: str,
    cameras: Mapping[str, str],
    tables: str = "",
    *,
    trust: str = "allow_unsigned = true",
) -> Path:
    """Write the configuration of a line with folder cameras.

    Args:
        cameras: further keys of each camera, by its name.
        tables: text at the end.
        trust: the keys of the signature.
    """
    kinds = {name: f'kind = "folder"\n{keys}' for name, keys in cameras.items()}
    return _written(folder, f'bundle = "{bundle}"\n{trust}', kinds, address, tables)


def write_line_with(
    folder: Path,
    bundle: Path | None,
    address: str,
    cameras: Mapping[str, Mapping[str, Any]],
    tables: str = "",
    top: str = "",
) -> Path:
    """Write the configuration of a line with cameras of any kind.

    Args:
        bundle: None: the line collects.
        cameras: keys of each camera, also its `kind`, by its name.
        tables: text at the end.
        top: keys before all tables.
    """
    given = {name: "\n".join(f"{k} = {json.dumps(v)}" for k, v in keys.items()) for name, keys in cameras.items()}
    of_bundle = "" if bundle is None else f'bundle = "{bundle}"\n'
    return _written(folder, f"{of_bundle}allow_unsigned = true\n{top}", given, address, tables)


def _written(folder: Path, first: str, cameras: Mapping[str, str], address: str, tables: str) -> Path:
    parts = [first, *(f'[[cameras]]\nname = "{name}"\n{keys}' for name, keys in cameras.items())]
    parts += [f'[events]\nbind = "{address}"\nwait_for_subscriber_s = 60\n{tables}']
    path = folder / "line.toml"
    path.write_text("\n\n".join(parts))
    return path


@dataclass
class ReceivedEvents:
    """All events that a subscriber has received from a line, by their types."""

    verdicts: list[VerdictEvent] = field(default_factory=list)
    statuses: list[StatusEvent] = field(default_factory=list)
    alarms: list[AlarmEvent] = field(default_factory=list)
    changes: list[ChangeEvent] = field(default_factory=list)
    journal_events: list[JournalEvent] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    """Events that the subscriber knows it missed."""
    in_order: list[Event] = field(default_factory=list)
    """All events, in the order of receipt."""

    def add(self, event: Event) -> None:
        self.in_order.append(event)
        lists: dict[type, list[Any]] = {
            VerdictEvent: self.verdicts, StatusEvent: self.statuses, AlarmEvent: self.alarms,
            ChangeEvent: self.changes, JournalEvent: self.journal_events,
        }  # fmt: skip
        lists.get(type(event), []).append(event)

    @property
    def last(self) -> StatusEvent:
        return self.statuses[-1]

    def of(self, camera: str) -> list[VerdictEvent]:
        return [event for event in self.verdicts if event.camera == camera]

    def refusals(self, camera: str | None = None) -> list[VerdictEvent]:
        """The frames without a verdict, except those that waited as the line was stopped."""
        return [
            event
            for event in self.verdicts
            if event.verdict == "NO_VERDICT" and event.reason != "dropped.stopped" and camera in (None, event.camera)
        ]


class LineProcess(subprocess.Popen[bytes]):
    """A line's process, and its output in a file. The kernel kills it if this process ends first."""

    def __init__(self, command: Sequence[str | Path], output: Path, env: Mapping[str, str] | None) -> None:
        self._output = output
        dies_with_us = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        with output.open("ab") as file:
            super().__init__(
                [*dies_with_us, *command], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=process_env(env),
                start_new_session=True,
            )  # fmt: skip

    def log(self) -> str:
        return self._output.read_text(errors="replace")

    def kill(self) -> None:
        """Kill it, and wait until it is gone."""
        super().kill()
        self.wait()

    def __exit__(self, *_: object) -> None:
        self.kill()


class RunningLine:
    """A running line and its received events. A test whose event does not come in time fails with the line's log."""

    def __init__(self, process: LineProcess, events: Subscriber) -> None:
        self.process, self._events = process, events
        self.received = ReceivedEvents()

    def poll(self) -> Event | None:
        """Return the next event, which `received` does not get; None: none came for a moment."""
        message = self._events.receive()
        if isinstance(message, Message):
            return message.event
        if isinstance(message, Gap):
            self.received.gaps.append(message)
        elif (code := self.process.poll()) is not None:
            raise AssertionError(f"the line ended with exit code {code}\n{self._log()}")
        return None

    def next(self) -> Event:
        give_up = time.monotonic() + WITHIN_SECONDS
        while (event := self.poll()) is None:
            assert time.monotonic() < give_up, f"no further event came\n{self._log()}"
        self.received.add(event)
        return event

    def until(self, wanted: Callable[[Event], bool]) -> Any:
        """Wait for the next event that is wanted, up to a time limit, and return it."""
        give_up = time.monotonic() + WITHIN_SECONDS
        while time.monotonic() < give_up:
            event = self.next()
            if wanted(event):
                return event
        raise AssertionError(f"the wanted event did not come\n{self._log()}")

    def next_of(self, kind: type[OneEvent], wanted: Callable[[OneEvent], bool] = lambda _: True) -> OneEvent:
        """Wait for the next event of this type that is wanted, and return it."""
        found: OneEvent = self.until(lambda event: isinstance(event, kind) and wanted(event))
        return found

    def until_handshake(self, state: str, reason: str | None = None) -> Handshake:
        """Wait for the next status with this state and reason; return its handshake."""
        return self.next_of(
            StatusEvent, lambda status: (status.handshake.state, status.handshake.reason) == (state, reason)
        ).handshake

    def until_inspected_frames(self, count: int) -> None:
        """Wait for verdicts on this many more frames."""
        for _ in range(count):
            self.until_inspected()

    def reload(self) -> ChangeEvent:
        """Reload the line's file; return the change event."""
        self.process.send_signal(signal.SIGHUP)
        return self.next_of(ChangeEvent)

    def until_inspected(self, camera: str | None = None) -> VerdictEvent:
        """Wait for the next verdict on a frame of any camera, or of this one; return its event."""
        return self.next_of(
            VerdictEvent, lambda event: event.verdict != "NO_VERDICT" and camera in (None, event.camera)
        )

    def child(self, words: str) -> int:
        """Return the child process with these words in its command line."""
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):  # it has ended
                if words in Path(f"/proc/{pid}/cmdline").read_text():
                    return pid
        raise AssertionError(f"no child process has {words}")

    def end(self, cameras: Collection[str] | None = None) -> ReceivedEvents:
        """End the line as systemd does, and return all events, checked as `until_stopped` does."""
        self.process.send_signal(signal.SIGTERM)
        return self.until_stopped(cameras)

    def until_stopped(self, cameras: Collection[str] | None = None) -> ReceivedEvents:
        """Receive all events until the line has stopped, and check its exit code.

        Args:
            cameras: all cameras of the line, to check that every frame has its event; None: do not check it.
        """
        while not (self.received.statuses and self.received.last.state == "STOPPED"):
            self.next()
        assert self.exit_code() == 0
        if cameras is not None:
            assert_every_frame_has_its_event(self.received, cameras)
        return self.received

    def exit_code(self) -> int:
        """Return the exit code; print the log to standard error, which pytest shows if the test fails."""
        code = self.process.wait(WITHIN_SECONDS)
        print(self.process.log(), file=sys.stderr)
        return code

    def _log(self) -> str:
        self.process.kill()
        return self.process.log()


@contextlib.contextmanager
def running(
    line: Path, address: str, env: Mapping[str, str] | None = None, keys: ClientKeys | None = None
) -> Iterator[RunningLine]:
    """Run a line with a subscriber; the line's process is killed at the end."""
    with Subscriber(address, timeout_s=POLL_SECONDS, keys=keys) as events, line_started(line, env=env) as process:
        yield RunningLine(process, events)


@contextlib.contextmanager
def line_started(
    line: Path, env: Mapping[str, str] | None = None, command: Sequence[str | Path] = (HEATLINE, "run")
) -> Iterator[LineProcess]:
    """Start the process of a line; it is killed at the end."""
    with (
        tempfile.NamedTemporaryFile(prefix="heatline-line-") as output,
        LineProcess([*command, line], Path(output.name), env) as process,
    ):
        yield process


@contextlib.contextmanager
def started(*command: str | Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start a process; it is killed at the end."""
    with subprocess.Popen(
        command, env=process_env(env), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


class Restartable:
    """A program that is killed and started again; all its lives append to one log.

    Args:
        name: for messages.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.name, self._command, self._log, self._env = name, command, log, env
        self.running: LineProcess | None = None
        """None: it was not started, was killed, or `ended` said that it has ended."""

    def start(self) -> None:
        assert self.running is None, f"{self.name} runs already"
        self.running = LineProcess(self._command, self._log, self._env)

    def kill(self) -> None:
        """Kill it, and wait until it is gone; do nothing if it does not run."""
        if self.running is not None:
            self.running.kill()
            self.running = None

    def ended(self) -> str | None:
        """Return how it ended, if it ended by itself since the last call."""
        if self.running is None or (code := self.running.poll()) is None:
            return None
        log, self.running = self.running.log(), None
        return f"{self.name} ended with exit code {code}: {'; '.join(log.splitlines()[-3:])}"

    def end(self) -> None:
        """End it as systemd does, and check its exit code."""
        assert self.running is not None, f"{self.name} does not run"
        self.running.terminate()
        assert self.running.wait(WITHIN_SECONDS) == 0, self.running.log()
        self.running = None


def children(pid: int) -> list[int]:
    """Return the child processes of a process, zombies included; none if it has ended."""
    found: list[int] = []
    for file in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found += map(int, Path(file).read_text().split())
    return found


def tree(root: int) -> list[int]:
    """Return a process and its descendants, parents first."""
    pids = [root]
    for pid in pids:
        pids += children(pid)
    return pids


class NotifySocket(socket.socket):
    """The datagram socket to which a service sends its notifications, in place of systemd's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.env = {"NOTIFY_SOCKET": str(folder / "notify")}
        self.bind(self.env["NOTIFY_SOCKET"])
        self.settimeout(WITHIN_SECONDS)

    def next(self) -> list[str]:
        """Return the next assignments."""
        return self.recv(4096).decode().split("\n")

    def wait_for(self, assignment: str) -> list[str]:
        """Wait for an assignment; return all that came, up to it."""
        assignments: list[str] = []
        give_up = time.monotonic() + WITHIN_SECONDS
        while assignment not in assignments:
            assert time.monotonic() < give_up, f"{assignment} did not come, but {assignments}"
            assignments += self.next()
        return assignments

    def rest(self) -> list[str]:
        """Return the assignments that came and are unread."""
        self.setblocking(False)
        assignments: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                assignments += self.next()
        return assignments


def assert_every_frame_has_its_event(received: ReceivedEvents, cameras: Collection[str]) -> None:
    """Check that no event is missing, that each frame is reported once and in order, and that the ledger agrees."""
    for journal_id in {event.journal_id for event in received.in_order}:
        counted = [e for e in received.in_order if not isinstance(e, StatusEvent) and e.journal_id == journal_id]
        seqs = [event.seq for event in counted]
        # A journal continues the count of earlier boots, and its own event is sent before the subscriber connects.
        due = seqs[0] if received.last.journal is not None and seqs else 1
        for event in counted:
            if isinstance(event, JournalEvent) and event.kind == "recording":
                # A disk that answered late has stored the events of the call that seemed to fail.
                due = max(due, event.seq)
            assert event.seq == due
            due += 1
        if journal_id == received.last.journal_id and seqs:
            assert seqs[-1] == received.last.last_seq
    assert set(received.last.ledger) == set(cameras)
    for status in received.statuses:
        assert_account_agrees(status, received)
    for camera, account in received.last.ledger.items():
        events, reported = received.of(camera), 0
        for event in events:
            assert event.frame_number == reported + 1, f"{camera}: {event} follows number {reported}"
            reported += event.frames
        assert (account.in_flight, account.captured) == (0, reported)
        assert account.inspected == sum(event.verdict != "NO_VERDICT" for event in events)
        for kind, bins in (("dropped", account.dropped), ("failed", account.failed)):
            reasons: Counter[str] = Counter()
            for event in events:
                if event.reason is not None and event.reason.startswith(f"{kind}."):
                    reasons[event.reason.partition(".")[2]] += event.frames
            assert bins == reasons


def assert_account_agrees(status: StatusEvent, received: ReceivedEvents) -> None:
    """Check that the ledger of a status has the frames of all earlier events; the newest event may be missing."""
    for camera, account in status.ledger.items():
        assert account.balanced
        before = received.in_order[: next(place for place, event in enumerate(received.in_order) if event is status)]
        reported = [event.frames for event in before if isinstance(event, VerdictEvent) and event.camera == camera]
        counted = account.captured - account.in_flight
        assert counted in (sum(reported), sum(reported[:-1])), f"{account} after events of {sum(reported)} frames"


def setup_of(
    bundle: Bundle,
    engine: Engine,
    inspector: Inspector | None = None,
    *,
    product: str | None = None,
    thresholds: Thresholds | None = None,
    areas: Mapping[str, RegionOfInterest] | None = None,
    acting: bool = True,
    heatmaps: Heatmaps = "never",
) -> Setup:
    """A setup with an engine that is already open."""
    return Setup(
        bundle,
        VerifiedEngine(engine, {}, engine.precision),
        inspector or Inspector(bundle.manifest, engine, thresholds=thresholds),
        product=product,
        areas=areas or {},
        acting=acting,
        heatmaps=heatmaps,
    )
