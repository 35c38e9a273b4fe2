"""The highest frame rate at which no frame is lost.

A rate is tried by running cameras at it and looking at every frame that was taken within a window. It is kept up with
if each of them came, was inspected and was heard of, and the last ones no later after their capture than the first.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from bench.processes import cpu_s
from edge.errors import BenchError

SETTLE_SECONDS = 0.5
"""The first frames wait while the rest of the service starts: what becomes of them is no matter of rate."""
SETTLE_FRAMES = 3
LEAST_FRAMES = 16
"""Of each camera in a window: of fewer, too many may wait unseen in the buffers of a line that does not keep up."""
FIRST_WITHIN_SECONDS = 60.0
LAST_WITHIN_SECONDS = 10.0
"""After a window: a line that keeps up is not so late."""
NEAR_ENOUGH = 0.98
"""Of the frames that were to come: a camera may round its rate."""
MOST_GROWTH = 0.03
"""By how much of the time that passes frames may become later: more is a queue that grows."""
STEP = 1.36
"""From one rate to the next until one is kept up with and one is not; halved twice, they lie within 8 %."""
WITHIN = 1.08
STEP_DOWN = 1.05
"""From a rate that was kept up with once and not again."""
TRIES_TO_HOLD = 8
"""Beside those that are wanted."""


class Tries(msgspec.Struct, frozen=True, kw_only=True):
    """How much is tried."""

    seconds: float
    """Length of the windows in which a rate is held."""
    search_seconds: float
    """Of those in which it is looked for."""
    search: int
    """Most windows to look for it in."""
    holds: int
    """Windows in which the rate must be kept up with."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Cameras run at one rate, and every frame that was taken within a window. CPU times are of that window too."""

    asked_fps: float
    """Of each camera."""
    seconds: float
    """Length of the window; of one in which a frame was lost, up to then."""
    came_fps: float
    """Frames that came, of the camera of which fewest came."""
    frames: int
    """That came through, all cameras together."""
    lost: dict[str, int]
    """By reason: dropped, failed, lost on the way, or an event that was not heard."""
    latency_p50_ms: float | None
    """From capture (of a GigE Vision camera: the arrival of its first packet) until it was heard of here."""
    latency_p99_ms: float | None
    latency_growth_ms: float | None
    """By how much the window's last quarter was later than its first."""
    cpu_ms_per_frame: dict[str, float]
    """By whose it is: of the service and of its cameras' processes, for example."""
    kept_up: bool
    stopped_ms: float | None = None
    """From SIGTERM until the service said STOPPED."""

    @property
    def why_not(self) -> str:
        """Why it was not kept up with, in words."""
        if self.lost:
            return "lost: " + ", ".join(f"{reason} {count}" for reason, count in self.lost.items())
        if self.came_fps < NEAR_ENOUGH * self.asked_fps:
            return f"cameras came at {self.came_fps:.1f}/s"
        return f"frames came later and later, by {self.latency_growth_ms or 0:.0f} ms"


# Looking for the rate.


def find_highest(
    attempt: Callable[[float, float], Trial],
    first_fps: float,
    most_fps: float,
    tries: Tries,
    say: Callable[[str], None],
) -> tuple[list[Trial], list[Trial]]:
    """Look for the highest rate that is kept up with, then hold it.

    Args:
        attempt: runs at a rate, for so many seconds.
        first_fps: where to begin.
        most_fps: highest rate that there is.
    Returns:
        the trials at the rate that was held, none where there was no such rate; and all trials in their order.
    """
    tried: list[Trial] = []
    kept = missed = None  # the highest rate that was kept up with, and the lowest above it that was not
    rate_fps = first_fps

    def run(rate_fps: float, seconds: float) -> Trial:
        tried.append(attempt(rate_fps, seconds))
        say(f"{rate_fps:g} frames/s: {'kept up' if tried[-1].kept_up else tried[-1].why_not}")
        return tried[-1]

    while len(tried) < tries.search:
        rate_fps = min(float(f"{rate_fps:.3g}"), most_fps)
        if run(rate_fps, tries.search_seconds).kept_up:
            kept = rate_fps
        else:
            missed = rate_fps
        if kept == most_fps or (kept and missed and missed / kept <= WITHIN):
            break
        rate_fps = math.sqrt(kept * missed) if kept and missed else kept * STEP if kept else rate_fps / STEP
    if kept is None:
        return [], tried
    # A search of windows as long as those of holding has held the rate once.
    as_long = tries.search_seconds >= tries.seconds
    held = [trial for trial in tried if trial.asked_fps == kept and trial.kept_up and as_long]
    for _ in range(tries.holds + TRIES_TO_HOLD):
        if len(held) >= tries.holds:
            return held, tried
        trial = run(kept, tries.seconds)
        if trial.kept_up:
            held.append(trial)
        else:
            held, kept = [], float(f"{kept / STEP_DOWN:.3g}")
    return (held if len(held) >= tries.holds else []), tried


