"""Multiply-adds of a model, counted layer by layer from the actual inputs and outputs."""

import math

import torch
from torch import Tensor, nn

from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import RolloutClassifier, SumOfProducts


@torch.no_grad()
def macs(model: ExplainedClassifier, tile_px: int) -> int:
    """Count those of one tile: convolutions and Linear layers by their definition, and products outside layers."""
    total = 0

    def convolution(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.in_channels // layer.groups * math.prod(layer.kernel_size)

    def linear(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.in_features

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(convolution)
        elif isinstance(layer, nn.Linear) and not isinstance(layer, SumOfProducts):  # which is not a matrix product
            layer.register_forward_hook(linear)
    model.eval()(torch.zeros(1, tile_px, tile_px, 3, dtype=torch.uint8))
    if isinstance(model, RolloutClassifier):
        tokens = model.map_hw[0] * model.map_hw[1] + model.network.num_prefix_tokens
        per_layer = 2 * tokens**2 * model.network.embed_dim  # queries by keys, and attention by values, of all heads
        total += len(model.network.blocks) * (per_layer + tokens**2)  # and a step of the rollout
    return total
