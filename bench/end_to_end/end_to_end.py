"""`heatline bench end-to-end`: the measurements in their order."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from heatline.bench.end_to_end.line import Expected, Scene
from heatline.bench.end_to_end.rates import LEAST_FRAMES, Window, find_highest, run_window
from heatline.bench.end_to_end.turns import Beside, Idle, Saturated, measure_beside, measure_idle, saturate
from heatline.bench.engines import Settings, in_own_process
from heatline.bench.pictures import write_pictures
from heatline.bench.watched_line import Keys
from heatline.edge.bundle import Bundle
from heatline.edge.inference import Precision

if TYPE_CHECKING:  # only the other process loads the engine
    from heatline.bench.end_to_end.bare import Bare

PICTURES = 8
PICTURES_BESIDE, DEFECTIVE_BESIDE = 20, 0.05
"""A line has few defects, whose pictures are all stored."""
CHOOSE_SECONDS, CHOOSE_ROUNDS = 0.7, 3
TURN_SECONDS = 6.0
"""Length of a turn of service and engine, and of a window that tries a rate."""
BESIDE_SECONDS = 10.0
IDLE_FRAMES = 20
"""In each round."""
FIRST_SHARE = 0.9
"""Share of the bare engine's rate where the search of the highest begins."""
HIGHEST_FPS = 10_000.0
SHARE_OF_HIGHEST = 0.8
"""Share of the highest rate at which the window runs if no rate is given."""
HOLD_SECONDS = 60.0
"""Length of a window that confirms a rate. Buffers hide for a while that a rate is too high: three waiting frames hide
2 % of three a second in a minute."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements to make."""

    rate_fps: float | None = None
    """Rate of the window; None: 80 % of the highest if that is searched, else no window."""
    seconds: float = 60.0
    """Length of the window."""
    find_max: bool = False
    saturate: bool = False
    idle: bool = False
    beside: bool = False
    """Whether to compare services with and without evidence and page."""
    rounds: int = 5
    """Rounds of service and engine, or of services."""


class Highest(msgspec.Struct, frozen=True, kw_only=True):
    """The highest rate, and all windows."""

    rate_fps: float | None
    """Of each camera; None: the line kept up with no rate."""
    share_of_bare: float | None
    limited_by: str | None
    """Why the line did not keep up with the lowest rate above it; None: no such rate was tried."""
    tried: list[Window]


class EndToEnd(msgspec.Struct, frozen=True, kw_only=True):
    """All results; None: not measured."""

    bundle: str
    model: str
    method: str
    precision: Precision
    frame_hw: tuple[int, int]
    cameras: int
    tiles_per_frame: int
    pictures: int
    defective: float
    """Share of the pictures that are DEFECT."""
    engine_settings: Keys
    """Settings of the service's engine that are not the defaults."""
    engine_alone: Settings | None = None
    """The fastest settings, with which the bare engine was measured."""
    engine_alone_tiles_per_s: float | None = None
    """Its rate when it was chosen."""
    saturated: Saturated | None = None
    idle: Idle | None = None
    beside: Beside | None = None
    highest: Highest | None = None
    window: Window | None = None


