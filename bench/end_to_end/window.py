"""The line at one rate: all frames that are taken within a time, each followed to the receipt of its event."""

import time
from collections import Counter

import msgspec

from bench.camera_rates import SETTLE_FRAMES, SETTLE_SECONDS
from bench.end_to_end.latency import Latency
from bench.end_to_end.line import Line, Scene, Told, missed, running
from bench.processes import cpu_s
from bench.soak.process_tree import sample_tree
from edge.errors import BenchError

FIRST_WITHIN_SECONDS = 60.0
LAST_WITHIN_SECONDS = 10.0
LATE_AFTER_PERIODS = 2.0


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the frames that were taken within a time, all cameras together."""

    rate_fps: float | None
    """Of each camera; None: a frame is there whenever there is room for it."""
    seconds: float
    frames: int
    """That were taken."""
    inspected: int
    dropped: dict[str, int]
    failed: dict[str, int]
    unheard: int
    """Frames that no event was heard of."""
    late: int
    """Inspected frames whose event came later than `late_after_ms`."""
    late_after_ms: float | None
    latency: Latency | None
    """Of the inspected ones; None: there were none."""
    jitter_periods: float | None
    """p99 - p50 of the latency over the time between two frames of a camera."""
    verdicts: dict[str, int]
    cpu_cores: dict[str, float]
    """Of the service and of its cameras' processes."""
    pss_mb: float
    """Of all of them together, at the end of the window, MB = 1e6 bytes."""


def run_window(scene: Scene, rate_fps: float, seconds: float, late_after_ms: float | None = None) -> Window:
    """Start the line, let it settle, and follow every frame that is taken from then on.

    Args:
        late_after_ms: None: two frame periods.
    Raises:
        BenchError: the service failed, or judged a picture otherwise than it must.
    """
    with running(scene, rate_fps, waits=False) as line:
        began_ns = settle(line, scene.cameras) + round(max(SETTLE_SECONDS, SETTLE_FRAMES / rate_fps) * 1e9)
        line.hear_until(began_ns)
        return follow(line, scene, rate_fps, began_ns, seconds, late_after_ms or LATE_AFTER_PERIODS * 1e3 / rate_fps)


def settle(line: Line, cameras: int) -> int:
    """Wait until a frame of every camera has come through; when the last of them was heard of, monotonic ns.

    Raises:
        BenchError: from some camera nothing comes.
    """
    there: set[str] = set()
    give_up = time.monotonic() + FIRST_WITHIN_SECONDS
    while len(there) < cameras:
        if time.monotonic() > give_up:
            raise BenchError(f"frames of {len(there)} of {cameras} cameras came within {FIRST_WITHIN_SECONDS:.0f} s")
        if (told := line.next()) is not None and told.event.reason is None:
            there.add(told.event.camera)
    return time.monotonic_ns()


def follow(line: Line, scene: Scene, rate_fps: float, began_ns: int, seconds: float, late_after_ms: float) -> Window:
    """All frames that are taken in a time that has just begun, until the last one's event is heard."""
    pids = {"service": [line.watched.pid], "cameras": line.watched.camera_pids()}
    before = {name: sum(map(cpu_s, of)) for name, of in pids.items()}
    ended_ns = began_ns + round(seconds * 1e9)
    told = line.hear_until(ended_ns)
    took_s = (time.monotonic_ns() - began_ns) / 1e9
    cpu = {name: (sum(map(cpu_s, of)) - before[name]) / took_s for name, of in pids.items()}
    sample = sample_tree(line.watched.pid)
    assert sample is not None, "it was heard a moment ago"
    over: set[str] = set()
    give_up = time.monotonic() + LAST_WITHIN_SECONDS
    while len(over) < scene.cameras and time.monotonic() < give_up:
        if (one := line.next()) is not None:
            told.append(one)
            if one.captured_ns >= ended_ns:
                over.add(one.event.camera)
    within = [one for one in told if began_ns <= one.captured_ns < ended_ns]
    return _window_of(within, rate_fps, seconds, late_after_ms, cpu, sample.pss_bytes / 1e6)


def _window_of(
    told: list[Told], rate_fps: float, seconds: float, late_after_ms: float, cpu: dict[str, float], pss_mb: float
) -> Window:
    lost: dict[str, Counter[str]] = {"dropped": Counter(), "failed": Counter()}
    latencies: list[float] = []
    verdicts: Counter[str] = Counter()
    for one in told:
        verdicts[one.event.verdict] += one.event.frames
        if one.event.reason is None:
            latencies.append(one.latency_ms)
        else:
            kind, _, reason = one.event.reason.partition(".")
            lost[kind][reason] += one.event.frames
    latency = Latency.of(latencies) if latencies else None
    unheard = missed(told)
    return Window(
        rate_fps=rate_fps,
        seconds=seconds,
        frames=sum(one.event.frames for one in told) + unheard,
        inspected=len(latencies),
        dropped=dict(lost["dropped"]),
        failed=dict(lost["failed"]),
        unheard=unheard,
        late=sum(one > late_after_ms for one in latencies),
        late_after_ms=late_after_ms,
        latency=latency,
        jitter_periods=None if latency is None else (latency.p99 - latency.p50) * rate_fps / 1e3,
        verdicts=dict(verdicts),
        cpu_cores=cpu,
        pss_mb=pss_mb,
    )
