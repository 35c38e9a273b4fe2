"""`heatline bench end-to-end`: the measurements in their order, and their summary."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from heatline.bench.bare_engine import Settings
from heatline.bench.end_to_end import beside
from heatline.bench.end_to_end.beside import Beside, measure_beside
from heatline.bench.end_to_end.highest import Highest, Tries, find_highest_rate
from heatline.bench.end_to_end.idle import Idle, measure_idle
from heatline.bench.end_to_end.line import Scene
from heatline.bench.end_to_end.saturated import Saturated, saturate
from heatline.bench.end_to_end.window import Window, run_window
from heatline.bench.engine_process import in_own_process
from heatline.bench.pictures import write_pictures
from heatline.bench.watched_line import Keys
from heatline.edge.bundle import Bundle
from heatline.edge.inference import Precision

if TYPE_CHECKING:  # only the other process loads the engine
    from heatline.bench.end_to_end.bare import Bare

PICTURES = 8
WAITING_FRAMES = 2
"""Of each camera."""
CHOOSE_SECONDS, CHOOSE_ROUNDS = 0.7, 3
TURN_SECONDS = 6.0
"""Length of a turn of service and engine, and of a window that tries a rate."""
BESIDE_SECONDS = 10.0
"""Length of a turn of a service with or without evidence and page."""
IDLE_FRAMES = 20
"""In each round."""
SEARCH_WINDOWS = 12
SHARE_OF_HIGHEST = 0.8
"""Share of the highest rate at which the window runs if no rate is given."""
HOLD_SECONDS = 60.0
"""Length of the window that confirms a rate. Buffers hide for a while that a rate is too high: three waiting frames
hide 2 % of three a second in a minute."""
WHOLE, INTERRUPTED = "whole", "interrupted"
"""Values of `ended`; any other value is the reason why the run failed."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The measurements to make."""

    rate_fps: float | None
    """Rate of the window; None: 80 % of the highest if that is searched, else no window."""
    seconds: float
    """Length of the window."""
    find_max: bool
    saturate: bool
    idle: bool
    beside: bool = False
    """Whether to compare services with and without evidence and page."""
    rounds: int
    """Rounds of service and engine, or of services."""


class EndToEnd(msgspec.Struct, frozen=True, kw_only=True):
    """All results; None: not measured."""

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
    engine_settings: dict[str, str | int]
    """Settings of the service's engine that are not the defaults."""
    engine_alone: Settings | None = None
    """The fastest settings, with which the bare engine was measured."""
    engine_alone_tiles_per_s: float | None = None
    """Its rate when it was chosen."""
    engine_alone_tried: list[tuple[Settings, float]] = []
    """All settings with their tiles per second."""
    saturated: Saturated | None = None
    idle: Idle | None = None
    beside: Beside | None = None
    highest: Highest | None = None
    window: Window | None = None
    ended: str = WHOLE
    """`whole`, `interrupted`, or why it failed. A file that is written between two measurements is interrupted."""


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
    keep: Callable[[EndToEnd], None],
) -> EndToEnd:
    """Measure what the plan says, one after the other.

    Args:
        pictures: folder of pictures to show, all of one size; None: made of the bundle's golden tiles, of size
            `frame_hw`.
        engine: keys of that table of the line, besides the precision.
        keep: called with the results so far, in case that the run does not reach its end.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine, or lacks that precision.
        BenchError: it cannot be used in that precision; a picture cannot be read; or a process failed.
    """
    with TemporaryDirectory(prefix="heatline-bench-") as folder:
        with in_own_process(_bare, bundle.path, precision) as bare:
            if is_made := pictures is None:
                pictures = Path(folder) / "pictures"
                write_pictures(pictures, bundle, frame_hw, PICTURES)
            pictures = pictures.absolute()
            expected = bare.expect(pictures)
            scene = Scene(bundle, precision, pictures, expected, cameras, WAITING_FRAMES, engine)
            found = EndToEnd(
                bundle=bundle.path.name,
                model=bundle.manifest.model.name,
                method=bundle.manifest.map.method,
                precision=precision,
                frame_hw=expected.frame_hw,
                cameras=cameras,
                waiting_frames=WAITING_FRAMES,
                tiles_per_frame=expected.tiles,
                pictures=len(expected.scores),
                defective=expected.defective,
                engine_settings={name: value for name, value in engine.items() if isinstance(value, str | int)},
                ended=INTERRUPTED,
            )
            keep(found)  # from now on the file is of this run
            if plan.saturate or plan.find_max:
                found = _choose(bare, scene, found, report_line)
            if plan.saturate:
                saturated = saturate(scene, bare, seconds=TURN_SECONDS, rounds=plan.rounds, report_line=report_line)
                keep(found := replace(found, saturated=saturated))
            if plan.idle:
                idle = measure_idle(scene, bare, frames=IDLE_FRAMES, rounds=plan.rounds, report_line=report_line)
                keep(found := replace(found, idle=idle))
        # From now on no other process maps the engine's libraries, and the measured memory is the service's own.
        if plan.beside:
            if is_made:
                pictures = Path(folder) / "beside"
                write_pictures(pictures, bundle, frame_hw, beside.PICTURES)
            with in_own_process(_bare, bundle.path, precision) as bare:
                few = dataclasses.replace(scene, pictures=pictures, expected=bare.expect(pictures, beside.DEFECTIVE))
            compared = measure_beside(few, seconds=BESIDE_SECONDS, rounds=plan.rounds, report_line=report_line)
            keep(found := replace(found, beside=compared))
        rate_fps = plan.rate_fps
        if plan.find_max:
            highest = _highest(scene, found, report_line)
            keep(found := replace(found, highest=highest))
            if rate_fps is None and highest.rate_fps is not None:
                rate_fps = SHARE_OF_HIGHEST * highest.rate_fps
        if rate_fps is not None:
            report_line(f"{rate_fps:.3g} frames/s for {plan.seconds:g} s")
            found = replace(found, window=run_window(scene, rate_fps, plan.seconds))
    return replace(found, ended=WHOLE)


