"""`heatline bench end-to-end`: what is measured, in which order, and what it comes to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from bench.camera_rates import Tries
from bench.end_to_end.bare_engine import BareEngine
from bench.end_to_end.engine_alone import Choose, Settings
from bench.end_to_end.highest import Highest, find_highest_rate
from bench.end_to_end.idle import Idle, measure_idle
from bench.end_to_end.line import Scene
from bench.end_to_end.pictures import draw_pictures, expect
from bench.end_to_end.saturated import Saturated, saturate
from bench.end_to_end.window import Window, run_window
from bench.watched_line import Keys
from edge.bundle import Bundle
from edge.bundle.proven_engine import open_proven_engine
from edge.errors import BenchError
from edge.inference import Precision

PICTURES = 8
SHARE_OF_HIGHEST = 0.8
CHOOSE_SECONDS, CHOOSE_ROUNDS = 0.7, 3
SEARCH_WINDOWS = 12


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured, and how much of it."""

    rate_fps: float | None
    """None: 80 % of the highest, where that is looked for; else no window is run at a rate."""
    seconds: float
    """Of the window."""
    late_after_ms: float | None
    find_max: bool
    saturate: bool
    idle: bool
    rounds: int
    turn_seconds: float
    """Of each turn of service and engine, and in which a rate is held."""
    idle_frames: int


