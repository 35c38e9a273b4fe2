"""A line that is killed with frames in flight: the next start tells of them first, and nothing is told wrongly."""

import mmap
import signal
from pathlib import Path

import numpy as np
import pytest

from edge.bundle import Bundle
from edge.delivery.messages import VerdictEvent
from edge.delivery.publisher import SEND_HIGH_WATER_MARK
from edge.frames import Stamp
from edge.inspection.flight_recorder import FlightRecorder, last_run
from tests.edge.fault_boots import assert_the_crash_is_told_first, boots, crashed, die, ids, in_flight
from tests.edge.fault_memory import no_memory, starve
from tests.edge.lines import (
    Heard,
    RunningLine,
    assert_every_frame_has_its_event,
    children,
    running,
    small_frames,
    write_line_with,
    write_pictures,
)

FASTER_THAN_INSPECTION = {"kind": "pattern", "draw_size": [240, 240], "rate_fps": 200, "waiting_frames": 8}
MANY_TILES = 'heatmaps = "never"\n\n[tiles]\noverlap_px = 222\n\n[engine]\nthreads = 1'
"""Dozens in a small frame: some frames are always in flight."""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The line's StateDirectory."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def until_told_of(run: RunningLine, frames: int) -> None:
    """Wait until so many frames of this boot's own camera have been told of."""
    while len(own_of(run.heard)) < frames:
        run.next()


@pytest.mark.long
@pytest.mark.parametrize("deaths", [3, pytest.param(20, marks=pytest.mark.long)])
def test_after_each_of_many_kill_9_the_next_start_tells_what_was_in_flight(
    tmp_path: Path, bundle: Bundle, address: str, state: Path, deaths: int
) -> None:
    """Each at another point of its life, some as soon as anything of it is heard."""
    line = write_line_with(tmp_path, bundle.path, address, {"top": FASTER_THAN_INSPECTION}, MANY_TILES)
    died_with = []
    with boots(line, address, state) as lives:
        for death in range(deaths):
            with lives.boot() as run:
                until_told_of(run, 7 * (death + 1) % 20)
                die(run)
            died_with.append(in_flight(state))
        with lives.boot() as run:
            run.until_inspected()
            run.end()
        heard = [lives.of(boot) for boot in range(deaths + 1)]
    assert_every_frame_has_its_event(heard[-1], ["top"])
    for one, noted, following in zip(heard, died_with, heard[1:], strict=False):
        assert_the_crash_is_told_first(following)
        told_of_it = [(event.frame_id, event.frames) for event in crashed(following)]
        was_in_flight = [(stamp.frame_id, stamp.frames) for stamp in noted]
        assert told_of_it == was_in_flight[: len(told_of_it)]
        if own_of(following):  # else it died itself before they were on the wire
            assert told_of_it == was_in_flight
        if not (own := own_of(one)):
            continue  # it died before anything of its own was heard, and may have noted nothing
        assert noted, "some are always in flight"
        told, first_in_flight = ids(own), noted[0].frame_id or 0
        assert told == list(range(1, len(told) + 1)), "each frame is told once, in order"
        # Killed between an event's handing over and the note of that, a line tells of it once more, as crashed.
        assert first_in_flight >= ids(own[-1:])[0]
        # Handed over and not yet on the wire: such events alone are lost.
        assert first_in_flight - told[-1] - 1 <= SEND_HIGH_WATER_MARK


def own_of(heard: Heard) -> list[VerdictEvent]:
    """A boot's events of its own frames."""
    return [event for event in heard.verdicts if event.reason != "dropped.crashed"]


def test_a_death_while_the_record_is_begun_anew_leaves_that_of_each_camera_as_it_was_or_empty(tmp_path: Path) -> None:
    """The system writes page by page, so a death can leave so many new ones before the old."""
    cameras = [f"camera-{number}" for number in range(5)]
    old = FlightRecorder(tmp_path / "old", dict.fromkeys(cameras, 0))
    for camera in cameras:
        for number in range(1, 300):
            old.announced(Stamp(camera, number, number=number))
        old.told(Stamp(camera, 290, number=290))
    FlightRecorder(tmp_path / "new", dict.fromkeys(cameras, 9))
    before, after = (tmp_path / "old").read_bytes(), (tmp_path / "new").read_bytes()
    assert len(before) == len(after)
    cuts = range(0, len(before) + mmap.PAGESIZE, mmap.PAGESIZE)
    left = []
    for cut in cuts:
        (tmp_path / "cut").write_bytes(after[:cut] + before[cut:])
        found = last_run(tmp_path / "cut").in_flight
        assert all((stamp.number, stamp.frames, stamp.frame_id) == (291, 9, 291) for stamp in found)
        left.append([stamp.camera for stamp in found])
    assert left[0] == cameras
    assert left[-1] == []
    assert all(cameras[len(cameras) - len(names) :] == names for names in left)


def test_a_line_that_is_killed_for_memory_tells_at_its_next_start_what_was_in_flight(
    tmp_path: Path, bundle: Bundle, address: str, state: Path
) -> None:
    line = write_line_with(tmp_path, bundle.path, address, {"top": FASTER_THAN_INSPECTION}, MANY_TILES)
    with no_memory() as group, boots(line, address, state) as lives:
        with lives.boot() as run:
            until_told_of(run, 5)
            pid = run.process.pid
            die(run, lambda: starve(group, pid))
            assert run.process.returncode == -signal.SIGKILL
        noted = in_flight(state)
        with lives.boot() as run:
            run.until_inspected()
            heard = run.end()
    assert noted
    assert_every_frame_has_its_event(heard, ["top"])
    assert [(event.frame_id, event.frames) for event in crashed(heard)] == [
        (stamp.frame_id, stamp.frames) for stamp in noted
    ]
    assert_the_crash_is_told_first(heard)


@pytest.mark.long
def test_a_camera_that_is_killed_for_memory_is_started_again_and_the_other_goes_on(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    # One picture is so large that it takes new memory each time, and is not inspected.
    write_pictures(tmp_path / "top", {**small_frames(3), "004.png": np.full((6000, 6000), 255, np.uint8)})
    write_pictures(tmp_path / "side", small_frames(3))
    cameras = {
        name: {"kind": "folder", "path": name, "loop": True, "rate_fps": rate_fps}
        for name, rate_fps in (("top", 10), ("side", 50))
    }
    line = write_line_with(tmp_path, bundle.path, address, cameras)
    with no_memory() as group, running(line, address) as run:
        for camera in ("top", "side"):
            run.until_inspected(camera)
        (child,) = [pid for pid in children(run.process.pid) if b"\0top\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        starve(group, child)
        died, back = run.next_alarm(), run.next_alarm()
        run.until_inspected("top")
        run.until_inspected("side")
        heard = run.end()
    assert (died.camera, died.alarm, died.active) == ("top", "process", True)
    assert (back.camera, back.alarm, back.active) == ("top", "process", False)
    assert_every_frame_has_its_event(heard, ["top", "side"])
    assert {event.reason for event in heard.of("side")} <= {None, "dropped.stopped"}, "those that waited at the end"
    ids_of_side = [event.frame_id for event in heard.of("side")]
    assert ids_of_side == list(range(1, len(ids_of_side) + 1)), "no frame of the other camera was lost"
