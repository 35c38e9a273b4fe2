"""Ages of frames from simulated cameras with exactly known clocks, drifts and transport times."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.cameras.liveness import SKEW, CameraClock

SECOND = 1_000_000_000
SINCE_1970 = 1_764_000_000 * SECOND
"""Offset of a camera with UTC (PTP): its clock is 55 years ahead of a host that was booted just now."""


class Simulated:
    """A camera whose frames take a known time to arrive.

    Args:
        drift_ppm: how much faster its clock runs than the host's.
        clock_ns: its clock when the host's clock is 0.
    """

    def __init__(self, drift_ppm: float = 0.0, clock_ns: int = 0) -> None:
        self._drift_ppm, self._clock_ns = drift_ppm, clock_ns
        self._clock = CameraClock()

    def age_ns(self, taken_ns: int, transport_ns: int) -> int:
        ran_off_ns = taken_ns * round(self._drift_ppm * 1000) // 10**9  # in integers, without rounding
        return self._clock.age_ns(self._clock_ns + taken_ns + ran_off_ns, taken_ns + transport_ns)


def by_definition(offsets: list[int], arrived: list[int]) -> list[float]:
    """Return every frame's offset minus the minimum of all offsets so far, each raised by the possible drift since.

    This is the closed form of what the clock computes frame by frame.
    """
    ages = []
    for n, (offset, at) in enumerate(zip(offsets, arrived, strict=True)):
        least = min(o + SKEW * (at - a) for o, a in zip(offsets[: n + 1], arrived[: n + 1], strict=True))
        ages.append(offset - least)
    return ages


@given(
    frames=st.lists(st.tuples(st.integers(1, 100 * SECOND), st.integers(0, 10**12)), min_size=1, max_size=30),
    clock_ns=st.integers(-(10**12), 10**12),
)
def test_an_age_is_never_negative_and_follows_its_definition(frames: list[tuple[int, int]], clock_ns: int) -> None:
    clock, arrived_ns = CameraClock(), 0
    offsets, arrived, ages = list[int](), list[int](), list[int]()
    for after_ns, later_ns in frames:
        arrived_ns += after_ns
        clock_ns += later_ns
        ages.append(clock.age_ns(clock_ns, arrived_ns))
        offsets.append(arrived_ns - clock_ns)
        arrived.append(arrived_ns)
    assert min(ages) >= 0
    assert ages[0] == 0
    assert ages == pytest.approx(by_definition(offsets, arrived), abs=len(frames))


@given(
    frames=st.lists(st.tuples(st.integers(1, 10 * SECOND), st.integers(0, 5 * SECOND)), min_size=1, max_size=40),
    drift_ppm=st.integers(-200, 200),
    clock_ns=st.sampled_from([0, -(10**15), SINCE_1970]),
)
def test_drift_never_makes_a_frame_older_than_it_is(
    frames: list[tuple[int, int]], drift_ppm: int, clock_ns: int
) -> None:
    camera, taken_ns, arrived_ns, least_ns = Simulated(drift_ppm, clock_ns), 0, 0, None
    for after_ns, transport_ns in frames:
        taken_ns += after_ns
        arrived_ns = max(taken_ns + transport_ns, arrived_ns)  # frames do not overtake each other
        took_ns = arrived_ns - taken_ns
        least_ns = took_ns if least_ns is None else min(least_ns, took_ns)
        assert 0 <= camera.age_ns(taken_ns, took_ns) <= took_ns + 1000


def hours_of_frames(hours: float, period_ns: int) -> Iterable[int]:
    return range(0, round(hours * 3600 * SECOND), period_ns)


@pytest.mark.parametrize(("drift_ppm", "clock_ns"), [(-200, SINCE_1970), (200, 0)])
def test_hours_of_drift_between_two_quartz_clocks_are_not_mistaken_for_age(drift_ppm: int, clock_ns: int) -> None:
    camera, rng = Simulated(drift_ppm, clock_ns), np.random.default_rng(6)
    oldest_ns, spread_ns = 0, 4_000_000
    for taken_ns in hours_of_frames(1, SECOND // 2):
        oldest_ns = max(oldest_ns, camera.age_ns(taken_ns, 10_000_000 + int(rng.integers(spread_ns))))
    assert oldest_ns <= spread_ns + 1000, "200 ppm are 0.7 s in an hour"
    assert oldest_ns > spread_ns / 2, "variations of the transport are still noticed"


def test_drift_is_not_mistaken_for_age_at_ten_thousand_frames_a_second() -> None:
    """The offset, which counts ns since 1970, rises by 50 ns from frame to frame."""
    camera = Simulated(-200, SINCE_1970)
    assert max(camera.age_ns(taken_ns, 1_000_000) for taken_ns in range(0, 5 * SECOND, SECOND // 10_000)) <= 1000


@pytest.mark.parametrize("drift_ppm", [-200, 200])
def test_a_sudden_lag_is_the_age_of_its_frames(drift_ppm: int) -> None:
    camera, lag_ns = Simulated(drift_ppm), 2 * SECOND
    for taken_ns in hours_of_frames(0.1, SECOND // 10):
        assert camera.age_ns(taken_ns, 5_000_000) <= 1000
    for n in range(30):
        seconds = n / 10 + 0.1 + lag_ns / SECOND
        age_ns = camera.age_ns(360 * SECOND + n * SECOND // 10, 5_000_000 + lag_ns)
        assert lag_ns - 2 * SKEW * seconds * SECOND <= age_ns <= lag_ns + 1000


@pytest.mark.parametrize("drift_ppm", [-200, 200])
def test_a_lag_that_grows_faster_than_clocks_drift_is_noticed(drift_ppm: int) -> None:
    camera, age_ns = Simulated(drift_ppm), 0
    for taken_ns in hours_of_frames(0.2, SECOND // 10):
        age_ns = camera.age_ns(taken_ns, 5_000_000 + taken_ns // 500)  # 2 ms more every second, for 12 minutes
    true_ns = 720 * SECOND // 500
    assert true_ns * (1 - 700 / 2000) * 0.99 <= age_ns <= true_ns


def test_a_faster_frame_makes_later_frames_older() -> None:
    camera = Simulated()
    assert camera.age_ns(0, 50_000_000) == 0, "the age of the first frame is unknown"
    assert camera.age_ns(SECOND, 50_000_000) <= 50_000
    assert camera.age_ns(2 * SECOND, 10_000_000) == 0
    assert camera.age_ns(3 * SECOND, 50_000_000) == pytest.approx(40_000_000, abs=SKEW * 2 * SECOND)
