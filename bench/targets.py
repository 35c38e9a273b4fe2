"""What the figures are to be and under which conditions, and what result files say of them.

A target is reached, or missed, under its own conditions alone. A figure that was measured under other conditions is
shown with what differs. All targets are for two cores.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bench.machine import MachineKind

CORES = 2
LARGE_MP = 5
"""Of a frame, rounded: 2448x2048 px."""
FEWEST_TILES, MOST_TILES = 9, 480
SHARE_OF_HIGHEST, WINDOW_S = 0.8, 300.0
SMALL_MODEL = "mobilenetv3_large_d"
COST_PER_TILE_WITHIN = 0.1
"""By how much the dearest tile may cost more than the cheapest."""
READY_S = 2.0
"""With a model cache."""
RATE_OFF = 0.01
"""By how much a rate may differ from the one that is meant, as a share."""
IDLE_CPU = 0.05
"""Of one core, what systems without a turn may take."""
OTHERS = {"anomalib": ("f32", "bf16", "int8"), "model-api": ("f32", "bf16", "int8"), "grad-cam": ("f32",)}
"""Systems to be faster than, and the precisions that each can do."""

Measurement = Mapping[str, Any]
Find = Callable[[Measurement], Iterable[tuple[str, float]]]
"""Yields figures of a measurement, each with what it is of beside the model."""
Condition = Callable[[Measurement], Iterable[str]]
"""Yields what keeps a measurement from counting, in words."""


@dataclass(frozen=True)
class Target:
    """One figure to reach."""

    what: str
    """With its unit."""
    kind: str
    """Of the result files that hold it."""
    find: Find
    bound: Literal["at least", "at most", "over", "under"]
    goal: float
    conditions: str
    """In words, but for the cores."""
    needs: tuple[Condition, ...] = ()
    model: str | None = None
    """None: any."""

    @property
    def words(self) -> str:
        return f"{self.bound} {self.goal:g}"

    def is_reached(self, found: float) -> bool:
        match self.bound:
            case "at least":
                return found >= self.goal
            case "at most":
                return found <= self.goal
            case "over":
                return found > self.goal
            case "under":
                return found < self.goal

    def differs(self, one: Measurement, machine: MachineKind) -> list[str]:
        """Say in words which conditions of a measurement are not the target's."""
        model = [] if self.model in (None, one["model"]) else [one["model"]]
        return [*model, *(words for need in self.needs for words in need(one)), *_not_of_two_cores(machine)]


def _part(part: str, key: str) -> Find:
    """Find a figure in a part of an end-to-end run, where that part was run."""

    def find(one: Measurement) -> Iterator[tuple[str, float]]:
        value = one[part] and one[part][key]
        if value is not None:
            settings = ", ".join(f"{name} {setting}" for name, setting in one["engine_settings"].items())
            journal = "a journal" if one["journal"] else "no journal"
            yield f"{settings or 'default settings'}, {journal}", value["median"] if isinstance(value, dict) else value

    return find


def _faster_than(one: Measurement) -> dict[str, float]:
    """By system, how many times as fast ours is."""
    return {each["name"]: each["ours_to_it"] for each in one["systems"] if each["name"] in OTHERS}


def _grad_cam(one: Measurement) -> Iterator[tuple[str, float]]:
    if "grad-cam" in (times := _faster_than(one)):
        yield "", times["grad-cam"]


def _best_other(one: Measurement) -> Iterator[tuple[str, float]]:
    if times := _faster_than(one):
        best = min(times, key=lambda name: times[name])
        yield f"beside {best}", times[best]


def _tiles(one: Measurement) -> list[int]:
    return [each["tiles"] for each in one["cost_per_tile"] if FEWEST_TILES <= each["tiles"] <= MOST_TILES]


def _dearest_tile(one: Measurement) -> Iterator[tuple[str, float]]:
    tiles = _tiles(one)
    if len(tiles) > 1:
        ms = [each["whole_ms_per_tile"]["median"] for each in one["cost_per_tile"] if each["tiles"] in tiles]
        yield f"{min(tiles)} to {max(tiles)} tiles", 100 * (max(ms) / min(ms) - 1)


def _cached_start(one: Measurement) -> Iterator[tuple[str, float]]:
    """Of a line PC at power-on, and of a service that starts again."""
    for condition in ("cold, cached", "cached"):
        if condition in one["conditions"]:
            yield condition, one["conditions"][condition]["ready_s"]["median"]


def _not_of_two_cores(kind: MachineKind) -> Iterator[str]:
    if kind.cores is None:
        yield "cores not told"
    elif kind.cores != CORES:
        yield f"{kind.cores} cores"
    if kind.cpu_quota is not None and kind.cpu_quota < CORES:
        yield f"time of {kind.cpu_quota:g} cores"


