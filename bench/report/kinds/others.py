"""Kinds whose figures a table says best."""

import msgspec

from bench.micro import Micro, benches
from bench.report.content import Block, Column, Table, facts, shown, spread, table
from bench.report.files import Result
from bench.seams_rows import SeamsBench
from bench.training_rows import TrainingThroughput
from bench.tune.tune import Tune, to_facts


def training(result: Result) -> list[Block]:
    """Tiles per second on real batches and on random tensors."""
    return [_training(one) for one in result.decoded(TrainingThroughput)]


def _training(found: TrainingThroughput) -> Block:
    told = {
        "real batches": f"{spread(found.real_tiles_per_s)} tiles/s",
        "random tensors": f"{spread(found.random_tiles_per_s)} tiles/s",
        "real / random": spread(found.real_to_random),
        "drawing a batch": f"{shown(found.drawing_ms_per_batch)} ms for {found.tiles_per_batch:.0f} tiles",
        "on": f"{found.device} in {found.precision}",
    }
    figures = f"Median (lowest to highest) of {found.repetitions} repetitions of {found.steps} steps."
    return Block(f"{found.model} on {found.data}", (figures,), tables=(facts(told),))


def seams(result: Result) -> list[Block]:
    """Defects slid across a seam."""
    return [_seams(one) for one in result.decoded(SeamsBench)]


def _seams(found: SeamsBench) -> Block:
    narrow, wide = map(msgspec.structs.asdict, (found.at_bundle_overlap, found.at_defect_overlap))
    rows = [(name.replace("_", " "), shown(narrow[name]), shown(wide[name])) for name in narrow]
    columns = (Column("of all slides", True), "at the bundle's overlap", "at the defect's size")
    return Block(f"{found.defects} defects, {found.bundle}", tables=(table(columns, rows),))


def micro(result: Result) -> list[Block]:
    """Median times of single functions."""
    return [_micro(one) for one in result.decoded(Micro)]


def _micro(found: Micro) -> Block:
    columns = (Column("what", True), "median, ms", "middle half, ms", "rounds", Column("of", True))
    rows = [
        (
            one.name.removeprefix("bench_"),
            shown(1e3 * one.stats.median),
            f"{shown(1e3 * one.stats.q1)} to {shown(1e3 * one.stats.q3)}",
            shown(one.stats.rounds),
            ", ".join(f"{key} {value}" for key, value in one.extra_info.items()),
        )
        for one in benches(found.benchmarks)
    ]
    return Block("Functions by themselves", tables=(table(columns, rows), *_compared(found)))


def _compared(found: Micro) -> list[Table]:
    rows = [
        (
            one.name.removeprefix("bench_"),
            *(shown(figure) for figure in (one.then_ms, one.now_ms, one.ratio)),
            "" if one.apart else "may be noise",
        )
        for one in found.ratios
    ]
    columns = (Column("what", True), "then, ms", "now, ms", "now / then", Column("", True))
    return [table(columns, rows, f"Compared with {found.compared_with}")] if rows else []


def tune(result: Result) -> list[Block]:
    """Settings that were tried, and what the chosen ones gain: what the command prints."""
    return [Block(f"{one.model}, {one.line}", tables=(facts(to_facts(one)),)) for one in result.decoded(Tune)]