class EndToEnd(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

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
    heatmaps: str
    journal: bool
    engine_settings: dict[str, str | int]
    """Of the service; what is left out is as it is by default."""
    engine_alone: Settings
    """The fastest, with which the bare engine was run."""
    engine_alone_tried: list[tuple[Settings, float]]
    """Tiles a second."""
    saturated: Saturated | None
    idle: Idle | None
    highest: Highest | None
    window: Window | None


def measure_end_to_end(
    bundle: Bundle,
    precision: Precision,
    plan: Plan,
    *,
    pictures: Path | None,
    frame_hw: tuple[int, int],
    cameras: int,
    waiting_frames: int,
    defective: float,
    heatmaps: str,
    journal: bool,
    engine: Keys,
    say: Callable[[str], None],
) -> EndToEnd:
    """Measure what the plan says, one after the other.

    Args:
        pictures: folder of pictures to show, all of one size; None: boards are drawn, of size `frame_hw`.
        defective: share of the pictures to be judged DEFECT.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        BenchError: nor in that precision, or a process did not do what it should.
        InputError: a picture cannot be read.
    """
    with _pictures(pictures, frame_hw, say) as folder:
        scene = _scene(bundle, precision, folder, cameras, waiting_frames, defective, heatmaps, journal, engine)
        with BareEngine(bundle, precision) as bare:
            chosen = bare.ask(Choose(CHOOSE_SECONDS, CHOOSE_ROUNDS))
            assert chosen.settings is not None
            say(
                f"the bare engine is fastest with {chosen.settings.streams} streams of {chosen.settings.batch} tiles: "
                f"{chosen.tiles_per_s:.0f} tiles/s, {chosen.tiles_per_s / scene.tiles:.1f} frames/s"
            )
            saturated = idle = highest = window = None
            if plan.saturate:
                saturated = saturate(scene, bare, seconds=plan.turn_seconds, rounds=plan.rounds, say=say)
            if plan.idle:
                idle = measure_idle(scene, bare, frames=plan.idle_frames, rounds=plan.rounds, say=say)
            rate_fps = plan.rate_fps
            if plan.find_max:
                bare_tiles_per_s = saturated.engine_tiles_per_s.median if saturated else chosen.tiles_per_s
                highest = find_highest_rate(
                    scene,
                    bare_tiles_per_s,
                    Tries(
                        seconds=plan.turn_seconds,
                        search_seconds=plan.turn_seconds / 2,
                        search=SEARCH_WINDOWS,
                        holds=plan.rounds,
                    ),
                    say,
                )
                if rate_fps is None and highest.rate_fps is not None:
                    rate_fps = SHARE_OF_HIGHEST * highest.rate_fps
            if rate_fps is not None:
                say(f"{rate_fps:.3g} frames/s for {plan.seconds:g} s")
                window = run_window(scene, rate_fps, plan.seconds, plan.late_after_ms)
    expected = scene.expected
    return EndToEnd(
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        method=bundle.manifest.map.method,
        precision=precision,
        frame_hw=expected.frame_hw,
        cameras=cameras,
        tiles_per_frame=expected.tiles,
        pictures=len(expected.answers),
        defective=sum(verdict == "DEFECT" for verdict, _ in expected.answers.values()) / len(expected.answers),
        heatmaps=heatmaps,
        journal=journal,
        engine_settings={name: value for name, value in engine.items() if isinstance(value, str | int)},
        engine_alone=chosen.settings,
        engine_alone_tried=chosen.tried,
        saturated=saturated,
        idle=idle,
        highest=highest,
        window=window,
    )


def _scene(
    bundle: Bundle,
    precision: Precision,
    folder: Path,
    cameras: int,
    waiting_frames: int,
    defective: float,
    heatmaps: str,
    journal: bool,
    engine: Keys,
) -> Scene:
    proven = open_proven_engine(bundle, "openvino", precision)
    try:
        if proven.fell_back is not None:
            raise BenchError(f"{precision} cannot be timed on this machine: {proven.fell_back}")
        expected = expect(folder, bundle, proven.engine, defective)
    finally:
        proven.engine.close()
    return Scene(
        bundle=bundle,
        precision=precision,
        pictures=folder,
        expected=expected,
        cameras=cameras,
        waiting_frames=waiting_frames,
        heatmaps=heatmaps,
        journal=journal,
        engine=engine,
    )


@contextmanager
def _pictures(given: Path | None, hw: tuple[int, int], say: Callable[[str], None]) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with TemporaryDirectory(prefix="heatline-bench-") as folder:
        draw_pictures(Path(folder) / "pictures", hw, PICTURES, say)
        yield Path(folder) / "pictures"


def to_facts(found: EndToEnd) -> dict[str, object]:
    """The same for people."""
    height, width = found.frame_hw
    facts: dict[str, object] = {
        "frames": f"{width}x{height} px, {found.tiles_per_frame} tiles, {found.cameras} camera(s); "
        f"{found.defective:.0%} DEFECT, heatmaps {found.heatmaps}, {'a' if found.journal else 'no'} journal",
        "bare engine": f"{found.engine_alone.streams} streams of {found.engine_alone.batch} tiles",
    }
    if (saturated := found.saturated) is not None:
        facts |= {
            "service_over_engine": f"{saturated.service_over_engine:.3f} of medians; by rounds "
            f"{saturated.service_over_engine_spread:.3f}",
            "service, saturated": f"{saturated.service_frames_per_s:.2f} frames/s, "
            f"{saturated.service_tiles_per_s:.0f} tiles/s",
            "bare engine, saturated": f"{saturated.engine_tiles_per_s:.0f} tiles/s",
        }
    if (idle := found.idle) is not None:
        facts["idle service"] = (
            f"a frame {idle.frame_ms:.1f} ms, its tiles in the bare engine {idle.engine_ms:.1f} ms; the difference "
            f"{idle.extra_ms:.1f} ms" + (f"; {idle.lost} frames were lost" if idle.lost else "")
        )
    if (highest := found.highest) is not None:
        facts["highest rate without drops"] = (
            "none was held"
            if highest.rate_fps is None
            else f"{highest.rate_fps:.3g} frames/s of each camera, {highest.share_of_bare:.2f} of the bare engine; "
            f"limited by: {highest.limited_by or 'nothing that was tried'}"
        )
    if (window := found.window) is not None:
        facts |= {
            "at a rate": f"{window.rate_fps:.3g} frames/s of each camera for {window.seconds:g} s",
            "what came of them": f"{window.frames} taken, {window.inspected} inspected, "
            f"{sum(window.dropped.values())} dropped, "
            f"{sum(window.failed.values())} failed, {window.unheard} unheard, {window.late} later than "
            f"{window.late_after_ms:.0f} ms",
            "capture to event": str(window.latency or "none was inspected"),
            "p99 - p50": "-" if window.jitter_periods is None else f"{window.jitter_periods:.3f} frame periods",
            "processor": ", ".join(f"{name} {cores:.2f} cores" for name, cores in window.cpu_cores.items()),
            "memory": f"PSS {window.pss_mb:.0f} MB, all processes together",
        }
    return facts
