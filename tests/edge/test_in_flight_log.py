"""The in-flight log after a crash: every frame that was not reported is found once, for any order of events."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heatline.edge.frames import Stamp, Watermark
from heatline.edge.inspection import in_flight_log
from heatline.edge.inspection.in_flight_log import InFlightLog, read_previous_run
from tests.edge.fault_boots import begin_log

UNKNOWN_AFTER_A_CRASH = "after a crash nobody will know which frames were in flight"


def frame(number: int, *, part_id: str | None = None, frames: int = 1, frame_id: int | None = 0) -> Stamp:
    """A stamp whose frame id is its number plus 1000."""
    shown = number + 1000 if frame_id == 0 else frame_id
    last = shown + frames - 1 if shown is not None and frames > 1 else None
    return Stamp("top", shown, number=number, frames=frames, part_id=part_id, last_frame_id=last)


def facts_of(stamps: list[Stamp]) -> list[tuple[int, int, int | None, str | None]]:
    return [(stamp.number, stamp.frames, stamp.frame_id, stamp.part_id) for stamp in stamps]


@pytest.mark.parametrize("data", [None, b"", b"something else", bytes(200_000)])
def test_a_missing_or_foreign_file_gives_no_frames(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "f").write_bytes(data)
    assert read_previous_run(tmp_path / "f").in_flight == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    begin=st.integers(0, 3),
    sizes=st.lists(st.integers(1, 4), max_size=40),
    reported=st.integers(0, 40),
    parts=st.sets(st.integers(0, 39)),
)
def test_announced_frames_that_were_not_reported_are_found_once(
    tmp_path: Path, begin: int, sizes: list[int], reported: int, parts: set[int]
) -> None:
    log = begin_log(tmp_path / "f", {"side": 0, "top": begin})
    number, stamps = begin + 1, []
    for index, size in enumerate(sizes):
        part_id = f"P{index}" + "Ü" * 60 if index in parts else None
        stamps.append(frame(number, frames=1 if part_id else size, part_id=part_id))
        log.announced(stamps[-1])
        number += stamps[-1].frames
    for stamp in stamps[:reported]:
        log.reported(stamp)
    found = read_previous_run(tmp_path / "f").in_flight
    expected = [n for stamp in stamps[reported:] for n in range(stamp.number, stamp.number + stamp.frames)]
    assert [n for stamp in found for n in range(stamp.number, stamp.number + stamp.frames)] == expected
    assert [stamp.part_id for stamp in found if stamp.part_id] == [s.part_id for s in stamps[reported:] if s.part_id]
    assert all(stamp.frame_id == stamp.number + 1000 for stamp in found)
    assert all(stamp.last_frame_id in (None, stamp.number + stamp.frames + 999) for stamp in found)


def test_a_file_that_has_grown_is_written_anew_with_what_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_flight_log, "ROTATE_BYTES", 500)
    log, sizes = begin_log(tmp_path / "f", {"top": 0, "side": 7}), list[int]()
    log.announced(frame(1, part_id="P-1"))
    for number in range(2, 200):
        log.announced(frame(number))
        sizes.append((tmp_path / "f").stat().st_size)
        if number > 5:
            log.reported(frame(number - 5))
    assert max(sizes) < 3000
    assert facts_of(read_previous_run(tmp_path / "f").in_flight) == [(195, 5, 1195, None)]
    assert read_previous_run(tmp_path / "f").reported["side"].frame_number == 7


def test_an_unwritable_folder_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    nowhere = begin_log(tmp_path / "nowhere" / in_flight_log.FILE_NAME, {"top": 0})
    nowhere.announced(frame(1))
    nowhere.retry()
    assert caplog.text.count(UNKNOWN_AFTER_A_CRASH) == 1, "not each time"
    assert nowhere.fault == f"{tmp_path}/nowhere cannot be written: {UNKNOWN_AFTER_A_CRASH}"
    (tmp_path / "nowhere").mkdir()
    nowhere.retry()
    assert nowhere.fault is None, "the folder exists now"
    assert "is written again" in caplog.text
    (stamp,) = read_previous_run(tmp_path / "nowhere" / in_flight_log.FILE_NAME).in_flight
    assert stamp.number == 1, "also a frame that was announced meanwhile"
    no_folder = InFlightLog(None, "b")
    no_folder.begin({"top": 0})
    no_folder.announced(frame(1))
    assert no_folder.fault is None


def test_a_frame_whose_event_is_in_the_journal_was_not_in_flight(tmp_path: Path) -> None:
    """The crash came between the journal's commit and the write to the log."""
    log = begin_log(tmp_path / "f", {"top": 0, "side": 0}, "boot-1")
    for number in range(1, 8):
        log.announced(frame(number))
    log.reported(frame(2))
    journalled = {"top": Watermark("boot-1", 5), "side": Watermark("boot-1", 9)}
    assert facts_of(read_previous_run(tmp_path / "f", journalled).in_flight) == [(6, 2, 1006, None)]
    of_another_boot = {"top": Watermark("boot-0", 5)}
    assert facts_of(read_previous_run(tmp_path / "f", of_another_boot).in_flight) == [(3, 5, 1003, None)]


