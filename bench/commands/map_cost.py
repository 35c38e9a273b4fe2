"""`heatline bench map-cost`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from bench.commands.common import claim, keep
from bench.machine import machine
from bench.result_file import new_report
from edge.cli.extras import require_extra
from edge.cli.finite_range import FiniteRange
from edge.cli.output import json_option, print_facts, print_json, progress_console
from edge.errors import ConfigError
from edge.geometry.tiling import TILE_PX
from edge.inference import Precision

if TYPE_CHECKING:
    from bench.map_cost.rows import Engine, Row
    from train.models.rollout import Fusion

WIDTH = 200
"""More than the table has: a narrow terminal breaks its lines, and no name is cut."""


@click.command(
    "map-cost", epilog="Example: heatline bench map-cost --model vit_tiny_patch16_224 --discard-ratio 0.9 --json"
)
@click.option(
    "--model",
    "names",
    multiple=True,
    help="As `heatline models` shows them, or any of timm. Default: --all, of all with a name here.",
)
@click.option("--fusion", "fusions", type=click.Choice(["min", "mean", "max"]), multiple=True, help="Of a ViT's heads.")
@click.option(
    "--discard-ratio", "discard_ratios", type=FiniteRange(0, 1, max_open=True), multiple=True, help="Of a ViT."
)
@click.option("--engine", "engines", type=click.Choice(["openvino", "onnxruntime", "pytorch"]), multiple=True)
@click.option("--precision", "precisions", type=click.Choice(["f32", "bf16", "int8"]), multiple=True)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, 64),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Tiles per request.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Every fusion, discard ratio 0 and 0.9, every engine and precision, where none is named. Else the model's own "
    "rollout, in openvino, in f32.",
)
@click.option("--tile-px", type=click.IntRange(16, 4096), default=TILE_PX, show_default=True, help="Side of a tile.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Of all graphs in turns.")
@click.option(
    "--tiles", type=click.IntRange(min=1), help="Per graph and round; default: as many as take half a second."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write each row there as soon as it is measured, as JSON. Rows that are there already are not measured again.",
)
@json_option
def map_cost(
    names: Sequence[str],
    fusions: "Sequence[Fusion]",
    discard_ratios: Sequence[float],
    engines: "Sequence[Engine]",
    precisions: Sequence[Precision],
    batches: Sequence[int],
    everything: bool,
    tile_px: int,
    rounds: int,
    tiles: int | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Time classifier and map beside the same classifier alone, in turns, on all cores.

    Most options may be repeated: each model in each combination is a row. OpenVINO and ONNX Runtime run classifier and
    map as one graph, as on the line. PyTorch runs them as others do: with hooks, and with pytorch-grad-cam. Networks
    have random weights, which cost what trained ones do. Ctrl-C ends a sweep in order, with what was measured.
    """
    require_extra("export", "torch", "timm", "onnx", "onnxscript", "nncf")
    from bench.map_cost.plan import SAME_GRAPH, Asked, plan
    from bench.map_cost.rows import MapCosts
    from bench.map_cost.sweep import BENCH, Sweep, measurer, rows_in
    from bench.map_cost.watch import SweepWatch
    from train.compose import model_names, read_model
    from train.config import VitConfig

    claim(out)
    now, console = machine(), progress_console()
    configs = {name: read_model(name) for name in names or model_names()}
    if (fusions or discard_ratios) and not any(isinstance(config, VitConfig) for config in configs.values()):
        raise ConfigError(
            f"{', '.join(configs)} is a cnn, and --fusion and --discard-ratio are a ViT's; leave them out, or name a "
            "ViT"
        )
    asked = Asked(
        fusions=fusions,
        discard_ratios=discard_ratios,
        engines=engines,
        precisions=precisions,
        batches=batches,
        everything=everything or not names,
    )
    left_out = {} if names else SAME_GRAPH
    settings = [
        setting
        for name, config in configs.items()
        for setting in plan(
            config,
            Asked() if name in left_out else asked,
            tile_px=tile_px,
            threads=len(os.sched_getaffinity(0)),
            rounds=rounds,
            tiles=tiles,
        )
    ]
    sweep = Sweep(settings, rows_in(out, now) if out else [])

    def save(rows: MapCosts) -> None:
        if out is not None:
            keep(out, new_report(BENCH, now, rows))

    try:
        with SweepWatch(console, len(sweep.missing)) as watch:
            if sweep.rows:
                watch.say(f"{len(sweep.rows)} of {len(settings)} rows are in {out} already, and not measured again")
            for setting in sweep.run(measurer(configs, left_out, tile_px, watch.step), save):
                watch.begin(setting.words)
    except KeyboardInterrupt:
        there = f"; they are in {out}, and the same command goes on there" if out else ""
        click.echo(f"ended with {len(sweep.rows)} of {len(settings)} rows{there}", err=True)
        if sweep.rows:
            _deliver(new_report(BENCH, now, MapCosts(rows=sweep.rows)), sweep.rows, as_json)
        raise
    _deliver(new_report(BENCH, now, MapCosts(rows=sweep.rows)), sweep.rows, as_json)


def _deliver(report: Mapping[str, Any], rows: "Sequence[Row]", as_json: bool) -> None:
    if as_json:
        print_json(report)
    elif len(rows) == 1 and (cost := rows[0].cost):
        print_facts(
            rows[0].words,
            {
                "figures": f"median (lowest to highest) of {rows[0].rounds} rounds of {cost.tiles_per_round} tiles",
                "ratio": f"{cost.ratio:.3f} of medians; by rounds {cost.ratio_spread:.3f}",
                "classifier and map": f"{cost.map_ms_per_tile:.2f} ms per tile",
                "classifier alone": f"{cost.bare_ms_per_tile:.2f} ms per tile, with {cost.bare}",
                "threads": rows[0].threads,
            },
        )
    else:
        _print(rows)


def _print(rows: "Sequence[Row]") -> None:
    """A table of what was measured, and below it what was not."""
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
            engine = row.engine if row.way == "graph" else f"{row.engine}, {row.way}"
            ms = (f"{one.median:.2f}" for one in (cost.map_ms_per_tile, cost.bare_ms_per_tile))
            ratios = (f"{cost.ratio:.3f}", f"{cost.ratio_spread:.3f}")
            table.add_row(row.model, row.method, engine, row.precision, str(row.batch), *ratios, *ms, cost.bare)
    console = Console(width=WIDTH)
    console.print(table)
    not_done: dict[str, list[str]] = {}
    for row in rows:
        if row.not_done is not None:
            not_done.setdefault(row.not_done, []).append(row.words)
    for reason, which in not_done.items():
        console.print(f"not done, as {reason}:", *which, sep="\n  ", markup=False, highlight=False, soft_wrap=True)