def measure_end_to_end(
    bundle: Bundle,
    precision: Precision,
    plan: Plan,
    *,
    pictures: Path | None,
    frame_hw: tuple[int, int],
    cameras: int,
    engine: Keys,
    report_line: Callable[[str], None],
) -> EndToEnd:
    """Measure what the plan says, one after the other.

    Args:
        pictures: folder of pictures to show, all of one size; None: made of the bundle's golden tiles, of size
            `frame_hw`.
        engine: keys of that table of the line, besides the precision.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine, or lacks that precision.
        BenchError: it cannot be used in that precision; a picture cannot be read; or a process failed.
    """

    def scene_of(folder: Path, expected: Expected) -> Scene:
        names = [f"cam{number}" for number in range(cameras)]
        return Scene(
            bundle=bundle,
            precision=precision,
            cameras={name: {"path": str(folder.absolute())} for name in names},
            check=expected.check,
            tables={"engine": engine, "thresholds": {"score": expected.score_threshold}},
        )

    with TemporaryDirectory(prefix="heatline-bench-") as place:
        with in_own_process(_bare, bundle.path, precision) as bare:
            shown = pictures or write_pictures(Path(place) / "pictures", bundle, frame_hw, PICTURES)
            expected = bare.expect(shown)
            scene = scene_of(shown, expected)
            found = EndToEnd(
                bundle=bundle.path.name,
                model=bundle.manifest.model.name,
                method=bundle.manifest.map.method,
                precision=precision,
                frame_hw=expected.frame_hw,
                cameras=cameras,
                tiles_per_frame=expected.tiles,
                pictures=len(expected.scores),
                defective=expected.defective,
                engine_settings=engine,
            )
            engine_tiles_per_s = 0.0
            if plan.saturate or plan.find_max:
                report_line("trying settings of the bare engine")
                settings, engine_tiles_per_s = bare.choose(CHOOSE_SECONDS, CHOOSE_ROUNDS)
                found = replace(found, engine_alone=settings, engine_alone_tiles_per_s=engine_tiles_per_s)
            if plan.saturate:
                saturated = saturate(
                    scene, expected.tiles, bare, seconds=TURN_SECONDS, rounds=plan.rounds, report_line=report_line
                )
                found = replace(found, saturated=saturated)
            if plan.idle:
                idle = measure_idle(scene, bare, frames=IDLE_FRAMES, rounds=plan.rounds, report_line=report_line)
                found = replace(found, idle=idle)
        # From now on no other process maps the engine's libraries, and the measured memory is the service's own.
        if plan.beside:
            few = pictures or write_pictures(Path(place) / "beside", bundle, frame_hw, PICTURES_BESIDE)
            with in_own_process(_bare, bundle.path, precision) as bare:
                beside = scene_of(few, bare.expect(few, DEFECTIVE_BESIDE))
            compared = measure_beside(beside, seconds=BESIDE_SECONDS, rounds=plan.rounds, report_line=report_line)
            found = replace(found, beside=compared)
        rate_fps = plan.rate_fps
        if plan.find_max:
            highest = _highest(scene, expected.tiles, engine_tiles_per_s, report_line)
            found = replace(found, highest=highest)
            if rate_fps is None and highest.rate_fps is not None:
                rate_fps = SHARE_OF_HIGHEST * highest.rate_fps
        if rate_fps is not None:
            report_line(f"{rate_fps:.3g} frames/s for {plan.seconds:g} s")
            found = replace(found, window=run_window(scene, dict.fromkeys(scene.cameras, rate_fps), plan.seconds))
    return found


def _bare(bundle: Path, precision: Precision) -> "Bare":
    from heatline.bench.end_to_end.bare import Bare

    return Bare(bundle, precision)


def _highest(scene: Scene, tiles: int, bare_tiles_per_s: float, report_line: Callable[[str], None]) -> Highest:
    """Find the highest rate of a line and confirm it; errors as of `run_window`."""

    def attempt(rate_fps: float, seconds: float) -> Window:
        return run_window(scene, dict.fromkeys(scene.cameras, rate_fps), max(seconds, LEAST_FRAMES / rate_fps))

    per_frame = tiles * len(scene.cameras)
    first_fps, lengths_s = FIRST_SHARE * bare_tiles_per_s / per_frame, (TURN_SECONDS, HOLD_SECONDS)
    held, tried = find_highest(attempt, first_fps, HIGHEST_FPS, lengths_s, report_line)
    rate_fps = held.rate_fps if held else None
    above = [one for one in tried if one.not_kept_up is not None and one.rate_fps >= (rate_fps or 0.0)]
    return Highest(
        rate_fps=rate_fps,
        share_of_bare=rate_fps * per_frame / bare_tiles_per_s if rate_fps else None,
        limited_by=min(above, key=lambda one: one.rate_fps).not_kept_up if above else None,
        tried=tried,
    )
