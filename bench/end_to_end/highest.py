"""The highest rate at which no frame is lost, through the service to its events."""

from collections.abc import Callable

import msgspec

from bench.end_to_end.line import Scene, running
from bench.rate_search import Seen, Trial, Tries, find_highest, run_trial

FIRST_SHARE = 0.9
"""Of the bare engine's tiles: where the search begins."""
HIGHEST_FPS = 10_000.0


class Highest(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    rate_fps: float | None
    """Of each camera; None: no rate was kept up with."""
    share_of_bare: float | None
    limited_by: str | None
    """What went wrong at the lowest rate above it that was tried; None: there was none."""
    held: list[Trial]
    tried: list[Trial]


def find_highest_rate(scene: Scene, bare_tiles_per_s: float, tries: Tries, say: Callable[[str], None]) -> Highest:
    """Look for it, and hold it.

    Raises:
        BenchError: the service failed, or judged a picture otherwise than it must.
    """

    def attempt(rate_fps: float, seconds: float) -> Trial:
        with running(scene, rate_fps, waits=False) as line:

            def look() -> Seen | None:
                one = line.next()
                if one is None:
                    return None
                return Seen(one.event.camera, one.captured_ns, one.at_ns, one.event.frames, one.event.reason)

            cameras: list[int] = []

            def processes() -> dict[str, list[int]]:
                cameras[:] = line.watched.camera_pids()  # asked for once a frame of each of them came through
                return {"service": [line.watched.pid], "cameras": cameras}

            trial = run_trial(look, scene.cameras, rate_fps, seconds, processes)
            line.watched.require_cameras(cameras)
            if line.watched.not_heard:
                lost = trial.lost | {"not heard": line.watched.not_heard}
                trial = msgspec.structs.replace(trial, lost=lost, kept_up=False)
            return trial

    per_frame = scene.tiles * scene.cameras
    held, tried = find_highest(attempt, FIRST_SHARE * bare_tiles_per_s / per_frame, HIGHEST_FPS, tries, say)
    rate_fps = held[0].asked_fps if held else None
    above = [trial for trial in tried if not trial.kept_up and trial.asked_fps >= (rate_fps or 0.0)]
    return Highest(
        rate_fps=rate_fps,
        share_of_bare=rate_fps * per_frame / bare_tiles_per_s if rate_fps else None,
        limited_by=min(above, key=lambda trial: trial.asked_fps).why_not if above else None,
        held=held,
        tried=tried,
    )
