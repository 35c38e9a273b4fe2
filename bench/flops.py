"""`heatline bench flops`: parameters and multiply-adds of each model, of the classifier alone and with its map.

PyTorch's `FlopCounterMode` counts on tensors without memory, so nothing is computed and no weights are needed. It
counts two per multiply-add of convolutions and matrix products, and nothing else. On such tensors it counts the
products inside `scaled_dot_product_attention` too; on tensors of a processor it does not.
"""

import copy
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from heatline.train.config import CnnConfig, VitConfig
from heatline.train.evaluation.published import STUDY_GFLOPS
from heatline.train.models.build import build_model
from heatline.train.models.cnn import CamClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import SumOfProducts


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
    """Value of Table 1.1, which is multiply-adds; docs/bench.md says at which resolution and with how many classes."""


class FlopsBench(msgspec.Struct, frozen=True, kw_only=True):
    """All models."""

    tile_px: int
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


class Classifier(nn.Module):
    """A classifier in PyTorch as other projects build it, without a map: features, pooling and one Linear layer, or
    timm's own ViT; normalised images [N, 3, H, W] in, logits [N, 1] out. CNNs run channels last, as PyTorch advises.

    Args:
        model: its parts are copied, so that hooks in this one do not slow it.
    """

    features: Any
    """A CNN's features [N, channels, h, w], or timm's `VisionTransformer`."""
    linear: nn.Linear

    def __init__(self, model: ExplainedClassifier) -> None:
        super().__init__()
        self.is_cnn = isinstance(model, CamClassifier)
        self.memory_format = torch.channels_last if self.is_cnn else torch.contiguous_format
        self.features = copy.deepcopy(model.features if self.is_cnn else model.network)
        head = model.head
        assert isinstance(head, nn.Conv2d | nn.Linear), "a head of one layer"
        assert head.bias is not None
        self.linear = nn.Linear(head.weight.shape[1], 1)
        self.linear.weight = nn.Parameter(head.weight.detach().flatten(1).clone())
        self.linear.bias = nn.Parameter(head.bias.detach().clone())
        self._mean, self._std = model._mean, model._std
        self.eval()
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def images(self, tiles: NDArray[np.uint8]) -> Tensor:
        """Normalise tiles [N, H, W, 3] to images [N, 3, H, W], in the layout in which the network is fastest."""
        images = (torch.from_numpy(tiles).permute(0, 3, 1, 2).float() - self._mean) / self._std
        return images.contiguous(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> Tensor:
        if self.is_cnn:
            pooled = self.features(images).mean(dim=(2, 3))  # (N, channels)
        else:
            pooled = self.features.forward_head(self.features.forward_features(images), pre_logits=True)
        logits: Tensor = self.linear(pooled)
        return logits
