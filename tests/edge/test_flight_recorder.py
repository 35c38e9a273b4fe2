"""What was in flight at a death: whatever order things happened in, every frame not told of is found again, once."""

import mmap
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.frames import Stamp, Watermark
from edge.inspection import in_flight_log
from edge.inspection.in_flight_log import InFlightLog, PreviousRun, previous_run
from edge.inspection.ledger import Ledger
from edge.inspection.outcome import Outcome
from edge.service.recovery import Unjournalled, find_unjournalled, recover
from tests.edge.fault_boots import noting


def frame(number: int, *, part_id: str | None = None, frames: int = 1, frame_id: int | None = 0) -> Stamp:
    """A frame whose id is its number plus 1000."""
    shown = number + 1000 if frame_id == 0 else frame_id
    last = shown + frames - 1 if shown is not None and frames > 1 else None
    return Stamp("top", shown, number=number, frames=frames, part_id=part_id, last_frame_id=last)


def again(stamps: list[Stamp]) -> list[tuple[int, int, int | None, str | None]]:
    return [(stamp.number, stamp.frames, stamp.frame_id, stamp.part_id) for stamp in stamps]


@pytest.mark.parametrize(
    "data", [None, b"", b"something else", b"heatline in-flight 2\n", b"heatline in-flight 2\nshort"]
)
def test_no_file_or_one_that_is_none_of_ours_says_nothing(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "f").write_bytes(data)
    assert previous_run(tmp_path / "f").in_flight == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begin=st.integers(0, 3),
    sizes=st.lists(st.integers(1, 4), max_size=40),
    told=st.integers(0, 40),
    parts=st.sets(st.integers(0, 39)),
)
def test_whatever_was_announced_and_not_told_is_found_once(
    tmp_path: Path, begin: int, sizes: list[int], told: int, parts: set[int]
) -> None:
    recorder = noting(tmp_path / "f", {"side": 0, "top": begin})
    number, stamps = begin + 1, []
    for index, size in enumerate(sizes):
        part_id = f"P{index}" + "Ü" * 60 if index in parts else None
        stamps.append(frame(number, frames=1 if part_id else size, part_id=part_id))
        recorder.announced(stamps[-1])
        number += stamps[-1].frames
    for stamp in stamps[:told]:
        recorder.told(stamp)
    found = previous_run(tmp_path / "f").in_flight
    expected = [n for stamp in stamps[told:] for n in range(stamp.number, stamp.number + stamp.frames)]
    assert [n for stamp in found for n in range(stamp.number, stamp.number + stamp.frames)] == expected
    assert [stamp.part_id for stamp in found if stamp.part_id] == [s.part_id for s in stamps[told:] if s.part_id]
    assert all(stamp.frame_id == stamp.number + 1000 for stamp in found)
    assert all(stamp.last_frame_id in (None, stamp.number + stamp.frames + 999) for stamp in found)


def test_more_than_the_file_holds_is_still_counted(tmp_path: Path) -> None:
    recorder = noting(tmp_path / "f", {"top": 0})
    many = in_flight_log._SLOTS + 10
    for number in range(1, many + 1):
        recorder.announced(frame(number))
    first, rest = previous_run(tmp_path / "f").in_flight
    assert (first.number, first.frames, first.frame_id) == (1, 10, None)
    assert (rest.number, rest.frames, rest.frame_id, rest.last_frame_id) == (11, many - 10, 1011, 1000 + many)


def test_a_place_that_cannot_be_written_and_a_camera_that_is_gone_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nothing, told, ledger = PreviousRun([], {}), list[Outcome](), Ledger(["top"])
    nowhere = InFlightLog(tmp_path / "nowhere" / in_flight_log.FILE_NAME, ledger, "b")
    recover(nothing, ledger, nowhere, told.append)
    nowhere.begin_again()
    assert caplog.text.count("nobody will know what was in flight") == 1, "not each time"
    assert nowhere.fault == f"{tmp_path}/nowhere cannot be written: after a crash nobody knows what was in flight"
    (tmp_path / "nowhere").mkdir()
    nowhere.begin_again()
    assert nowhere.fault is None, "there is room by now"
    no_folder = InFlightLog(None, ledger, "b")
    recover(nothing, ledger, no_folder, told.append)
    no_folder.announced(frame(1))
    assert no_folder.fault is None
    noting(tmp_path / "f", {"top": 0}).announced(frame(1))
    other = Ledger(["side"])
    recover(previous_run(tmp_path / "f"), other, InFlightLog(tmp_path / "f", other, "b"), told.append)
    assert "the line no longer has camera top" in caplog.text
    assert told == []


def test_a_frame_whose_event_is_in_the_journal_was_not_in_flight(tmp_path: Path) -> None:
    """The death came between the journal and the note of it here."""
    recorder = noting(tmp_path / "f", {"top": 0, "side": 0}, "boot-1")
    for number in range(1, 8):
        recorder.announced(frame(number))
    recorder.told(frame(2))
    kept = {"top": Watermark("boot-1", 5), "side": Watermark("boot-1", 9)}
    assert again(previous_run(tmp_path / "f", kept).in_flight) == [(6, 2, 1006, None)]
    of_another_boot = {"top": Watermark("boot-0", 5)}
    assert again(previous_run(tmp_path / "f", of_another_boot).in_flight) == [(3, 5, 1003, None)]


