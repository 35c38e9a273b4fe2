"""Systems on a plane of accuracy and latency: how well a model tells tiles apart, and how long it takes for one.

Accuracy comes from `heatline evaluate`, latency from benches of the same model on one machine, matched by name. What a
trained model costs, one from a random start costs too.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from bench.machine import MachineKind
from bench.report.content import Block, Column, Plot, shown, table
from bench.report.files import Result
from bench.report.kinds import map_cost
from bench.report.plots import Place, plane

FAMILIES = ("cnn", "vit")


class Told(msgspec.Struct, frozen=True):
    """As in `evaluation.json`, like the next ones, without what is not used; its own structs need torch to be read."""

    name: str
    model: str
    family: Literal["cnn", "vit"]
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

    model: str
    method: str
    ms: float
    how: str
    result: Result


Groups = tuple[str, ...]
Read = tuple[Evaluation, Result]


def decode(result: Result) -> list[Evaluation]:
    """Those of a file."""
    return result.decoded(Evaluation)


def latencies(result: Result) -> list[Latency]:
    """In OpenVINO in f32, as evaluations are made in f32; one tile a request. None of other kinds than map-cost."""
    if result.kind != "map-cost":
        return []
    return [
        Latency(row.model, row.method, row.cost.map_ms_per_tile.median, "random weights, OpenVINO f32", result)
        for row in map_cost.decode(result)
        if (row.way, row.engine, row.precision, row.batch) == ("graph", "openvino", "f32", 1) and row.cost
    ]


def planes(read: Sequence[Read], timed: Sequence[Latency]) -> tuple[list[Block], list[str]]:
    """One for each kind of data, truth and machine; and a sentence for each evaluation that is on none, and why."""
    of_machines: dict[MachineKind, dict[tuple[str, str], Latency]] = {}
    for one in timed:
        if one.ms > 0:  # of a file that says otherwise nothing can be drawn
            of_machines.setdefault(one.result.machine_kind, {})[one.model, one.method] = one
    found: list[Block] = []
    for data, truth in dict.fromkeys((one.told.data, each.truth) for one, _ in read for each in one.truths):
        systems = _systems([(one, result) for one, result in read if one.told.data == data], truth)
        for of_machine in of_machines.values():
            here = {one: folds for one, folds in systems.items() if (one.model, one.method) in of_machine}
            if here:
                found += _block(f"{data}, {truth}", here, of_machine)
    drawn = {id(result) for block in found for result in block.results}
    timed_at_all = {pair for of_machine in of_machines.values() for pair in of_machine}
    return found, [
        _why_not(one, result, timed=(one.told.model, one.told.method) in timed_at_all)
        for one, result in read
        if id(result) not in drawn
    ]


def _why_not(one: Evaluation, result: Result, *, timed: bool) -> str:
    what = f"{result.file} evaluates {one.told.model} with {one.told.method}"
    if timed:
        return (
            f"{what}, and is on no plane: it has no average precision of tiles on pictures that the others of its data "
            "were held to, or a file read later evaluates the same"
        )
    return f"{what}, of which no latency is known beside it; measure it with heatline bench map-cost"


class Fold(NamedTuple):
    """What a system is worth on some groups of pictures, and which file says so."""

    tile: Tile
    result: Result


def _block(
    heading: str, systems: Mapping[System, Mapping[Groups, Fold]], of_machine: Mapping[tuple[str, str], Latency]
) -> list[Block]:
    """None where systems were held to no pictures in common."""
    common = set.intersection(*(set(folds) for folds in systems.values()))
    drawn: list[Place] = []
    rows: list[tuple[str, ...]] = []
    used: dict[int, Result] = {}
    for system, folds in systems.items():
        latency, these = of_machine[system.model, system.method], [folds[one] for one in common]
        average = _mean(one.tile.average_precision for one in these)
        if average is None:
            continue
        auroc = _mean(one.tile.auroc for one in these)
        used |= {id(result): result for result in (latency.result, *(one.result for one in folds.values()))}
        drawn.append(Place(system.name, latency.ms, average, FAMILIES.index(system.family)))
        cells = (system.name, system.method, shown(average), shown(auroc), shown(latency.ms))
        rows.append((*cells, latency.how, latency.result.file))
    if not drawn:
        return []
    said = f"Average precision of tiles over ms per tile: {heading}"
    columns = (
        *(Column("name", True), Column("map", True), "tile AP", "tile AUROC", "ms per tile"),
        *(Column("timed", True), Column("in", True)),
    )
    means = "" if len(common) == 1 else f", means of {len(common)} folds"
    groups = len({group for fold in common for group in fold})
    told = f"Over {groups} group{'s' * (groups > 1)} of pictures{means}: what all of these were held to."
    picture = plane(drawn, FAMILIES, said, "ms per tile, with its map", "tile average precision")
    return [Block(heading, (told,), (Plot(picture),), (table(columns, rows),), tuple(used.values()))]


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _systems(read: Sequence[Read], truth: str) -> dict[System, dict[Groups, Fold]]:
    """What each was found to be worth, by the groups of pictures that it was held to; the file read last counts."""
    found: dict[System, dict[Groups, Fold]] = {}
    for one, result in read:
        system = System(one.told.name, one.told.model, one.told.family, one.told.method)
        for each in one.truths:
            if each.truth == truth and each.figures.tile is not None:
                found.setdefault(system, {})[tuple(sorted(one.told.groups))] = Fold(each.figures.tile, result)
    return found
