"""`heatline bench flops`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.commands.common import claim, keep, out_option
from bench.machine import machine
from bench.result_file import new_report
from edge.cli.extras import require_extra
from edge.cli.finite_range import FiniteRange
from edge.cli.output import json_option, print_json, progress_console
from edge.geometry.tiling import TILE_PX

if TYPE_CHECKING:
    from bench.flops_rows import Flops, FlopsBench

WIDTH = 160
"""More than a table has: a narrow terminal breaks its lines, and no name is cut."""


@click.command(epilog="Example: heatline bench flops --model efficientnetv2_s --tile-px 384 --layers")
@click.option(
    "--model",
    "names",
    multiple=True,
    help="As `heatline models` shows them, or any of timm; may be repeated. Default: all with a name here.",
)
@click.option(
    "--discard-ratio",
    "discard_ratios",
    type=FiniteRange(0, 1, max_open=True),
    multiple=True,
    default=(0.0, 0.9),
    show_default=True,
    help="Of ViTs, each with every fusion; may be repeated.",
)
@click.option("--layers", "by_layer", is_flag=True, help="Every layer by itself.")
@click.option("--tile-px", type=click.IntRange(16, 4096), default=TILE_PX, show_default=True, help="Side of a tile.")
@out_option
@json_option
def flops(
    names: Sequence[str],
    discard_ratios: Sequence[float],
    by_layer: bool,
    tile_px: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Count parameters, multiply-adds (MACs) and FLOPs = 2 x MACs of each model, alone and with its map.

    Nothing is computed, and no weights are needed. The study's Table 1.1 stands beside it.
    """
    require_extra("export", "torch", "timm", "onnx")
    from bench.flops import STUDY, UNITS, count
    from bench.flops_rows import FlopsBench
    from train.compose import model_names, read_model

    claim(out)
    now, console = machine(), progress_console()
    configs = [read_model(name) for name in dict.fromkeys(names or model_names())]
    systems = [
        count(config, tile_px=tile_px, discard_ratios=discard_ratios, by_layer=by_layer)
        for config in track(configs, "models", console=console, disable=not console.is_terminal)
    ]
    found = FlopsBench(tile_px=tile_px, units=UNITS, study=STUDY, systems=systems)
    report = new_report("flops", now, found)
    if out is not None:
        keep(out, report)
    if as_json:
        print_json(report)
    else:
        _print(found)


def _print(found: "FlopsBench") -> None:
    console = Console(width=WIDTH)
    console.print(_systems(found))
    console.print(_maps(found.systems))
    for system in found.systems:
        if system.layers:
            console.print(_layers(system))
    console.print(found.units, found.study, sep="\n", highlight=False, soft_wrap=True)


def _table(title: str, name: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _systems(found: "FlopsBench") -> Table:
    table = _table(
        f"one tile of {found.tile_px} px",
        "model",
        *("params, M", "GMACs", "with map", "GFLOPs", "with map", "map adds", "map", "Table 1.1"),
    )
    for one in found.systems:
        table.add_row(
            one.model,
            f"{one.parameters / 1e6:.2f}",
            f"{one.macs / 1e9:.4f}",
            f"{one.macs_with_map / 1e9:.4f}",
            f"{one.gflops:.4f}",
            f"{one.gflops_with_map:.4f}",
            f"{one.macs_with_map / one.macs - 1:.3%}",
            "x".join(map(str, one.map_hw)),
            "" if one.study_gflops is None else f"{one.study_gflops:.2f}",
        )
    return table


def _maps(systems: Sequence["Flops"]) -> Table:
    graphs = list(dict.fromkeys(name for one in systems for of in one.maps for name in of.operations or ()))
    table = _table(
        "\nwhat the map adds, millions per tile",
        "model, map",
        "MACs",
        *(f"operations, {name}" for name in graphs),
    )
    for one in systems:
        for of in one.maps:
            counts = [(of.operations or {}).get(name) for name in graphs]
            table.add_row(
                f"{one.model}, {of.method}",
                f"{of.macs / 1e6:.3f}",
                *("" if operations is None else f"{operations / 1e6:.2f}" for operations in counts),
            )
    return table


def _layers(one: "Flops") -> Table:
    table = _table(f"\n{one.model}, layer by layer", "layer", "counted", "gives", "parameters", "MMACs", "with map")
    for layer in one.layers or ():
        table.add_row(
            layer.name,
            ", ".join(layer.kinds),
            "x".join(map(str, layer.output)),
            f"{layer.parameters:,}",
            f"{layer.macs / 1e6:.3f}",
            f"{layer.macs_with_map / 1e6:.3f}",
        )
    return table
