"""The in-flight log after a crash: every frame that was not reported is found once, for any order of events."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from heatline.edge.frames import Stamp, Watermark
from heatline.edge.inspection import in_flight_log
from heatline.edge.inspection.in_flight_log import InFlightLog, read_previous_run
from tests.edge.fault_boots import begin_log
from tests.edge.fault_disks import fill, small_disk

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


@pytest.mark.parametrize("area_bytes", [2000, 2050, 4000])
def test_a_full_area_is_followed_by_the_other_with_what_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, area_bytes: int
) -> None:
    monkeypatch.setattr(in_flight_log, "AREA_BYTES", area_bytes)
    for boot in "first", "second":
        log, size = begin_log(tmp_path / "f", {"top": 0, "side": 7}, boot), (tmp_path / "f").stat().st_size
        log.announced(frame(1, part_id="P-1"))
        for number in range(2, 200):
            log.announced(frame(number))
            if number > 5:
                log.reported(frame(number - 5))
            found = read_previous_run(tmp_path / "f")
            numbers = [n for stamp in found.in_flight for n in range(stamp.number, stamp.number + stamp.frames)]
            assert numbers == list(range(max(number - 4, 1), number + 1))
            assert found.reported["side"] == Watermark(boot, 7)
        assert (tmp_path / "f").stat().st_size == size == 2 * area_bytes


def test_on_a_disk_that_is_full_by_now_the_log_is_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", mib=4) as disk:
        log = begin_log(disk / "f", {"top": 0})
        fill(disk)
        for number in range(1, 5001):
            log.announced(frame(number))
            if number > 3:
                log.reported(frame(number - 3))
        assert log.fault is None
        assert facts_of(read_previous_run(disk / "f").in_flight) == [(4998, 3, 5998, None)]


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
