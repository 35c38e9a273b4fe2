"""Systems on a plane of accuracy and latency: how well a model tells tiles apart, and how long it takes for one.

Accuracy comes from `heatline evaluate`, latency from benches of the same model on one machine, matched by name. What a
trained model costs, one from a random start costs too.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from bench.precisions import PrecisionsBench
from bench.report.content import Block, Column, Plot, shown, table
from bench.report.files import Result
from bench.report.kinds import map_cost
from bench.report.plots import Place, plane

FAMILIES = ("cnn", "vit")


class Told(msgspec.Struct, frozen=True):
    """As in `evaluation.json`, like the next ones, without what is not used; its own structs need torch to be read."""

    name: str
    model: str
    family: str
    method: str
    data: str
    groups: list[str]


class Tile(msgspec.Struct, frozen=True):
    """By no threshold."""

    average_precision: float | None
    auroc: float | None


class Figures(msgspec.Struct, frozen=True):
    """None: nothing says where its pictures are defective."""

    tile: Tile | None


class Truth(msgspec.Struct, frozen=True):
    """What was found against one."""

    truth: str
    figures: Figures


class Evaluation(msgspec.Struct, frozen=True):
    """Of one model, on some groups of pictures."""

    told: Told
    truths: list[Truth]


class System(NamedTuple):
    """What is told apart on a plane."""

    name: str
    model: str
    family: str
    method: str


class Latency(NamedTuple):
    """Of one tile, classifier and map."""

    ms: float
    how: str
    result: Result


Groups = tuple[str, ...]


def decode(result: Result) -> Evaluation:
    """An evaluation."""
    return msgspec.convert(result.measurements[0], Evaluation)


def planes(read: Sequence[tuple[Evaluation, Result]], timed: Sequence[Result]) -> list[Block]:
    """One for each kind of data, truth and machine.

    Args:
        timed: results of `map-cost` and `precisions`.
    """
    latencies: dict[object, dict[tuple[str, str], Latency]] = {}
    for result in timed:
        latencies.setdefault(result.machine_kind, {}).update(_latencies(result))
    found: list[Block] = []
    for data, truth in dict.fromkeys((one.told.data, each.truth) for one, _ in read for each in one.truths):
        ours = [(one, result) for one, result in read if one.told.data == data]
        for of_machine in latencies.values():
            systems = {
                system: folds
                for system, folds in _systems((one for one, _ in ours), truth).items()
                if (system.model, system.method) in of_machine
            }
            if systems:
                used = tuple(result for one, result in ours if _system(one) in systems)
                found += _block(f"{data}, {truth}", systems, of_machine, used)
    return found


def _block(
    heading: str,
    systems: Mapping[System, Mapping[Groups, Tile]],
    latencies: Mapping[tuple[str, str], Latency],
    evaluated: tuple[Result, ...],
) -> list[Block]:
    """None where systems were held to no pictures in common."""
    common = set.intersection(*(set(folds) for folds in systems.values()))
    drawn: list[Place] = []
    rows: list[tuple[str, ...]] = []
    used: dict[int, Result] = {}
    for system, folds in systems.items():
        latency = latencies[system.model, system.method]
        precisions = [folds[one].average_precision for one in common]
        known = [one for one in precisions if one is not None]
        if not known:
            continue
        average, aurocs = statistics.fmean(known), [folds[one].auroc for one in common]
        auroc = statistics.fmean(one for one in aurocs if one is not None)
        used[id(latency.result)] = latency.result
        drawn.append(Place(system.name, latency.ms, average, FAMILIES.index(system.family)))
        rows.append((system.name, system.method, shown(average), shown(auroc), shown(latency.ms), latency.how))
    if not drawn:
        return []
    said = f"Average precision of tiles over ms per tile: {heading}"
    columns = (Column("name", True), Column("map", True), "tile AP", "tile AUROC", "ms per tile", Column("timed", True))
    means = "" if len(common) == 1 else f", means of {len(common)} folds"
    groups = len({group for fold in common for group in fold})
    told = f"Over {groups} group{'s' * (groups > 1)} of pictures{means}: what all of these were held to."
    picture = plane(drawn, FAMILIES, said, "ms per tile, with its map", "tile average precision")
    return [Block(heading, (told,), (Plot(picture),), (table(columns, rows),), (*used.values(), *evaluated))]


def _systems(read: Iterable[Evaluation], truth: str) -> dict[System, dict[Groups, Tile]]:
    """What each was found to be worth, by the groups of pictures that it was held to."""
    found: dict[System, dict[Groups, Tile]] = {}
    for one in read:
        for each in one.truths:
            if each.truth == truth and each.figures.tile is not None:
                found.setdefault(_system(one), {})[tuple(sorted(one.told.groups))] = each.figures.tile
    return found


def _system(read: Evaluation) -> System:
    return System(read.told.name, read.told.model, read.told.family, read.told.method)


def _latencies(result: Result) -> dict[tuple[str, str], Latency]:
    """By model and map, in OpenVINO in f32, as evaluations are made in f32; one tile a request."""
    if result.kind == "map-cost":
        return {
            (row.model, row.method): Latency(row.cost.map_ms_per_tile.median, "random weights, OpenVINO f32", result)
            for row in map_cost.decode(result)
            if (row.way, row.engine, row.precision, row.batch) == ("graph", "openvino", "f32", 1) and row.cost
        }
    bundles = [msgspec.convert(one, PrecisionsBench) for one in result.measurements]
    return {
        (bundle.model, bundle.method): Latency(
            1e3 / speed.tiles_per_s.median, f"bundle {bundle.bundle}, OpenVINO f32", result
        )
        for bundle in bundles
        for speed in bundle.speeds
        if (speed.precision, speed.batch) == ("f32", 1)
    }
