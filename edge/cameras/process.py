"""The process of one camera as the line sees it, and the messages between the two. It may hang, crash or be killed;
frames that have arrived stay valid. `heatline.edge.cameras.child` runs in it.
"""

import contextlib
import select
import socket
import subprocess
import time
from typing import Literal

import msgspec

from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.settings import CameraSettings, to_bytes
from heatline.edge.colour import PixelFormat
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.util.channel import Channel, Message, ReleaseSlot
from heatline.edge.util.child_process import describe_end, start_child

_BUFFER_BYTES = 1 << 20

# From the camera's process, besides `Opened` and `BadFrame`.


class FrameReady(Message, frozen=True):
    """A frame is in a slot of the newest ring."""

    stamp: Stamp
    slot: int
    hw: tuple[int, int]
    sent_as: PixelFormat
    digest: int | None


class Health(Message, frozen=True):
    """Comes once a second while the camera is open, with the counters of its transport."""

    counters: dict[str, int]


class TriggerResult(Message, frozen=True):
    """Reply to the `FireTrigger` of this number; `error` is None if the trigger was sent."""

    number: int
    error: str | None


class Ended(Message, frozen=True):
    """The last message: no more frames come."""

    error: str | None = None
    """None: the camera has shown its last frame, which is not a fault."""
    cause: Literal["camera", "library", "process"] = "camera"
    """What is at fault: the camera, a library that is not installed, or the process, which ended without a message."""


# To the camera's process, besides `ReleaseSlot`.


class FireTrigger(Message, frozen=True):
    """Trigger the camera, unless `not_after_ns` has passed."""

    number: int
    not_after_ns: int
    """Time on the host's monotonic clock, which all processes share."""


class Close(Message, frozen=True):
    """Close the camera and end."""


FromCamera = Opened | FrameReady | BadFrame | Health | TriggerResult | Ended
ToCamera = ReleaseSlot | FireTrigger | Close
ProcessMessage = Opened | Frame | BadFrame | Health | TriggerResult | Ended


class CameraProcess:
    """A running process with one camera. One thread uses it; any thread may release. OSError: it cannot start."""

    def __init__(self, settings: CameraSettings) -> None:
        line, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            with child:
                child.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
                fd, module = child.fileno(), "heatline.edge.cameras.child"
                self._process = start_child(module, str(fd), settings.name, pass_fds=[fd])  # the name is for `ps`
            line.send(to_bytes(msgspec.structs.replace(settings, roi=[], exclude=[])))  # keys that only the line uses
        except BaseException:
            line.close()
            raise
        line.setblocking(False)  # recv_fds ignores its flags in Python 3.11
        self._channel = Channel[ToCamera, FromCamera](line, FromCamera)

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        return self._channel.fileno()

    def receive(self) -> ProcessMessage | None:
        """Return the next message; None: none waits."""
        try:
            message = self._channel.receive()
            if isinstance(message, FrameReady):
                assert self._channel.ring is not None, "a frame came before its memory"
                released = ReleaseSlot(self._channel.ring.generation, message.slot)
                image = self._channel.ring.view(message.slot, (*message.hw, 3))
                stamp, sent_as, digest = message.stamp, message.sent_as, message.digest
                return Frame(stamp, image, "RGB8", sent_as, digest=digest, release=lambda: self.send(released))
        except BlockingIOError:
            return None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            return Ended(f"what it sent cannot be read: {error}", "process")
        if message is not None:
            return message
        try:
            end = describe_end(self._process.wait(1.0))
        except subprocess.TimeoutExpired:
            end = "closed its socket"
        return Ended(f"its process {end}", "process")

    def send(self, message: ToCamera) -> None:
        """Send a message, or drop it if the socket is full: a process that hangs is noticed by its health."""
        with contextlib.suppress(OSError):
            self._channel.send(message)

    def close(self, within_s: float) -> list[ProcessMessage]:
        """Make the process close the camera, kill it if that takes longer, and return its last messages."""
        self.send(Close())
        messages: list[ProcessMessage] = []
        give_up = time.monotonic() + within_s
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        while (left_s := give_up - time.monotonic()) > 0 and not self._read_to_end(messages):
            poll.poll(left_s * 1e3)  # a process whose socket is full cannot read that it shall close
        self._process.kill()
        self._process.wait()
        self._read_to_end(messages)
        self._channel.close()
        return messages

    def _read_to_end(self, messages: list[ProcessMessage]) -> bool:
        """Append what waits; return whether the process has ended."""
        while (message := self.receive()) is not None:
            if isinstance(message, Ended) and message.cause == "process":
                return True
            messages.append(message)
        return False
