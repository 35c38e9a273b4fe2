"""`heatline bench end-to-end`: what is measured, in which order, and what it comes to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from bench.end_to_end.bare_engine import BareEngine
from bench.end_to_end.highest import Highest, find_highest_rate
from bench.end_to_end.idle import Idle, measure_idle
from bench.end_to_end.line import Scene
from bench.end_to_end.pictures import write_pictures
from bench.end_to_end.requests import Choose, Job, Look
from bench.end_to_end.saturated import Saturated, saturate
from bench.end_to_end.window import Window, run_window
from bench.engine_settings import Settings
from bench.proven import require_engine_in
from bench.rate_search import Tries
from bench.targets import SHARE_OF_HIGHEST
from bench.watched_line import Keys
from edge.bundle import Bundle
from edge.inference import Precision

PICTURES = 8
CHOOSE_SECONDS, CHOOSE_ROUNDS = 0.7, 3
SEARCH_WINDOWS = 12
HOLD_SECONDS = 60.0
"""Without a loss. Frames that wait hide for a while that others come faster: three of them, at three a second in a
minute, a rate that is 2 % too high."""
WHOLE, INTERRUPTED = "whole", "interrupted"
"""How a run may have ended; else it failed, and that is the reason."""


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
    """Of each turn of service and engine, and in which a rate is tried before it is held for longer."""
    idle_frames: int
    quick: bool


class EndToEnd(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured; what was not is None."""

    bundle: str
    model: str
    method: str
    precision: Precision
    frame_hw: tuple[int, int]
    cameras: int
    waiting_frames: int
    tiles_per_frame: int
    pictures: int
    defective: float
    """Share of the pictures that are DEFECT."""
    heatmaps: str
    journal: bool
    engine_settings: dict[str, str | int]
    """Of the service; what is left out is as it is by default."""
    quick: bool
    """Whether it was only to be seen that all of it runs."""
    engine_alone: Settings | None = None
    """The fastest, with which the bare engine was kept busy."""
    engine_alone_tiles_per_s: float | None = None
    """As it was chosen."""
    engine_alone_tried: list[tuple[Settings, float]] = []
    """Tiles a second."""
    saturated: Saturated | None = None
    idle: Idle | None = None
    highest: Highest | None = None
    window: Window | None = None
    ended: str = WHOLE
    """`whole`, `interrupted`, or why it failed. What there is after a part is interrupted until the run goes on."""


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
    keep: Callable[[EndToEnd], None],
) -> EndToEnd:
    """Measure what the plan says, one after the other.

    Args:
        pictures: folder of pictures to show, all of one size; None: of the bundle's golden tiles, of size `frame_hw`.
        defective: share of the pictures to be judged DEFECT.
        keep: is given what there is so far, to have it should the run not reach its end.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine, or lacks that precision.
        BenchError: it cannot be used in that precision; a picture cannot be read; or a process did not do what it
            should.
    """
    require_engine_in(bundle, precision)
    with _pictures(pictures, bundle, frame_hw) as folder:
        job = Job(bundle=str(bundle.path), precision=precision, pictures=str(folder), defective=defective)
        with BareEngine(job) as bare:
            expected = bare.ask(Look()).expected
            assert expected is not None
            scene = Scene(bundle, precision, folder, expected, cameras, waiting_frames, heatmaps, journal, engine)
            found = EndToEnd(
                bundle=bundle.path.name,
                model=bundle.manifest.model.name,
                method=bundle.manifest.map.method,
                precision=precision,
                frame_hw=expected.frame_hw,
                cameras=cameras,
                waiting_frames=waiting_frames,
                tiles_per_frame=expected.tiles,
                pictures=len(expected.scores),
                defective=expected.defective,
                heatmaps=heatmaps,
                journal=journal,
                engine_settings={name: value for name, value in engine.items() if isinstance(value, str | int)},
                quick=plan.quick,
                ended=INTERRUPTED,
            )
            keep(found)  # from here on, whatever lies there is of this run
            found = _beside_the_bare_engine(scene, bare, plan, found, say, keep)
        # From here on no other process maps the engine's libraries: the memory is the service's own.
        rate_fps = plan.rate_fps
        if plan.find_max:
            found = msgspec.structs.replace(found, highest=_highest(scene, plan, found, say))
            keep(found)
            if rate_fps is None and found.highest is not None and found.highest.rate_fps is not None:
                rate_fps = SHARE_OF_HIGHEST * found.highest.rate_fps
        if rate_fps is not None:
            say(f"{rate_fps:.3g} frames/s for {plan.seconds:g} s")
            found = msgspec.structs.replace(
                found, window=run_window(scene, rate_fps, plan.seconds, plan.late_after_ms, say=say)
            )
    return msgspec.structs.replace(found, ended=WHOLE)


