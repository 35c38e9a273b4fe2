"""Frames in shared memory: slots that do not overlap, and memory that outlives its writer and leaves nothing behind."""

import fcntl
import gc
import mmap
import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.util.channel import NewRing, RingReader, RingWriter
from tests.edge.supervised import held, mappings


def made(slots: int, slot_bytes: int) -> tuple[RingWriter, RingReader]:
    readers: list[RingReader] = []
    writer = RingWriter(lambda ring, fd: readers.append(RingReader(ring, os.dup(fd))))
    writer.make(slots, slot_bytes)
    return writer, readers.pop()


def noise(seed: int, hw: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)


@given(
    hws=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6),
    spare_bytes=st.integers(0, 10),
    order=st.randoms(use_true_random=False),
)
def test_a_slot_is_read_as_it_was_written_and_other_slots_are_untouched(
    hws: list[tuple[int, int]], spare_bytes: int, order: random.Random
) -> None:
    writer, reader = made(len(hws), max(h * w * 3 for h, w in hws) + spare_bytes)
    slots = list(range(len(hws)))
    order.shuffle(slots)
    for slot in slots:
        writer.view(slot, (*hws[slot], 3))[:] = noise(slot, hws[slot])
    for slot, hw in enumerate(hws):
        assert np.array_equal(reader.view(slot, (*hw, 3)), noise(slot, hw))


def test_a_reader_shares_the_memory_read_only_within_its_bounds() -> None:
    writer, reader = made(2, 12)
    seen = reader.view(1, (2, 2, 3))
    assert not seen.any()
    writer.view(1, (2, 2, 3))[:] = noise(1, (2, 2))
    assert np.array_equal(seen, noise(1, (2, 2)))
    with pytest.raises(ValueError, match="read-only"):
        seen[0, 0, 0] = 1
    for view in (writer.view, reader.view):
        with pytest.raises(ValueError, match="buffer"):
            view(1, (3, 2, 3))


def test_the_memory_cannot_be_resized() -> None:
    def announced(ring: NewRing, fd: int) -> None:
        for size in (0, 199, 201):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        announcements.append(ring)

    announcements: list[NewRing] = []
    RingWriter(announced).make(2, 100)
    assert announcements == [NewRing(1, 2, 100)]


def test_a_slot_is_free_again_once_it_is_released_and_only_in_its_own_ring() -> None:
    writer = RingWriter(lambda _ring, _fd: None)
    writer.make(2, 10)
    assert {writer.take(), writer.take()} == {0, 1}
    assert writer.take(0.01) is None
    assert writer.release(1, 1)
    assert not writer.release(1, 1), "it is not held any more"
    assert writer.take() == 1
    writer.make(1, 20)
    assert writer.held == {(1, 0), (1, 1)}
    assert writer.release(1, 0)
    assert (writer.take(), writer.take()) == (0, None), "a slot of the former ring is none of this one"
    assert writer.held == {(1, 1), (2, 0)}


def test_a_view_outlives_writer_and_reader_and_leaves_nothing_behind() -> None:
    gc.collect()
    before, mapped_before = held(), mappings()
    writer, reader = made(3, 300)
    writer.view(2, (10, 10, 3))[:] = noise(1, (10, 10))
    seen = reader.view(2, (10, 10, 3))
    mapped = mappings() - mapped_before
    assert len(mapped) == 2
    assert all("/memfd:" in one for one in mapped), "it has no name in /dev/shm"
    del writer, reader
    gc.collect()
    assert np.array_equal(seen, noise(1, (10, 10)))
    del seen
    gc.collect()
    assert held() - before == set()


def test_a_descriptor_of_too_little_memory_is_refused_and_closed() -> None:
    before = held()
    fd = os.memfd_create("too-small")
    with pytest.raises(ValueError, match="mmap"):
        RingReader(NewRing(1, 1, mmap.PAGESIZE), fd)
    assert held() - before == set()
