"""A line at a rate: every frame of a window, whether the line kept up, and the highest rate at which it does."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from heatline.bench.end_to_end.line import (
    SETTLE_FRAMES,
    SETTLE_SECONDS,
    ReceivedVerdict,
    Scene,
    count_unreported,
    due_ns,
    running,
)
from heatline.bench.processes import cpu_ns, pss_bytes
from heatline.bench.spread import Latency

LATE_AFTER_PERIODS = 2.0
NEAR_ENOUGH = 0.98
"""Share of the expected frames that must come: a camera may round its rate."""
MOST_GROWTH = 0.03
"""By how much of the time that passes frames may become later: more is a queue that grows."""
QUARTERS = 4
LEAST_FRAMES = 16
"""Frames of each camera in a window: if there are fewer, the buffers hide that a line does not keep up."""
STEP = 1.36
"""Factor between rates until the line keeps up with one and not with another; two bisections reach 8 %."""
WITHIN = 1.08
STEP_DOWN = 1.05
"""Factor from a rate that the line kept up with once and not again."""
TRIES, TRIES_TO_HOLD = 12, 9
"""Most windows of the search, and to confirm a rate."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the frames that were captured in a window, all cameras together."""

    rate_fps: float
    """Of each camera; of the slowest, if they differ."""
    seconds: float
    not_kept_up: str | None
    """Why the rate was not kept up with; None: it was."""
    frames: int
    """Captured frames."""
    inspected: int
    dropped: dict[str, int]
    failed: dict[str, int]
    unreported: int
    """Frames that no event reported."""
    late: int
    """Inspected frames whose event came later than two periods after it was due."""
    latency: Latency | None
    """Of the inspected frames, from when a frame was due, ms; None: there were none."""
    jitter_periods: float | None
    """p99 - p50 of the latency, divided by the time between two frames of a camera."""
    cpu_cores: dict[str, float]
    """Processor time per second: of the service and of its cameras' processes."""
    pss_mb: float
    """PSS of all processes together at the end of the window, MB = 1e6 bytes."""


def run_window(scene: Scene, rates: Mapping[str, float], seconds: float) -> Window:
    """Start the line, wait until it has settled, and measure a window.

    Args:
        rates: frames per second by camera.
    Raises:
        BenchError: the service failed, or reported a wrong verdict.
    """
    slowest_fps = min(rates.values())
    with running(scene, rates) as line:
        began_ns = line.settle(len(rates)) + round(max(SETTLE_SECONDS, SETTLE_FRAMES / slowest_fps) * 1e9)
        line.receive_until(began_ns)
        pids = {"service": [line.watched.pid], "cameras": line.watched.camera_pids()}
        before = {name: sum(map(cpu_ns, of)) for name, of in pids.items()}
        ended_ns = began_ns + round(seconds * 1e9)
        received = line.receive_until(ended_ns)
        took_ns = time.monotonic_ns() - began_ns
        cpu_cores = {name: (sum(map(cpu_ns, of)) - before[name]) / took_ns for name, of in pids.items()}
        line.watched.require_cameras(pids["cameras"])
        pss = pss_bytes(line.watched.pid)
        received += line.receive_past(ended_ns, len(rates), slowest_fps)
    within = [one for one in received if began_ns <= one.captured_ns < ended_ns]
    return window_of(within, rates, seconds, cpu_cores, pss / 1e6)


def window_of(
    received: Sequence[ReceivedVerdict],
    rates: Mapping[str, float],
    seconds: float,
    cpu_cores: dict[str, float],
    pss_mb: float,
) -> Window:
    """Count and time the frames of a window.

    Args:
        received: events of the frames that were captured in the window.
        rates: frames per second by camera.
    """
    lost: dict[str, Counter[str]] = {"dropped": Counter(), "failed": Counter()}
    came: Counter[str] = Counter(dict.fromkeys(rates, 0))
    for one in received:
        came[one.event.camera] += one.event.frames
        if one.event.reason is not None:
            kind, _, reason = one.event.reason.partition(".")
            lost[kind][reason] += one.event.frames
    timed = sorted(zip(received, due_ns(received, rates), strict=True), key=lambda each: each[1])
    inspected = [(one, (one.at_ns - due) / 1e6) for one, due in timed if one.event.reason is None]
    late_ms = [ms for _, ms in inspected]
    latency = Latency.of(late_ms) if late_ms else None
    unreported, rarest = count_unreported(received), min(rates, key=lambda name: came[name] / rates[name])
    gone = {f"{kind}.{reason}": count for kind, of in lost.items() for reason, count in of.items()}
    gone |= {"unreported": unreported} if unreported else {}
    slowest_fps = min(rates.values())
    return Window(
        rate_fps=slowest_fps,
        seconds=seconds,
        not_kept_up=why_not_kept_up(rates[rarest], seconds, came[rarest], gone, latency_growth_ms(late_ms)),
        frames=came.total() + unreported,
        inspected=len(late_ms),
        dropped=dict(lost["dropped"]),
        failed=dict(lost["failed"]),
        unreported=unreported,
        late=sum(ms > LATE_AFTER_PERIODS * 1e3 / rates[one.event.camera] for one, ms in inspected),
        latency=latency,
        jitter_periods=None if latency is None else (latency.p99 - latency.p50) * slowest_fps / 1e3,
        cpu_cores=cpu_cores,
        pss_mb=pss_mb,
    )