def _beside_the_bare_engine(
    scene: Scene,
    bare: BareEngine,
    plan: Plan,
    found: EndToEnd,
    say: Callable[[str], None],
    keep: Callable[[EndToEnd], None],
) -> EndToEnd:
    if plan.saturate or plan.find_max:
        say("looking for the bare engine's best settings")
        chosen = bare.ask(Choose(CHOOSE_SECONDS if not plan.quick else 0.01, CHOOSE_ROUNDS if not plan.quick else 1))
        say(
            f"the bare engine is fastest with {chosen.settings}: {chosen.tiles_per_s:.0f} tiles/s, "
            f"{chosen.tiles_per_s / scene.tiles:.1f} frames/s"
        )
        found = msgspec.structs.replace(
            found,
            engine_alone=chosen.settings,
            engine_alone_tiles_per_s=chosen.tiles_per_s,
            engine_alone_tried=chosen.tried,
        )
    if plan.saturate:
        saturated = saturate(scene, bare, seconds=plan.turn_seconds, rounds=plan.rounds, say=say)
        found = msgspec.structs.replace(found, saturated=saturated)
        keep(found)
    if plan.idle:
        idle = measure_idle(scene, bare, frames=plan.idle_frames, rounds=plan.rounds, say=say)
        found = msgspec.structs.replace(found, idle=idle)
        keep(found)
    return found


def _highest(scene: Scene, plan: Plan, found: EndToEnd, say: Callable[[str], None]) -> Highest:
    saturated, bare_tiles_per_s = found.saturated, found.engine_alone_tiles_per_s
    assert bare_tiles_per_s is not None
    hold_s = HOLD_SECONDS if not plan.quick else plan.turn_seconds
    tries = Tries(seconds=hold_s, search_seconds=plan.turn_seconds, search=SEARCH_WINDOWS, holds=1)
    return find_highest_rate(scene, saturated.engine_tiles_per_s.median if saturated else bare_tiles_per_s, tries, say)


@contextmanager
def _pictures(given: Path | None, bundle: Bundle, hw: tuple[int, int]) -> Iterator[Path]:
    if given is not None:
        yield given.absolute()
        return
    with TemporaryDirectory(prefix="heatline-bench-") as folder:
        write_pictures(Path(folder) / "pictures", bundle, hw, PICTURES)
        yield Path(folder) / "pictures"


def to_facts(found: EndToEnd) -> dict[str, object]:
    """The same for people."""
    height, width = found.frame_hw
    facts: dict[str, object] = {
        "frames": f"{width}x{height} px, {found.tiles_per_frame} tiles, {found.cameras} camera(s); "
        f"{found.defective:.0%} DEFECT, heatmaps {found.heatmaps}, {'a' if found.journal else 'no'} journal",
    }
    if found.engine_alone is not None:
        facts["bare engine"] = (
            f"{found.engine_alone}, {found.engine_alone_tiles_per_s or 0:.0f} tiles/s as it was chosen"
        )
    if (saturated := found.saturated) is not None:
        facts |= {
            "service_over_engine": f"{saturated.service_over_engine:.3f} of medians; by rounds "
            f"{saturated.service_over_engine_spread:.3f}",
            "service, saturated": f"{saturated.service_frames_per_s:.2f} frames/s, "
            f"{saturated.service_tiles_per_s:.0f} tiles/s",
            "bare engine, saturated": f"{saturated.engine_tiles_per_s:.0f} tiles/s",
        }
        if (processor := saturated.processor) is not None:
            facts["processor, saturated"] = (
                f"{processor.inference_ms:.1f} ms a frame for inference; {processor.rest_share:.1%} is for all else: "
                + ", ".join(f"{name} {ms:.2f} ms" for name, ms in processor.rest_ms.items())
            )
    if (idle := found.idle) is not None:
        facts["idle service"] = (
            f"a frame {idle.frame_ms:.1f} ms, its tiles in the bare engine ({idle.engine}) {idle.engine_ms:.1f} ms; "
            f"the difference {idle.extra_ms:.1f} ms; p99 {idle.frame_p99_ms:.1f} and {idle.engine_p99_ms:.1f} ms"
            + (f"; {idle.lost} frames were lost" if idle.lost else "")
            + (f"; {idle.crowded} ran into the next one: measure again" if idle.crowded else "")
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
            "keeps up": _keeps_up(window),
            "at a rate": f"{window.rate_fps:.3g} frames/s of each camera for {window.seconds:g} s",
            "what came of them": f"{window.frames} taken, {window.inspected} inspected, "
            f"{sum(window.dropped.values())} dropped, "
            f"{sum(window.failed.values())} failed, {window.unheard} unheard, {window.late} later than "
            f"{window.late_after_ms:.0f} ms",
            "due to event": str(window.latency or "none was inspected"),
            "p99 - p50": "-" if window.jitter_periods is None else f"{window.jitter_periods:.3f} frame periods",
            "cameras": f"p99 of the stamps {window.camera_late_p99_ms or 0:.1f} ms after the frame was due",
            "processor": ", ".join(f"{name} {cores:.2f} cores" for name, cores in window.cpu_cores.items()),
            "memory": f"PSS {window.pss_mb:.0f} MB, all processes together; at most {window.most_mb:.0f} MB; "
            f"{window.pictures_mb:.0f} MB of it are the pictures that the cameras show",
        }
    return facts


def _keeps_up(window: Window) -> str:
    if window.inspected == window.frames and not window.late:
        return "yes: every frame was inspected, none late"
    return (
        f"no: {window.inspected} of {window.frames} frames were inspected within {window.seconds:g} s, {window.late} "
        "of them late"
    )
