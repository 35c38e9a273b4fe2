"""The disk under the state folder is full, read-only, or fails: the line inspects on and says so.

And two lines with one state folder, which would be each other's fault.
"""

import os
import signal
from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.delivery.messages import Event, StatusEvent
from edge.frames import Stamp
from edge.inspection.flight_recorder import FILE_NAME, FlightRecorder, Told, last_run
from tests.command import WITHIN_SECONDS, complaint, heatline
from tests.edge.fault_disks import fail, failing_disk, fill, small_disk
from tests.edge.lines import Heard, RunningLine, assert_every_frame_has_its_event, running, write_line_with

# A busy machine's camera may be silent for a moment: only a minute of silence is an alarm here.
CAMERA = {
    "kind": "pattern", "draw_size": [230, 230], "rate_fps": 20, "silent_after_periods": 1200,
    "waiting_frames": 8, "on_overload": "block",
}  # fmt: skip
NOBODY_WILL_KNOW = "after a crash nobody will know what was in flight"


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, address: str) -> Path:
    return write_line_with(tmp_path, bundle.path, address, {"top": CAMERA}, 'heatmaps = "never"')


def until_inspected(run: RunningLine, frames: int) -> None:
    """Wait for verdicts on so many more frames."""
    for _ in range(frames):
        run.until_inspected()


def until_shaken(run: RunningLine, state: str, reason: str | None = None) -> None:
    """Wait for the status that says so."""

    def wanted(event: Event) -> bool:
        said = event.handshake if isinstance(event, StatusEvent) else None
        return said is not None and (said.state, said.reason) == (state, reason)

    run.until(wanted)


def end(run: RunningLine) -> tuple[Heard, str]:
    """What was heard up to its end, of which no frame is lost, and its log."""
    run.process.send_signal(signal.SIGTERM)
    heard = run.until_stopped()
    _, log = run.process.communicate(timeout=WITHIN_SECONDS)
    assert run.process.returncode == 0, log
    assert_every_frame_has_its_event(heard, ["top"])
    assert {event.reason for event in heard.verdicts} <= {None, "dropped.stopped"}, "those that waited at the end"
    assert heard.alarms == []
    return heard, log


def test_a_full_disk_keeps_no_frame_from_being_inspected_and_what_is_in_flight_is_noted_once_there_is_room(
    tmp_path: Path, line: Path, address: str
) -> None:
    with small_disk(tmp_path / "state", mib=32) as state:
        filler = fill(state)
        with running(line, address, env={"STATE_DIRECTORY": str(state)}) as run:
            until_inspected(run, 5)
            until_shaken(run, "DEGRADED", "unjournalled")
            assert last_run(state / FILE_NAME).told == {}
            filler.unlink()
            until_shaken(run, "READY")
            until_inspected(run, 1)
            heard, log = end(run)
        noted = last_run(state / FILE_NAME)
    assert f"{state / FILE_NAME} cannot be written ([Errno 28] {os.strerror(28)}" in log
    assert log.count(NOBODY_WILL_KNOW) == 1
    assert noted.told == {"top": Told(heard.last.boot_id, heard.last.ledger["top"].captured)}
    assert noted.in_flight == []


def test_a_full_disk_that_still_holds_the_last_record_holds_the_next(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state") as state:
        FlightRecorder(state / FILE_NAME, {"top": 0}).announced(Stamp("top", 7, number=1))
        fill(state)
        recorder = FlightRecorder(state / FILE_NAME, {"top": 1})
        recorder.announced(Stamp("top", 1, number=2))
        assert recorder.fault is None
        (stamp,) = last_run(state / FILE_NAME).in_flight
        assert (stamp.number, stamp.frame_id) == (2, 1)


def test_a_disk_that_fails_and_goes_read_only_while_a_line_runs_keeps_no_frame_from_being_inspected(
    tmp_path: Path, line: Path, address: str
) -> None:
    with (
        failing_disk(tmp_path / "state") as state,
        running(line, address, env={"STATE_DIRECTORY": str(state)}) as run,
    ):
        until_shaken(run, "READY")
        fail(state)
        until_inspected(run, 10)
        until_shaken(run, "DEGRADED", "unjournalled")
        _, log = end(run)
    assert f"{state / FILE_NAME} cannot be written ({os.strerror(30)})" in log
    assert log.count(NOBODY_WILL_KNOW) == 1, "said once, and not with every frame"


def test_two_lines_with_one_state_folder_are_one_line_too_many_as_long_as_the_first_lives(
    tmp_path: Path, line: Path, bundle: Bundle, address: str
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    env = {"STATE_DIRECTORY": str(state)}
    (tmp_path / "other").mkdir()
    other = write_line_with(tmp_path / "other", bundle.path, f"ipc://{tmp_path}/other/events", {"side": CAMERA})
    with running(line, address, env=env) as run:
        until_inspected(run, 3)
        refused = heatline("run", other, env=env)
        assert refused.returncode == 7
        assert f"{state} belongs to another line that is running" in complaint(refused)
        until_inspected(run, 3)
        end(run)
