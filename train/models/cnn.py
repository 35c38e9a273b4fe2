"""CNNs with a class activation map (Zhou et al. 2016) as their head."""

import math
from typing import Any

import timm
import torch
from torch import Tensor, nn

from edge.errors import ConfigError
from train.config import ModelConfig
from train.models.explained import ExplainedClassifier
from train.models.weights import load_pretrained
from train.provenance import Provenance


class CamClassifier(ExplainedClassifier):
    """Features, global average pooling and one Linear layer; the map is that layer before pooling.

    Pooling and the Linear layer are both linear, so they may change places: a 1x1 convolution with the layer's weights
    and bias gives the map, and the mean of the map is the logit. What timm puts between pooling and its own classifier
    (as in MobileNetV3) is left out, as it would break that identity.

    Args:
        features: from images [N, 3, H, W] to features [N, channels, h, w].
        channels: of the features.
        map_hw: cells of the map, h and w.
        mean, std: normalisation of RGB in 0..1.
    """

    method = "cam"

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        map_hw: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__(mean, std)
        self.features = features
        self.head = nn.Conv2d(channels, 1, kernel_size=1)
        self.map_hw = map_hw

    def evidence(self, images: Tensor) -> Tensor:
        features = self.features(images).float()
        with torch.autocast(images.device.type, enabled=False):  # the head is cheap, and its sums are the result
            evidence: Tensor = self.head(features)[:, 0]
        return evidence


class _TimmFeatures(nn.Module):
    """The part of a timm CNN that makes the feature tensor."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.forward_features(images)
        return features


def cam_classifier(config: ModelConfig, tile_px: int) -> tuple[CamClassifier, Provenance]:
    """A CNN of timm, cut at `config.stride`, with its weights and where they come from.

    Weights are loaded strictly into the whole network; then the stages after the cut, and timm's own head, are removed.

    Raises:
        ConfigError: timm has no such model, or it has no stage of that stride.
        WeightsError: the weights that were asked for cannot be had.
    """
    if not timm.is_model(config.timm):
        raise ConfigError(f"model.timm={config.timm} is no model of timm {timm.__version__}; see timm.list_models()")
    network: Any = timm.create_model(config.timm, pretrained=False)
    provenance = load_pretrained(network, config)
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    cut_after(network, config.stride)
    with torch.no_grad():
        shape = tuple(network.eval().forward_features(torch.zeros(1, 3, tile_px, tile_px)).shape)
    map_hw = (math.ceil(tile_px / config.stride),) * 2
    if shape[2:] != map_hw:
        raise ConfigError(
            f"{config.timm} makes features of shape {shape} of a tile; a CNN whose map is a class activation map makes "
            f"[1, channels, {map_hw[0]}, {map_hw[1]}]: choose one"
        )
    return CamClassifier(_TimmFeatures(network.train()), shape[1], map_hw, mean, std), provenance


def cut_after(network: Any, stride: int) -> None:
    """Remove from a timm CNN, in place, its head and every stage after the last of that stride (input px per cell)."""
    strides = [info["reduction"] for info in network.feature_info]
    if stride not in strides:
        raise ConfigError(f"model.stride is {stride}, and the stages of the network have {strides}; choose one of them")
    if stride == strides[-1]:
        network.reset_classifier(0, "")
    else:
        last = len(strides) - 1 - strides[::-1].index(stride)
        network.prune_intermediate_layers([last], prune_norm=True)
