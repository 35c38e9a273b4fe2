"""Faults of a running line: a damaged bundle, a clock that is set, a hung stage, and a dead camera."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.wire.events import StatusEvent
from tests.command import DRAWN_BOARDS, WITHIN_SECONDS
from tests.edge.fault_boots import PATIENT, Hang, LeapingClock, at_start
from tests.edge.lines import (
    NotifySocket,
    RunningLine,
    running,
    write_line,
    write_line_with,
    write_pictures,
)
from tests.small_bundle import dark_square, white_frame

HOUR_S = 3600
WATCHDOG = {"WATCHDOG_USEC": "10000000"}


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
    bundle = shutil.copytree(DRAWN_BOARDS, tmp_path / "bundle")
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
        received = run.end(["top"])
    assert received.last.ledger["top"].failed == {}
    assert seen.read_text() == "", "it forked, or resolved a host"


def scores(run: RunningLine) -> dict[str | None, tuple[str, float | None]]:
    """Return the verdict and score of each picture, the same in more than two rounds of all pictures."""
    events = [run.until_inspected() for _ in range(7)]
    verdicts: dict[str | None, tuple[str, float | None]] = {e.source: (e.verdict, e.frame_score) for e in events}
    assert [verdicts[event.source] for event in events] == [(event.verdict, event.frame_score) for event in events]
    assert len(verdicts) == 3
    return verdicts


def test_a_clock_set_back_and_forward_by_an_hour_affects_no_frame(tmp_path: Path, bundle: Bundle, address: str) -> None:
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
        received = run.end(["top"])
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
        notifications += systemd.next()
    return notifications


@pytest.mark.parametrize(
    "stage", ["publish", pytest.param("infer", marks=pytest.mark.long), pytest.param("judge", marks=pytest.mark.long)]
)
def test_a_hung_stage_stops_heartbeat_and_watchdog(tmp_path: Path, bundle: Bundle, address: str, stage: str) -> None:
    line = write_line_with(tmp_path, bundle.path, address, {"top": PATIENT}, 'heatmaps = "never"')
    hang = Hang(tmp_path / "hang", stage)
    with NotifySocket(tmp_path) as systemd, running(line, address, env={**systemd.env, **WATCHDOG, **hang.env}) as run:
        systemd.wait_for("WATCHDOG=1")
        run.until_handshake("READY")
        with hang.hung():
            until_status_has(systemd, "the inspection had no output")
            for _ in range(2):
                assert "WATCHDOG=1" not in until_status_has(systemd, "the inspection had no output")
        systemd.wait_for("WATCHDOG=1")
        stalled = None if stage == "publish" else run.until_handshake("NOT_READY", "stalled")  # else no event is sent
        after = run.until_handshake("READY")
        received = run.end(["top"])
    handshakes = [status.handshake for status in received.statuses]
    assert [each.heartbeat for each in handshakes] == sorted(each.heartbeat for each in handshakes)
    if stalled is not None:
        assert {each.heartbeat for each in handshakes if each.reason == "stalled"} == {stalled.heartbeat}
        assert after.heartbeat > stalled.heartbeat


def test_a_dead_camera_still_feeds_the_watchdog(tmp_path: Path, bundle: Bundle, address: str) -> None:
    """Without frames, probes pass all stages and feed the watchdog."""
    dead = {"kind": "v4l2", "device": str(tmp_path / "no-such-camera")}
    line = write_line_with(tmp_path, bundle.path, address, {"top": dead}, 'heatmaps = "never"')
    with NotifySocket(tmp_path) as systemd, running(line, address, env={**systemd.env, **WATCHDOG}) as run:
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