# Whether a line kept up with a rate: no frame was lost, all frames came, and the last ones no later than the first.


def latency_growth_ms(latencies_ms: Sequence[float]) -> float | None:
    """Return by how much the median of the last quarter exceeds that of the first; None: there are too few frames.

    Args:
        latencies_ms: in the order of capture.
    """
    if not (quarter := len(latencies_ms) // QUARTERS):
        return None
    return float(np.median(latencies_ms[-quarter:]) - np.median(latencies_ms[:quarter]))


def why_not_kept_up(
    rate_fps: float, seconds: float, fewest: int, lost: Mapping[str, int], growth_ms: float | None
) -> str | None:
    """Return why a rate was not kept up with; None: it was.

    Args:
        fewest: frames of the camera of which fewest came.
        lost: frames that were lost, by reason.
    """
    if lost:
        return "lost: " + ", ".join(f"{reason} {count}" for reason, count in lost.items())
    if fewest + 1 < NEAR_ENOUGH * rate_fps * seconds:  # whether the window's ends fell before or after one is chance
        return f"cameras came at {fewest / seconds:.1f}/s"
    if growth_ms is None:
        return f"too few frames to see whether they came later and later; it takes {QUARTERS}"
    # From the middle of the first quarter to that of the last, three quarters of the time pass.
    if growth_ms > MOST_GROWTH * 0.75 * seconds * 1e3 + 0.25 * 1e3 / rate_fps:
        return f"frames came later and later, by {growth_ms:.0f} ms"
    return None


# The highest rate: searched in short windows, then confirmed in longer ones.


Attempt = TypeVar("Attempt", bound=Any)
"""Outcome of a window at one rate: `rate_fps`, and `not_kept_up`, why the rate was not kept up with, or None."""


def find_highest(
    attempt: Callable[[float, float], Attempt],
    first_fps: float,
    most_fps: float,
    lengths_s: tuple[float, float],
    report_line: Callable[[str], None],
) -> tuple[Attempt | None, list[Attempt]]:
    """Find the highest rate that is kept up with, and confirm it.

    Args:
        attempt: runs a window at a rate, of a length in seconds.
        first_fps: rate of the first window.
        most_fps: highest rate of the cameras.
        lengths_s: of a window of the search, and of one that confirms a rate.
    Returns:
        the window that confirms the rate, None if there is no such rate; and all windows in their order.
    """
    tried: list[Attempt] = []
    passed = failed = None  # the highest rate that was kept up with, and the lowest above it that was not
    rate_fps = first_fps

    def run(rate_fps: float, seconds: float) -> Attempt:
        tried.append(attempt(rate_fps, seconds))
        report_line(f"{rate_fps:g} frames/s: {tried[-1].not_kept_up or 'kept up'}")
        return tried[-1]

    while len(tried) < TRIES:
        rate_fps = min(float(f"{rate_fps:.3g}"), most_fps)
        if run(rate_fps, lengths_s[0]).not_kept_up is None:
            passed = rate_fps
        else:
            failed = rate_fps
        if passed == most_fps or (passed and failed and failed / passed <= WITHIN):
            break
        rate_fps = math.sqrt(passed * failed) if passed and failed else passed * STEP if passed else rate_fps / STEP
    if passed is None:
        return None, tried
    for _ in range(TRIES_TO_HOLD):
        if (one := run(passed, lengths_s[1])).not_kept_up is None:
            return one, tried
        passed = float(f"{passed / STEP_DOWN:.3g}")
    return None, tried
