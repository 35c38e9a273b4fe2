"""`heatline bench flops`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from heatline.bench.commands.common import out_option, write_and_print
from heatline.bench.machine import machine
from heatline.bench.result_file import claim, new_report
from heatline.edge.cli.output import json_option, progress_console
from heatline.edge.geometry.tiling import TILE_PX
from heatline.edge.util.extras import require_extra

if TYPE_CHECKING:
    from heatline.bench.flops import FlopsBench

WIDTH = 160
"""More columns than a table has: a narrow terminal breaks its lines, and no name is cut."""


@click.command(epilog="Example: heatline bench flops --model efficientnetv2_s --tile-px 384 --layers")
@click.option(
    "--model",
    "names",
    multiple=True,
    help="As `heatline models` shows them, or any of timm; may be repeated. Default: all with a name here.",
)
@click.option("--layers", "by_layer", is_flag=True, help="Print the FLOPs of every module of the classifier too.")
@click.option("--tile-px", type=click.IntRange(16, 4096), default=TILE_PX, show_default=True, help="Side of a tile.")
@out_option
@json_option
def flops(
    names: Sequence[str],
    by_layer: bool,
    tile_px: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Count parameters, multiply-adds (MACs) and FLOPs = 2 x MACs of each model, alone and with its map.

    Nothing is computed, and no weights are needed. The last column is the study's Table 1.1.
    """
    if by_layer and as_json:
        raise click.UsageError("--layers prints tables for people; leave out --layers or --json")
    require_extra("train")
    from heatline.bench.flops import STUDY, UNITS, FlopsBench, count, layer_table
    from heatline.train.compose import model_names, read_model

    claim(out)
    now, console = machine(), progress_console()
    configs = [read_model(name) for name in dict.fromkeys(names or model_names())]
    systems = [
        count(config, tile_px=tile_px)
        for config in track(configs, "models", console=console, disable=not console.is_terminal)
    ]
    found = FlopsBench(tile_px=tile_px, units=UNITS, study=STUDY, systems=systems)

    def print_tables() -> None:
        shown = Console(width=WIDTH)
        shown.print(_systems(found))
        for config in configs if by_layer else ():
            shown.print(f"\n{config.name}, FLOPs", layer_table(config, tile_px=tile_px), sep="\n", markup=False)
        shown.print(found.units, found.study, sep="\n", highlight=False, soft_wrap=True)

    write_and_print(new_report("flops", now, found), print_tables, out, as_json)


def _systems(found: "FlopsBench") -> Table:
    table = Table(title=f"one tile of {found.tile_px} px", title_justify="left", box=None, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for column in ("params, M", "GMACs", "with map", "GFLOPs", "with map", "map adds", "map", "Table 1.1"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in found.systems:
        table.add_row(
            one.model,
            f"{one.parameters / 1e6:.2f}",
            f"{one.macs / 1e9:.4f}",
            f"{one.macs_with_map / 1e9:.4f}",
            f"{one.gflops:.4f}",
            f"{one.gflops_with_map:.4f}",
            f"{100 * (one.macs_with_map / one.macs - 1):.3f} %",
            "x".join(map(str, one.map_hw)),
            "" if one.study_gflops is None else f"{one.study_gflops:.2f}",
        )
    return table
