"""Runs cameras at one rate: records every frame of a window, and decides whether the line kept up with the rate.

The line kept up if each frame came, was inspected and had an event, and if the latency did not grow.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from heatline.bench.end_to_end.line import SETTLE_FRAMES, SETTLE_SECONDS
from heatline.bench.end_to_end.rates import LEAST_FRAMES, latency_growth_ms, why_not_kept_up
from heatline.bench.processes import cpu_s
from heatline.edge.errors import BenchError

FIRST_WITHIN_SECONDS = 60.0
LAST_WITHIN_SECONDS = 10.0
"""Time limit after a window: a line that keeps up is faster."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Results of cameras at one rate, over the frames of a window. CPU times are of the same window."""

    rate_fps: float
    """Rate of each camera."""
    seconds: float
    """Length of the window; up to the first loss if a frame was lost."""
    came_fps: float
    """Frames per second of the slowest camera."""
    frames: int
    """Number of frames that came through, all cameras together."""
    lost: dict[str, int]
    """Losses by reason: dropped, failed, lost on the way, or an event that was not received."""
    latency_p50_ms: float | None
    """Time from capture (GigE Vision: the arrival of the first packet) to the arrival of the event here."""
    latency_p99_ms: float | None
    latency_growth_ms: float | None
    """Latency of the window's last quarter minus that of its first."""
    cpu_ms_per_frame: dict[str, float]
    """CPU time by owner, for example the service and the processes of its cameras."""
    not_kept_up: str | None
    """Why the line did not keep up; None: it kept up."""


class Seen(NamedTuple):
    """A frame that came through, or a report of lost ones."""

    camera: str
    captured_ns: int
    received_ns: int
    frames: int
    lost: str | None
    """Reason of the loss; None: the frame came through."""


def run_trial(
    receive: Callable[[], Seen | None],
    cameras: int,
    rate_fps: float,
    seconds: float,
    processes: Callable[[], Mapping[str, Sequence[int]]],
) -> Trial:
    """Record every frame of a window, up to the first loss.

    Args:
        receive: returns the next frame, or None if none came within a moment.
        cameras: number of cameras.
        rate_fps: rate of each camera.
        seconds: length of the window; longer if the rate gives too few frames.
        processes: returns the processes whose CPU time is measured, by name.
    Raises:
        BenchError: no frame came from one of the cameras.
    """
    began_ns = _settle(receive, cameras, rate_fps)
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
            lost["no further frame"] += 1
        one = receive()
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


def _settle(receive: Callable[[], Seen | None], cameras: int, rate_fps: float) -> int:
    """Wait for the first frame of every camera; return when the window begins, monotonic ns."""
    ready: set[str] = set()
    give_up = time.monotonic() + FIRST_WITHIN_SECONDS
    while len(ready) < cameras:
        if time.monotonic() > give_up:
            raise BenchError(
                f"frames of {len(ready)} of {cameras} cameras came through within {FIRST_WITHIN_SECONDS:.0f} s"
            )
        if (one := receive()) is not None and one.lost is None:
            ready.add(one.camera)
    return time.monotonic_ns() + round(max(SETTLE_SECONDS, SETTLE_FRAMES / rate_fps) * 1e9)


def trial_of(
    rate_fps: float, seconds: float, cameras: int, seen: list[Seen], lost: dict[str, int], cpu: Mapping[str, float]
) -> Trial:
    """Compute the results of a window.

    Args:
        seconds: length of the window.
        seen: all frames that came through.
        lost: number of lost frames by reason.
        cpu: CPU time by owner, s.
    """
    count = Counter(one.camera for one in seen)
    fewest = min(count.values()) if len(count) == cameras else 0
    in_order = sorted(seen, key=lambda one: one.captured_ns)
    latencies = np.array([one.received_ns - one.captured_ns for one in in_order]) / 1e6
    growth_ms = latency_growth_ms(latencies.tolist())
    not_kept_up = why_not_kept_up(rate_fps=rate_fps, seconds=seconds, fewest=fewest, lost=lost, growth_ms=growth_ms)
    return Trial(
        rate_fps=rate_fps,
        seconds=seconds,
        came_fps=fewest / seconds,
        frames=len(seen),
        lost=lost,
        latency_p50_ms=float(np.median(latencies)) if seen else None,
        latency_p99_ms=float(np.percentile(latencies, 99)) if seen else None,
        latency_growth_ms=growth_ms,
        cpu_ms_per_frame={of: taken * 1e3 / len(seen) for of, taken in cpu.items()} if seen else {},
        not_kept_up=not_kept_up,
    )


def _cpu_s(of: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: sum(map(cpu_s, pids)) for name, pids in of.items()}
