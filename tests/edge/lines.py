"""A line as a line engineer runs it: a folder with line.toml and pictures, and the real `heatline` command."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bench import watched_line
from bench.watched_line import POLL_SECONDS
from bench.watched_process import WatchedProcess
from edge.delivery.client.gap_detector import Gap
from edge.delivery.client.subscriber import Subscriber
from edge.delivery.security.curve import ClientKeys
from edge.errors import BenchError
from edge.wire.events import AlarmEvent, ChangeEvent, Event, Handshake, JournalEvent, StatusEvent, VerdictEvent
from tests.command import HEATLINE, WITHIN_SECONDS, process_env
from tests.small_bundle import dark_square, white_frame


def write_pictures(folder: Path, pictures: Mapping[str, NDArray[np.uint8]]) -> Path:
    """Pictures by file name, RGB or grey."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        assert cv2.imwrite(str(folder / name), picture if picture.ndim == 2 else picture[..., ::-1])
    return folder


def small_frames(count: int, hw: tuple[int, int] = (230, 300)) -> dict[str, NDArray[np.uint8]]:
    """White frames; every third one has a black square."""
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
    """A configuration: whom it trusts, each camera's own keys by its name, then whatever tables are to follow."""
    parts = [f'bundle = "{bundle}"\n{trust}']
    parts += [f'[[cameras]]\nkind = "folder"\nname = "{name}"\n{keys}' for name, keys in cameras.items()]
    parts += [f'[events]\nbind = "{address}"\nwait_for_subscriber_s = 60\n{tables}']
    path = folder / "line.toml"
    path.write_text("\n\n".join(parts))
    return path


def write_line_with(
    folder: Path, bundle: Path, address: str, cameras: Mapping[str, Mapping[str, Any]], tables: str = "", top: str = ""
) -> Path:
    """A configuration with cameras of any kind: each one's keys by its name, its `kind` among them.

    Args:
        tables: follow at the end.
        top: keys that stand before all tables.
    """
    parts = [f'bundle = "{bundle}"\nallow_unsigned = true\n{top}']
    for name, keys in cameras.items():  # what these keys hold is written in JSON as in TOML
        parts.append("\n".join(["[[cameras]]", *(f"{k} = {json.dumps(v)}" for k, v in {"name": name, **keys}.items())]))
    parts += [f'[events]\nbind = "{address}"\nwait_for_subscriber_s = 60\n{tables}']
    path = folder / "line.toml"
    path.write_text("\n\n".join(parts))
    return path


@dataclass
class Heard:
    """Everything that a subscriber heard until the line said that it had stopped."""

    verdicts: list[VerdictEvent]
    statuses: list[StatusEvent]
    alarms: list[AlarmEvent]
    changes: list[ChangeEvent] = field(default_factory=list)
    of_journal: list[JournalEvent] = field(default_factory=list)
    lost: list[Gap] = field(default_factory=list)
    """What the subscriber knows that it missed."""
    came: list[Event] = field(default_factory=list)
    """All events, in their order."""

    def add(self, event: Event) -> None:
        self.came.append(event)
        match event:
            case VerdictEvent():
                self.verdicts.append(event)
            case AlarmEvent():
                self.alarms.append(event)
            case ChangeEvent():
                self.changes.append(event)
            case JournalEvent():
                self.of_journal.append(event)
            case StatusEvent():
                self.statuses.append(event)

    @property
    def last(self) -> StatusEvent:
        return self.statuses[-1]

    def of(self, camera: str) -> list[VerdictEvent]:
        return [event for event in self.verdicts if event.camera == camera]


class RunningLine:
    """A line that runs, and all that was heard of it; a test that waits in vain fails with its log."""

    def __init__(self, process: WatchedProcess, events: Subscriber) -> None:
        self.process = process
        self._line = watched_line.RunningLine(process, events)
        self.heard = Heard([], [], [])

    def next(self) -> Event:
        give_up = time.monotonic() + WITHIN_SECONDS
        heard = None
        while heard is None:
            assert time.monotonic() < give_up, f"nothing came any more\n{self._log()}"
            try:
                heard = self._line.next()
            except BenchError as error:
                raise AssertionError(f"{error}\n{self._log()}") from error
            self.heard.lost += self._line.gaps
            self._line.gaps.clear()
        self.heard.add(heard.event)
        return heard.event

    def until(self, wanted: Callable[[Event], bool]) -> Any:
        """The next event that is wanted; whoever waits for one that does not come is cut off in the end."""
        give_up = time.monotonic() + WITHIN_SECONDS
        while time.monotonic() < give_up:
            event = self.next()
            if wanted(event):
                return event
        raise AssertionError(f"what was waited for did not come\n{self._log()}")

    def next_verdict(self) -> VerdictEvent:
        while not isinstance(event := self.next(), VerdictEvent):
            pass
        return event

    def next_alarm(self) -> AlarmEvent:
        found = self.until(lambda event: isinstance(event, AlarmEvent))
        assert isinstance(found, AlarmEvent)
        return found

    def until_handshake(self, state: str, reason: str | None = None) -> Handshake:
        """The next status that says so."""

        def wanted(event: Event) -> bool:
            said = event.handshake if isinstance(event, StatusEvent) else None
            return said is not None and (said.state, said.reason) == (state, reason)

        found = self.until(wanted).handshake
        assert isinstance(found, Handshake)
        return found

    def until_inspected_frames(self, count: int) -> None:
        """Wait for verdicts on so many more frames."""
        for _ in range(count):
            self.until_inspected()

    def reload(self) -> ChangeEvent:
        """Have it read its file again; what became of it."""
        self.process.send_signal(signal.SIGHUP)
        found = self.until(lambda event: isinstance(event, ChangeEvent))
        assert isinstance(found, ChangeEvent)
        return found

    def until_inspected(self, camera: str | None = None) -> VerdictEvent:
        """The next verdict on a frame, of any camera or of this one."""
        found = self.until(
            lambda event: (
                isinstance(event, VerdictEvent) and event.verdict != "NO_VERDICT" and camera in (None, event.camera)
            )
        )
        assert isinstance(found, VerdictEvent)
        return found

    def end(self) -> Heard:
        """Tell it to end as systemd does, and hear it out; that it ends in order is checked here."""
        self.process.send_signal(signal.SIGTERM)
        heard = self.until_stopped()
        assert self.exit_code() == 0
        return heard

    def until_stopped(self) -> Heard:
        """Hear it out."""
        while not (self.heard.statuses and self.heard.last.state == "STOPPED"):
            self.next()
        return self.heard

    def exit_code(self) -> int:
        """Its exit code; its log goes to standard error, which is shown where a test fails."""
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
    """Run a line; whatever happens, its process is gone at the end."""
    with Subscriber(address, timeout_s=POLL_SECONDS, keys=keys) as events, line_started(line, env=env) as process:
        yield RunningLine(process, events)


