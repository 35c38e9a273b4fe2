"""A line at one rate: every frame that is captured in a window of time, until the receipt of its event."""

import time
from collections import Counter

import msgspec
import numpy as np

from heatline.bench.end_to_end.kept_up import latency_growth_ms, why_not_kept_up
from heatline.bench.end_to_end.line import (
    SETTLE_FRAMES,
    SETTLE_SECONDS,
    Line,
    ReceivedVerdict,
    Scene,
    count_unreported,
    due_ns,
    running,
)
from heatline.bench.processes import cpu_s, sample_tree
from heatline.bench.spread import Latency

LATE_AFTER_PERIODS = 2.0


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the frames that were captured in a window, all cameras together."""

    rate_fps: float
    """Of each camera."""
    seconds: float
    frames: int
    """Captured frames."""
    came_fps: float
    """Rate of the camera of which fewest frames came."""
    inspected: int
    dropped: dict[str, int]
    failed: dict[str, int]
    unreported: int
    """Frames that no event reported."""
    late: int
    """Inspected frames whose event came later than `late_after_ms`."""
    late_after_ms: float
    latency: Latency | None
    """Of the inspected frames, from when a frame was due; None: there were none."""
    latency_growth_ms: float | None = None
    """By how much the latency of the window's last quarter exceeds that of its first."""
    not_kept_up: str | None = None
    """Why the rate was not kept up with; None: it was."""
    camera_late_p99_ms: float | None
    """From when a frame was due to its timestamp: cameras' processes wait for the processor too."""
    jitter_periods: float | None
    """p99 - p50 of the latency, divided by the time between two frames of a camera."""
    verdicts: dict[str, int]
    cpu_cores: dict[str, float]
    """Processor time per second: of the service and of its cameras' processes."""
    pss_mb: float
    """PSS of all processes together at the end of the window, MB = 1e6 bytes."""
    most_mb: float
    """The same if these processes shared no library with each other or with other processes."""
    pictures_mb: float
    """The part that the pictures of the simulated cameras take; a real camera's process holds none."""


def run_window(scene: Scene, rate_fps: float, seconds: float) -> Window:
    """Start the line, wait until it has settled, and measure a window.

    Raises:
        BenchError: the service failed, or reported a wrong verdict.
    """
    with running(scene, rate_fps, waits=False) as line:
        began_ns = line.settle(scene.cameras) + round(max(SETTLE_SECONDS, SETTLE_FRAMES / rate_fps) * 1e9)
        line.receive_until(began_ns)
        return _measure(line, scene, rate_fps, began_ns, seconds)


def _measure(line: Line, scene: Scene, rate_fps: float, began_ns: int, seconds: float) -> Window:
    """Measure the window that begins now, until the receipt of its last frame's event."""
    pids = {"service": [line.watched.pid], "cameras": line.watched.camera_pids()}
    before = {name: sum(map(cpu_s, of)) for name, of in pids.items()}
    ended_ns = began_ns + round(seconds * 1e9)
    received = line.receive_until(ended_ns)
    took_s = (time.monotonic_ns() - began_ns) / 1e9
    cpu = {name: (sum(map(cpu_s, of)) - before[name]) / took_s for name, of in pids.items()}
    line.watched.require_cameras(pids["cameras"])
    sample = sample_tree(line.watched.pid)
    assert sample is not None, "it reported a frame a moment ago"
    line.receive_past(received, scene.cameras, rate_fps, lambda one: one.captured_ns >= ended_ns)
    within = [one for one in received if began_ns <= one.captured_ns < ended_ns]
    memory = sample.pss_bytes / 1e6, (sample.own_bytes + sample.file_bytes) / 1e6
    pictures_mb = scene.cameras * scene.expected.picture_bytes / 1e6
    return window_of(within, scene.cameras, rate_fps, seconds, cpu, (*memory, pictures_mb))


def window_of(
    received: list[ReceivedVerdict],
    cameras: int,
    rate_fps: float,
    seconds: float,
    cpu: dict[str, float],
    memory_mb: tuple[float, float, float],
) -> Window:
    """Count and time the frames of a window.

    Args:
        received: events of the frames that were captured in the window.
        memory_mb: values of `pss_mb`, `most_mb` and `pictures_mb`.
    """
    late_after_ms = LATE_AFTER_PERIODS * 1e3 / rate_fps
    lost: dict[str, Counter[str]] = {"dropped": Counter(), "failed": Counter()}
    verdicts: Counter[str] = Counter()
    came: Counter[str] = Counter()
    for one in received:
        verdicts[one.event.verdict] += one.event.frames
        came[one.event.camera] += one.event.frames
        if one.event.reason is not None:
            kind, _, reason = one.event.reason.partition(".")
            lost[kind][reason] += one.event.frames
    timed = sorted(zip(received, due_ns(received, rate_fps), strict=True), key=lambda each: each[1])
    late_ms = [(one.at_ns - due) / 1e6 for one, due in timed if one.event.reason is None]
    latency = Latency.of(late_ms) if late_ms else None
    growth_ms = latency_growth_ms(late_ms)
    fewest, unreported = min(came.values()) if len(came) == cameras else 0, count_unreported(received)
    gone = {f"{kind}.{reason}": count for kind, of in lost.items() for reason, count in of.items()}
    not_kept_up = why_not_kept_up(
        rate_fps=rate_fps,
        seconds=seconds,
        fewest=fewest,
        lost=gone | ({"unreported": unreported} if unreported else {}),
        growth_ms=growth_ms,
    )
    pss_mb, most_mb, pictures_mb = memory_mb
    return Window(
        rate_fps=rate_fps,
        seconds=seconds,
        frames=came.total() + unreported,
        came_fps=fewest / seconds,
        inspected=len(late_ms),
        dropped=dict(lost["dropped"]),
        failed=dict(lost["failed"]),
        unreported=unreported,
        late=sum(one > late_after_ms for one in late_ms),
        late_after_ms=late_after_ms,
        latency=latency,
        latency_growth_ms=growth_ms,
        not_kept_up=not_kept_up,
        camera_late_p99_ms=float(np.percentile([(one.captured_ns - due) / 1e6 for one, due in timed], 99))
        if timed
        else None,
        jitter_periods=None if latency is None else (latency.p99 - latency.p50) * rate_fps / 1e3,
        verdicts=dict(verdicts),
        cpu_cores=cpu,
        pss_mb=pss_mb,
        most_mb=most_mb,
        pictures_mb=pictures_mb,
    )
