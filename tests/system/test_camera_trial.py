"""The conditions under which a line keeps up with a rate."""

import os
import time

import pytest

from heatline.bench.end_to_end.rates import LEAST_FRAMES
from tests.system.cameras.trial import Seen, run_trial, trial_of


def frames(count: int, later_ms: float = 0.0) -> list[Seen]:
    """Return frames of a camera at 100 frames a second, whose latency grows by this much per frame."""
    return [
        Seen("a", i * 10_000_000, i * 10_000_000 + round((5.0 + i * later_ms) * 1e6), 1, None) for i in range(count)
    ]


@pytest.mark.parametrize(
    ("seen", "lost", "cameras", "why_not"),
    [
        (frames(100), {}, 1, None),
        (frames(99), {}, 1, None),  # the window's ends may fall before or after a frame
        (frames(90), {}, 1, "cameras came at 90.0/s"),
        (frames(200), {}, 2, "cameras came at 0.0/s"),  # the other camera sent nothing
        (frames(100, later_ms=0.2), {}, 1, None),  # 2 % of the time
        (frames(100, later_ms=0.5), {}, 1, "frames came later and later, by 38 ms"),
        (frames(99), {"dropped.overload": 1}, 1, "lost: dropped.overload 1"),
    ],
)
def test_a_line_keeps_up_if_all_frames_came_and_their_latency_does_not_grow(
    seen: list[Seen], lost: dict[str, int], cameras: int, why_not: str | None
) -> None:
    trial = trial_of(100.0, 1.0, cameras, seen, lost, {"service": 0.5})
    assert trial.not_kept_up == why_not
    assert trial.cpu_ms_per_frame["service"] == pytest.approx(500 / len(seen))


def test_a_window_is_long_enough_for_some_frames() -> None:
    def receive() -> Seen:
        now_ns = time.monotonic_ns()
        return Seen("a", now_ns, now_ns, 1, None)

    trial = run_trial(receive, 1, 100.0, 0.01, lambda: {"service": [os.getpid()]})
    assert trial.seconds == LEAST_FRAMES / 100.0
    assert trial.came_fps == trial.frames / trial.seconds
    assert set(trial.cpu_ms_per_frame) == {"service"}
