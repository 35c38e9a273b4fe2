"""What may befall a running line: its bundle damaged, its clock set, a stop within a burst, a library that forks."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.delivery.messages import StatusEvent
from tests.command import WITHIN_SECONDS
from tests.edge.fault_injection import LeapingClock
from tests.edge.lines import (
    RunningLine,
    assert_every_frame_has_its_event,
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
    tables = f'heatmaps = "never"\n\n[engine]\nkind = "{engine}"\nthreads = 1'
    line = write_line(tmp_path, bundle, address, {"top": 'path = "frames"\nloop = true\nrate_fps = 30'}, tables)
    with running(line, address) as run:
        before = scores(run)
        for damage in (overwrite, cut_off, Path.unlink):
            for file in bundle.iterdir():
                damage(file)
            assert scores(run) == before, damage
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["top"])
    assert heard.last.ledger["top"].failed == {}


def scores(run: RunningLine) -> dict[str | None, tuple[str, float | None]]:
    """The verdict and score of each picture, over a round of all and some more."""
    events = [run.until_inspected() for _ in range(7)]
    said: dict[str | None, tuple[str, float | None]] = {e.source: (e.verdict, e.frame_score) for e in events}
    assert [said[event.source] for event in events] == [(event.verdict, event.frame_score) for event in events]
    assert len(said) == 3
    return said


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
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["top"])
    assert heard.alarms == []
    assert {event.reason for event in heard.verdicts} <= {None, "dropped.overload", "dropped.stopped"}
    assert all(0 < event.latency_ms < WITHIN_SECONDS * 1e3 for event in heard.verdicts)
    taken = [event.times.captured_monotonic_ns for event in heard.verdicts]
    assert taken == sorted(taken)
    hours = [round((b.at_ns - a.at_ns) / 1e9 / HOUR_S) for a, b in pairwise(heard.statuses)]
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
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["top"])
    told = [(status.state, status.handshake.reason) for status in heard.statuses if status.handshake is not None]
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
    seen, watcher = tmp_path / "seen", tmp_path / "watcher"
    watcher.mkdir()
    seen.touch()
    (watcher / "sitecustomize.py").write_text(WATCHING.replace("{seen!r}", repr(str(seen))))
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'}, f'[engine]\nkind = "{engine}"')
    # What marks a machine that builds software would keep some libraries quiet.
    env = {"PYTHONPATH": str(watcher), "CI": "", "TF_BUILD": "", "JENKINS_URL": ""}
    with running(line, address, env=env) as run:
        run.until_stopped()
        assert run.exit_code() == 0
    assert seen.read_text() == ""
