"""The highest rate without a lost frame: how it is looked for, and what it takes to have kept up with one."""

import os
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.rate_search import LEAST_FRAMES, Seen, Trial, Tries, find_highest, run_trial, trial_of
from tests.bench import made_results as made


def search(answers: Any, first_fps: float, tries: Tries) -> tuple[list[Trial], list[Trial]]:
    (trial,) = made.end_to_end().highest.held  # type: ignore[union-attr]

    def tried_at(rate_fps: float, _seconds: float) -> Trial:
        return msgspec.structs.replace(trial, asked_fps=rate_fps, kept_up=answers(rate_fps))

    return find_highest(tried_at, first_fps, 1000.0, tries, lambda _: None)


@given(capacity_fps=st.floats(10, 900), first_fps=st.floats(10, 900))
def test_the_rate_that_is_found_lies_within_a_tenth_below_what_can_be_kept_up_with(
    capacity_fps: float, first_fps: float
) -> None:
    tries = Tries(seconds=2.0, search_seconds=1.0, search=40, holds=3)
    held, tried = search(lambda rate_fps: rate_fps <= capacity_fps, first_fps, tries)
    assert len(held) == 3
    assert {trial.asked_fps for trial in held} <= {held[0].asked_fps}
    assert capacity_fps / 1.1 <= held[0].asked_fps <= capacity_fps
    assert held == tried[-3:]


@pytest.mark.parametrize(
    ("answers", "first_fps", "tried_fps", "held_fps"),
    [
        ([True, False, True, True], 100, [100, 136, 100, 100], [100, 100]),
        ([True, False, True, False, True, True], 100, [100, 136, 100, 100, 95.2, 95.2], [95.2, 95.2]),
        ([True, True, True, True], 900, [900, 1000, 1000, 1000], [1000, 1000]),
        ([False, False], 100, [100, 73.5], []),
    ],
)
def test_a_rate_must_be_held_again_and_none_lies_above_the_highest_there_is(
    answers: list[bool], first_fps: float, tried_fps: list[float], held_fps: list[float]
) -> None:
    said = iter(answers)
    tries = Tries(seconds=2.0, search_seconds=1.0, search=2, holds=2)
    held, tried = search(lambda _: next(said), first_fps, tries)
    assert [trial.asked_fps for trial in tried] == pytest.approx(tried_fps)
    assert [trial.asked_fps for trial in held] == pytest.approx(held_fps)


def frames(count: int, later_ms: float = 0.0) -> list[Seen]:
    """A camera at 100 frames a second, each frame later by so much than the one before."""
    return [
        Seen("a", i * 10_000_000, i * 10_000_000 + round((5.0 + i * later_ms) * 1e6), 1, None) for i in range(count)
    ]


@pytest.mark.parametrize(
    ("seen", "lost", "cameras", "why_not"),
    [
        (frames(100), {}, 1, None),
        (frames(99), {}, 1, None),  # the window's ends may fall before or after a frame
        (frames(90), {}, 1, "cameras came at 90.0/s"),
        (frames(200), {}, 2, "cameras came at 0.0/s"),  # nothing came of the other one
        (frames(100, later_ms=0.2), {}, 1, None),  # 2 % of the time
        (frames(100, later_ms=0.5), {}, 1, "frames came later and later, by 38 ms"),
        (frames(99), {"dropped.overload": 1}, 1, "lost: dropped.overload 1"),
    ],
)
def test_a_rate_is_kept_up_with_if_all_frames_came_and_none_later_than_the_ones_before(
    seen: list[Seen], lost: dict[str, int], cameras: int, why_not: str | None
) -> None:
    trial = trial_of(100.0, 1.0, cameras, seen, lost, {"service": 0.5})
    assert trial.kept_up == (why_not is None)
    assert why_not is None or trial.why_not == why_not
    assert trial.cpu_ms_per_frame["service"] == pytest.approx(500 / len(seen))


def test_a_window_is_long_enough_for_some_frames() -> None:
    def look() -> Seen:
        now_ns = time.monotonic_ns()
        return Seen("a", now_ns, now_ns, 1, None)

    trial = run_trial(look, 1, 100.0, 0.01, lambda: {"service": [os.getpid()]})
    assert trial.seconds == LEAST_FRAMES / 100.0
    assert trial.came_fps == trial.frames / trial.seconds
    assert set(trial.cpu_ms_per_frame) == {"service"}
