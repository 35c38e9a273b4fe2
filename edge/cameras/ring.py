"""Frames in memory that two processes share: a memfd divided into slots. It has no name and leaves nothing behind.

The writer creates it and passes the descriptor on; messages name slots by number. A frame's pixels are written once, as
RGB, and read in place.
"""

import fcntl
import mmap
import os

import numpy as np
from numpy.typing import NDArray

_NO_RESIZING = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""If the writer could shrink the memory, SIGBUS would kill its reader."""


class RingWriter:
    """Creates the memory and writes to it.

    Args:
        slots: number of frames that it holds.
        slot_bytes: size of the largest frame.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.slots, self.slot_bytes = slots, slot_bytes
        self.fd = os.memfd_create("heatline-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, slots * slot_bytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _NO_RESIZING)
        self._memory = mmap.mmap(self.fd, slots * slot_bytes)

    def view(self, slot: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a slot as RGB [H, W, 3], to write to."""
        return _view(self._memory, slot * self.slot_bytes, hw)

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

    def view(self, slot: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a slot as RGB [H, W, 3], read-only. The view keeps the memory alive, even if the writer has ended."""
        return _view(self._memory, slot * self._slot_bytes, hw)


def _view(memory: mmap.mmap, offset: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    return np.frombuffer(memory, np.uint8, hw[0] * hw[1] * 3, offset).reshape(*hw, 3)
