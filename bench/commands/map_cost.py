"""`heatline bench map-cost`."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from heatline.bench.commands.common import out_option, report_line, write_and_print
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, keep, new_report
from heatline.edge.cli.options import FiniteRange
from heatline.edge.cli.output import json_option
from heatline.edge.errors import BenchError, ConfigError
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.util.extras import require_extra

if TYPE_CHECKING:
    from heatline.bench.map_cost.plan import Row
    from heatline.train.models.vit import Fusion

WIDTH = 200
"""More columns than the table has: a narrow terminal breaks its lines, and no name is cut."""


@click.command(
    "map-cost", epilog="Example: heatline bench map-cost --model vit_tiny_patch16_224 --discard-ratio 0.9 --json"
)
@click.option(
    "--model",
    "names",
    multiple=True,
    help="As `heatline models` shows them, or any of timm. Default: all with a name here.",
)
@click.option("--fusion", "fusions", type=click.Choice(["min", "mean", "max"]), multiple=True, help="Of a ViT's heads.")
@click.option(
    "--discard-ratio", "discard_ratios", type=FiniteRange(0, 1, max_open=True), multiple=True, help="Of a ViT."
)
@click.option(
    "--engine",
    "engines",
    type=click.Choice(["openvino", "onnxruntime"]),
    multiple=True,
    default=("openvino",),
    show_default=True,
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["f32", "bf16", "int8"]),
    multiple=True,
    default=("f32",),
    show_default=True,
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, 64),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Tiles per request.",
)
@out_option
@json_option
def map_cost(
    names: Sequence[str],
    fusions: "Sequence[Fusion]",
    discard_ratios: Sequence[float],
    engines: Sequence[EngineKind],
    precisions: Sequence[Precision],
    batches: Sequence[int],
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare the time of classifier and map, one graph as on the line, with the classifier alone, on all cores.

    All options but --out and --json may be repeated: each model in each combination is a row, which is written to --out
    as soon as it is measured. Networks have random weights, and are as fast as trained ones.
    """
    require_extra("export")
    from heatline.bench.map_cost.measure import measured_rows
    from heatline.bench.map_cost.plan import MapCosts, plan
    from heatline.train.compose import model_names, read_model
    from heatline.train.config import VitConfig

    claim(out)
    now = machine()
    configs = {name: read_model(name) for name in names or model_names()}
    if (fusions or discard_ratios) and not any(isinstance(config, VitConfig) for config in configs.values()):
        raise ConfigError(
            f"{', '.join(configs)} is a cnn, but --fusion and --discard-ratio are for a ViT; leave them out, or name a "
            "ViT"
        )
    settings = [
        setting
        for config in configs.values()
        for setting in plan(
            config,
            threads=len(os.sched_getaffinity(0)),
            fusions=fusions,
            discard_ratios=discard_ratios,
            engines=engines,
            precisions=precisions,
            batches=batches,
        )
    ]
    rows: list[Row] = []
    for row in measured_rows(settings, configs, report_line):
        rows.append(row)
        if out is not None:
            with contextlib.suppress(BenchError):  # raised at the end, should there still be no room
                keep(out, new_report("map-cost", now, MapCosts(rows=rows)))
    if not any(row.cost for row in rows):
        raise BenchError(f"none of {len(rows)} rows could be measured; the first: {rows[0].not_done}")
    write_and_print(new_report("map-cost", now, MapCosts(rows=rows)), lambda: _print(rows), out, as_json)


def _print(rows: "Sequence[Row]") -> None:
    """Print a table of the measured rows, and below it the others with their reasons."""
    table = Table(
        title="time with a map over that of the classifier alone: medians; by rounds, median (lowest to highest)",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for column in ("model", "map", "engine", "precision"):
        table.add_column(column, no_wrap=True)
    for column in ("batch", "ratio", "by rounds", "ms per tile", "alone"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("alone is", no_wrap=True)
    for row in rows:
        if (cost := row.cost) is not None:
            ms = (f"{one.median:.2f}" for one in (cost.map_ms_per_tile, cost.bare_ms_per_tile))
            ratios = (f"{cost.ratio:.3f}", f"{cost.ratio_spread:.3f}")
            table.add_row(row.model, row.method, row.engine, row.precision, str(row.batch), *ratios, *ms, cost.bare)
    console = Console(width=WIDTH)
    console.print(table)
    not_done: dict[str, list[str]] = {}
    for row in rows:
        if row.not_done is not None:
            not_done.setdefault(row.not_done, []).append(row.describe())
    for reason, which in not_done.items():
        console.print(f"not measured, as {reason}:", *which, sep="\n  ", markup=False, highlight=False, soft_wrap=True)
