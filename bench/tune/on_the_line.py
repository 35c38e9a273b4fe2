"""One setting of the engine in the real service, whose cameras show frames at the line's rate, heard by this process.

With all that shares the cores with the engine on a line: cameras in processes of their own, journal, publisher and a
subscriber.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import msgspec
import numpy as np

from bench.end_to_end.line import Told
from bench.end_to_end.window import due_ns
from bench.tune.answers import Answers
from bench.tune.shown import Shown
from bench.watched_line import Heard, Keys, WatchedLine
from edge.bundle import Bundle
from edge.cameras.settings import CameraSettings
from edge.config import LineConfig
from edge.engine_config import EngineConfig
from edge.errors import BenchError
from edge.wire.events import VerdictEvent

SETTLE_SECONDS = 1.0
SETTLE_FRAMES = 3
"""Of each camera."""
LEAST_FRAMES = 20
"""Of each camera, that count: of so many, the slowest one has no say in the 90th percentile."""
FIRST_WITHIN_SECONDS = 120.0
LAST_WITHIN_SECONDS = 15.0
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
            journal=config.journal.keep_mib > 0,
            engine={key: value for key, value in _said(engine).items() if key != "precision"},
            tiles=_said(config.tiles),
        ) as line:
            hear = _Hearing(line, engine, answers, rates)
            hear.until_all(due_from_ns=0, within_s=FIRST_WITHIN_SECONDS)
            began_ns = time.monotonic_ns() + round(max(SETTLE_SECONDS, SETTLE_FRAMES / slowest_fps) * 1e9)
            ended_ns = began_ns + round(seconds * 1e9)
            hear.until_ns(ended_ns)
            hear.until_all(due_from_ns=ended_ns, within_s=LAST_WITHIN_SECONDS)
            line.stop()
        seen = came_of(hear.told, rates, began_ns, ended_ns, not_heard=line.not_heard)
        if not seen.latencies_ms:
            raise BenchError(
                f"with {engine} no frame was inspected within {seconds:g} s on a line; ask for a lower rate with --fps"
            )
        return seen


def came_of(
    told: Sequence[Told], rates: Mapping[str, float], began_ns: int, ended_ns: int, *, not_heard: int
) -> OnTheLine:
    """What came of the frames that were due within a time.

    Settings that leave a camera's process no processor have it stamp its frames late: counted from the stamps, they
    would look fast.

    Args:
        told: all that was heard, from the first frame on: the more stamps, the surer one of them was in time.
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


class _Hearing:
    """Verdict events as they are heard, each held to what it must say."""

    def __init__(self, line: WatchedLine, engine: EngineConfig, answers: Answers, rates: Mapping[str, float]) -> None:
        self._line, self._engine, self._answers, self._rates = line, engine, answers, rates
        self.told: list[Told] = []

    def until_ns(self, end_ns: int) -> None:
        while time.monotonic_ns() < end_ns:
            self._take(self._line.next())

    def until_all(self, *, due_from_ns: int, within_s: float) -> None:
        """Until a frame of each camera that was due at a moment or later has been told of."""
        there = set[str]()
        give_up_s = time.monotonic() + within_s
        while there != set(self._rates):
            if time.monotonic() > give_up_s:
                missing = ", ".join(sorted(set(self._rates) - there))
                raise BenchError(f"with {self._engine} nothing came of {missing} within {within_s:.0f} s on a line")
            event = self._take(self._line.next())
            if event is not None and self._last_due_ns(event.camera) >= due_from_ns:
                there.add(event.camera)

    def _last_due_ns(self, camera: str) -> int:
        """When the last frame of a camera that was told of was due."""
        return due_ns([one for one in self.told if one.event.camera == camera], self._rates[camera])[-1]

    def _take(self, heard: Heard | None) -> VerdictEvent | None:
        if heard is None or not isinstance(event := heard.event, VerdictEvent):
            return None
        if event.frame_score is not None:
            if event.precision != self._engine.precision:
                raise BenchError(f"a line that was to use {self._engine} inspected in {event.precision}")
            self._answers.check(self._engine, [(event.camera, event.frame_score)])
        self.told.append(Told(event, heard.at_ns))
        return event


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
        "look_at": settings.look_at,
        "look_away": settings.look_away,
    }


def _said(table: msgspec.Struct) -> Keys:
    """What is set in a table, to be written."""
    return {key: value for key, value in msgspec.structs.asdict(table).items() if value is not None}
