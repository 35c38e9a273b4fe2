"""Kinds whose figures a table says best."""

from typing import Any

import msgspec

from bench.report.content import Block, Column, facts, shown, spread, table
from bench.report.files import Result
from bench.spread import Spread
from bench.tune.tune import Tune, to_facts


class Training(msgspec.Struct, frozen=True):
    """As in a file; the bench's own struct needs torch to be read."""

    model: str
    data: str
    device: str
    precision: str
    steps: int
    repetitions: int
    tiles_per_batch: float
    real_tiles_per_s: Spread
    random_tiles_per_s: Spread
    real_to_random: Spread
    drawing_ms_per_batch: float


class Seams(msgspec.Struct, frozen=True):
    """As in a file, without the slides."""

    bundle: str
    defects: int
    at_bundle_overlap: dict[str, int | float]
    at_defect_overlap: dict[str, int | float]


class Stats(msgspec.Struct, frozen=True):
    """Seconds."""

    median: float
    min: float
    max: float
    rounds: int


class Benchmark(msgspec.Struct, frozen=True):
    """Of one function."""

    name: str
    stats: Stats
    extra_info: dict[str, Any] = {}


class Ratio(msgspec.Struct, frozen=True):
    """Of one function, then and now."""

    name: str
    then_ms: float
    now_ms: float
    ratio: float
    apart: bool


class Micro(msgspec.Struct, frozen=True):
    """As pytest-benchmark writes it, and what it was compared with."""

    benchmarks: list[Benchmark]
    compared_with: str | None = None
    ratios: list[Ratio] = []


def training(result: Result) -> list[Block]:
    """Tiles per second on real batches and on random tensors."""
    found = msgspec.convert(result.measurements[0], Training)
    told = {
        "real batches": f"{spread(found.real_tiles_per_s)} tiles/s",
        "random tensors": f"{spread(found.random_tiles_per_s)} tiles/s",
        "real / random": spread(found.real_to_random),
        "drawing a batch": f"{shown(found.drawing_ms_per_batch)} ms for {found.tiles_per_batch:.0f} tiles",
        "on": f"{found.device} in {found.precision}",
    }
    figures = f"Median (lowest to highest) of {found.repetitions} repetitions of {found.steps} steps."
    return [Block(f"{found.model} on {found.data}", (figures,), tables=(facts(told),))]


def seams(result: Result) -> list[Block]:
    """Defects slid across a seam."""
    found = msgspec.convert(result.measurements[0], Seams)
    names = dict.fromkeys([*found.at_bundle_overlap, *found.at_defect_overlap])
    rows = [
        (name.replace("_", " "), shown(found.at_bundle_overlap.get(name)), shown(found.at_defect_overlap.get(name)))
        for name in names
    ]
    columns = (Column("of all slides", True), "at the bundle's overlap", "at the defect's size")
    return [Block(f"{found.defects} defects, {found.bundle}", tables=(table(columns, rows),))]


def micro(result: Result) -> list[Block]:
    """Median times of single functions."""
    found = msgspec.convert(result.measurements[0], Micro)
    columns = (Column("what", True), "median, ms", "lowest, ms", "highest, ms", "rounds", Column("of", True))
    rows = [
        (
            one.name.removeprefix("bench_"),
            *(shown(1e3 * seconds) for seconds in (one.stats.median, one.stats.min, one.stats.max)),
            shown(one.stats.rounds),
            ", ".join(f"{key} {value}" for key, value in one.extra_info.items()),
        )
        for one in found.benchmarks
    ]
    tables = [table(columns, rows)]
    if found.ratios:
        compared = [
            (
                one.name.removeprefix("bench_"),
                *(shown(figure) for figure in (one.then_ms, one.now_ms, one.ratio)),
                "" if one.apart else "may be noise",
            )
            for one in found.ratios
        ]
        ratio_columns = (Column("what", True), "then, ms", "now, ms", "now / then", Column("", True))
        tables.append(table(ratio_columns, compared, f"Compared with {found.compared_with}"))
    return [Block("Functions by themselves", tables=tuple(tables))]


def tune(result: Result) -> list[Block]:
    """Settings that were tried, and what the chosen ones gain: what the command prints."""
    found = msgspec.convert(result.measurements[0], Tune)
    return [Block(f"{found.model}, {found.line}", tables=(facts(to_facts(found)),))]