@contextlib.contextmanager
def line_started(
    line: Path, env: Mapping[str, str] | None = None, command: Sequence[str | Path] = (HEATLINE, "run")
) -> Iterator[WatchedProcess]:
    """A line's process."""
    with (
        tempfile.NamedTemporaryFile(prefix="heatline-line-") as log,
        WatchedProcess("the line", [*command, line], Path(log.name), env=process_env(env)) as process,
    ):
        process.start()
        yield process


@contextlib.contextmanager
def started(*command: str | Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended at the end, if it has not ended by itself."""
    with subprocess.Popen(
        command, env=process_env(env), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Processes that a process started and that it has not buried yet."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


class NotifySocket:
    """The datagram socket on which systemd listens."""

    def __init__(self, path: Path) -> None:
        self.env = {"NOTIFY_SOCKET": str(path)}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(WITHIN_SECONDS)

    def wait_for(self, assignment: str) -> list[str]:
        """All that came up to and with an assignment."""
        came: list[str] = []
        give_up = time.monotonic() + WITHIN_SECONDS
        while assignment not in came:
            assert time.monotonic() < give_up, f"{assignment} did not come, but {came}"
            came += self.socket.recv(4096).decode().split("\n")
        return came

    def rest(self) -> list[str]:
        """What has come and was not read yet."""
        self.socket.setblocking(False)
        came: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                came += self.socket.recv(4096).decode().split("\n")
        return came


@contextlib.contextmanager
def notify_socket(folder: Path) -> Iterator[NotifySocket]:
    listening = NotifySocket(folder / "notify")
    try:
        yield listening
    finally:
        listening.socket.close()


def assert_every_frame_has_its_event(heard: Heard, cameras: Sequence[str]) -> None:
    """No event is missing, each camera's tell of all its frames in order, and the account says the same."""
    for journal_id in {event.journal_id for event in heard.came}:
        seqs = [e.seq for e in heard.came if not isinstance(e, StatusEvent) and e.journal_id == journal_id]
        # Earlier boots count in a journal too, and that there is one, or cannot be, is told before anybody listens.
        first = seqs[0] if heard.last.journal is not None and seqs else 1
        assert seqs == list(range(first, first + len(seqs)))
        if journal_id == heard.last.journal_id and seqs:
            assert seqs[-1] == heard.last.last_seq
    assert set(heard.last.ledger) == set(cameras)
    for status in heard.statuses:
        assert_account_agrees(status, heard)
    for camera, account in heard.last.ledger.items():
        events, told = heard.of(camera), 0
        for event in events:
            assert event.frame_number == told + 1, f"{camera}: {event} follows number {told}"
            told += event.frames
        assert account.in_flight == 0
        assert account.captured == told
        assert account.inspected == sum(event.verdict != "NO_VERDICT" for event in events)
        for kind, bins in (("dropped", account.dropped), ("failed", account.failed)):
            reasons: Counter[str] = Counter()
            for event in events:
                if event.reason is not None and event.reason.startswith(f"{kind}."):
                    reasons[event.reason.partition(".")[2]] += event.frames
            assert bins == reasons


def assert_account_agrees(status: StatusEvent, heard: Heard) -> None:
    """What an account says is what had been told by then, but for the event that was just being told."""
    for camera, account in status.ledger.items():
        assert account.balanced
        before = heard.came[: next(place for place, event in enumerate(heard.came) if event is status)]
        told = [event.frames for event in before if isinstance(event, VerdictEvent) and event.camera == camera]
        booked = account.captured - account.in_flight
        assert booked in (sum(told), sum(told[:-1])), f"{account} after events of {sum(told)} frames"
