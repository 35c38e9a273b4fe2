"""Frames in memory that two processes share: a memfd cut into slots. It needs no name and leaves nothing behind.

The writer makes it and hands its descriptor over; slots travel to and fro as numbers. A frame's pixels are written
once, as RGB, and read where they lie.
"""

import fcntl
import mmap
import os

import numpy as np
from numpy.typing import NDArray

_NO_RESIZING = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
"""A reader of memory that the writer has cut off would be killed by SIGBUS."""


class RingWriter:
    """Makes the memory and writes to it.

    Args:
        slots: how many frames it holds.
        slot_bytes: most bytes of one frame.
    """

    def __init__(self, slots: int, slot_bytes: int) -> None:
        self.slots, self.slot_bytes = slots, slot_bytes
        self.fd = os.memfd_create("heatline-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, slots * slot_bytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _NO_RESIZING)
        self._memory = mmap.mmap(self.fd, slots * slot_bytes)

    def view(self, slot: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
        """A slot as RGB [H, W, 3], to be written."""
        return _view(self._memory, slot * self.slot_bytes, hw)

    def close(self) -> None:
        """Let go of the descriptor; whoever has mapped the memory keeps it."""
        os.close(self.fd)


class RingReader:
    """Maps the memory that a writer made; takes the descriptor over."""

    def __init__(self, fd: int, slots: int, slot_bytes: int) -> None:
        try:
            self._memory = mmap.mmap(fd, slots * slot_bytes, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self._slot_bytes = slot_bytes

    def view(self, slot: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
        """A slot as RGB [H, W, 3], read-only. It keeps the memory alive, whatever becomes of the writer."""
        return _view(self._memory, slot * self._slot_bytes, hw)


def _view(memory: mmap.mmap, offset: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    return np.frombuffer(memory, np.uint8, hw[0] * hw[1] * 3, offset).reshape(*hw, 3)