def test_reported_frames_that_the_journal_lacks_are_counted(tmp_path: Path) -> None:
    log = begin_log(tmp_path / "f", {"top": 0, "side": 0, "new": 0}, "boot-1")
    log.announced(frame(1, frames=9))
    log.reported(frame(1, frames=9))
    last = read_previous_run(tmp_path / "f")
    assert last.reported["top"] == Watermark("boot-1", 9)
    assert last.unjournalled({"top": Watermark("boot-1", 9)}, None) == {}
    assert last.unjournalled({"top": Watermark("boot-1", 7)}, None) == {"top": 2}
    assert last.unjournalled({"top": Watermark("boot-0", 70)}, None) == {"top": None}
    assert last.unjournalled({"side": Watermark("boot-0", 70)}, None) == {}, "no frame of this camera was reported"
    assert last.unjournalled({}, None) == {}, "there is no journal"
    assert last.unjournalled({}, last.written_at_ns + 1) == {}, "the journal is new"
    found = last.unjournalled({}, last.written_at_ns - 1)
    assert found == {"top": 9}, "the journal existed, and the crash came before its first event"
    assert last.unjournalled({"top": Watermark("boot-1", 9)}, last.written_at_ns - 1) == {}


def test_a_truncated_log_does_not_end_the_line(tmp_path: Path) -> None:
    """With a file mapped into memory, this would be a bus error. The next frame is written as before."""
    log = begin_log(tmp_path / "f", {"top": 0})
    log.announced(frame(1))
    os.truncate(tmp_path / "f", 0)
    log.announced(frame(2))
    log.reported(frame(1))
    assert log.fault is None
    assert facts_of(read_previous_run(tmp_path / "f").in_flight) == [(2, 1, 1002, None)]


def test_a_log_that_cannot_be_written_any_longer_names_no_frames_until_it_can(tmp_path: Path) -> None:
    """A full disk: the file is a link to a device that has no room."""
    log = begin_log(tmp_path / "f", {"top": 0})
    log.announced(frame(1))
    os.rename(tmp_path / "f", tmp_path / "other")
    (tmp_path / "f").symlink_to("/dev/full")
    log._fd = os.open(tmp_path / "f", os.O_WRONLY)
    log.reported(frame(1))
    log.announced(frame(2))
    assert log.fault is not None
    (tmp_path / "f").unlink()
    assert read_previous_run(tmp_path / "f").reported == {}
    log.retry()
    assert log.fault is None
    log.announced(frame(3))
    assert facts_of(read_previous_run(tmp_path / "f").in_flight) == [(2, 2, 1002, None)]
