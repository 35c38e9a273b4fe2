"""The line's handle of one camera's process."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import msgspec

from edge.cameras.base import Opened
from edge.cameras.channel import (
    Answer,
    Ask,
    Bad,
    Broken,
    Close,
    Ended,
    Fire,
    Fired,
    Free,
    FromCamera,
    Here,
    IsOpen,
    LineEnd,
    NewRing,
)
from edge.cameras.ring import RingReader
from edge.cameras.settings import CameraSettings, to_bytes
from edge.frames import BadFrame, Frame

_BUFFER_BYTES = 1 << 20
NOT_FOR_CAMERAS = ("CACHE_DIRECTORY", "STATE_DIRECTORY", "NOTIFY_SOCKET")
"""Of what systemd tells the service: who decodes streams of others need not be told where it keeps things."""


@dataclass(frozen=True)
class Arrived:
    """A frame in shared memory, and what its pixels hash to, where that was asked for."""

    frame: Frame
    digest: int | None


@dataclass(frozen=True)
class Died:
    """The process is gone, and did not say why."""

    detail: str


News = Opened | Arrived | BadFrame | Answer | Fired | Ended | Broken | Died


class CameraProcess:
    """A running process with one camera. One thread uses it; frames may be released by any thread."""

    def __init__(self, settings: CameraSettings) -> None:
        line, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            with child:
                child.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                self._process = subprocess.Popen(
                    # -P: what lies in the working directory is nobody's library. The name is for `ps`.
                    [sys.executable, "-P", "-m", "edge.cameras.child", str(child.fileno()), settings.name],
                    stdin=subprocess.DEVNULL,
                    env={name: value for name, value in os.environ.items() if name not in NOT_FOR_CAMERAS},
                    pass_fds=[child.fileno()],
                    process_group=0,  # Ctrl-C in a terminal is for the line alone
                )
            line.send(to_bytes(msgspec.structs.replace(settings, roi=[], exclude=[])))  # the line's own business
        except BaseException:
            line.close()
            raise
        self._line = LineEnd(line)
        self._ring: RingReader | None = None
        self._generation = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._line.fileno()

    def receive(self) -> News | None:
        """The next news, or None where there is none now. After `Ended` and `Broken` there is no more."""
        while True:
            try:
                message, fd = self._line.receive()
            except BlockingIOError:
                return None
            if isinstance(message, NewRing):
                if fd is None:  # this process has no descriptor left for it
                    return Died("its frames' memory did not arrive")
                self._ring = RingReader(fd, message.slots, message.slot_bytes)
                self._generation = message.generation
                continue
            return self._news(message)

    def ask(self, camera: bool) -> None:
        """Have it say whether it is there, and whether the camera is; the answer comes as news."""
        self._line.send(Ask(camera))

    def fire(self, number: int, not_after_ns: int) -> None:
        """Have it trigger the camera, if that is still in time then; whether it did comes as news of this number."""
        self._line.send(Fire(number, not_after_ns))

    def close(self, within_s: float) -> list[News]:
        """Have it let go of the camera, and kill it where that takes longer; returns what it said up to its end.

        Frames that have arrived stay good.
        """
        self._line.send(Close())
        said: list[News] = []
        give_up = time.monotonic() + within_s
        poll = select.poll()
        poll.register(self._line.fileno(), select.POLLIN)
        while (left_s := give_up - time.monotonic()) > 0 and not self._said_all(said):
            poll.poll(left_s * 1e3)
        self._end()
        self._said_all(said)
        self._line.close()
        return said

    def kill(self) -> None:
        """End it at once. Frames that have arrived stay good."""
        self._end()
        self._line.close()

    def _said_all(self, said: list[News]) -> bool:
        """Take in what has come; whether that was the last."""
        while (news := self.receive()) is not None:
            if isinstance(news, Died):
                return True
            said.append(news)
        return False

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _news(self, message: FromCamera | None) -> News:
        match message:
            case Here(stamp, slot, hw, sent_as, digest):
                assert self._ring is not None
                free = Free(self._generation, slot)
                frame = Frame(
                    stamp, self._ring.view(slot, hw), "RGB8", sent_as=sent_as, release=lambda: self._line.send(free)
                )
                return Arrived(frame, digest)
            case Bad(stamp, reason, detail, dropped):
                return BadFrame(stamp, reason, detail, "dropped" if dropped else "failed")
            case IsOpen(opened):
                return opened
            case Answer() | Fired() | Ended() | Broken():
                return message
            case _:
                return Died(f"its process {self._end_in_words()}")

    def _end_in_words(self) -> str:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "closed its socket"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
