"""One setting of the engine in the real service, whose cameras show frames at the line's rate, heard by this process.

With all that shares the cores with the engine on a line: cameras in processes of their own, journal, publisher and a
subscriber.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import msgspec
import numpy as np

from bench.end_to_end.line import Line, ReceivedVerdict, due_ns
from bench.tune.shown import Shown
from bench.tune.trial import Answers
from bench.watched_line import Keys, WatchedLine
from edge.bundle import Bundle
from edge.cameras.settings import CameraSettings
from edge.config import LineConfig
from edge.config.engine import EngineConfig
from edge.errors import BenchError
from edge.wire.events import VerdictEvent

SETTLE_SECONDS = 1.0
SETTLE_FRAMES = 3
"""Of each camera."""
LEAST_FRAMES = 20
"""Of each camera, that count: of so many, the slowest one has no say in the 90th percentile."""
NEVER_FROZEN = 100_000
"""Frames are looked at for that as a real camera's are; that there is but one picture is no fault here."""


@dataclass(frozen=True)
class OnTheLine:
    """What came of the frames that were due within a time, all cameras together."""

    latencies_ms: list[float]
    """From when a frame was due to the receipt of its event."""
    lost: int
    """Frames that were not inspected, or of which nothing was heard."""
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
    """Start the service with this setting, let it settle, and hear of every frame that is due from then on.

    Args:
        seconds: for so long, and for some frames at least.
    Raises:
        BenchError: the service failed, or answers otherwise than with other settings.
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
            thresholds=_said(config.thresholds),
            heatmaps=config.events.heatmaps,
            journal=config.journal.retain_mib > 0,
            engine={key: value for key, value in _said(engine).items() if key != "precision"},
            tiles=_said(config.tiles),
        ) as watched:
            line = Line(watched, partial(require_as_others, engine, answers))
            settles_ns = round(max(SETTLE_SECONDS, SETTLE_FRAMES / slowest_fps) * 1e9)
            began_ns = line.settle(len(shown)) + settles_ns
            ended_ns = began_ns + round(seconds * 1e9)
            told = line.receive_until(ended_ns)
            line.receive_past(told, len(shown), slowest_fps, lambda one: _due_ns(one, told, rates) >= ended_ns)
            watched.stop()
        seen = came_of(told, rates, began_ns, ended_ns, not_heard=watched.not_received)
        if not seen.latencies_ms:
            raise BenchError(
                f"with {engine} no frame was inspected within {seconds:g} s on a line; ask for a lower rate with --fps"
            )
        return seen


def _due_ns(one: ReceivedVerdict, told: Sequence[ReceivedVerdict], rates: Mapping[str, float]) -> int:
    """When the last frame of a camera that was told of was due."""
    camera = one.event.camera
    return due_ns([each for each in told if each.event.camera == camera], rates[camera])[-1]


def require_as_others(engine: EngineConfig, answers: Answers, event: VerdictEvent) -> None:
    """See that an event says of its frame what was said with other settings.

    Raises:
        BenchError: it does not.
    """
    if event.frame_score is None:
        return
    if event.precision != engine.precision:
        raise BenchError(f"a line that was to use {engine} inspected in {event.precision}")
    answers.check(engine.precision, [(event.camera, event.frame_score)])


def came_of(
    told: Sequence[ReceivedVerdict], rates: Mapping[str, float], began_ns: int, ended_ns: int, *, not_heard: int
) -> OnTheLine:
    """What came of the frames that were due within a time.

    Settings that leave a camera's process no processor have it stamp its frames late: counted from the stamps, they
    would look fast.

    Args:
        told: all that was heard, also from before: the more stamps, the surer one of them was in time.
        rates: of the cameras, frames a second.
        not_heard: events that did not come.
    """
    latencies_ms, lost = list[float](), not_heard
    for camera, rate_fps in rates.items():
        of_it = [one for one in told if one.event.camera == camera]
        for one, due in zip(of_it, due_ns(of_it, rate_fps), strict=True):
            if not began_ns <= due < ended_ns:
                continue
            if one.event.reason is None:
                latencies_ms.append((one.at_ns - due) / 1e6)
            else:
                lost += one.event.frames
    return OnTheLine(latencies_ms, lost, len(latencies_ms) / ((ended_ns - began_ns) / 1e9))


def _camera(shown: Shown, settings: CameraSettings, folder: Path) -> Keys:
    """A camera that shows one picture from memory, with what the line's own one has beside its kind."""
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


def _said(table: msgspec.Struct) -> Keys:
    """What is set in a table, to be written."""
    return {key: value for key, value in msgspec.structs.asdict(table).items() if value is not None}
