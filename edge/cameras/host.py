"""The line's handle on the process of one camera."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

import msgspec

from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.channel import (
    BadFrameReport,
    Broken,
    CameraOpened,
    Close,
    Ended,
    FireTrigger,
    FrameReady,
    FromCamera,
    HealthReply,
    HealthRequest,
    LineSocket,
    NewRing,
    ReleaseSlot,
    TriggerResult,
)
from heatline.edge.cameras.settings import CameraSettings, FolderSettings, to_bytes
from heatline.edge.frames import BadFrame, Frame
from heatline.edge.util.ring import RingReader

_BUFFER_BYTES = 1 << 20
WITHHELD_VARIABLES = ("CACHE_DIRECTORY", "STATE_DIRECTORY", "NOTIFY_SOCKET")
"""Variables of systemd that a process which decodes foreign streams must not see."""


@dataclass(frozen=True)
class ReceivedFrame:
    """A frame in shared memory, and the checksum of its pixels if the settings require one."""

    frame: Frame
    digest: int | None


@dataclass(frozen=True)
class ProcessDied:
    """The process ended without a message."""

    detail: str


ProcessMessage = Opened | ReceivedFrame | BadFrame | HealthReply | TriggerResult | Ended | Broken | ProcessDied


def _environment(settings: CameraSettings) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in WITHHELD_VARIABLES}
    if isinstance(settings, FolderSettings) and isinstance(settings.size, tuple):
        width, height = settings.size  # OpenCV compares them with a picture's header before it decodes it
        own |= {"OPENCV_IO_MAX_IMAGE_WIDTH": str(width), "OPENCV_IO_MAX_IMAGE_HEIGHT": str(height)}
    return own


class CameraProcess:
    """A running process with one camera. One thread uses it; any thread may release frames."""

    def __init__(self, settings: CameraSettings) -> None:
        line, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            with child:
                child.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                self._process = subprocess.Popen(
                    # -P: import nothing from the working directory. The name is for `ps`.
                    [sys.executable, "-P", "-m", "heatline.edge.cameras.child", str(child.fileno()), settings.name],
                    stdin=subprocess.DEVNULL,
                    env=_environment(settings),
                    pass_fds=[child.fileno()],
                    process_group=0,  # Ctrl-C in a terminal must reach the line only
                )
            line.send(to_bytes(msgspec.structs.replace(settings, roi=[], exclude=[])))  # keys that only the line uses
        except BaseException:
            line.close()
            raise
        self._line = LineSocket(line)
        self._ring: RingReader | None = None
        self._generation = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """Return the descriptor that is readable when a message waits."""
        return self._line.fileno()

    def receive(self) -> ProcessMessage | None:
        """Return the next message; None if none waits. `Ended` and `Broken` are the last."""
        while True:
            try:
                message, fd = self._line.receive()
            except BlockingIOError:
                return None
            if isinstance(message, NewRing):
                if fd is None:  # this process has no descriptor left
                    return ProcessDied("the descriptor of its frames' memory did not arrive")
                self._ring = RingReader(fd, message.slots, message.slot_bytes)
                self._generation = message.generation
                continue
            return self._convert(message)

    def request_health(self, camera: bool) -> None:
        """Request a `HealthReply`; `camera`: the process polls the camera, too."""
        self._line.send(HealthRequest(camera))

    def fire(self, number: int, not_after_ns: int) -> None:
        """Trigger the camera unless the process reads this too late; a `TriggerResult` of this number follows."""
        self._line.send(FireTrigger(number, not_after_ns))

    def close(self, within_s: float) -> list[ProcessMessage]:
        """Make the process close the camera, kill it if that takes longer, and return its last messages.

        Frames that have arrived stay valid.
        """
        self._line.send(Close())
        messages: list[ProcessMessage] = []
        give_up = time.monotonic() + within_s
        poll = select.poll()
        poll.register(self._line.fileno(), select.POLLIN)
        while (left_s := give_up - time.monotonic()) > 0 and not self._read_to_end(messages):
            poll.poll(left_s * 1e3)
        self._end()
        self._read_to_end(messages)
        self._line.close()
        return messages

    def kill(self) -> None:
        """Kill the process at once. Frames that have arrived stay valid."""
        self._end()
        self._line.close()

    def _read_to_end(self, messages: list[ProcessMessage]) -> bool:
        """Append the messages that wait; return whether the process has ended."""
        while (message := self.receive()) is not None:
            if isinstance(message, ProcessDied):
                return True
            messages.append(message)
        return False

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def _convert(self, message: FromCamera | None) -> ProcessMessage:
        match message:
            case FrameReady(stamp, slot, hw, sent_as, digest):
                assert self._ring is not None
                release_slot = ReleaseSlot(self._generation, slot)
                frame = Frame(
                    stamp,
                    self._ring.view(slot, (*hw, 3)),
                    "RGB8",
                    sent_as=sent_as,
                    release=lambda: self._line.send(release_slot),
                )
                return ReceivedFrame(frame, digest)
            case BadFrameReport(stamp, reason, detail, dropped):
                return BadFrame(stamp, reason, detail, "dropped" if dropped else "failed")
            case CameraOpened(opened):
                return opened
            case HealthReply() | TriggerResult() | Ended() | Broken():
                return message
            case _:
                return ProcessDied(f"its process {self._describe_end()}")

    def _describe_end(self) -> str:
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "closed its socket"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
