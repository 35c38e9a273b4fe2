"""What the figures are to be, beside what they are: every file that says something of a target has its line.

A target is reached, or missed, under its own conditions alone. A figure that was had under others is shown with what
differs.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.end_to_end.end_to_end import INTERRUPTED, WHOLE, EndToEnd
from bench.end_to_end.window import Window
from bench.machine import MachineKind
from bench.peers.peers import PeersBench, faults
from bench.peers.systems import ENGINE, OURS, PEERS, SYSTEMS
from bench.peers.worker import in_words
from bench.report.content import UNKNOWN, Block, Column, shown, table
from bench.report.files import Result
from bench.report.sources import Machines
from bench.stages.stages import StagesBench
from bench.stages.tile_counts import spread_of_cost
from bench.startup.startup import CACHED, StartUp
from bench.targets import (
    CORES,
    FEWEST_TILES,
    LARGE_MP,
    MOST_TILES,
    SHARE_OF_HIGHEST,
    TARGETS,
    WINDOW_S,
    Figure,
    Target,
)

PEER = "grad-cam"
RATE_OFF = 0.01
"""By how much a rate may differ from the one that is meant, as a share."""


class Found(NamedTuple):
    """A figure of a file."""

    figure: Figure
    model: str
    of: str
    value: float
    others: tuple[str, ...]
    """Conditions that are not the target's, in words."""
    result: Result


def figures(result: Result) -> list[Found]:
    """Those of a result that there are targets for."""
    machine = tuple(_not_of_two_cores(result.machine_kind))
    found = [one for make in (_end_to_end, _peers, _stages, _startup) for one in make(result)]
    return [one._replace(others=(*one.others, *machine)) for one in found]


def blocks(found: Sequence[Found], machines: Machines) -> list[Block]:
    """One table: a line for each figure of each target, and for each target without one; none without any figure."""
    if not found:
        return []
    columns = [Column(name, True) for name in ("what", "of", "target", "under these conditions")]
    ends = [Column(name, True) for name in ("reached", "machine", "file")]
    rows: list[tuple[str, ...]] = []
    for target in TARGETS:
        told = (target.what, target.words, target.conditions)
        rows += [_row(target, one, machines) for one in _of(target, found)] or [
            (told[0], target.model or UNKNOWN, *told[1:], UNKNOWN, "not measured", UNKNOWN, UNKNOWN)
        ]
    used = tuple({id(one.result): one.result for one in found}.values())
    sentence = f"All targets are for {CORES} cores. A target is held against figures had under its conditions alone."
    return [Block("Figures to reach", (sentence,), tables=(table([*columns, "found", *ends], rows),), results=used)]


def _of(target: Target, found: Sequence[Found]) -> list[Found]:
    """Figures of a target; those of a model that another target names are that one's."""
    named = {other.model for other in TARGETS if other.figure == target.figure} - {target.model, None}
    return [one for one in found if one.figure == target.figure and one.model not in named]


def _row(target: Target, found: Found, machines: Machines) -> tuple[str, ...]:
    others = [*([] if target.model in (None, found.model) else [found.model]), *found.others]
    reached = "yes" if target.is_reached(found.value) else "no"
    return (
        *(target.what, found.of, target.words, target.conditions, shown(found.value)),
        f"other conditions: {', '.join(others)}" if others else reached,
        machines.name(found.result.machine_kind) if found.result.machine else UNKNOWN,
        found.result.file,
    )


def _end_to_end(result: Result) -> Iterator[Found]:
    for one in result.decoded(EndToEnd) if result.kind == "end-to-end" else ():
        settings = in_words(one.engine_settings) if one.engine_settings else "default settings"
        kept = "a journal" if one.journal else "no journal"
        of = f"{_words(one.model, one.precision, one.frame_hw)}, {settings}, {kept}"
        run = [*_not_whole(one.ended), *(["--quick"] if one.quick else [])]
        size, journal = _not_large(one.frame_hw), ["a journal"] if one.journal else []
        if one.saturated is not None:
            others = (*_unlike(one.precision, "bf16"), *size, *run)
            yield Found("service over engine", one.model, of, one.saturated.service_over_engine, others, result)
        if one.idle is not None:
            lost = [f"{one.idle.lost} frames lost"] if one.idle.lost else []
            others = (*size, *journal, *lost, *run)
            yield Found("idle", one.model, of, one.idle.extra_ms.median, others, result)
        if one.window is not None:
            cameras = [f"{one.cameras} cameras"] if one.cameras != 1 else []
            memory_mb = one.window.pss_mb
            yield Found("PSS", one.model, of, memory_mb, (*size, *cameras, *run), result)
            if one.window.jitter_periods is not None:
                highest_fps = None if one.highest is None else one.highest.rate_fps
                others = (*_not_steady(one.window, highest_fps), *run)
                yield Found("jitter", one.model, of, one.window.jitter_periods, others, result)


