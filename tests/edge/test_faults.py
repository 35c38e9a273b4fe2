"""Faults of a running line: damage, a clock that is set, a burst, a hung stage, full and failing disks, and kill -9."""

import os
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.frames import Stamp, Watermark
from heatline.edge.inspection import in_flight_log
from heatline.edge.inspection.in_flight_log import FILE_NAME, InFlightLog, read_previous_run
from heatline.edge.wire.events import StatusEvent, VerdictEvent
from tests.command import WITHIN_SECONDS, complaint, heatline
from tests.edge.fault_boots import (
    Hang,
    LeapingClock,
    assert_the_crash_is_reported_first,
    at_start,
    boots,
    crashed,
    die,
    ids,
    in_flight,
)
from tests.edge.fault_disks import fill, small_disk
from tests.edge.journals import events_in
from tests.edge.lines import (
    NotifySocket,
    RunningLine,
    assert_every_frame_has_its_event,
    notify_socket,
    running,
    write_line,
    write_line_with,
    write_pictures,
)
from tests.small_bundle import dark_square, white_frame

REAL_BUNDLE = Path(__file__).parents[2] / "examples/drawn_boards/bundle"
"""A bundle with some MB of weights, which an engine maps into memory and may read later."""
HOUR_S = 3600
WATCHDOG = {"WATCHDOG_USEC": "10000000"}
# On a busy machine a camera may be silent for a moment, so only a minute of silence is an alarm here.
PATIENT = {
    "kind": "pattern", "draw_size": [230, 230], "rate_fps": 20, "silent_after_periods": 1200,
    "waiting_frames": 8, "on_overload": "block",
}  # fmt: skip
UNKNOWN_AFTER_A_CRASH = "after a crash nobody will know which frames were in flight"
FASTER_THAN_INSPECTION = {"kind": "pattern", "draw_size": [240, 240], "rate_fps": 200, "waiting_frames": 8}
MANY_TILES = 'heatmaps = "never"\n\n[tiles]\noverlap_px = 222\n\n[engine]\nthreads = 1'
"""Dozens of tiles in a small frame, so that some frames are always in flight."""


@pytest.fixture
def line(tmp_path: Path, bundle: Bundle, address: str) -> Path:
    """A line that loses no frame, however slow the machine is."""
    return write_line_with(tmp_path, bundle.path, address, {"top": PATIENT}, 'heatmaps = "never"')


def overwrite(file: Path) -> None:
    """Overwrite a file with zeros, in place."""
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.write(bytes(size))


def cut_off(file: Path) -> None:
    """Truncate a file, as the start of a copy over it does."""
    with file.open("r+b") as stream:
        stream.truncate(0)


WATCHING = """
import os, sys

def watch(event, arguments):
    if event in ("os.fork", "os.forkpty", "socket.getaddrinfo", "urllib.Request"):
        with open({seen!r}, "a") as file:
            print(event, *map(str, arguments), file=file)

sys.addaudithook(watch)
"""


