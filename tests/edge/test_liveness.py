"""Liveness from frames and their times: without a camera, on a simulated clock."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.liveness import (
    FIRST_FRAME_WITHIN_SECONDS,
    MIN_SILENCE_SECONDS,
    MISSED_TRIGGERS,
    Fault,
    Liveness,
)
from heatline.edge.cameras.settings import FolderSettings, PatternSettings, VideoSettings
from heatline.edge.frames import Stamp

MS = 1_000_000
SECOND = 1_000_000_000


class Watched:
    """A camera on a simulated clock, in ms since it was opened."""

    def __init__(self, opened: Opened | None = None, **keys: object) -> None:
        self.liveness = Liveness(PatternSettings(name="top", **keys))  # type: ignore[arg-type]
        self.frame_id = 0
        self.open(opened or Opened(found="a camera"))

    def open(self, opened: Opened, at_ms: float = 0.0) -> None:
        self.liveness.begin(opened, round(at_ms * MS))

    def frame(self, at_ms: float, digest: int | None = None, taken_ms: float | None = None) -> Fault | None:
        """Deliver a frame, with the camera's clock when it was taken. Without a digest, its picture is new."""
        self.frame_id += 1
        stamp = Stamp(
            "top",
            self.frame_id,
            captured_monotonic_ns=round(at_ms * MS),
            camera_timestamp_ns=None if taken_ms is None else round(taken_ms * MS),
        )
        return self.liveness.check_frame(stamp, self.frame_id if digest is None else digest, round(at_ms * MS))

    def silent(self, at_ms: float) -> bool:
        fault = self.liveness.check_silence(round(at_ms * MS))
        assert fault is None or fault.reason == "silent"
        return fault is not None


def reason(fault: Fault | None) -> str | None:
    return fault.reason if fault else None


# Silence.


def test_a_camera_with_a_stated_period_is_silent_after_the_set_number_of_periods() -> None:
    camera = Watched(Opened(found="", period_s=0.5), silent_after_periods=4)
    for at_ms in range(0, 5000, 500):
        assert camera.frame(at_ms) is None
    assert not camera.silent(4500 + 2000)
    assert camera.silent(4500 + 2001)
    fault = camera.liveness.check_silence(4500 * MS + 2500 * MS)
    assert fault == Fault("silent", "no frame came for 2.5 s, 2.0 s were expected at most")


@pytest.mark.parametrize(
    ("period_s", "frames", "limit_s"),
    [
        (0.001, 1, MIN_SILENCE_SECONDS),
        (0.1, 0, FIRST_FRAME_WITHIN_SECONDS),
        (60, 0, 5 * 60),  # a slow camera's first frame may take longer still
    ],
)
def test_a_fast_camera_has_a_minimum_limit_and_the_first_frame_a_longer_one(
    period_s: float, frames: int, limit_s: float
) -> None:
    camera = Watched(Opened(found="", period_s=period_s))
    for _ in range(frames):
        camera.frame(0)
    assert not camera.silent(limit_s * 1e3)
    assert camera.silent(limit_s * 1e3 + 1)


@given(
    period_ms=st.floats(1, 60e3),
    stated=st.booleans(),
    periods=st.floats(2, 100),
    frames=st.integers(5, 40),
    data=st.data(),
)
def test_only_a_camera_that_stops_is_silent_within_the_stated_time(
    period_ms: float, stated: bool, periods: float, frames: int, data: st.DataObject
) -> None:
    camera = Watched(Opened(found="", period_s=period_ms / 1e3 if stated else None), silent_after_periods=periods)
    at_ms = 0.0
    for _ in range(frames):
        at_ms += period_ms * data.draw(st.floats(0.9, 1.1))
        # The period of a slow camera that does not state it is unknown before some frames have come.
        assert not camera.silent(at_ms) or (not stated and period_ms > FIRST_FRAME_WITHIN_SECONDS * 1e3 / 1.1)
        camera.frame(at_ms)
    limit_ms = max(periods * period_ms, MIN_SILENCE_SECONDS * 1e3)
    assert not camera.silent(at_ms + 0.85 * limit_ms)
    assert camera.silent(at_ms + 1.15 * limit_ms)


def test_a_camera_that_is_slower_than_its_setting_is_not_silent() -> None:
    camera = Watched(Opened(found="", period_s=0.1))
    for at_ms in range(0, 10_000, 1000):
        camera.frame(at_ms)
    assert not camera.silent(9000 + 4900)
    assert camera.silent(9000 + 5100)


def test_one_long_pause_does_not_change_the_period() -> None:
    camera = Watched()
    for at_ms in (0, 100, 200, 300, 4000, 4100, 4200):
        camera.frame(at_ms)
    assert camera.silent(4200 + 600)


def test_a_camera_that_waits_for_triggers_and_one_that_shows_files_may_be_silent() -> None:
    assert not Watched(Opened(found=""), trigger="software").silent(1e9)
    for settings_ in (FolderSettings(name="top", path="."), VideoSettings(name="top", path="v.mp4")):  # type: ignore[arg-type]
        liveness = Liveness(settings_)
        liveness.begin(Opened(found="", period_s=0.1), 0)
        assert liveness.check_silence(10**18) is None


def test_silence_counts_from_each_opening() -> None:
    camera = Watched(Opened(found="", period_s=0.1))
    camera.frame(0)
    assert camera.silent(100e3)
    camera.open(Opened(found="", period_s=0.1), at_ms=100e3)
    assert not camera.silent(100e3 + FIRST_FRAME_WITHIN_SECONDS * 1e3)
    assert camera.silent(100e3 + FIRST_FRAME_WITHIN_SECONDS * 1e3 + 1)


