"""Messages and arrays between two processes of this PC.

A message is a packet of a Unix socket, as MessagePack. Arrays lie in a ring of slots that both processes map: a memfd,
which has no name and leaves nothing behind. Its writer announces it by `NewRing`, names a slot in messages of its own,
and may write the slot again once the reader has sent `ReleaseSlot`.
"""

import contextlib
import fcntl
import math
import mmap
import os
import queue
import socket
from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

MAX_MESSAGE_BYTES = 1 << 16

S = TypeVar("S")
R = TypeVar("R")


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages."""


Size = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]


class NewRing(Message, frozen=True):
    """Memory of the arrays from now on; its file descriptor comes with the message."""

    generation: int
    slots: Size
    slot_bytes: Size


class ReleaseSlot(Message, frozen=True):
    generation: int
    slot: int


class _Ring:
    generation = slot_bytes = 0
    _memory: mmap.mmap

    def view(self, slot: int, shape: tuple[int, ...], kind: DTypeLike = np.uint8, at: int = 0) -> NDArray[Any]:
        """Return an array in a slot, which begins `at` bytes after the slot's start. It keeps the memory alive, even if
        the other process has ended.
        """
        return np.frombuffer(self._memory, kind, math.prod(shape), slot * self.slot_bytes + at).reshape(shape)


class RingWriter(_Ring):
    """Slots to write to. One thread writes, any thread may release; `announce` sends the ring to the reader."""

    def __init__(self, announce: Callable[[NewRing, int], object]) -> None:
        self._announce = announce
        self.held: set[tuple[int, int]] = set()
        """Generation and number of each slot that the reader has not released, of former rings too."""
        # The slot that was freed last comes first, so that the kernel gives memory only to slots that are needed.
        self._free: queue.LifoQueue[tuple[int, int]] = queue.LifoQueue()

    def make(self, slots: int, slot_bytes: int) -> None:
        """Replace the ring by a new one; the reader can still read the former. OSError: no memory is left."""
        fd = os.memfd_create("heatline-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, slots * slot_bytes)
            # If this process could shrink the memory, SIGBUS would kill its reader.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            self._memory = mmap.mmap(fd, slots * slot_bytes)
            self.generation, self.slot_bytes = self.generation + 1, slot_bytes
            for slot in range(slots):
                self._free.put((self.generation, slot))
            self._announce(NewRing(self.generation, slots, slot_bytes), fd)
        finally:
            os.close(fd)

    def take(self, within_s: float = 0.0) -> int | None:
        """Return a free slot, which the reader then holds; None: none became free in time."""
        with contextlib.suppress(queue.Empty):
            while True:
                generation, slot = self._free.get(timeout=within_s)
                if generation == self.generation:
                    self.held.add((generation, slot))
                    return slot
        return None

    def release(self, generation: int, slot: int) -> bool:
        """Free a slot; return False if it was not held."""
        if (generation, slot) not in self.held:
            return False
        self.held.remove((generation, slot))
        self._free.put((generation, slot))
        return True


class RingReader(_Ring):
    """The ring that a message announced, read-only; takes over the descriptor. ValueError: it is smaller than said."""

    def __init__(self, ring: NewRing, fd: int) -> None:
        self.generation, self.slot_bytes = ring.generation, ring.slot_bytes
        try:
            self._memory = mmap.mmap(fd, ring.slots * ring.slot_bytes, prot=mmap.PROT_READ)
        finally:
            os.close(fd)


class Channel(Generic[S, R]):
    """One end of a socket that keeps packets apart (SOCK_SEQPACKET), to which `messages` and `NewRing` come. Any thread
    may send; one thread receives.
    """

    def __init__(self, end: socket.socket, messages: Any) -> None:
        self.socket = end
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(messages | NewRing)
        self.ring: RingReader | None = None
        """The newest ring that was announced."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when a message waits."""
        return self.socket.fileno()

    def send(self, message: S | NewRing, fd: int | None = None) -> None:
        """Send a message. OSError: the other process has ended, or does not read and this end does not block."""
        socket.send_fds(self.socket, [self._encoder.encode(message)], [] if fd is None else [fd])

    def receive(self) -> R | None:
        """Return the next message; None: the other process has ended.

        Raises:
            BlockingIOError: no message waits, and this end does not block.
            OSError, ValueError, msgspec.MsgspecError: what came cannot be read.
        """
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, MAX_MESSAGE_BYTES, 1)
            except ConnectionResetError:
                # Raised once if the process ended with unread messages; its own messages follow.
                data, fds, _, _ = socket.recv_fds(self.socket, MAX_MESSAGE_BYTES, 1)
            if not data:
                return None
            message = self._decoder.decode(data)
            if not isinstance(message, NewRing):
                received: R = message
                return received
            if not fds:  # this process has no descriptor left
                raise OSError("the descriptor of its memory did not arrive")
            self.ring = RingReader(message, fds[0])

    def close(self) -> None:
        self.socket.close()
