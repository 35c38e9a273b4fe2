"""Frames in shared memory: slots that never touch, memory that outlives its writer and leaves nothing behind."""

import contextlib
import fcntl
import gc
import mmap
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.cameras.ring import RingReader, RingWriter


def made(slots: int, slot_bytes: int) -> tuple[RingWriter, RingReader]:
    writer = RingWriter(slots, slot_bytes)
    reader = RingReader(os.dup(writer.fd), slots, slot_bytes)
    writer.close()
    return writer, reader


def noise(seed: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)


def descriptors() -> set[str]:
    """What this process has open; without the one that looks."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return {each for each in found if "/proc/" not in each}


def mappings() -> int:
    """How many memfds of frames this process has mapped."""
    return Path("/proc/self/maps").read_text().count("heatline-frames")


@settings(deadline=None, max_examples=50)
@given(
    hws=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6),
    spare_bytes=st.integers(0, 10),
    order=st.randoms(use_true_random=False),
)
def test_what_is_written_to_a_slot_is_read_from_it_and_no_other_slot_is_touched(
    hws: list[tuple[int, int]], spare_bytes: int, order: random.Random
) -> None:
    writer, reader = made(len(hws), max(h * w * 3 for h, w in hws) + spare_bytes)
    slots = list(range(len(hws)))
    order.shuffle(slots)
    for slot in slots:
        writer.view(slot, hws[slot])[:] = noise(slot, hws[slot])
    for slot, hw in enumerate(hws):
        assert np.array_equal(reader.view(slot, hw), noise(slot, hw))


def test_a_reader_sees_what_is_written_without_a_copy_and_cannot_write() -> None:
    writer, reader = made(2, 12)
    seen = reader.view(1, (2, 2))
    assert not seen.any()
    writer.view(1, (2, 2))[:] = noise(1, (2, 2))
    assert np.array_equal(seen, noise(1, (2, 2)))
    with pytest.raises(ValueError, match="read-only"):
        seen[0, 0, 0] = 1


def test_a_view_beyond_the_memory_is_refused() -> None:
    writer, reader = made(2, 12)
    for view in (writer.view, reader.view):
        with pytest.raises(ValueError, match="buffer"):
            view(1, (3, 2))


def test_what_was_read_stays_when_writer_and_reader_are_gone() -> None:
    writer, reader = made(1, 300)
    writer.view(0, (10, 10))[:] = noise(7, (10, 10))
    seen = reader.view(0, (10, 10))
    del writer, reader
    gc.collect()
    assert np.array_equal(seen, noise(7, (10, 10)))


def test_the_memory_cannot_be_cut_off_or_grown() -> None:
    writer = RingWriter(2, 100)
    try:
        for size in (0, 199, 201):
            with pytest.raises(PermissionError):
                os.ftruncate(writer.fd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(writer.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    finally:
        writer.close()


def test_nothing_is_left_behind() -> None:
    gc.collect()
    before, mapped_before, named = descriptors(), mappings(), set(os.listdir("/dev/shm"))
    for _ in range(20):
        writer, reader = made(3, 300)
        writer.view(2, (10, 10))[:] = noise(1, (10, 10))
        assert reader.view(2, (10, 10)).any()
        assert mappings() == mapped_before + 2
        assert set(os.listdir("/dev/shm")) == named, "it has no name"
        del writer, reader
    assert descriptors() == before
    assert mappings() == mapped_before


def test_a_descriptor_of_too_little_memory_is_refused_and_closed() -> None:
    before = descriptors()
    fd = os.memfd_create("too-small")
    with pytest.raises(ValueError, match="mmap"):
        RingReader(fd, 1, mmap.PAGESIZE)
    assert descriptors() == before
