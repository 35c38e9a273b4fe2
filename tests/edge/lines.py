"""A line as a line engineer runs it: a folder with line.toml and pictures, and the real `heatline` command."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.delivery.messages import StatusEvent, VerdictEvent
from edge.delivery.subscriber import Subscriber
from tests.small_bundle import dark_square, white_frame

HEATLINE = Path(sys.executable).with_name("heatline")
WITHIN_SECONDS = 60.0
"""Bounds what would otherwise hang; never what is measured."""


def heatline(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [HEATLINE, *arguments],
        env=_env(env),
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=WITHIN_SECONDS,
        check=False,
    )


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The one sentence with which a command gave up; that it is one, and no traceback, is checked here."""
    assert "Traceback" not in result.stderr, result.stderr
    sentences = [line for line in result.stderr.splitlines() if line.startswith("heatline:")]
    assert len(sentences) == 1, f"{len(sentences)} sentences on standard error:\n{result.stderr}"
    return sentences[0]


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


@dataclass
class Heard:
    """Everything that a subscriber heard until the line said that it had stopped."""

    verdicts: list[VerdictEvent]
    statuses: list[StatusEvent]

    @property
    def last(self) -> StatusEvent:
        return self.statuses[-1]

    def of(self, camera: str) -> list[VerdictEvent]:
        return [event for event in self.verdicts if event.camera == camera]


class RunningLine:
    """A `heatline run` process and a subscriber to it."""

    def __init__(self, process: subprocess.Popen[str], events: Subscriber) -> None:
        self.process, self._events = process, events
        self.heard = Heard([], [])

    def next_verdict(self) -> VerdictEvent:
        while True:
            message = self._events.receive()
            assert message is not None, f"nothing came any more\n{self._log()}"
            if isinstance(message.event, VerdictEvent):
                self.heard.verdicts.append(message.event)
                return message.event
            self.heard.statuses.append(message.event)

    def until_stopped(self) -> Heard:
        """Hear it out."""
        while not (self.heard.statuses and self.heard.last.state == "STOPPED"):
            message = self._events.receive()
            assert message is not None, f"nothing came any more\n{self._log()}"
            if isinstance(message.event, VerdictEvent):
                self.heard.verdicts.append(message.event)
            else:
                self.heard.statuses.append(message.event)
        return self.heard

    def exit_code(self) -> int:
        """Its exit code; its log goes to standard error, which is shown where a test fails."""
        _, log = self.process.communicate(timeout=WITHIN_SECONDS)
        print(log, file=sys.stderr)
        return self.process.returncode

    def _log(self) -> str:
        self.process.kill()
        return self.process.communicate(timeout=WITHIN_SECONDS)[1]


@contextlib.contextmanager
def running(line: Path, address: str, env: Mapping[str, str] | None = None) -> Iterator[RunningLine]:
    """Run a line; whatever happens, its process is gone at the end."""
    with (
        Subscriber(address, timeout_s=WITHIN_SECONDS) as events,
        started(HEATLINE, "run", line, env=env) as process,
    ):
        yield RunningLine(process, events)


@contextlib.contextmanager
def started(*command: str | Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that is ended at the end, if it has not ended by itself."""
    with subprocess.Popen(command, env=_env(env), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


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
        while assignment not in came:
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
    """No event is missing, the account balances, and both say the same."""
    assert [event.seq for event in heard.verdicts] == list(range(1, len(heard.verdicts) + 1))
    assert heard.last.last_seq == len(heard.verdicts)
    assert set(heard.last.ledger) == set(cameras)
    for camera, account in heard.last.ledger.items():
        events = heard.of(camera)
        assert account.balanced
        assert account.in_flight == 0
        assert account.captured == len(events)
        assert sorted(event.frame_id for event in events) == list(range(1, account.captured + 1))
        assert account.inspected == sum(event.verdict != "NO_VERDICT" for event in events)
        for kind, bins in (("dropped", account.dropped), ("failed", account.failed)):
            reasons = [str(event.reason).partition(".") for event in events if event.verdict == "NO_VERDICT"]
            assert bins == {reason: reasons.count((kind, ".", reason)) for first, _, reason in reasons if first == kind}


def _env(extra: Mapping[str, str] | None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    return {**clean, "OPENCV_LOG_LEVEL": "SILENT", **(extra or {})}