@pytest.mark.parametrize("engine", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.long)])
def test_a_damaged_bundle_changes_no_verdict_of_a_running_line_which_never_forks_or_resolves_a_host(
    tmp_path: Path, address: str, engine: str
) -> None:
    """Its libraries must not fork either: a fork of a process with many threads may hang for ever, and holds the
    line's port and state folder."""
    bundle = shutil.copytree(REAL_BUNDLE, tmp_path / "bundle")
    grey = white_frame((224, 224)) // 2
    write_pictures(tmp_path / "frames", {"1.png": grey, "2.png": dark_square(grey, 40, 60), "3.png": grey // 2})
    tables = f'[engine]\nkind = "{engine}"\nthreads = 1\n\n[thresholds]\ncheck_plausibility = false'
    line = write_line(tmp_path, bundle, address, {"top": 'path = "frames"\nloop = true\nrate_fps = 30'}, tables)
    seen = tmp_path / "seen"
    seen.touch()
    watched = at_start(tmp_path / "watcher", WATCHING.replace("{seen!r}", repr(str(seen))))
    # Some libraries behave differently on a CI machine, which these variables mark.
    with running(line, address, env={**watched, "CI": "", "TF_BUILD": "", "JENKINS_URL": ""}) as run:
        before = scores(run)
        for damage in (overwrite, cut_off, Path.unlink):
            for file in bundle.iterdir():
                damage(file)
            assert scores(run) == before, damage
        received = run.end()
    assert_every_frame_has_its_event(received, ["top"])
    assert received.last.ledger["top"].failed == {}
    assert seen.read_text() == "", "it forked, or resolved a host"


def scores(run: RunningLine) -> dict[str | None, tuple[str, float | None]]:
    """Return the verdict and score of each picture, the same in more than two rounds of all pictures."""
    events = [run.until_inspected() for _ in range(7)]
    verdicts: dict[str | None, tuple[str, float | None]] = {e.source: (e.verdict, e.frame_score) for e in events}
    assert [verdicts[event.source] for event in events] == [(event.verdict, event.frame_score) for event in events]
    assert len(verdicts) == 3
    return verdicts


def test_a_clock_that_is_set_back_and_forward_by_an_hour_affects_no_frame(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    clock = LeapingClock(tmp_path)
    # The deadline and both liveness limits are shorter than an hour.
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
    captured_ns = [event.times.captured_monotonic_ns for event in received.verdicts]
    assert captured_ns == sorted(captured_ns)
    hours = [round((b.at_ns - a.at_ns) / 1e9 / HOUR_S) for a, b in pairwise(received.statuses)]
    assert [hour for hour in hours if hour] == [-1, 1], "statuses have the time of the clock that was set"


def leapt(run: RunningLine, seconds: int) -> bool:
    """Return whether the last two reported frames were captured before and after a leap."""
    times = [event.times.captured_at_ns for event in run.received.verdicts[-2:]]
    return len(times) == 2 and abs((times[1] - times[0]) / 1e9 - seconds) < HOUR_S / 2


# A stage that hangs no longer feeds systemd's watchdog, and the status has the reason; a missing camera still feeds it.


def until_status_has(systemd: NotifySocket, excerpt: str) -> list[str]:
    """Wait for a status that contains a text; return all notifications up to it."""
    notifications: list[str] = []
    while not any(one.startswith("STATUS=NOT_READY: running, ") and excerpt in one for one in notifications):
        notifications += systemd.socket.recv(4096).decode().split("\n")
    return notifications


@pytest.mark.parametrize(
    "stage", ["judge", pytest.param("infer", marks=pytest.mark.long), pytest.param("publish", marks=pytest.mark.long)]
)
def test_a_hung_stage_stops_the_heartbeat_and_no_longer_feeds_the_watchdog(
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
            until_status_has(systemd, "the inspection had no output")
            for _ in range(2):
                assert "WATCHDOG=1" not in until_status_has(systemd, "the inspection had no output")
        systemd.wait_for("WATCHDOG=1")
        stalled = None if stage == "publish" else run.until_handshake("NOT_READY", "stalled")  # else no event is sent
        after = run.until_handshake("READY")
        received = run.end()
    assert_every_frame_has_its_event(received, ["top"])
    handshakes = [status.handshake for status in received.statuses]
    assert [each.heartbeat for each in handshakes] == sorted(each.heartbeat for each in handshakes)
    if stalled is not None:
        assert {each.heartbeat for each in handshakes if each.reason == "stalled"} == {stalled.heartbeat}
        assert after.heartbeat > stalled.heartbeat


def test_a_dead_camera_still_feeds_the_watchdog(tmp_path: Path, bundle: Bundle, address: str) -> None:
    """Without frames, probes pass all stages and feed the watchdog."""
    dead = {"kind": "v4l2", "device": str(tmp_path / "no-such-camera")}
    line = write_line_with(tmp_path, bundle.path, address, {"top": dead}, 'heatmaps = "never"')
    with notify_socket(tmp_path) as systemd, running(line, address, env={**systemd.env, **WATCHDOG}) as run:
        first = run.until_handshake("NOT_READY", "no_camera")
        until_status_has(systemd, "no camera is available")
        for _ in range(2):
            systemd.wait_for("WATCHDOG=1")
        while (last := run.until_handshake("NOT_READY", "no_camera")).heartbeat < first.heartbeat + 2:
            pass
        received = run.end()
    assert "camera top is dead" in str(last.detail)
    assert received.verdicts == []
    assert received.last.ledger["top"].captured == 0, "a probe is not a frame"


# The disk of the state folder is full: the line continues to inspect, and reports it.


def test_on_a_full_disk_all_frames_are_inspected_and_the_state_folder_stays_its_lines(
    tmp_path: Path, line: Path, bundle: Bundle, address: str
) -> None:
    """The in-flight log continues when there is room, and a second line with the same state folder is refused."""
    (tmp_path / "other").mkdir()
    other = write_line_with(tmp_path / "other", bundle.path, f"ipc://{tmp_path}/other/events", {"side": PATIENT})
    with small_disk(tmp_path / "state", mib=32) as state:
        filler, env = fill(state), {"STATE_DIRECTORY": str(state)}
        with running(line, address, env=env) as run:
            run.until_inspected_frames(5)
            run.until_handshake("DEGRADED", "unjournalled")
            assert read_previous_run(state / FILE_NAME).reported == {}
            filler.unlink()
            run.until_handshake("READY")
            refused = heatline("run", other, env=env)
            assert refused.returncode == 7
            assert f"{state} belongs to another line that is running" in complaint(refused)
            run.until_inspected_frames(1)
            run.process.send_signal(signal.SIGTERM)
            received = run.until_stopped()
            assert run.exit_code() == 0
            log = run.process.log()
        previous = read_previous_run(state / FILE_NAME)
    assert_every_frame_has_its_event(received, ["top"])
    assert {event.reason for event in received.verdicts} <= {None, "dropped.stopped"}, "only at the end"
    assert received.alarms == []
    assert f"{state / FILE_NAME} cannot be written ({os.strerror(28)})" in log
    assert log.count(UNKNOWN_AFTER_A_CRASH) == 1
    assert previous.reported == {"top": Watermark(received.last.boot_id, received.last.ledger["top"].captured)}
    assert previous.in_flight == []


# A line is killed with frames in flight: the next start reports exactly these frames, before all others.


@pytest.mark.parametrize("deaths", [2, pytest.param(20, marks=pytest.mark.long)])
def test_after_each_kill_9_the_next_start_reports_the_frames_in_flight(
    tmp_path: Path, bundle: Bundle, address: str, deaths: int
) -> None:
    """Each boot is killed after another number of events, some after the first event."""
    state = tmp_path / "state"
    state.mkdir()
    line = write_line_with(tmp_path, bundle.path, address, {"top": FASTER_THAN_INSPECTION}, MANY_TILES)
    logged = []
    with boots(line, address, state) as lives:
        for death in range(deaths):
            with lives.boot() as run:
                while len(own_of(run.received.verdicts)) < 7 * (death + 1) % 20:
                    run.next()
                die(run)
            logged.append(in_flight(state))
        with lives.boot() as run:
            run.until_inspected()
            run.end()
    received = list(lives.received.values())
    assert_every_frame_has_its_event(received[-1], ["top"])
    stored = [event for event in events_in(state) if isinstance(event, VerdictEvent)]
    for boot_id, stamps, one, following in zip(lives.received, logged, received, received[1:], strict=False):
        assert_the_crash_is_reported_first(following)
        reported = [(event.frame_id, event.last_frame_id, event.frames) for event in crashed(following)]
        expected = [(stamp.frame_id, stamp.last_frame_id, stamp.frames) for stamp in stamps]
        assert reported == expected[: len(reported)]
        if own_of(following.verdicts):  # otherwise this boot was killed before it had sent all of them
            assert reported == expected
        own_ids = ids(own_of([event for event in stored if event.boot_id == boot_id]))
        assert own_ids == list(range(1, len(own_ids) + 1)), "each frame is reported once, in order"
        sent_ids = ids(own_of(one.verdicts))
        assert sent_ids == own_ids[: len(sent_ids)], "an event is journalled before it is sent"
        if own_ids:  # otherwise this boot was killed before its first event, and may have logged no frame
            assert stamps, "some frames are always in flight"
            assert stamps[0].frame_id == own_ids[-1] + 1, "no frame is lost between the events and those in flight"


def own_of(verdicts: list[VerdictEvent]) -> list[VerdictEvent]:
    """Return the events of frames that their boot captured itself."""
    return [event for event in verdicts if event.reason != "dropped.crashed"]


def frame(number: int, frames: int = 1, part_id: str | None = None) -> Stamp:
    """A stamp whose frame id is its number plus 1000."""
    last = number + 999 + frames if frames > 1 else None
    return Stamp("top", number + 1000, number=number, frames=frames, part_id=part_id, last_frame_id=last)


def numbers_of(stamps: list[Stamp]) -> list[int]:
    return [n for stamp in stamps for n in range(stamp.number, stamp.number + stamp.frames)]


def test_a_full_area_is_followed_by_the_other_with_what_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_flight_log, "AREA_BYTES", 2050)
    for foreign in (b"", b"something else", bytes(200_000)):
        (tmp_path / "f").write_bytes(foreign)
        assert read_previous_run(tmp_path / "f").in_flight == []
    for boot in "first", "second":
        log = InFlightLog(tmp_path / "f", boot)
        log.begin({"top": 0, "side": 7})
        for number in range(1, 200):
            log.announced(frame(number, part_id="P-1" if number == 1 else None))
            if number > 5:
                log.reported(frame(number - 5))
            found = read_previous_run(tmp_path / "f")
            assert numbers_of(found.in_flight) == list(range(max(number - 4, 1), number + 1))
            assert found.reported["side"] == Watermark(boot, 7)


def test_what_is_in_the_journal_was_not_in_flight_and_what_it_lacks_is_counted(tmp_path: Path) -> None:
    """The crash may come between the journal's commit and the write to the log, or a power cut after both."""
    log = InFlightLog(tmp_path / "f", "boot-1")
    log.begin({"top": 0, "side": 0, "new": 0})
    log.announced(frame(1, frames=9))
    log.announced(frame(10))
    log.reported(frame(1, frames=9))
    last = read_previous_run(tmp_path / "f", {"side": Watermark("boot-1", 9)})
    assert (numbers_of(last.in_flight), last.reported["top"]) == ([10], Watermark("boot-1", 9))
    assert read_previous_run(tmp_path / "f", {"top": Watermark("boot-1", 10)}).in_flight == []
    assert numbers_of(read_previous_run(tmp_path / "f", {"top": Watermark("boot-0", 70)}).in_flight) == [10]
    new, old = last.written_at_ns + 1, last.written_at_ns - 1
    for journalled, since_ns, missing in (
        ({"top": Watermark("boot-1", 9)}, old, {}),
        ({"top": Watermark("boot-1", 7)}, None, {"top": 2}),
        ({"top": Watermark("boot-0", 70)}, None, {"top": None}),
        ({"side": Watermark("boot-0", 70)}, None, {}),  # no frame of this camera was reported
        ({}, None, {}),  # there is no journal
        ({}, new, {}),  # the journal is new
        ({}, old, {"top": 9}),  # it existed, and the crash came before its first event
    ):
        assert last.unjournalled(journalled, since_ns) == missing