def _peers(result: Result) -> Iterator[Found]:
    for one in result.decoded(PeersBench) if result.kind == "peers" else ():
        of = _words(one.model, one.precision, one.frame_hw)
        times = {system.name: system.ours_to_it for system in one.systems if system.name not in (ENGINE, OURS)}
        busy = [f"systems without a turn took {shown(one.others_cpu)} of a core"] if faults(one) else []
        if PEER in times:
            yield Found("times as fast as grad-cam", one.model, of, times[PEER], tuple(busy), result)
        if times:
            best = min(times, key=lambda name: times[name])
            # One that was left out might have been the best; one that cannot do this precision is no other.
            able = [each.name for each in SYSTEMS if each.name in PEERS and one.precision in each.precisions]
            missing = [f"without {name}" for name in able if name not in times]
            yield Found("best other", one.model, f"{of}, beside {best}", times[best], (*missing, *busy), result)


def _stages(result: Result) -> Iterator[Found]:
    for one in result.decoded(StagesBench) if result.kind == "stages" else ():
        costs = [cost for cost in one.cost_per_tile if FEWEST_TILES <= cost.tiles <= MOST_TILES]
        dearer = spread_of_cost(costs)
        if dearer is not None:
            counts = [cost.tiles for cost in costs]
            spanned = f"{min(counts)} to {max(counts)} tiles"
            others = () if (min(counts), max(counts)) == (FEWEST_TILES, MOST_TILES) else (spanned,)
            of = f"{one.model} {one.precision}, {spanned}"
            yield Found("cost per tile", one.model, of, 100 * dearer, others, result)


def _startup(result: Result) -> Iterator[Found]:
    for one in result.decoded(StartUp) if result.kind == "startup" else ():
        for condition in CACHED:
            if condition in one.conditions:
                of = f"{one.model} {one.precision}, {condition}"
                yield Found("ready", one.model, of, one.conditions[condition].ready_s.median, (), result)


def _words(model: str, precision: str, hw: tuple[int, int]) -> str:
    return f"{model} {precision}, {hw[1]}x{hw[0]}"


def _not_whole(ended: str) -> list[str]:
    """A run that failed proved its own figures wrong, perhaps; the reason stands with them in the report."""
    return [] if ended == WHOLE else ["interrupted" if ended == INTERRUPTED else "the run failed"]


def _unlike(found: str, wanted: str) -> list[str]:
    return [] if found == wanted else [found]


def _not_large(hw: tuple[int, int]) -> list[str]:
    height, width = hw
    return [] if round(height * width / 1e6) == LARGE_MP else [f"{width}x{height} px"]


def _not_steady(window: Window, highest_fps: float | None) -> Iterator[str]:
    """What keeps a window from being one at the wanted share of the highest rate, long enough and without loss."""
    rate_fps, came_fps = window.rate_fps, window.came_fps
    if highest_fps is None or rate_fps is None:
        yield "the highest rate is not in the file"
    elif abs(rate_fps / highest_fps / SHARE_OF_HIGHEST - 1) > RATE_OFF:
        yield f"at {100 * rate_fps / highest_fps:.0f} % of the highest rate"
    if rate_fps is not None and came_fps is not None and came_fps < (1 - RATE_OFF) * rate_fps:
        yield f"{shown(came_fps)} frames/s came"
    if window.seconds < WINDOW_S:
        yield f"{window.seconds:g} s"
    if lost := sum(window.dropped.values()) + sum(window.failed.values()) + window.unheard:
        yield f"{lost} frames lost"


def _not_of_two_cores(kind: MachineKind) -> Iterator[str]:
    if kind.cores is None:
        yield "cores not told"
    elif kind.cores != CORES:
        yield f"{kind.cores} cores"
    if kind.cpu_quota is not None and kind.cpu_quota < CORES:
        yield f"time of {kind.cpu_quota:g} cores"
