"""Measures the highest frame rate of cameras: through the service to its events, and of the camera path only."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import msgspec

from heatline.bench.end_to_end.rates import Tries, find_highest, limit_above
from heatline.bench.processes import camera_processes
from heatline.bench.spread import Spread
from heatline.bench.watched_line import POLL_SECONDS, Keys, WatchedLine
from heatline.edge.bundle import Bundle
from heatline.edge.cameras import aravis
from heatline.edge.cameras.base import EndOfFrames
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.cameras.supervisor import SupervisedCamera
from heatline.edge.errors import BenchError
from heatline.edge.frames import Frame
from heatline.edge.wire.events import VerdictEvent
from tests.edge.gv_cameras import AravisCamera, aravis_camera, noise
from tests.system.cameras.trial import Seen, Trial, run_trial

PICTURES = 4
"""Number of pictures that a GigE Vision camera shows in turn."""
HIGHEST_FPS: Mapping[str, float] = {"genicam": 1000.0, "pattern": 10_000.0}
"""Highest rate setting by kind."""
FIRST_MEGAPIXELS_PER_S: dict[str, dict[str, float]] = {
    "to event": {"genicam": 20.0, "pattern": 12.0},
    "camera path": {"genicam": 400.0, "pattern": 1500.0},
}
"""Start of the search, all cameras together: near the result of two cores (tests/system/results/cameras.json)."""

Way = Literal["to event", "camera path"]


class Load(msgspec.Struct, frozen=True):
    """Several equal cameras."""

    kind: Literal["genicam", "pattern"]
    cameras: int
    hw: tuple[int, int]

    def __str__(self) -> str:
        kind = "GigE Vision" if self.kind == "genicam" else "pattern"
        number = f"{self.cameras} x " if self.cameras > 1 else ""
        return f"{number}{kind} {self.hw[1]}x{self.hw[0]} Mono8"

    def keys(self, rate_fps: float, device: AravisCamera | None) -> list[Keys]:
        """Return their tables in a configuration."""
        own: Keys = {"draw_size": [self.hw[1], self.hw[0]]}
        if device is not None:
            own = {"address": device.address}
        return [
            {"kind": self.kind, "name": f"cam{number}", "rate_fps": rate_fps, **own} for number in range(self.cameras)
        ]

    @contextlib.contextmanager
    def device(self, rate_fps: float = 25.0) -> Iterator[AravisCamera | None]:
        """Run the GigE Vision camera that they need; None: they need none.

        Raises:
            MissingExtraError: the Aravis library is not installed.
        """
        if self.kind != "genicam":
            yield None
            return
        aravis.load()
        with aravis_camera(pictures=noise(PICTURES, *self.hw), rate_fps=rate_fps) as device:
            yield device


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """The highest rate that was held, and all attempts. Spreads are over the windows that held this rate."""

    load: Load
    way: Way
    rate_fps: float | None
    """Rate of each camera; None: no rate was held."""
    limited_by: str | None
    """What failed at the lowest rate that was not held; None: every rate was held."""
    latency_p99_ms: Spread | None
    cpu_ms_per_frame: dict[str, Spread]
    held: list[Trial]
    tried: list[Trial]

    @property
    def fact(self) -> str:
        """Description for people."""
        if self.rate_fps is None or self.latency_p99_ms is None:
            return f"no rate was held: {self.limited_by}"
        cpu = ", ".join(f"{of} {spread.median:.2f}" for of, spread in self.cpu_ms_per_frame.items())
        limit = f"; above it, {self.limited_by}" if self.limited_by else ""
        return f"{self.rate_fps:g} frames/s each, p99 {self.latency_p99_ms:.1f} ms, CPU ms per frame: {cpu}{limit}"


def measure_rate(load: Load, way: Way, bundle: Bundle, tries: Tries, report_line: Callable[[str], None]) -> Rate:
    """Find the highest rate, and hold it.

    Args:
        way: `to event`: measure `heatline run` with one subscriber, both on this machine. `camera path`: measure one
            camera's process and the shared memory, with a receiver in this process that releases frames at once.
    Raises:
        BenchError, CameraError: a process or a camera failed.
        MissingExtraError: the load needs a library that is not installed.
    """
    first_fps = FIRST_MEGAPIXELS_PER_S[way][load.kind] * 1e6 / (load.cameras * load.hw[0] * load.hw[1])
    with load.device() as device:

        def attempt(rate_fps: float, seconds: float) -> Trial:
            keys = load.keys(rate_fps, device)
            if way == "to event":
                return _through_service(keys, bundle, rate_fps, seconds)
            return _through_camera_path(keys, rate_fps, seconds)

        held, tried = find_highest(
            attempt, first_fps, HIGHEST_FPS[load.kind], tries, lambda line: report_line(f"{load}, {way}: {line}")
        )
    rate_fps = held[0].rate_fps if held else None
    p99_ms = [trial.latency_p99_ms for trial in held if trial.latency_p99_ms is not None]
    return Rate(
        load=load,
        way=way,
        rate_fps=rate_fps,
        limited_by=limit_above(rate_fps, tried),
        latency_p99_ms=Spread.of(p99_ms) if p99_ms else None,
        cpu_ms_per_frame={
            of: Spread.of([trial.cpu_ms_per_frame[of] for trial in held])
            for of in (held[0].cpu_ms_per_frame if held else ())
        },
        held=held,
        tried=tried,
    )


def _through_service(cameras: list[Keys], bundle: Bundle, rate_fps: float, seconds: float) -> Trial:
    with tempfile.TemporaryDirectory() as folder, WatchedLine(Path(folder), bundle.path, "f32", cameras) as line:

        def receive() -> Seen | None:
            received = line.next()
            if received is None or not isinstance(event := received.event, VerdictEvent):
                return None
            captured_ns = event.times.captured_monotonic_ns
            return Seen(event.camera, captured_ns, received.at_ns, event.frames, event.reason)

        trial = run_trial(
            receive, len(cameras), rate_fps, seconds, lambda: {"service": [line.pid], "cameras": line.camera_pids()}
        )
        if line.not_received:
            lost = trial.lost | {"not received": line.not_received}
            trial = msgspec.structs.replace(trial, lost=lost, not_kept_up=f"events not received: {line.not_received}")
        line.stop()
    return trial


def _through_camera_path(cameras: list[Keys], rate_fps: float, seconds: float) -> Trial:
    camera = SupervisedCamera(msgspec.convert(cameras[0], CameraSettings), lambda alarm: None)

    def receive() -> Seen | None:
        try:
            item = camera.grab(POLL_SECONDS)
        except EndOfFrames as error:
            raise BenchError(f"camera {camera.name} ended, but it should never end") from error
        if item is None:
            return None
        lost = None
        if isinstance(item, Frame):
            item.release()
        else:
            lost = f"{item.kind}.{item.reason}"
        stamp = item.stamp
        return Seen(stamp.camera, stamp.captured_monotonic_ns, time.monotonic_ns(), stamp.frames, lost)

    own = os.getpid()
    with ExitStack() as stack:
        stack.callback(camera.close)
        camera.open()
        return run_trial(receive, 1, rate_fps, seconds, lambda: {"receiver": [own], "cameras": camera_processes(own)})
