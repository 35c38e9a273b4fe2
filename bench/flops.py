"""`heatline bench flops`: parameters and multiply-adds of each model, of the classifier alone and with its map.

PyTorch's `FlopCounterMode` counts on tensors without memory, so nothing is computed and no weights are needed. It
counts two per multiply-add of convolutions and matrix products, and nothing else. On such tensors it counts the
products inside `scaled_dot_product_attention` too; on tensors of a processor it does not.
"""

import msgspec
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from heatline.bench.classifier import Classifier
from heatline.train.config import CnnConfig, VitConfig
from heatline.train.evaluation.published import STUDY_GFLOPS
from heatline.train.models.build import build_model
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import SumOfProducts

UNITS = (
    "MACs are multiply-adds, FLOPs = 2 x MACs; fvcore, and papers after it, count MACs and call them FLOPs. Counted: "
    "convolutions and matrix products of one tile, those of attention too; no activation, normalisation or pooling."
)
STUDY = (
    "Table 1.1 of the study prints multiply-adds, to compare with GMACs: its CNN rows are torchvision's, at each "
    "model's native resolution (EfficientNetV2-S: 384 px) and with 1000 classes. ViT-tiny and DeiT-tiny are one graph, "
    "but differ there: 1.25 GMACs with the products of queries, keys and values, 1.08 without."
)


class Flops(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of one model for one tile."""

    model: str
    timm: str
    method: str
    """Method of its map."""
    map_hw: tuple[int, int]
    parameters: int
    """With and without a map, which has no parameters."""
    macs: int
    """Of the classifier alone."""
    gflops: float
    macs_with_map: int
    """Equal for every fusion and discard ratio, as neither is a product."""
    gflops_with_map: float
    study_gflops: float | None
    """Value of Table 1.1, which is multiply-adds."""


class FlopsBench(msgspec.Struct, frozen=True, kw_only=True):
    """All models."""

    tile_px: int
    units: str
    study: str
    systems: list[Flops]


def count(config: CnnConfig | VitConfig, *, tile_px: int) -> Flops:
    """Count the model of one configuration.

    Raises:
        ConfigError: the model cannot be built for such tiles.
    """
    model = _build(config, tile_px)
    with torch.device("meta"):
        alone = _counter(Classifier(model), torch.zeros(1, 3, tile_px, tile_px)).get_total_flops() // 2
        tiles = torch.zeros(1, tile_px, tile_px, 3, dtype=torch.uint8)
        with_map = _counter(model, tiles).get_total_flops() // 2
    if isinstance(model.head, SumOfProducts):  # the sum is not a matrix product, but has as many products
        with_map += model.head.weight.numel()
    return Flops(
        model=config.name,
        timm=config.timm,
        method=model.method,
        map_hw=model.map_hw,
        parameters=sum(weight.numel() for weight in model.parameters()),
        macs=alone,
        gflops=2 * alone / 1e9,
        macs_with_map=with_map,
        gflops_with_map=2 * with_map / 1e9,
        study_gflops=STUDY_GFLOPS.get(config.name),
    )


def layer_table(config: CnnConfig | VitConfig, *, tile_px: int) -> str:
    """Return PyTorch's table of the FLOPs of every module of the classifier alone, with those of modules inside it.

    Raises:
        ConfigError: the model cannot be built for such tiles.
    """
    with torch.device("meta"):
        counter = _counter(Classifier(_build(config, tile_px)), torch.zeros(1, 3, tile_px, tile_px))
    table: str = counter.get_table(depth=99)  # type: ignore[no-untyped-call]
    return table


def _build(config: CnnConfig | VitConfig, tile_px: int) -> ExplainedClassifier:
    with torch.device("meta"):
        return build_model(msgspec.structs.replace(config, weights="none"), tile_px)[0]


def _counter(module: nn.Module, given: Tensor) -> FlopCounterMode:
    """Count one forward pass."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        module.eval()(given)
    return counter