def test_delays_of_the_line_do_not_shorten_the_measured_period() -> None:
    camera = Watched(silent_after_periods=5)
    for n in range(20):  # one frame a second, and the line has time for the next after 0.9 s: its clock stands still
        stamp = Stamp("top", n, captured_monotonic_ns=n * SECOND)
        assert camera.liveness.check_frame(stamp, n, n * 100 * MS) is None
    assert not camera.silent(1900 + 1000), "as soon as the line is quicker, it waits a whole period"


# Frozen pictures.


def test_a_frame_without_pixels_does_not_end_a_frozen_picture() -> None:
    camera = Watched(frozen_after_frames=2)
    camera.frame(0, digest=7)
    camera.frame(1, digest=7)
    lost = Stamp("top", 3, captured_monotonic_ns=2 * MS)
    assert camera.liveness.check_frame(lost, None, 2 * MS) is None
    assert reason(camera.frame(3, digest=7)) == "frozen"


@given(digests=st.lists(st.integers(0, 2), max_size=40), most=st.integers(0, 5), reopened=st.sets(st.integers(0, 39)))
def test_a_camera_is_frozen_after_exactly_the_set_number_of_identical_frames(
    digests: list[int], most: int, reopened: set[int]
) -> None:
    camera = Watched(frozen_after_frames=most)
    for n, digest in enumerate(digests):
        if n in reopened:
            camera.open(Opened(found=""), at_ms=n)
        window = digests[max(n - most, 0) : n + 1]
        frozen = 0 < most == len(window) - 1 and len(set(window)) == 1
        assert reason(camera.frame(n, digest)) == ("frozen" if frozen else None)


# The camera's clock.


def test_a_clock_that_runs_back_is_measured_anew() -> None:
    camera = Watched(stale_after_ms=200)
    assert camera.frame(0, taken_ms=5000) is None
    assert camera.frame(100, taken_ms=3) is None
    assert camera.liveness.taken_ns == 100 * MS
    assert camera.frame(200, taken_ms=103) is None


def test_a_clock_that_stands_still_makes_frames_stale() -> None:
    camera = Watched(stale_after_ms=200)
    reasons = [reason(camera.frame(n * 100, taken_ms=20)) for n in range(5)]
    assert reasons == [None, None, None, "stale", "stale"]


def test_a_clock_may_restart_with_each_opening() -> None:
    camera = Watched()
    camera.frame(0, taken_ms=1e6)
    camera.open(Opened(found=""), at_ms=1000)
    assert camera.frame(1001, taken_ms=3) is None


def test_frames_that_begin_to_lag_are_stale_and_the_detail_states_the_lag() -> None:
    camera = Watched(stale_after_ms=200)
    for n in range(100):
        assert camera.frame(n * 100 + 20, taken_ms=n * 100) is None
    assert camera.frame(10_000 + 200, taken_ms=10_000) is None
    fault = camera.frame(10_100 + 230, taken_ms=10_100)
    assert reason(fault) == "stale"
    assert fault is not None
    assert "210 ms old" in fault.detail


def test_the_time_of_a_frame_is_its_arrival_minus_its_age() -> None:
    camera = Watched()
    for at_ms, taken_ms in ((20, 0), (120, 100), (280, 200)):
        camera.frame(at_ms, taken_ms=taken_ms)
    assert camera.liveness.taken_ns == pytest.approx(220 * MS, abs=0.2 * MS)
    camera.frame(323)  # a camera without a clock: the time of arrival
    assert camera.liveness.taken_ns == 323 * MS


# Triggers.


def test_consecutive_triggers_without_a_frame_are_silence() -> None:
    camera = Watched(trigger="software")
    for n in range(3):
        assert [camera.liveness.record_missed_trigger() for _ in range(MISSED_TRIGGERS - 1)] == [None] * (
            MISSED_TRIGGERS - 1
        )
        camera.frame(n)
    missed = [reason(camera.liveness.record_missed_trigger()) for _ in range(MISSED_TRIGGERS)]
    assert missed == [None] * (MISSED_TRIGGERS - 1) + ["silent"]


# Frame ids.


def test_gaps_are_found_in_ids_which_restart_with_each_opening() -> None:
    camera = Watched(Opened(found="", ids_show_gaps=True))
    assert camera.liveness.missing_ids(Stamp("top", 65534)) == []
    assert camera.liveness.missing_ids(Stamp("top", 2)) == [65535, 1]
    with pytest.raises(ValueError, match="frame id 1 came after 2"):
        camera.liveness.missing_ids(Stamp("top", 1))
    camera.open(Opened(found="", ids_show_gaps=True))
    assert camera.liveness.missing_ids(Stamp("top", 1)) == []


def test_a_run_of_frames_has_no_gap_within_and_ids_without_meaning_are_ignored() -> None:
    camera = Watched(Opened(found="", ids_show_gaps=True))
    camera.liveness.missing_ids(Stamp("top", 1))
    assert camera.liveness.missing_ids(dataclasses.replace(Stamp("top", 2), last_frame_id=9, frames=8)) == []
    assert camera.liveness.missing_ids(Stamp("top", 12)) == [10, 11]
    assert camera.liveness.missing_ids(Stamp("top", None)) == []
    camera = Watched(Opened(found=""))
    assert [camera.liveness.missing_ids(Stamp("top", frame_id)) for frame_id in (5, 1, 1, 900)] == [[]] * 4
