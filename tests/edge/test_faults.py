"""What may befall a running line.

Its bundle is damaged, its clock set, it is stopped within a burst, a library forks, a stage hangs, the disk is full or
fails, and it is killed.
"""

import os
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.delivery.publisher import SEND_HIGH_WATER_MARK
from edge.frames import Stamp, Watermark
from edge.inspection.in_flight_log import FILE_NAME, read_previous_run
from edge.wire.events import StatusEvent, VerdictEvent
from tests.command import WITHIN_SECONDS, complaint, heatline
from tests.edge.fault_boots import assert_the_crash_is_told_first, begin_log, boots, crashed, die, ids, in_flight
from tests.edge.fault_disks import fail, failing_disk, fill, small_disk
from tests.edge.fault_injection import Hang, LeapingClock, at_start
from tests.edge.lines import (
    Heard,
    NotifySocket,
    RunningLine,
    assert_every_frame_has_its_event,
    notify_socket,
    running,
    small_frames,
    write_line,
    write_line_with,
    write_pictures,
)
from tests.small_bundle import dark_square, white_frame

REAL_BUNDLE = Path(__file__).parents[2] / "examples/drawn_boards/bundle"
"""Its weights are some MB: what an engine maps into memory, and reads when it needs it."""
HOUR_S = 3600
BURST = {"kind": "pattern", "draw_size": [260, 260], "rate_fps": 500, "waiting_frames": 16}
DOZENS_OF_TILES = 'heatmaps = "never"\n\n[tiles]\noverlap_px = 220\n\n[engine]\nthreads = 1'
WATCHDOG = {"WATCHDOG_USEC": "10000000"}
# A busy machine's camera may be silent for a moment: only a minute of silence is an alarm here.
PATIENT = {
    "kind": "pattern", "draw_size": [230, 230], "rate_fps": 20, "silent_after_periods": 1200,
    "waiting_frames": 8, "on_overload": "block",
}  # fmt: skip
NOBODY_WILL_KNOW = "after a crash nobody will know which frames were in flight"
FASTER_THAN_INSPECTION = {"kind": "pattern", "draw_size": [240, 240], "rate_fps": 200, "waiting_frames": 8}
MANY_TILES = 'heatmaps = "never"\n\n[tiles]\noverlap_px = 222\n\n[engine]\nthreads = 1'
"""Dozens in a small frame: some frames are always in flight."""


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, address: str) -> Path:
    """A line that loses no frame, however slow the machine is."""
    return write_line_with(tmp_path, bundle.path, address, {"top": PATIENT}, 'heatmaps = "never"')


def overwrite(file: Path) -> None:
    """It stays the same file, and holds nothing but zeros."""
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.write(bytes(size))


def cut_off(file: Path) -> None:
    """As the beginning of a copy over it does."""
    with file.open("r+b") as stream:
        stream.truncate(0)


