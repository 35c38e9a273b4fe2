"""Memory that two processes share: a memfd divided into slots. It has no name and leaves nothing behind.

The writer creates it and passes the descriptor on; messages name slots by number. The contents of a slot are written
once, and read in place.
"""

import fcntl
import math
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_NO_RESIZING = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""If the writer could shrink the memory, SIGBUS would kill its reader."""


class RingWriter:
    """Creates the memory and writes to it.

    Args:
        slots: number of slots.
        slot_bytes: size of each.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.slots, self.slot_bytes = slots, slot_bytes
        self.fd = os.memfd_create("heatline-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, slots * slot_bytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _NO_RESIZING)
        self._memory = mmap.mmap(self.fd, slots * slot_bytes)

    def view(self, slot: int, shape: tuple[int, ...], kind: DTypeLike = np.uint8, at: int = 0) -> NDArray[Any]:
        """Return an array in a slot, which begins `at` bytes after the slot's start, to write to."""
        return _view(self._memory, slot * self.slot_bytes + at, shape, kind)

    def close(self) -> None:
        """Close the descriptor; the memory lives on where it is mapped."""
        os.close(self.fd)


class RingReader:
    """Maps the memory that a writer created; takes over the descriptor."""

    def __init__(self, fd: int, slots: int, slot_bytes: int) -> None:
        try:
            self._memory = mmap.mmap(fd, slots * slot_bytes, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self._slot_bytes = slot_bytes

    def view(self, slot: int, shape: tuple[int, ...], kind: DTypeLike = np.uint8, at: int = 0) -> NDArray[Any]:
        """Return an array in a slot, read-only. The view keeps the memory alive, even if the writer has ended."""
        return _view(self._memory, slot * self._slot_bytes + at, shape, kind)


def _view(memory: mmap.mmap, offset: int, shape: tuple[int, ...], kind: DTypeLike) -> NDArray[Any]:
    return np.frombuffer(memory, kind, math.prod(shape), offset).reshape(shape)