def _bare(bundle: Path, precision: Precision) -> "Bare":
    from heatline.bench.end_to_end.bare import Bare

    return Bare(bundle, precision)


def _choose(bare: "Bare", scene: Scene, found: EndToEnd, report_line: Callable[[str], None]) -> EndToEnd:
    report_line("trying settings of the bare engine")
    chosen = bare.choose(CHOOSE_SECONDS, CHOOSE_ROUNDS)
    report_line(
        f"the bare engine is fastest with {chosen.settings}: {chosen.figure:.0f} tiles/s, "
        f"{chosen.figure / scene.tiles:.1f} frames/s"
    )
    return replace(
        found,
        engine_alone=chosen.settings,
        engine_alone_tiles_per_s=chosen.figure,
        engine_alone_tried=chosen.tried,
    )


def _highest(scene: Scene, found: EndToEnd, report_line: Callable[[str], None]) -> Highest:
    saturated, bare_tiles_per_s = found.saturated, found.engine_alone_tiles_per_s
    assert bare_tiles_per_s is not None
    tries = Tries(seconds=HOLD_SECONDS, search_seconds=TURN_SECONDS, search=SEARCH_WINDOWS, holds=1)
    return find_highest_rate(
        scene, saturated.engine_tiles_per_s.median if saturated else bare_tiles_per_s, tries, report_line
    )


def to_facts(found: EndToEnd) -> dict[str, object]:
    """Describe the results for people, by name and value."""
    height, width = found.frame_hw
    facts: dict[str, object] = {
        "frames": f"{width}x{height} px, {found.tiles_per_frame} tiles, {found.cameras} camera(s); "
        f"{100 * found.defective:.0f} % DEFECT",
    }
    if found.engine_alone is not None:
        facts["bare engine"] = (
            f"{found.engine_alone}, {found.engine_alone_tiles_per_s or 0:.0f} tiles/s when it was chosen"
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
                f"{processor.inference_ms:.1f} ms a frame for inference; {100 * processor.rest_share:.1f} % is for all "
                "else: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in processor.rest_ms.items())
            )
    if (idle := found.idle) is not None:
        facts["idle service"] = (
            f"a frame {idle.frame_ms:.1f} ms, its tiles in the bare engine ({idle.engine}) {idle.engine_ms:.1f} ms; "
            f"the difference {idle.extra_ms:.1f} ms; p99 {idle.frame_p99_ms:.1f} and {idle.engine_p99_ms:.1f} ms"
            + (f"; {idle.lost} frames were lost" if idle.lost else "")
            + (f"; {idle.crowded} ran into the next one: measure again" if idle.crowded else "")
        )
    if found.beside is not None:
        facts |= _facts_beside(found.beside)
    if (highest := found.highest) is not None:
        facts["highest rate without drops"] = (
            "none was confirmed"
            if highest.rate_fps is None
            else f"{highest.rate_fps:.3g} frames/s of each camera, {highest.share_of_bare:.2f} of the bare engine; "
            f"limited by: {highest.limited_by or 'nothing that was tried'}"
        )
    if (window := found.window) is not None:
        facts |= {
            "keeps up": describe_keeping_up(window),
            "at a rate": f"{window.rate_fps:.3g} frames/s of each camera for {window.seconds:g} s",
            "frames of it": f"{window.frames} captured, {window.inspected} inspected, "
            f"{sum(window.dropped.values())} dropped, "
            f"{sum(window.failed.values())} failed, {window.unreported} not reported, {window.late} later than "
            f"{window.late_after_ms:.0f} ms",
            "due to event": str(window.latency or "none was inspected"),
            "p99 - p50": "-" if window.jitter_periods is None else f"{window.jitter_periods:.3f} frame periods",
            "cameras": f"p99 of the timestamps {window.camera_late_p99_ms or 0:.1f} ms after the frame was due",
            "processor": ", ".join(f"{name} {cores:.2f} cores" for name, cores in window.cpu_cores.items()),
            "memory": f"PSS {window.pss_mb:.0f} MB, all processes together; at most {window.most_mb:.0f} MB; "
            f"{window.pictures_mb:.0f} MB of it are the pictures of the cameras",
        }
    return facts


def _facts_beside(found: Beside) -> dict[str, object]:
    facts: dict[str, object] = {
        "beside": f"turns of {found.seconds:g} s; {100 * found.defective:.0f} % DEFECT, one of {found.good_every} GOOD "
        f"frames is to be stored; {found.viewers} viewers",
    }
    for service in found.services:
        processors = ", ".join(f"{name} {ms.median:.1f}" for name, ms in service.cpu_ms_per_frame.items())
        ratio = "" if service.over_plain is None else f"{service.over_plain:.3f} of plain; "
        facts[f"{service.name} service"] = (
            f"{ratio}{service.frames_per_s:.2f} frames/s; {processors} ms of processor time a frame; of "
            f"{service.frames} frames {service.stored} stored, {service.skipped} skipped, {service.shown} shown"
        )
    return facts


def describe_keeping_up(window: Window) -> str:
    """Describe whether the line keeps up, with the reason; a consumer may not wait for a frame that is late."""
    if window.not_kept_up is not None:
        return f"no: {window.not_kept_up}"
    if window.late:
        return f"no: {window.late} of {window.inspected} frames came later than {window.late_after_ms:.0f} ms"
    return "yes: every frame was inspected, none late"
