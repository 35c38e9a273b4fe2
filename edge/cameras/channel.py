"""What a camera's process and the line say to each other: one message per packet of a Unix socket, as MessagePack."""

import contextlib
import socket

import msgspec

from edge.cameras.base import Opened
from edge.colour import PixelFormat
from edge.frames import Stamp

_MOST_BYTES = 1 << 16


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


# From the camera's process.


class IsOpen(_Message, frozen=True):
    opened: Opened


class NewRing(_Message, frozen=True):
    """Comes with the descriptor of the memory that later frames lie in."""

    generation: int
    slots: int
    slot_bytes: int


class Here(_Message, frozen=True):
    """A frame lies in a slot of the newest ring."""

    stamp: Stamp
    slot: int
    hw: tuple[int, int]
    sent_as: PixelFormat
    digest: int | None


class Bad(_Message, frozen=True):
    """Frames that were announced and cannot be had."""

    stamp: Stamp
    reason: str
    detail: str
    dropped: bool


class Answer(_Message, frozen=True):
    """To `Ask`. `camera_answers` is None where the camera itself was not asked."""

    camera_answers: bool | None
    counters: dict[str, int]


class Fired(_Message, frozen=True):
    """To the `Fire` of this number: the trigger went out, or why not."""

    number: int
    error: str | None


class Ended(_Message, frozen=True):
    """There will be no more frames, and that is no fault."""


class Broken(_Message, frozen=True):
    """The camera cannot be used any more; the process ends."""

    error: str
    missing_extra: bool = False


# To the camera's process.


class Free(_Message, frozen=True):
    """A slot may be written again."""

    generation: int
    slot: int


class Ask(_Message, frozen=True):
    """Are you there? And the camera?"""

    camera: bool


class Fire(_Message, frozen=True):
    """Trigger the camera, unless it is too late for that."""

    number: int
    not_after_ns: int
    """The host's monotonic clock, which all processes share."""


class Close(_Message, frozen=True):
    """Let go of the camera and end."""


FromCamera = IsOpen | NewRing | Here | Bad | Answer | Fired | Ended | Broken
ToCamera = Free | Ask | Fire | Close

_encoder = msgspec.msgpack.Encoder()
_from_camera = msgspec.msgpack.Decoder(FromCamera)
_to_camera = msgspec.msgpack.Decoder(ToCamera)


class CameraEnd:
    """The camera process's end of the socket. Any thread sends, one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, message: FromCamera, fd: int | None = None) -> None:
        """Send; waits while the line does not read."""
        socket.send_fds(self._socket, [_encoder.encode(message)], [] if fd is None else [fd])

    def receive(self) -> ToCamera | None:
        """The next message; None once the line is gone."""
        try:
            data = self._socket.recv(_MOST_BYTES)
        except ConnectionError:
            return None
        return _to_camera.decode(data) if data else None


class LineEnd:
    """The line's end of the socket. Any thread sends, one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        end.setblocking(False)  # Python 3.11's recv_fds passes over its flags

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: ToCamera) -> None:
        """Send if that is possible at once: a process that does not read is found out by its silence."""
        with contextlib.suppress(OSError):
            self._socket.send(_encoder.encode(message), socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[FromCamera | None, int | None]:
        """What has come, with its descriptor if it brings one; None once the process is gone.

        Raises:
            BlockingIOError: nothing has come.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, _MOST_BYTES, 1)
        except ConnectionResetError:
            # A process that died with something unread is told of by this, once, before what it had said.
            data, fds, _, _ = socket.recv_fds(self._socket, _MOST_BYTES, 1)
        return (_from_camera.decode(data) if data else None), (fds[0] if fds else None)

    def close(self) -> None:
        self._socket.close()
