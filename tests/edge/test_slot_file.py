"""A record is replaced as a whole or not at all, wherever its writing ends."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heatline.edge.util.slot_file import SlotFile, read_slots

SLOT = 64
DATA = st.binary(max_size=48)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(st.tuples(st.integers(0, 2), DATA), max_size=12),
    last=st.tuples(st.integers(0, 2), DATA),
    cut=st.integers(0, SLOT),
)
def test_a_write_that_ends_anywhere_leaves_the_version_before(
    tmp_path: Path, writes: list[tuple[int, bytes]], last: tuple[int, bytes], cut: int
) -> None:
    path, expected = tmp_path / "f", list[bytes | None]([None] * 3)
    path.unlink(missing_ok=True)
    for record, data in writes:
        with contextlib.closing(SlotFile(path, SLOT, 3)) as file:  # opened again each time
            file.write(record, data, sync=True)
        expected[record] = data
        assert read_slots(path, SLOT) == expected
    with contextlib.closing(SlotFile(path, SLOT, 3)) as file:
        before = path.read_bytes()
        file.write(*last)
    after = path.read_bytes()
    changed = next((at for at in range(len(after)) if after[at] != before[at]), 0)
    path.write_bytes(after[: changed + cut] + before[changed + cut :])
    found = read_slots(path, SLOT)
    assert found[last[0]] in (expected[last[0]], last[1])
    assert [each for number, each in enumerate(found) if number != last[0]] == [
        each for number, each in enumerate(expected) if number != last[0]
    ]


def test_a_record_that_is_too_large_and_a_file_of_another_kind_are_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"something else" * 99)
    with contextlib.closing(SlotFile(path, SLOT)) as file:
        with pytest.raises(ValueError, match="does not fit"):
            file.write(0, bytes(SLOT))
        assert read_slots(path, SLOT) == [None]
        file.write(0, b"one")
    assert read_slots(path, SLOT) == [b"one"]
