"""What a bundle's precisions are worth."""

from collections.abc import Sequence

from bench.precisions import PrecisionsBench
from bench.report.content import Block, Column, Plot, spread, table
from bench.report.files import Result
from bench.report.plots import Bar, bars


def blocks(result: Result) -> list[Block]:
    """One for all bundles of a file."""
    found = result.decoded(PrecisionsBench)
    batches = sorted({speed.batch for one in found for speed in one.speeds})
    columns = (
        Column("bundle", True),
        Column("model", True),
        Column("map", True),
        Column("precision", True),
        "batch",
        "tiles/s",
        "of f32",
        "by rounds",
        "graph, MB",
    )
    rows = [
        (
            one.bundle,
            one.model,
            one.method,
            speed.precision,
            str(speed.batch),
            spread(speed.tiles_per_s),
            f"{speed.to_f32:.2f}",
            spread(speed.to_f32_spread),
            f"{one.bytes_of_graph[speed.precision] / 1e6:.1f}",
        )
        for one in found
        for speed in one.speeds
    ]
    plots = [_plot(found, batch) for batch in batches]
    return [Block("All precisions", plots=tuple(filter(None, plots)), tables=(table(columns, rows),))]


def _plot(found: Sequence[PrecisionsBench], batch: int) -> Plot | None:
    """Speeds beside that of f32, at one batch size."""
    drawn = [
        Bar(f"{one.bundle} {speed.precision}", speed.to_f32, speed.to_f32_spread.lowest, speed.to_f32_spread.highest)
        for one in found
        for speed in one.speeds
        if speed.batch == batch and speed.precision != "f32"
    ]
    if not drawn:
        return None
    title = f"Tiles per second, of those in f32, in batches of {batch}"
    return Plot(bars(drawn, title, title, (1.0, "f32")), "Bars: of medians; whiskers: lowest to highest of rounds.")