def _steady(one: Measurement) -> Iterator[str]:
    """At the wanted share of the highest rate, long enough and without loss."""
    window, highest = one["window"], one["highest"]
    rate_fps, came_fps = window["rate_fps"], window["came_fps"]
    if highest is None or highest["rate_fps"] is None or rate_fps is None:
        yield "the highest rate is not in the file"
    elif abs(rate_fps / highest["rate_fps"] / SHARE_OF_HIGHEST - 1) > RATE_OFF:
        yield f"at {100 * rate_fps / highest['rate_fps']:.0f} % of the highest rate"
    if rate_fps is not None and came_fps is not None and came_fps < (1 - RATE_OFF) * rate_fps:
        yield f"{came_fps:.3g} frames/s came"
    if window["seconds"] < WINDOW_S:
        yield f"{window['seconds']:g} s"
    if lost := sum(window["dropped"].values()) + sum(window["failed"].values()) + window["unheard"]:
        yield f"{lost} frames lost"


def _every_other(one: Measurement) -> Iterator[str]:
    """A system that was left out might have been the best; one that cannot do the precision is no other."""
    for name, precisions in OTHERS.items():
        if one["precision"] in precisions and name not in _faster_than(one):
            yield f"without {name}"


def _all_tiles(one: Measurement) -> Iterator[str]:
    tiles = _tiles(one)
    if (min(tiles), max(tiles)) != (FEWEST_TILES, MOST_TILES):
        yield f"{min(tiles)} to {max(tiles)} tiles"


def _needs(is_met: Callable[[Measurement], bool], otherwise: str) -> Condition:
    """Make a condition that is said with keys of the measurement where it is not met."""
    return lambda one: [] if is_met(one) else [otherwise.format(**one)]


_bf16 = _needs(lambda one: one["precision"] == "bf16", "{precision}")
_large = _needs(lambda one: round(math.prod(one["frame_hw"]) / 1e6) == LARGE_MP, "{frame_hw[1]}x{frame_hw[0]} px")
_not_quick = _needs(lambda one: not one["quick"], "--quick")
_no_journal = _needs(lambda one: not one["journal"], "a journal")
_no_idle_frame_lost = _needs(lambda one: not one["idle"]["lost"], "{idle[lost]} frames lost")
_one_camera = _needs(lambda one: one["cameras"] == 1, "{cameras} cameras")
_others_idle = _needs(
    lambda one: one["others_cpu"] <= IDLE_CPU, "systems without a turn took {others_cpu:.3g} of a core"
)
# A run that failed may have proved its own figures wrong. Older files do not say how their run ended.
_not_interrupted = _needs(lambda one: one.get("ended") != "interrupted", "interrupted")
_not_failed = _needs(lambda one: one.get("ended", "whole") in ("whole", "interrupted"), "the run failed")
_whole = (_not_interrupted, _not_failed, _not_quick)

TARGETS = (
    *(
        Target(
            what="service over engine, saturated",
            kind="end-to-end",
            find=_part("saturated", "service_over_engine"),
            bound="at least",
            goal=goal,
            conditions=f"{model}, bf16, 5 MP",
            needs=(_bf16, _large, *_whole),
            model=model,
        )
        for model, goal in ((SMALL_MODEL, 0.95), ("efficientnetv2_s_d", 0.98))
    ),
    Target(
        what="latency of a frame on an idle service, beyond its tiles in the engine, ms",
        kind="end-to-end",
        find=_part("idle", "extra_ms"),
        bound="at most",
        goal=5.0,
        conditions="5 MP, no journal",
        needs=(_large, _no_journal, _no_idle_frame_lost, *_whole),
    ),
    Target(
        what="p99 - p50 from capture to event, frame periods",
        kind="end-to-end",
        find=_part("window", "jitter_periods"),
        bound="under",
        goal=0.25,
        conditions="at 80 % of the highest rate found, 300 s or more, no frame lost",
        needs=(_steady, *_whole),
    ),
    Target(
        what="frames per second, over grad-cam",
        kind="peers",
        find=_grad_cam,
        bound="at least",
        goal=10.0,
        conditions="same net, with maps",
        needs=(_others_idle,),
    ),
    Target(
        what="share of the engine, over the best other's",
        kind="peers",
        find=_best_other,
        bound="over",
        goal=1.0,
        conditions="same frames and net",
        needs=(_every_other, _others_idle),
    ),
    Target(
        what="dearest tile over the cheapest, %",
        kind="stages",
        find=_dearest_tile,
        bound="at most",
        goal=100 * COST_PER_TILE_WITHIN,
        conditions=f"frames of {FEWEST_TILES} to {MOST_TILES} tiles",
        needs=(_all_tiles,),
    ),
    Target(
        what="process start to READY, s",
        kind="startup",
        find=_cached_start,
        bound="under",
        goal=READY_S,
        conditions="with a model cache",
    ),
    Target(
        what="PSS of the service's processes, MB",
        kind="end-to-end",
        find=_part("window", "pss_mb"),
        bound="under",
        goal=400.0,
        conditions=f"{SMALL_MODEL}, one camera of 5 MP",
        needs=(_large, _one_camera, *_whole),
        model=SMALL_MODEL,
    ),
)
