"""Time per stage of a frame's way, and what a tile costs in frames of few tiles and of many."""

from collections.abc import Sequence

from bench.report.content import Block, Column, Plot, Table, shown, spread, table
from bench.report.files import Result
from bench.report.plots import Series, Stack, series, stacks
from bench.stages.stages import StageCost, StagesBench, WholeWay
from bench.stages.tile_counts import TileCost
from bench.targets import COST_PER_TILE_WITHIN

INFER = "infer"


def blocks(result: Result) -> list[Block]:
    """The stages, and the tiles, of each measurement."""
    return [block for one in result.decoded(StagesBench) for block in _blocks(one)]


def _blocks(found: StagesBench) -> list[Block]:
    what = f"{found.model} in {found.precision}"
    told = (
        f"{found.engine}, batches of {found.batch}; journals on {found.journal_on}. "
        f"Medians (lowest to highest) of {found.rounds} rounds of {found.frames} frames of each stage by itself.",
    )
    made = [Block(what, told, _pictures(found.rows), (_stages(found.rows), _whole(found.whole)))]
    if found.cost_per_tile:
        made.append(_tiles(f"{what}: what a tile costs", found.cost_per_tile))
    return made


def _pictures(rows: Sequence[StageCost]) -> tuple[Plot, ...]:
    """All stages of one frame's way, and those beside inference on a scale of their own."""
    way = [row for row in rows if row.stacked]
    if not way:
        return ()
    names = tuple(dict.fromkeys(row.stage for row in way))
    whole = [
        Stack(f"{size}, {tiles} tiles", [(row.stage, row.ms.median) for row in way if row.size == size])
        for size, tiles in dict.fromkeys((row.size, row.tiles) for row in way)
    ]
    rest = [Stack(one.name, [part for part in one.segments if part[0] != INFER]) for one in whole]
    caption = "The way of one frame with defects, each stage by itself; the sum is no latency, as stages overlap."
    return (
        Plot(stacks(whole, "Time per stage", "ms per frame", names), caption),
        Plot(stacks(rest, "Time per stage, without inference", "ms per frame, without inference", names)),
    )


def _stages(rows: Sequence[StageCost]) -> Table:
    columns = (
        Column("frame", True),
        "tiles",
        Column("stage", True),
        "ms",
        "p99, ms",
        "CPU, ms",
        "reads, MB",
        "writes, MB",
        "arrays",
        "of them, MB",
        "page faults",
    )
    cells = [
        (
            row.size,
            shown(row.tiles),
            f"{row.stage} ({row.variant})" if row.variant else row.stage,
            spread(row.ms),
            shown(row.p99_ms),
            shown(row.cpu_ms),
            shown(row.bytes_read / 1e6),
            shown(row.bytes_written / 1e6),
            shown(row.allocations),
            shown(None if row.allocated_bytes is None else row.allocated_bytes / 1e6),
            shown(row.page_faults),
        )
        for row in rows
    ]
    return table(columns, cells, "Stages, per frame")


def _whole(ways: Sequence[WholeWay]) -> Table:
    columns = (
        Column("frame", True),
        "tiles",
        Column("with", True),
        "whole, ms",
        "its stages, ms",
        "hand-offs, ms",
        "hand-offs' CPU, ms",
        "regions",
    )
    cells = [
        (
            way.size,
            shown(way.tiles),
            way.variant,
            spread(way.ms),
            shown(way.stages_ms),
            spread(way.hand_offs_ms),
            shown(way.hand_offs_cpu_ms),
            shown(way.regions),
        )
        for way in ways
    ]
    return table(columns, cells, "Whole way through the inspector, and what it takes beyond its stages")


def _tiles(heading: str, costs: Sequence[TileCost]) -> Block:
    whole = Series("the whole way", [(one.tiles, one.whole_ms_per_tile.median) for one in costs])
    bare = Series("the engine by itself", [(one.tiles, one.bare_ms_per_tile.median) for one in costs])
    cheapest = min(value for _, value in whole.points)
    band = cheapest, cheapest * (1 + COST_PER_TILE_WITHIN), f"up to {COST_PER_TILE_WITHIN:.0%} above the cheapest"
    picture = series([whole, bare], "What a tile costs", "tiles per frame", "ms per tile", band)
    columns = (
        "tiles per frame",
        Column("frame", True),
        "whole way, ms/tile",
        "engine by itself, ms/tile",
        "over the engine",
    )
    cells = [
        (
            shown(one.tiles),
            one.size,
            spread(one.whole_ms_per_tile),
            spread(one.bare_ms_per_tile),
            spread(one.over_bare),
        )
        for one in costs
    ]
    return Block(heading, plots=(Plot(picture),), tables=(table(columns, cells),))
