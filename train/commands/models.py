"""`heatline models`."""

import click
import msgspec

from heatline.edge.cli.output import json_option, print_json, print_table
from heatline.edge.geometry.tiling import TILE_PX
from heatline.edge.util.extras import require_extra
from heatline.train.compose import model_names, read_model
from heatline.train.evaluation.published import STUDY_GFLOPS

DENSE_MODELS = ("efficientnet_lite0_dense", "mobilenetv3_large_dense", "efficientnetv2_s_dense")
UNITS = "GFLOPs = 2 x GMACs, of the convolutions and matrix products for one tile, with map head and rollout."
CAVEAT = (
    "The study's Table 1.1 prints multiply-adds. Its CNN rows are those of torchvision at native resolution "
    "(EfficientNetV2-S: 384 px); ViT-tiny and DeiT-tiny are the same graph, but differ there."
)


@click.command(epilog="Example: heatline models resnet18 efficientnet_lite0_d")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
def models(names: tuple[str, ...], as_json: bool) -> None:
    """List the models that can be trained, with size and cost.

    Prints parameters, operations for a tile of 224 px, and the cells of its map.
    Without a NAME, it lists the models with a file in train/configs/model, and CNNs with the dense head of
    recipe=heatline, which have `_dense` after their name. NAME is one of them, or the timm name of another CNN or ViT.
    """
    require_extra("train")
    from heatline.train.models.build import size_of

    rows = []
    for name in names or [*model_names(), *DENSE_MODELS]:
        config = read_model(name)
        size = size_of(config, TILE_PX)
        rows.append(
            {
                "name": name,
                "family": config.family,
                "timm": config.timm,
                **msgspec.structs.asdict(size),
                "flops": 2 * size.macs,
                "study_gflops": STUDY_GFLOPS.get(name),
            }
        )
    if as_json:
        print_json({"tile_px": TILE_PX, "models": rows, "units": UNITS, "study": CAVEAT})
        return
    names_of = "model", "params, M", "GMACs", "GFLOPs", "map", "study's", "timm"
    cells = [
        (
            row["name"],
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['macs'] / 1e9:.3f}",
            f"{row['flops'] / 1e9:.3f}",
            "x".join(map(str, row["map_hw"])),
            "" if row["study_gflops"] is None else f"{row['study_gflops']:.2f}",
            row["timm"],
        )
        for row in rows
    ]
    click.echo(f"models, for one tile of {TILE_PX} px")
    print_table(names_of, cells, numbers=names_of[1:6])
    click.echo(f"{UNITS}\n{CAVEAT}")
