"""Kinds whose figures a table says best."""

from bench.micro import Micro, benches
from bench.report.content import Block, Column, Table, facts, shown, table
from bench.report.files import Result
from bench.tune.tune import Tune, to_facts


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
