"""The wall clock of a line PC is set back, and forth again: nobody but the time of day that events tell notices."""

from itertools import pairwise
from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.delivery.messages import StatusEvent
from tests.command import WITHIN_SECONDS
from tests.edge.fault_clock import LeapingClock
from tests.edge.lines import RunningLine, assert_every_frame_has_its_event, running, write_line_with

HOUR_S = 3600


@pytest.mark.long
def test_a_clock_that_is_set_back_an_hour_and_forth_again_disturbs_no_frame(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    clock = LeapingClock(tmp_path)
    # Its deadline and all of its liveness would notice an hour.
    camera = {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 40, "waiting_frames": 16, "deadline_ms": 50_000}
    limits = {"silent_after_periods": 2000, "stale_after_ms": 50_000}
    line = write_line_with(tmp_path, bundle.path, address, {"top": {**camera, **limits}}, 'heatmaps = "never"')
    with running(line, address, env=clock.env) as run:
        run.until_inspected()
        clock.leap(-HOUR_S)
        run.until(lambda event: leapt(run, -HOUR_S))
        running_on(run)
        clock.leap(0)
        run.until(lambda event: leapt(run, HOUR_S))
        running_on(run)
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
    """Whether the last two frames told of were taken before and after a leap."""
    times = [event.times.captured_at_ns for event in run.heard.verdicts[-2:]]
    return len(times) == 2 and abs((times[1] - times[0]) / 1e9 - seconds) < HOUR_S / 2


def running_on(run: RunningLine) -> None:
    """Wait for more statuses, and for a frame."""
    for _ in range(2):
        run.until(lambda event: isinstance(event, StatusEvent) and event.state == "RUNNING")
    run.until_inspected()
