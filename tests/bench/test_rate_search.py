"""The search for the highest rate without a lost frame."""

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.bench.end_to_end.rates import Tries, find_highest


class Trial(NamedTuple):
    rate_fps: float
    not_kept_up: str | None


def search(answers: Any, first_fps: float, tries: Tries) -> tuple[list[Trial], list[Trial]]:
    def run_trial(rate_fps: float, _seconds: float) -> Trial:
        return Trial(rate_fps, None if answers(rate_fps) else "lost")

    return find_highest(run_trial, first_fps, 1000.0, tries, lambda _: None)


@given(capacity_fps=st.floats(10, 900), first_fps=st.floats(10, 900))
def test_the_rate_found_is_at_most_a_tenth_below_the_capacity(capacity_fps: float, first_fps: float) -> None:
    tries = Tries(seconds=2.0, search_seconds=1.0, search=40, holds=3)
    held, tried = search(lambda rate_fps: rate_fps <= capacity_fps, first_fps, tries)
    assert len(held) == 3
    assert {trial.rate_fps for trial in held} <= {held[0].rate_fps}
    assert capacity_fps / 1.1 <= held[0].rate_fps <= capacity_fps
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
def test_a_rate_must_be_confirmed_and_stays_below_the_upper_bound(
    answers: list[bool], first_fps: float, tried_fps: list[float], held_fps: list[float]
) -> None:
    kept_up = iter(answers)
    tries = Tries(seconds=2.0, search_seconds=1.0, search=2, holds=2)
    held, tried = search(lambda _: next(kept_up), first_fps, tries)
    assert [trial.rate_fps for trial in tried] == pytest.approx(tried_fps)
    assert [trial.rate_fps for trial in held] == pytest.approx(held_fps)
