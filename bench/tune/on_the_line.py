"""One setting of the engine in the real service, whose cameras show frames at the line's rate.

All that shares the cores with the engine on a line runs: cameras' processes, journal, publisher and a subscriber, which
is this process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import msgspec
import numpy as np

from heatline.bench.end_to_end.line import Line, ReceivedVerdict, due_ns
from heatline.bench.tune.shown import Shown
from heatline.bench.tune.trial import Answers
from heatline.bench.watched_line import Keys, WatchedLine
from heatline.edge.bundle import Bundle
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.config import LineConfig
from heatline.edge.config.engine import EngineConfig
from heatline.edge.errors import BenchError
from heatline.edge.wire.events import VerdictEvent

SETTLE_SECONDS = 1.0
SETTLE_FRAMES = 3
"""Of each camera."""
LEAST_FRAMES = 20
"""Frames of each camera that count: with so many, the slowest one does not decide the 90th percentile."""
NEVER_FROZEN = 100_000
"""Frames are compared as those of a real camera, but a camera here has one picture only."""


@dataclass(frozen=True)
class OnTheLine:
    """Outcome of the frames that were due in a window, all cameras together."""

    latencies_ms: list[float]
    """From when a frame was due to the receipt of its event."""
    lost: int
    """Frames that were not inspected or not reported."""
    inspected_fps: float


def on_the_line(
    engine: EngineConfig,
    config: LineConfig,
    bundle: Bundle,
    shown: Sequence[Shown],
    answers: Answers,
    *,
    seconds: float,
) -> OnTheLine:
    """Start the service with this setting, wait until it has settled, and follow every frame of a window.

    Args:
        seconds: length of the window, which has some frames at least.
    Raises:
        BenchError: the service failed, or its scores differ from those with other settings.
    """
    rates = {one.camera: one.rate_fps for one in shown}
    slowest_fps = min(rates.values())
    seconds = max(seconds, LEAST_FRAMES / slowest_fps)
    with TemporaryDirectory(prefix="heatline-bench-") as place:
        folder = Path(place)
        settings = {camera.name: camera for camera in config.cameras}
        cameras = [_camera(one, settings[one.camera], folder / "pictures" / one.camera) for one in shown]
        with WatchedLine(
            folder,
            bundle.path,
            engine.precision,
            cameras,
            thresholds=_set_keys(config.thresholds),
            heatmaps=config.events.heatmaps,
            journal=config.journal.retain_mib > 0,
            engine={key: value for key, value in _set_keys(engine).items() if key != "precision"},
            tiles=_set_keys(config.tiles),
        ) as watched:
            line = Line(watched, partial(require_same_score, engine, answers))
            settles_ns = round(max(SETTLE_SECONDS, SETTLE_FRAMES / slowest_fps) * 1e9)
            began_ns = line.settle(len(shown)) + settles_ns
            ended_ns = began_ns + round(seconds * 1e9)
            received = line.receive_until(ended_ns)
            line.receive_past(received, len(shown), slowest_fps, lambda one: _due_ns(one, received, rates) >= ended_ns)
            watched.stop()
        seen = measure_window(received, rates, began_ns, ended_ns, not_received=watched.not_received)
        if not seen.latencies_ms:
            raise BenchError(
                f"with {engine} no frame was inspected within {seconds:g} s on a line; give a lower rate with --fps"
            )
        return seen


def _due_ns(one: ReceivedVerdict, received: Sequence[ReceivedVerdict], rates: Mapping[str, float]) -> int:
    """Return when the last reported frame of a camera was due."""
    camera = one.event.camera
    return due_ns([each for each in received if each.event.camera == camera], rates[camera])[-1]


def require_same_score(engine: EngineConfig, answers: Answers, event: VerdictEvent) -> None:
    """Check that the score of an event is that with other settings.

    Raises:
        BenchError: it is not.
    """
    if event.frame_score is None:
        return
    if event.precision != engine.precision:
        raise BenchError(f"a line with {engine} inspected in {event.precision}")
    answers.check(engine.precision, [(event.camera, event.frame_score)])


def measure_window(
    received: Sequence[ReceivedVerdict], rates: Mapping[str, float], began_ns: int, ended_ns: int, *, not_received: int
) -> OnTheLine:
    """Count and time the frames that were due in a window.

    With some settings a camera's process waits for the processor and stamps its frames late: counted from the stamps,
    they would look fast.

    Args:
        received: all events, also earlier ones: the more timestamps, the surer that one of them is not late.
        rates: of the cameras, frames per second.
        not_received: number of events that did not come.
    """
    latencies_ms, lost = list[float](), not_received
    for camera, rate_fps in rates.items():
        of_it = [one for one in received if one.event.camera == camera]
        for one, due in zip(of_it, due_ns(of_it, rate_fps), strict=True):
            if not began_ns <= due < ended_ns:
                continue
            if one.event.reason is None:
                latencies_ms.append((one.at_ns - due) / 1e6)
            else:
                lost += one.event.frames
    return OnTheLine(latencies_ms, lost, len(latencies_ms) / ((ended_ns - began_ns) / 1e9))


def _camera(shown: Shown, settings: CameraSettings, folder: Path) -> Keys:
    """Return the keys of a camera that shows one picture from memory, with the settings of the line's own camera."""
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "picture.bmp"), np.ascontiguousarray(shown.picture[..., ::-1]))
    height, width = shown.picture.shape[:2]
    return {
        "kind": "folder",
        "name": shown.camera,
        "path": str(folder),
        "preload": True,
        "loop": True,
        "rate_fps": shown.rate_fps,
        "size": [width, height],
        "on_overload": "drop_oldest",
        "waiting_frames": settings.waiting_frames,
        "frozen_after_frames": NEVER_FROZEN,
        "roi": settings.roi,
        "exclude": settings.exclude,
    }


def _set_keys(table: msgspec.Struct) -> Keys:
    """Return the keys of a table that are set."""
    return {key: value for key, value in msgspec.structs.asdict(table).items() if value is not None}
