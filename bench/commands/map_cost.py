"""`heatline bench map-cost`."""

import os
from typing import Any

import click
import msgspec

from bench.commands.common import precision_option
from bench.machine import machine
from bench.result_file import new_report
from edge.cli.extras import require_extra
from edge.cli.finite_range import FiniteRange
from edge.cli.output import json_option, print_facts, print_json
from edge.errors import ConfigError
from edge.geometry.tiling import TILE_PX
from edge.inference import EngineKind, Precision


@click.command(
    "map-cost", epilog="Example: heatline bench map-cost --model vit_tiny_patch16_224 --discard-ratio 0.9 --json"
)
@click.option("--model", "name", required=True, help="As `heatline models` shows them, or any of timm.")
@click.option("--fusion", type=click.Choice(["min", "mean", "max"]), help="Of a ViT's heads; default: the model's.")
@click.option("--discard-ratio", type=FiniteRange(0, 1, max_open=True), help="Of a ViT; default: the model's.")
@click.option("--engine", type=click.Choice(["openvino", "onnxruntime"]), default="openvino", show_default=True)
@precision_option
@click.option("--batch", type=click.IntRange(1, 64), default=1, show_default=True, help="Tiles per request.")
@click.option("--tile-px", type=click.IntRange(16, 4096), default=TILE_PX, show_default=True, help="Side of a tile.")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Of all graphs in turns.")
@click.option("--tiles", type=click.IntRange(min=1), default=48, show_default=True, help="Per graph and round.")
@json_option
def map_cost(
    name: str,
    fusion: str | None,
    discard_ratio: float | None,
    engine: EngineKind,
    precision: Precision,
    batch: int,
    tile_px: int,
    rounds: int,
    tiles: int,
    as_json: bool,
) -> None:
    """Time the graph with classifier and map beside the same classifier alone, on all cores.

    The model has random weights, which cost what trained ones do. Of a ViT, the classifier alone is the faster of two
    exports: attention as one node per layer, or as the products and the softmax that it stands for.
    """
    require_extra("export", "torch", "timm", "onnx", "onnxscript", "nncf")
    from bench.map_cost import measure_map_cost
    from train.config import VitConfig, read_model

    now, config = machine(), read_model(name)
    asked = {"fusion": fusion, "discard_ratio": discard_ratio}
    chosen: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    if chosen and not isinstance(config, VitConfig):
        raise ConfigError(
            f"{name} is a {config.family}, and --fusion and --discard-ratio are a ViT's; leave them out, or name a ViT"
        )
    found = measure_map_cost(
        msgspec.structs.replace(config, **chosen),
        engine=engine,
        precision=precision,
        batch=batch,
        tile_px=tile_px,
        threads=len(os.sched_getaffinity(0)),
        rounds=rounds,
        tiles_per_round=tiles,
        say=lambda line: click.echo(line, err=True),
    )
    if as_json:
        print_json(new_report("map-cost", now, found))
        return
    print_facts(
        f"{found.model}, {found.method}, on {found.engine} in {found.precision}, batches of {found.batch}",
        {
            "figures": f"median (lowest to highest) of {found.rounds} rounds of {found.tiles_per_round} tiles",
            "ratio": f"{found.ratio:.3f} of medians; by rounds {found.ratio_spread:.3f}",
            "classifier and map": f"{found.fused_ms_per_tile:.2f} ms per tile",
            "classifier alone": f"{found.bare_ms_per_tile:.2f} ms per tile, with {found.bare}",
            "threads": found.threads,
        },
    )
