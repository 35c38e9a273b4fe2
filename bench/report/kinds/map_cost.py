"""What a map costs: time of classifier and map over that of the classifier alone."""

from collections.abc import Sequence

from bench.map_cost.rows import MapCosts, Row
from bench.report.content import Block, Column, Plot, Table, spread, table
from bench.report.files import Result
from bench.report.plots import Bar, bars

COLUMNS = (
    *(Column("model", True), Column("map", True), Column("by", True)),
    *("batch", "ratio of medians", "ratio by rounds", "with map, ms/tile", "alone, ms/tile"),
    Column("alone is", True),
)


def decode(result: Result) -> list[Row]:
    """All rows of all measurements in a file."""
    return [row for one in result.decoded(MapCosts) for row in one.rows]


def blocks(result: Result) -> list[Block]:
    """One for each engine and precision."""
    rows = decode(result)
    return [
        _block(f"{engine}, {precision}", [row for row in rows if (row.engine, row.precision) == (engine, precision)])
        for engine, precision in dict.fromkeys((row.engine, row.precision) for row in rows)
    ]


def _block(heading: str, rows: Sequence[Row]) -> Block:
    rows = sorted(rows, key=lambda row: (row.model, row.way, row.method, row.batch))
    drawn = [
        Bar(
            " ".join([row.model, row.method, *([f"by {row.batch}"] if row.batch > 1 else [])]),
            row.cost.ratio,
            row.cost.ratio_spread.lowest,
            row.cost.ratio_spread.highest,
            is_ours=row.way == "graph",
        )
        for row in rows
        if row.cost is not None
    ]
    cells = [
        (
            *(row.model, row.method, row.way, str(row.batch)),
            f"{row.cost.ratio:.3f}",
            spread(row.cost.ratio_spread),
            spread(row.cost.map_ms_per_tile),
            spread(row.cost.bare_ms_per_tile),
            row.cost.bare,
        )
        for row in rows
        if row.cost is not None
    ]
    title = "time with the map, of that without"
    plots = (Plot(bars(drawn, f"Map cost, {heading}", title, (1.0, "classifier alone"))),) if drawn else ()
    tables = [table(COLUMNS, cells)] if cells else []
    return Block(heading, plots=plots, tables=(*tables, *_not_done(rows)))


def _not_done(rows: Sequence[Row]) -> list[Table]:
    why = [(row.words, row.not_done) for row in rows if row.not_done is not None]
    return [table((Column("not measured", True), Column("why", True)), why)] if why else []