@pytest.mark.parametrize("engine", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.long)])
def test_a_bundle_that_is_damaged_while_a_line_runs_changes_no_verdict(
    tmp_path: Path, address: str, engine: str
) -> None:
    bundle = shutil.copytree(REAL_BUNDLE, tmp_path / "bundle")
    grey = white_frame((224, 224)) // 2
    write_pictures(tmp_path / "frames", {"1.png": grey, "2.png": dark_square(grey, 40, 60), "3.png": grey // 2})
    tables = (
        f'heatmaps = "never"\n\n[engine]\nkind = "{engine}"\nthreads = 1\n\n[thresholds]\ncheck_plausibility = false'
    )
    line = write_line(tmp_path, bundle, address, {"top": 'path = "frames"\nloop = true\nrate_fps = 30'}, tables)
    with running(line, address) as run:
        before = scores(run)
        for damage in (overwrite, cut_off, Path.unlink):
            for file in bundle.iterdir():
                damage(file)
            assert scores(run) == before, damage
        received = run.end()
    assert_every_frame_has_its_event(received, ["top"])
    assert received.last.ledger["top"].failed == {}


def scores(run: RunningLine) -> dict[str | None, tuple[str, float | None]]:
    """The verdict and score of each picture, over a round of all and some more."""
    events = [run.until_inspected() for _ in range(7)]
    verdicts: dict[str | None, tuple[str, float | None]] = {e.source: (e.verdict, e.frame_score) for e in events}
    assert [verdicts[event.source] for event in events] == [(event.verdict, event.frame_score) for event in events]
    assert len(verdicts) == 3
    return verdicts


def test_a_clock_that_is_set_back_an_hour_and_forth_again_disturbs_no_frame(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    clock = LeapingClock(tmp_path)
    # Its deadline and all of its liveness would notice an hour.
    camera = {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 20, "waiting_frames": 16, "deadline_ms": 50_000}
    limits = {"silent_after_periods": 1000, "stale_after_ms": 50_000}
    line = write_line_with(tmp_path, bundle.path, address, {"top": {**camera, **limits}}, 'heatmaps = "never"')
    with running(line, address, env=clock.env) as run:
        for leap in (0, -HOUR_S, HOUR_S):
            if leap:
                clock.leap(min(leap, 0))
                run.until(lambda _, leap=leap: leapt(run, leap))
            run.until(lambda event: isinstance(event, StatusEvent) and event.state == "RUNNING")
            run.until_inspected()
        received = run.end()
    assert_every_frame_has_its_event(received, ["top"])
    assert received.alarms == []
    assert {event.reason for event in received.verdicts} <= {None, "dropped.overload", "dropped.stopped"}
    assert all(0 < event.latency_ms < WITHIN_SECONDS * 1e3 for event in received.verdicts)
    taken = [event.times.captured_monotonic_ns for event in received.verdicts]
    assert taken == sorted(taken)
    hours = [round((b.at_ns - a.at_ns) / 1e9 / HOUR_S) for a, b in pairwise(received.statuses)]
    assert [hour for hour in hours if hour] == [-1, 1], "statuses tell the time of day as it is set"


def leapt(run: RunningLine, seconds: int) -> bool:
    """Whether the last two frames that were heard of were taken before and after a leap."""
    times = [event.times.captured_at_ns for event in run.heard.verdicts[-2:]]
    return len(times) == 2 and abs((times[1] - times[0]) / 1e9 - seconds) < HOUR_S / 2


def test_a_burst_ends_in_order_and_every_frame_has_its_event(tmp_path: Path, bundle: Bundle, address: str) -> None:
    """A camera is far faster than inspection, and all that may wait waits."""
    line = write_line_with(tmp_path, bundle.path, address, {"top": BURST}, DOZENS_OF_TILES)
    with running(line, address) as run:
        run.until(lambda event: getattr(event, "reason", None) == "dropped.overload")
        run.until_inspected()  # since then, all that may wait waits
        received = run.end()
    assert_every_frame_has_its_event(received, ["top"])
    told = [(status.state, status.handshake.reason) for status in received.statuses]
    assert told[-2:] == [("RUNNING", "stopping"), ("STOPPED", "stopping")], "no further part may come"


WATCHING = """
import os, sys

def watch(event, arguments):
    if event in ("os.fork", "os.forkpty", "socket.getaddrinfo", "urllib.Request"):
        with open({seen!r}, "a") as file:
            print(event, *map(str, arguments), file=file)

sys.addaudithook(watch)
"""


@pytest.mark.parametrize("engine", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.long)])
def test_a_line_forks_for_nobody_and_asks_for_no_host(
    tmp_path: Path, bundle: Bundle, address: str, engine: str
) -> None:
    """Whatever the libraries that it loads would like to do.

    A fork of a process of many threads may hang for ever, and it holds the line's port and its state folder.
    """
    seen = tmp_path / "seen"
    seen.touch()
    watched = at_start(tmp_path / "watcher", WATCHING.replace("{seen!r}", repr(str(seen))))
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'}, f'[engine]\nkind = "{engine}"')
    # What marks a machine that builds software would keep some libraries quiet.
    env = {**watched, "CI": "", "TF_BUILD": "", "JENKINS_URL": ""}
    with running(line, address, env=env) as run:
        run.until_stopped()
        assert run.exit_code() == 0
    assert seen.read_text() == ""


# A stage that hangs: systemd's watchdog is fed no more, and status says why. What is no hang goes on feeding it.


def until_status_says(systemd: NotifySocket, words: str) -> list[str]:
    """All that systemd hears up to a status that says so."""
    came: list[str] = []
    while not any(
        status_text.startswith("STATUS=NOT_READY: running, ") and words in status_text for status_text in came
    ):
        came += systemd.socket.recv(4096).decode().split("\n")
    return came


@pytest.mark.parametrize(
    "stage", ["judge", pytest.param("infer", marks=pytest.mark.long), pytest.param("publish", marks=pytest.mark.long)]
)
def test_a_hung_stage_stops_the_heartbeat_and_the_watchdog_is_fed_no_more(
    tmp_path: Path, line: Path, address: str, stage: str
) -> None:
    hang = Hang(tmp_path / "hang", stage)
    with (
        notify_socket(tmp_path) as systemd,
        running(line, address, env={**systemd.env, **WATCHDOG, **hang.env}) as run,
    ):
        systemd.wait_for("WATCHDOG=1")
        run.until_handshake("READY")
        with hang.hung():
            until_status_says(systemd, "the inspection had no output")
            for _ in range(2):
                assert "WATCHDOG=1" not in until_status_says(systemd, "the inspection had no output")
        systemd.wait_for("WATCHDOG=1")
        stalled = None if stage == "publish" else run.until_handshake("NOT_READY", "stalled")  # else nobody is told
        after = run.until_handshake("READY")
        received = run.end()
    assert_every_frame_has_its_event(received, ["top"])
    handshakes = [status.handshake for status in received.statuses]
    assert [each.heartbeat for each in handshakes] == sorted(each.heartbeat for each in handshakes)
    if stalled is not None:
        assert {each.heartbeat for each in handshakes if each.reason == "stalled"} == {stalled.heartbeat}
        assert after.heartbeat > stalled.heartbeat


def test_a_dead_camera_is_no_hang(tmp_path: Path, bundle: Bundle, address: str) -> None:
    """No frame comes at all: probes go the whole way and feed the watchdog."""
    dead = {"kind": "v4l2", "device": str(tmp_path / "no-such-camera")}
    line = write_line_with(tmp_path, bundle.path, address, {"top": dead}, 'heatmaps = "never"')
    with notify_socket(tmp_path) as systemd, running(line, address, env={**systemd.env, **WATCHDOG}) as run:
        first = run.until_handshake("NOT_READY", "no_camera")
        until_status_says(systemd, "no camera is available")
        for _ in range(2):
            systemd.wait_for("WATCHDOG=1")
        while (last := run.until_handshake("NOT_READY", "no_camera")).heartbeat < first.heartbeat + 2:
            pass
        received = run.end()
    assert "camera top is dead" in str(last.detail)
    assert received.verdicts == []
    assert received.last.ledger["top"].captured == 0, "a probe is no frame"


# The disk under the state folder is full, read-only, or fails: the line inspects on and says so.


def end(run: RunningLine) -> tuple[Heard, str]:
    """What was heard up to its end, of which no frame is lost, and its log."""
    run.process.send_signal(signal.SIGTERM)
    received = run.until_stopped()
    assert run.exit_code() == 0
    log = run.process.log()
    assert_every_frame_has_its_event(received, ["top"])
    assert {event.reason for event in received.verdicts} <= {None, "dropped.stopped"}, "those that waited at the end"
    assert received.alarms == []
    return received, log


def test_a_full_disk_keeps_no_frame_from_being_inspected_and_what_is_in_flight_is_noted_once_there_is_room(
    tmp_path: Path, line: Path, address: str
) -> None:
    with small_disk(tmp_path / "state", mib=32) as state:
        filler = fill(state)
        with running(line, address, env={"STATE_DIRECTORY": str(state)}) as run:
            run.until_inspected_frames(5)
            run.until_handshake("DEGRADED", "unjournalled")
            assert read_previous_run(state / FILE_NAME).reported == {}
            filler.unlink()
            run.until_handshake("READY")
            run.until_inspected_frames(1)
            received, log = end(run)
        noted = read_previous_run(state / FILE_NAME)
    assert f"{state / FILE_NAME} cannot be written ([Errno 28] {os.strerror(28)}" in log
    assert log.count(NOBODY_WILL_KNOW) == 1
    assert noted.reported == {"top": Watermark(received.last.boot_id, received.last.ledger["top"].captured)}
    assert noted.in_flight == []


def test_a_full_disk_that_still_holds_the_last_record_holds_the_next(tmp_path: Path) -> None:
    with small_disk(tmp_path / "state") as state:
        begin_log(state / FILE_NAME, {"top": 0}).announced(Stamp("top", 7, number=1))
        fill(state)
        recorder = begin_log(state / FILE_NAME, {"top": 1})
        recorder.announced(Stamp("top", 1, number=2))
        assert recorder.fault is None
        (stamp,) = read_previous_run(state / FILE_NAME).in_flight
        assert (stamp.number, stamp.frame_id) == (2, 1)


def test_a_disk_that_fails_and_goes_read_only_while_a_line_runs_keeps_no_frame_from_being_inspected(
    tmp_path: Path, line: Path, address: str
) -> None:
    with (
        failing_disk(tmp_path / "state") as state,
        running(line, address, env={"STATE_DIRECTORY": str(state)}) as run,
    ):
        run.until_handshake("READY")
        fail(state)
        run.until_inspected_frames(10)
        run.until_handshake("DEGRADED", "unjournalled")
        _, log = end(run)
    assert f"{state / FILE_NAME} cannot be written ({os.strerror(30)})" in log
    assert log.count(NOBODY_WILL_KNOW) == 1, "logged once, not with every frame"


def test_two_lines_with_one_state_folder_are_one_line_too_many_as_long_as_the_first_lives(
    tmp_path: Path, line: Path, bundle: Bundle, address: str
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    env = {"STATE_DIRECTORY": str(state)}
    (tmp_path / "other").mkdir()
    other = write_line_with(tmp_path / "other", bundle.path, f"ipc://{tmp_path}/other/events", {"side": PATIENT})
    with running(line, address, env=env) as run:
        run.until_inspected_frames(3)
        refused = heatline("run", other, env=env)
        assert refused.returncode == 7
        assert f"{state} belongs to another line that is running" in complaint(refused)
        run.until_inspected_frames(3)
        end(run)


# A line that is killed with frames in flight: the next start tells of them first, and nothing is told wrongly.


def until_told_of(run: RunningLine, frames: int) -> None:
    """Wait until so many frames of this boot's own camera have been told of."""
    while len(own_of(run.heard)) < frames:
        run.next()


@pytest.mark.parametrize("deaths", [3, pytest.param(20, marks=pytest.mark.long)])
def test_after_each_kill_9_the_next_start_tells_what_was_in_flight(
    tmp_path: Path, bundle: Bundle, address: str, deaths: int
) -> None:
    """Each at another point of its life, some as soon as anything of it is heard."""
    state = tmp_path / "state"
    state.mkdir()
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
        received = [lives.of(boot) for boot in range(deaths + 1)]
    assert_every_frame_has_its_event(received[-1], ["top"])
    for one, noted, following in zip(received, died_with, received[1:], strict=False):
        assert_the_crash_is_told_first(following)
        told_of_it = [(event.frame_id, event.last_frame_id, event.frames) for event in crashed(following)]
        was_in_flight = [(stamp.frame_id, stamp.last_frame_id, stamp.frames) for stamp in noted]
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
        # Handed over and not yet on the wire: only such events are lost.
        assert first_in_flight - told[-1] - 1 <= SEND_HIGH_WATER_MARK


def own_of(received: Heard) -> list[VerdictEvent]:
    """A boot's events of its own frames."""
    return [event for event in received.verdicts if event.reason != "dropped.crashed"]
