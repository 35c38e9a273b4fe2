"""Slow, plain reference implementations: CAM and EfficientNet-lite0, and attention rollout."""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""Stages of EfficientNet-lite0: number of blocks, and stride of the first block."""


def cam(features: NDArray[np.float64], weights: NDArray[np.float64], bias: float) -> tuple[float, NDArray[np.float64]]:
    """Logit by pooling and then the Linear layer, and map by weighing the channels cell by cell (Zhou et al. 2016).

    Args:
        features: [C, h, w] of one tile.
        weights: [C].
    """
    channels, height, width = features.shape
    logit = bias
    for channel in range(channels):
        logit += weights[channel] * features[channel].sum() / (height * width)
    evidence = np.full((height, width), bias)
    for y in range(height):
        for x in range(width):
            for channel in range(channels):
                evidence[y, x] += weights[channel] * features[channel, y, x]
    return logit, evidence


def efficientnet_lite0(images: Tensor, state: dict[str, Tensor]) -> Tensor:
    """ImageNet logits [N, 1000] of normalised images, from weights under the names of EfficientNet-PyTorch."""

    def conv_norm(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        kernel = weight.shape[-1]
        missing = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:]]  # "same" padding
        top, left = (size // 2 for size in missing)
        x = F.pad(x, (left, missing[1] - left, top, missing[0] - top))
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        mean, variance, scale, offset = (
            state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, scale, offset, eps=1e-3)

    x = F.relu6(conv_norm(images, "_conv_stem", "_bn0", stride=2))
    number = 0
    for blocks, first_stride in STAGES:
        for block in range(blocks):
            name, entered = f"_blocks.{number}", x
            if f"{name}._expand_conv.weight" in state:
                x = F.relu6(conv_norm(x, f"{name}._expand_conv", f"{name}._bn0"))
            stride = first_stride if block == 0 else 1
            x = F.relu6(conv_norm(x, f"{name}._depthwise_conv", f"{name}._bn1", stride))
            x = conv_norm(x, f"{name}._project_conv", f"{name}._bn2")
            x = x + entered if x.shape == entered.shape else x
            number += 1
    x = F.relu6(conv_norm(x, "_conv_head", "_bn1"))
    return x.mean(dim=(2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]


Matrix = NDArray[np.float64]


def fused(attention: Matrix, fusion: str) -> Matrix:
    """[tokens, tokens] from the attention [heads, tokens, tokens] of one tile in one layer."""
    heads, tokens, _ = attention.shape
    result = np.empty((tokens, tokens))
    for row in range(tokens):
        for column in range(tokens):
            values = [float(attention[head, row, column]) for head in range(heads)]
            result[row, column] = {"min": min(values), "mean": sum(values) / heads, "max": max(values)}[fusion]
    return result


def without_lowest(matrix: Matrix, discard_ratio: float) -> Matrix:
    """The floor(ratio * entries) lowest entries are zero; of equal entries, the first are discarded."""
    places = sorted(np.ndindex(*matrix.shape), key=lambda place: (matrix[place], place))
    result = matrix.copy()
    for place in places[: math.floor(discard_ratio * len(places))]:
        result[place] = 0
    return result


def rollout(layers: list[Matrix], fusion: str, discard_ratio: float) -> Matrix:
    """The whole product [tokens, tokens] of the attention [heads, tokens, tokens] of one tile, first layer first."""
    tokens = layers[0].shape[-1]
    product = np.eye(tokens)
    for attention in layers:
        mixed = without_lowest(fused(attention, fusion), discard_ratio) + np.eye(tokens)
        for row in range(tokens):
            mixed[row] /= mixed[row].sum()
        product = mixed @ product
    return product
