"""The line at one rate: all frames that are taken within a time, each followed to the receipt of its event."""

import time
from collections import Counter
from collections.abc import Callable

import msgspec
import numpy as np

from bench.end_to_end.latency import Latency
from bench.end_to_end.line import Line, Scene, Told, missed, running
from bench.process_tree import sample_tree
from bench.processes import cpu_s
from bench.rate_search import SETTLE_FRAMES, SETTLE_SECONDS
from edge.errors import BenchError

FIRST_WITHIN_SECONDS = 120.0
LAST_WITHIN_SECONDS = 15.0
LATE_AFTER_PERIODS = 2.0


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the frames that were taken within a time, all cameras together."""

    rate_fps: float | None
    """Of each camera; None: a frame is there whenever there is room for it."""
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
    late_after_ms: float | None
    latency: Latency | None
    """Of the inspected ones, from when the frame was due; None: there were none."""
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
        began_ns = settle(line, scene.cameras) + round(max(SETTLE_SECONDS, SETTLE_FRAMES / rate_fps) * 1e9)
        line.hear_until(began_ns)
        return _follow(line, scene, rate_fps, began_ns, seconds)


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
    hear_to_the_end(line, told, scene.cameras, lambda one: one.captured_ns >= ended_ns)
    within = [one for one in told if began_ns <= one.captured_ns < ended_ns]
    memory = sample.pss_bytes / 1e6, (sample.own_bytes + sample.file_bytes) / 1e6
    pictures_mb = scene.cameras * scene.expected.picture_bytes / 1e6
    return window_of(within, scene.cameras, rate_fps, seconds, cpu, (*memory, pictures_mb))


def hear_to_the_end(line: Line, told: list[Told], cameras: int, is_after: Callable[[Told], bool]) -> None:
    """Hear on until of each camera a frame was told of that is of after a time.

    Args:
        told: gets all that is heard.
    Raises:
        BenchError: from some camera nothing comes.
    """
    over: set[str] = set()
    give_up = time.monotonic() + LAST_WITHIN_SECONDS
    while len(over) < cameras:
        if time.monotonic() > give_up:
            raise BenchError(
                f"{cameras - len(over)} of {cameras} cameras fell silent: of nothing that was taken after the window "
                f"was heard within {LAST_WITHIN_SECONDS:.0f} s; try a lower --fps"
            )
        if (one := line.next()) is not None:
            told.append(one)
            if is_after(one):
                over.add(one.event.camera)


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
    inspected: list[Told] = []
    for one in told:
        verdicts[one.event.verdict] += one.event.frames
        came[one.event.camera] += one.event.frames
        if one.event.reason is None:
            inspected.append(one)
        else:
            kind, _, reason = one.event.reason.partition(".")
            lost[kind][reason] += one.event.frames
    dues = due_ns(told, rate_fps)
    latencies = [(one.at_ns - due) / 1e6 for one, due in zip(told, dues, strict=True) if one.event.reason is None]
    camera_late = [(one.captured_ns - due) / 1e6 for one, due in zip(told, dues, strict=True)]
    latency = Latency.of(latencies) if latencies else None
    unheard = missed(told)
    pss_mb, most_mb, pictures_mb = memory_mb
    return Window(
        rate_fps=rate_fps,
        seconds=seconds,
        frames=came.total() + unheard,
        came_fps=min(came.values()) / seconds if len(came) == cameras else 0.0,
        inspected=len(inspected),
        dropped=dict(lost["dropped"]),
        failed=dict(lost["failed"]),
        unheard=unheard,
        late=sum(one > late_after_ms for one in latencies),
        late_after_ms=late_after_ms,
        latency=latency,
        camera_late_p99_ms=float(np.percentile(camera_late, 99)) if camera_late else None,
        jitter_periods=None if latency is None else (latency.p99 - latency.p50) * rate_fps / 1e3,
        verdicts=dict(verdicts),
        cpu_cores=cpu,
        pss_mb=pss_mb,
        most_mb=most_mb,
        pictures_mb=pictures_mb,
    )


def due_ns(told: list[Told], rate_fps: float) -> list[int]:
    """When each frame was due: on the grid of its camera, laid so that no stamp is too early.

    A camera's process that gets no processor stamps its frame late. Counted from the stamp, that frame would look fast.
    """
    period_ns = 1e9 / rate_fps
    on_grid = [one.captured_ns - one.number * period_ns for one in told]
    begins = {
        camera: min(start for one, start in zip(told, on_grid, strict=True) if one.event.camera == camera)
        for camera in {one.event.camera for one in told}
    }
    return [round(begins[one.event.camera] + one.number * period_ns) for one in told]
