"""Liveness from frames and their times on a simulated clock: silence, frozen pictures, ages, missing ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.liveness import (
    FIRST_FRAME_WITHIN_SECONDS,
    MAX_LOST_FRAMES,
    MIN_SILENCE_SECONDS,
    SKEW,
    CameraClock,
    Fault,
    Liveness,
)
from heatline.edge.cameras.settings import FolderSettings, VideoSettings
from heatline.edge.frames import Stamp
from tests.edge.supervised import drawn_camera

MS, SECOND = 1_000_000, 1_000_000_000
HIGHEST = 65535


class Watched:
    """A camera on a simulated clock, in ms since it was opened."""

    def __init__(self, period_s: float | None = None, *, ids_show_gaps: bool = False, **keys: object) -> None:
        self.liveness = Liveness(drawn_camera(**keys))
        self.opened = Opened(found="", ids_show_gaps=ids_show_gaps, period_s=period_s)
        self.frame_id = 0
        self.open()

    def open(self, at_ms: float = 0.0) -> None:
        self.liveness.begin(self.opened, round(at_ms * MS))

    def frame(self, at_ms: float, digest: int | None = None, taken_ms: float | None = None) -> str | None:
        """Deliver a frame, with the camera's clock when it was taken; return its fault. Without a digest, its picture
        is new."""
        self.frame_id += 1
        taken_ns = None if taken_ms is None else round(taken_ms * MS)
        stamp = Stamp("top", self.frame_id, camera_timestamp_ns=taken_ns, captured_monotonic_ns=round(at_ms * MS))
        return reason(self.liveness.check_frame(stamp, digest or self.frame_id + 100, round(at_ms * MS)))

    def next(self, frame_id: int | None, last: int | None = None) -> list[int]:
        return self.liveness.missing_ids(Stamp("top", frame_id, last_frame_id=last))[0]

    def silent(self, at_ms: float) -> bool:
        return reason(self.liveness.check_silence(round(at_ms * MS))) == "silent"


def reason(fault: Fault | None) -> str | None:
    return fault.reason if fault else None


@pytest.mark.parametrize(
    ("period_s", "frames_at_ms", "limit_s"),
    [
        (2, [], 5 * 2),
        (2, range(0, 20_000, 1900), 5 * 2),  # jitter
        (0.5, range(0, 5000, 500), 5 * 0.5),
        (0.001, [0], MIN_SILENCE_SECONDS),
        (0.1, [], FIRST_FRAME_WITHIN_SECONDS),
        (60, [], 5 * 60),  # a slow camera's first frame may take longer still
        (0.1, range(0, 10_000, 1000), 5 * 1),  # it is slower than its setting
        (None, (0, 100, 200, 300, 4000, 4100, 4200), 5 * 0.1),  # one long pause does not change the period
    ],
)
def test_a_camera_is_silent_after_five_periods(period_s: float | None, frames_at_ms: list[int], limit_s: float) -> None:
    camera, last_ms = Watched(period_s), 0
    for last_ms in frames_at_ms:
        camera.frame(last_ms)
    assert not camera.silent(last_ms + limit_s * 1e3)
    assert camera.silent(last_ms + limit_s * 1e3 + 1)
    camera.open(at_ms=1e6)  # it counts from each opening
    assert not camera.silent(1e6 + FIRST_FRAME_WITHIN_SECONDS * 1e3)
    assert not (patient := Watched(1.0, silent_after_periods=20)).frame(0)
    assert (patient.silent(20_000), patient.silent(20_001)) == (False, True)


def test_a_camera_that_waits_for_triggers_and_one_that_shows_files_may_be_silent() -> None:
    assert not Watched(trigger="software").silent(1e9)
    for settings in (FolderSettings(name="top", path="."), VideoSettings(name="top", path="v.mp4")):  # type: ignore[arg-type]
        assert Liveness(settings).check_silence(10**18) is None


@given(
    digests=st.lists(st.integers(0, 2), max_size=40), most=st.integers(0, 5), interrupted=st.sets(st.integers(0, 39))
)
def test_a_camera_is_frozen_after_identical_frames(digests: list[int], most: int, interrupted: set[int]) -> None:
    """Neither an opening nor a frame without pixels ends a frozen picture."""
    camera = Watched(frozen_after_frames=most)
    for n, digest in enumerate(digests):
        if n in interrupted:
            camera.open(at_ms=n)
            camera.liveness.check_frame(Stamp("top", None), None, n * MS)
        window = digests[max(n - most, 0) : n + 1]
        frozen = 0 < most == len(window) - 1 and len(set(window)) == 1
        assert camera.frame(n, digest + 1) == ("frozen" if frozen else None)


@given(
    frames=st.lists(st.tuples(st.integers(1, 100 * SECOND), st.integers(0, 10**12)), min_size=1, max_size=30),
    clock_ns=st.integers(-(10**12), 1_764_000_000 * SECOND),  # or UTC: 55 years ahead of a host that booted just now
)
def test_an_age_is_the_offset_above_the_least_raised_by_drift(frames: list[tuple[int, int]], clock_ns: int) -> None:
    clock, arrived_ns, before = CameraClock(), 0, list[tuple[int, int]]()
    for after_ns, later_ns in frames:
        arrived_ns += after_ns
        clock_ns += later_ns
        offset = arrived_ns - clock_ns
        before.append((offset, arrived_ns))
        least = min(o + round(SKEW * (arrived_ns - at)) for o, at in before)  # the closed form of its sum
        age_ns = clock.age_ns(clock_ns, arrived_ns)
        assert age_ns >= 0
        assert abs(age_ns - (offset - least)) <= len(before)


def test_a_frame_that_lags_is_stale_and_its_time_is_its_arrival_minus_its_age() -> None:
    camera = Watched(stale_after_ms=200)
    for n in range(100):
        assert camera.frame(n * 100 + 20, taken_ms=n * 100) is None
    assert camera.frame(10_000 + 200, taken_ms=10_000) is None
    assert camera.liveness.taken_ns == pytest.approx(10_020 * MS, abs=0.2 * MS)
    assert camera.frame(10_100 + 230, taken_ms=10_100) == "stale"
    camera.frame(10_500)  # without a clock: the time of arrival
    assert camera.liveness.taken_ns == 10_500 * MS


def test_a_clock_may_run_back_and_restart_but_not_stand_still() -> None:
    camera = Watched(stale_after_ms=200)
    for at_ms, taken_ms in ((0, 5000), (100, 3), (200, 103)):
        assert camera.frame(at_ms, taken_ms=taken_ms) is None
    camera.open(at_ms=1000)
    assert camera.frame(1001, taken_ms=10_000) is None
    assert [camera.frame(1001 + n * 100, taken_ms=10_000) for n in range(1, 4)] == [None, None, "stale"]


@pytest.mark.parametrize("highest", [HIGHEST, None])
@given(data=st.data())
def test_every_lost_frame_is_named_once_and_no_other_across_the_wrap(highest: int | None, data: st.DataObject) -> None:
    lost = st.one_of(st.integers(0, 3), st.integers(0, 1000))
    pieces = data.draw(st.lists(st.tuples(lost, st.integers(1, 5)), max_size=8), "frames lost, frames that came as one")
    top = highest or 2**63
    last = data.draw(st.one_of(st.integers(max(top - 1000, 1), top), st.integers(1, top)), "first id")
    ids = Watched(ids_show_gaps=True)
    assert ids.next(last) == [], "frames before the first one are unknown"
    for lost_frames, came in pieces:
        steps = range(last, last + lost_frames + came)
        counted = [step % highest + 1 if highest else step + 1 for step in steps]  # 1 follows the highest, never 0
        first_of_run, last = counted[lost_frames], counted[-1]
        assert ids.next(first_of_run, last if came > 1 else None) == counted[:lost_frames]


@pytest.mark.parametrize("first", [30_000, 10**9])
@pytest.mark.parametrize("step", [0, -1, MAX_LOST_FRAMES + 1])
def test_an_id_that_repeats_or_runs_back_and_a_step_of_over_half_of_16_bits_is_an_error(first: int, step: int) -> None:
    ids, wrong = Watched(ids_show_gaps=True), first + step
    ids.next(first)
    assert f"frame id {wrong} came after {first}" in str(ids.liveness.missing_ids(Stamp("top", wrong))[1])
    assert ids.next(wrong + MAX_LOST_FRAMES) == list(range(wrong + 1, wrong + MAX_LOST_FRAMES))


def test_ids_restart_with_each_opening_and_do_not_count_where_they_show_no_gaps() -> None:
    camera = Watched(ids_show_gaps=True)
    assert [camera.next(frame_id) for frame_id in (65534, None, 2)] == [[], [], [65535, 1]]
    camera.open()
    assert camera.liveness.missing_ids(Stamp("top", 1)) == ([], None)
    blind = Watched()
    assert [blind.liveness.missing_ids(Stamp("top", frame_id)) for frame_id in (5, 1, 1, 900)] == [([], None)] * 4