def test_what_a_run_told_of_and_the_journal_does_not_hold_is_counted(tmp_path: Path) -> None:
    recorder = noting(tmp_path / "f", {"top": 0, "side": 0, "new": 0}, "boot-1")
    recorder.announced(frame(1, frames=9))
    recorder.told(frame(1, frames=9))
    last = previous_run(tmp_path / "f")
    assert last.told["top"] == Watermark("boot-1", 9)
    assert find_unjournalled(last, {"top": Watermark("boot-1", 9)}) is None
    assert find_unjournalled(last, {"top": Watermark("boot-1", 7)}) == Unjournalled("boot-1", ["top"], 2)
    assert find_unjournalled(last, {"top": Watermark("boot-0", 70)}) == Unjournalled("boot-1", ["top"], None)
    assert find_unjournalled(last, {"side": Watermark("boot-0", 70)}) is None, "it told of no frame"
    assert find_unjournalled(last, {}) is None, "nobody knows of a journal"
    assert find_unjournalled(last, {}, last.noted_at_ns + 1) is None, "the journal is new"
    found = find_unjournalled(last, {}, last.noted_at_ns - 1)
    assert found == Unjournalled("boot-1", ["top"], 9), "it was there, and the death came before the first was kept"
    assert find_unjournalled(last, {"top": Watermark("boot-1", 9)}, last.noted_at_ns - 1) is None


def test_what_was_in_flight_is_noted_until_its_events_are_sent(tmp_path: Path) -> None:
    """A death before that tells of it once more, and not never."""
    noting(tmp_path / "f", {"top": 0}).announced(frame(1, frames=5))
    noted: list[list[Stamp]] = []

    def until_sent() -> None:
        noted.append(previous_run(tmp_path / "f").in_flight)

    told, ledger = list[Outcome](), Ledger(["top"])
    recover(previous_run(tmp_path / "f"), ledger, InFlightLog(tmp_path / "f", ledger, "b"), told.append, until_sent)
    assert [outcome.stamp.frames for outcome in told] == [5]
    assert [again(stamps) for stamps in noted] == [[(1, 5, 1001, None)]]
    assert previous_run(tmp_path / "f").in_flight == []


@pytest.mark.parametrize("before", [1, in_flight_log._SLOTS])
def test_a_death_between_the_two_writes_of_an_announcement_leaves_the_record_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """The number comes last: with the number alone, a frame would be counted whose id and part are not known.

    Args:
        before: frames whose events are out; after so many as the file holds, an old note is written over.
    """
    path, write, found = tmp_path / "f", in_flight_log._write, list[list[tuple[int, int, int | None, str | None]]]()
    recorder = noting(path, {"top": 0})
    for number in range(1, before + 2):
        recorder.announced(frame(number))
    recorder.told(frame(before))

    def and_look(fd: int, at: int, data: bytes) -> None:
        write(fd, at, data)
        found.append(again(previous_run(path).in_flight))

    monkeypatch.setattr(in_flight_log, "_write", and_look)
    recorder.announced(frame(before + 2, part_id="P"))
    one = (before + 1, 1, before + 1001, None)
    assert found == [[one], [one, (before + 2, 1, before + 1002, "P")]]


def test_a_record_that_was_cut_off_kills_no_line(tmp_path: Path) -> None:
    """To a file that is mapped into memory, that is a bus error."""
    recorder = noting(tmp_path / "f", {"top": 0})
    recorder.announced(frame(1))
    os.truncate(tmp_path / "f", 0)
    recorder.announced(frame(2))
    recorder.told(frame(1))
    assert recorder.fault is None
    assert previous_run(tmp_path / "f").in_flight == []


def test_a_record_that_can_be_written_again_is_one_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file system that took itself read-only stays so until it is mounted again, so its file is taken away here."""
    caplog.set_level("INFO")
    recorder = noting(tmp_path / "f", {"top": 0})
    for number in range(1, 4):
        recorder.announced(frame(number))
    real, recorder._fd = recorder._fd, os.open(tmp_path / "f", os.O_RDONLY)
    recorder.told(frame(1))
    recorder.told(frame(2))
    assert recorder.fault is not None
    assert caplog.text.count("after a crash nobody will know what was in flight") == 1
    os.close(recorder._fd)
    recorder._fd = real
    recorder.announced(frame(4))
    recorder.told(frame(3))
    assert again(previous_run(tmp_path / "f").in_flight) == [(4, 1, 1004, None)]
    assert "is written again" in caplog.text


def test_a_death_while_the_record_is_overwritten_leaves_that_of_each_camera_as_it_was_or_empty(tmp_path: Path) -> None:
    """The system writes page by page, so a death can leave so many new ones before the old."""
    cameras = [f"camera-{number}" for number in range(5)]
    old = noting(tmp_path / "old", dict.fromkeys(cameras, 0))
    for camera in cameras:
        for number in range(1, 300):
            old.announced(Stamp(camera, number, number=number))
        old.told(Stamp(camera, 290, number=290))
    noting(tmp_path / "new", dict.fromkeys(cameras, 9))
    before, after = (tmp_path / "old").read_bytes(), (tmp_path / "new").read_bytes()
    assert len(before) == len(after)
    cuts = range(0, len(before) + mmap.PAGESIZE, mmap.PAGESIZE)
    left = []
    for cut in cuts:
        (tmp_path / "cut").write_bytes(after[:cut] + before[cut:])
        found = previous_run(tmp_path / "cut").in_flight
        assert all((stamp.number, stamp.frames, stamp.frame_id) == (291, 9, 291) for stamp in found)
        left.append([stamp.camera for stamp in found])
    assert left[0] == cameras
    assert left[-1] == []
    assert all(cameras[len(cameras) - len(names) :] == names for names in left)
