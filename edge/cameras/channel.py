"""Messages between a camera's process and the line: one per packet of a Unix socket, as MessagePack."""

import contextlib
import socket

import msgspec

from heatline.edge.cameras.base import Opened
from heatline.edge.colour import PixelFormat
from heatline.edge.frames import Stamp

_MAX_BYTES = 1 << 16


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


# From the camera's process.


class CameraOpened(_Message, frozen=True):
    """The camera is open."""

    opened: Opened


class NewRing(_Message, frozen=True):
    """New shared memory for the frames that follow; its file descriptor comes with this message."""

    generation: int
    slots: int
    slot_bytes: int


class FrameReady(_Message, frozen=True):
    """A frame is in a slot of the newest ring."""

    stamp: Stamp
    slot: int
    hw: tuple[int, int]
    sent_as: PixelFormat
    digest: int | None


class BadFrameReport(_Message, frozen=True):
    """Frames that were announced and cannot be delivered: a `BadFrame` on its way to the line."""

    stamp: Stamp
    reason: str
    detail: str
    dropped: bool


class HealthReply(_Message, frozen=True):
    """Reply to `HealthRequest`. `camera_answers` is None if the camera itself was not polled."""

    camera_answers: bool | None
    counters: dict[str, int]


class TriggerResult(_Message, frozen=True):
    """Reply to the `FireTrigger` of this number; `error` is None if the trigger was sent."""

    number: int
    error: str | None


class Ended(_Message, frozen=True):
    """The camera has shown its last frame; this is not a fault."""


class Broken(_Message, frozen=True):
    """The camera cannot be used any more, and the process ends."""

    error: str
    missing_extra: bool = False


# To the camera's process.


class ReleaseSlot(_Message, frozen=True):
    """The line has released a slot, which may be written again."""

    generation: int
    slot: int


class HealthRequest(_Message, frozen=True):
    """Request a `HealthReply`; `camera`: poll the camera, too."""

    camera: bool


class FireTrigger(_Message, frozen=True):
    """Trigger the camera, unless `not_after_ns` has passed."""

    number: int
    not_after_ns: int
    """Time on the host's monotonic clock, which all processes share."""


class Close(_Message, frozen=True):
    """Close the camera and end."""


FromCamera = CameraOpened | NewRing | FrameReady | BadFrameReport | HealthReply | TriggerResult | Ended | Broken
ToCamera = ReleaseSlot | HealthRequest | FireTrigger | Close

_encoder = msgspec.msgpack.Encoder()
_from_camera = msgspec.msgpack.Decoder(FromCamera)
_to_camera = msgspec.msgpack.Decoder(ToCamera)


class CameraSocket:
    """The camera process's end of the socket. Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, message: FromCamera, fd: int | None = None) -> None:
        """Send a message; wait while the socket is full."""
        socket.send_fds(self._socket, [_encoder.encode(message)], [] if fd is None else [fd])

    def receive(self) -> ToCamera | None:
        """Return the next message; None once the line has ended."""
        try:
            data = self._socket.recv(_MAX_BYTES)
        except ConnectionError:
            return None
        return _to_camera.decode(data) if data else None


class LineSocket:
    """The line's end of the socket. Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        end.setblocking(False)  # recv_fds ignores its flags in Python 3.11

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: ToCamera) -> None:
        """Send a message, or drop it if the socket is full: a process that does not read fails its health check."""
        with contextlib.suppress(OSError):
            self._socket.send(_encoder.encode(message), socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[FromCamera | None, int | None]:
        """Return the next message, None once the process has ended, and the file descriptor that came with it.

        Raises:
            BlockingIOError: no message waits.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, _MAX_BYTES, 1)
        except ConnectionResetError:
            # Raised once if the process died with unread messages; its own messages follow.
            data, fds, _, _ = socket.recv_fds(self._socket, _MAX_BYTES, 1)
        return (_from_camera.decode(data) if data else None), (fds[0] if fds else None)

    def close(self) -> None:
        self._socket.close()