# One trial.


class Seen(NamedTuple):
    """A frame that came through, or word of some that did not."""

    camera: str
    captured_ns: int
    heard_ns: int
    frames: int
    lost: str | None
    """Why they did not come through."""


def run_trial(
    look: Callable[[], Seen | None],
    cameras: int,
    rate_fps: float,
    seconds: float,
    processes: Callable[[], Mapping[str, Sequence[int]]],
) -> Trial:
    """Look at every frame that is taken within a window; at the first that is lost, no further.

    Args:
        look: the next frame, or None where nothing came within a moment.
        cameras: how many there are.
        rate_fps: of each of them.
        seconds: length of the window; longer where the rate makes too few frames.
        processes: whose CPU time is taken, by name.
    Raises:
        BenchError: from some camera nothing comes.
    """
    began_ns = _settle(look, cameras, rate_fps)
    seconds = max(seconds, LEAST_FRAMES / rate_fps)
    ended_ns = began_ns + round(seconds * 1e9)
    of = processes()
    cpu_before: dict[str, float] = {}
    cpu_after: dict[str, float] = {}
    seen: list[Seen] = []
    over: set[str] = set()
    lost: Counter[str] = Counter()
    while len(over) < cameras and not lost:
        now_ns = time.monotonic_ns()
        if now_ns >= began_ns and not cpu_before:
            cpu_before = _cpu_s(of)
        if now_ns >= ended_ns and not cpu_after:
            cpu_after = _cpu_s(of)
        if now_ns > ended_ns + LAST_WITHIN_SECONDS * 1e9:
            lost["nothing came any more"] += 1
        one = look()
        if one is None or one.captured_ns < began_ns:
            continue
        if one.captured_ns >= ended_ns:
            over.add(one.camera)
        elif one.lost is None:
            seen.append(one)
        else:
            lost[one.lost] += one.frames
    if lost:
        seconds = max((time.monotonic_ns() - began_ns) / 1e9, 1e-9)
        return trial_of(rate_fps, seconds, cameras, seen, dict(lost), {})
    cpu_after = cpu_after or _cpu_s(of)
    cpu = {name: taken - cpu_before[name] for name, taken in cpu_after.items()}
    return trial_of(rate_fps, seconds, cameras, seen, {}, cpu)


def _settle(look: Callable[[], Seen | None], cameras: int, rate_fps: float) -> int:
    """Wait for every camera's first frame that comes through; returns when the window begins, monotonic ns."""
    there: set[str] = set()
    give_up = time.monotonic() + FIRST_WITHIN_SECONDS
    while len(there) < cameras:
        if time.monotonic() > give_up:
            raise BenchError(
                f"frames of {len(there)} of {cameras} cameras came through within {FIRST_WITHIN_SECONDS:.0f} s"
            )
        if (one := look()) is not None and one.lost is None:
            there.add(one.camera)
    return time.monotonic_ns() + round(max(SETTLE_SECONDS, SETTLE_FRAMES / rate_fps) * 1e9)


def trial_of(
    rate_fps: float, seconds: float, cameras: int, seen: list[Seen], lost: dict[str, int], cpu: Mapping[str, float]
) -> Trial:
    """What came of a window.

    Args:
        seconds: its length.
        seen: all frames that came through.
        lost: those that did not, by reason.
        cpu: seconds, by whose they are.
    """
    count = Counter(one.camera for one in seen)
    fewest = min(count.values()) if len(count) == cameras else 0
    in_order = sorted(seen, key=lambda one: one.captured_ns)
    latencies = np.array([one.heard_ns - one.captured_ns for one in in_order]) / 1e6
    quarter = len(latencies) // 4
    growth_ms = float(np.median(latencies[-quarter:]) - np.median(latencies[:quarter])) if quarter else None
    # From the middle of the first quarter to that of the last, three quarters of the time pass.
    growth_allowed_ms = MOST_GROWTH * 0.75 * seconds * 1e3 + 0.25 * 1e3 / rate_fps
    # Whether the window's ends fell before or after a frame is chance.
    all_came = fewest + 1 >= NEAR_ENOUGH * rate_fps * seconds
    return Trial(
        asked_fps=rate_fps,
        seconds=seconds,
        came_fps=fewest / seconds,
        frames=len(seen),
        lost=lost,
        latency_p50_ms=float(np.median(latencies)) if seen else None,
        latency_p99_ms=float(np.percentile(latencies, 99)) if seen else None,
        latency_growth_ms=growth_ms,
        cpu_ms_per_frame={of: taken * 1e3 / len(seen) for of, taken in cpu.items()} if seen else {},
        kept_up=not lost and all_came and growth_ms is not None and growth_ms <= growth_allowed_ms,
    )


def _cpu_s(of: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: sum(map(cpu_s, pids)) for name, pids in of.items()}
