"""The line at one rate: all frames that are taken within a time, each followed to the receipt of its event."""

import time
from collections import Counter

import msgspec
import numpy as np

from bench.end_to_end.kept_up import latency_growth_ms, why_not_kept_up
from bench.end_to_end.line import SETTLE_FRAMES, SETTLE_SECONDS, Line, Scene, Told, due_ns, missed, running
from bench.processes import cpu_s, sample_tree
from bench.spread import Latency

LATE_AFTER_PERIODS = 2.0


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the frames that were taken within a time, all cameras together."""

    rate_fps: float
    """Of each camera."""
    seconds: float
    frames: int
    """That were taken."""
    came_fps: float
    """Of the camera of which fewest came."""
    inspected: int
    dropped: dict[str, int]
    failed: dict[str, int]
    unheard: int
    """Frames that no event was heard of."""
    late: int
    """Inspected frames whose event came later than `late_after_ms`."""
    late_after_ms: float
    latency: Latency | None
    """Of the inspected ones, from when the frame was due; None: there were none."""
    latency_growth_ms: float | None = None
    """By how much the window's last quarter was later than its first."""
    not_kept_up: str | None = None
    """Why the rate was not kept up with; None: it was."""
    camera_late_p99_ms: float | None
    """How much later than it was due a frame got its stamp: cameras that are processes of the same machine wait for the
    processor as well."""
    jitter_periods: float | None
    """p99 - p50 of the latency over the time between two frames of a camera."""
    verdicts: dict[str, int]
    cpu_cores: dict[str, float]
    """Of the service and of its cameras' processes."""
    pss_mb: float
    """Of all of them together, at the end of the window, MB = 1e6 bytes."""
    most_mb: float
    """The same if no other process mapped any library that they map, and they shared none among themselves."""
    pictures_mb: float
    """Of that, the pictures that the cameras hold, all in each: a device's process holds none."""


def run_window(scene: Scene, rate_fps: float, seconds: float) -> Window:
    """Start the line, let it settle, and follow every frame that is taken from then on to its event.

    Raises:
        BenchError: the service failed, or judged a picture otherwise than it must.
    """
    with running(scene, rate_fps, waits=False) as line:
        began_ns = line.settle(scene.cameras) + round(max(SETTLE_SECONDS, SETTLE_FRAMES / rate_fps) * 1e9)
        line.hear_until(began_ns)
        return _follow(line, scene, rate_fps, began_ns, seconds)


def _follow(line: Line, scene: Scene, rate_fps: float, began_ns: int, seconds: float) -> Window:
    """All frames that are taken in a time that has just begun, until the last one's event is heard."""
    pids = {"service": [line.watched.pid], "cameras": line.watched.camera_pids()}
    before = {name: sum(map(cpu_s, of)) for name, of in pids.items()}
    ended_ns = began_ns + round(seconds * 1e9)
    told = line.hear_until(ended_ns)
    took_s = (time.monotonic_ns() - began_ns) / 1e9
    cpu = {name: (sum(map(cpu_s, of)) - before[name]) / took_s for name, of in pids.items()}
    line.watched.require_cameras(pids["cameras"])
    sample = sample_tree(line.watched.pid)
    assert sample is not None, "it was heard a moment ago"
    line.hear_to_the_end(told, scene.cameras, rate_fps, lambda one: one.captured_ns >= ended_ns)
    within = [one for one in told if began_ns <= one.captured_ns < ended_ns]
    memory = sample.pss_bytes / 1e6, (sample.own_bytes + sample.file_bytes) / 1e6
    pictures_mb = scene.cameras * scene.expected.picture_bytes / 1e6
    return window_of(within, scene.cameras, rate_fps, seconds, cpu, (*memory, pictures_mb))


def window_of(
    told: list[Told],
    cameras: int,
    rate_fps: float,
    seconds: float,
    cpu: dict[str, float],
    memory_mb: tuple[float, float, float],
) -> Window:
    """What came of the frames that events told of.

    Args:
        told: all that were taken within the window.
        memory_mb: PSS, at most, pictures.
    """
    late_after_ms = LATE_AFTER_PERIODS * 1e3 / rate_fps
    lost: dict[str, Counter[str]] = {"dropped": Counter(), "failed": Counter()}
    verdicts: Counter[str] = Counter()
    came: Counter[str] = Counter()
    for one in told:
        verdicts[one.event.verdict] += one.event.frames
        came[one.event.camera] += one.event.frames
        if one.event.reason is not None:
            kind, _, reason = one.event.reason.partition(".")
            lost[kind][reason] += one.event.frames
    timed = sorted(zip(told, due_ns(told, rate_fps), strict=True), key=lambda each: each[1])
    late_ms = [(one.at_ns - due) / 1e6 for one, due in timed if one.event.reason is None]
    latency = Latency.of(late_ms) if late_ms else None
    growth_ms = latency_growth_ms(late_ms)
    fewest, unheard = min(came.values()) if len(came) == cameras else 0, missed(told)
    gone = {f"{kind}.{reason}": count for kind, of in lost.items() for reason, count in of.items()}
    not_kept_up = why_not_kept_up(
        rate_fps=rate_fps,
        seconds=seconds,
        fewest=fewest,
        lost=gone | ({"unheard": unheard} if unheard else {}),
        growth_ms=growth_ms,
    )
    pss_mb, most_mb, pictures_mb = memory_mb
    return Window(
        rate_fps=rate_fps,
        seconds=seconds,
        frames=came.total() + unheard,
        came_fps=fewest / seconds,
        inspected=len(late_ms),
        dropped=dict(lost["dropped"]),
        failed=dict(lost["failed"]),
        unheard=unheard,
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
