"""CNNs with a class activation map (CAM; Zhou et al. 2016, https://arxiv.org/abs/1512.04150)."""

from typing import Any

import torch
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from heatline.edge.errors import ConfigError
from heatline.train.config import CnnConfig, Provenance
from heatline.train.models.explained import ExplainedClassifier, in_float32
from heatline.train.models.weights import create_network, load_pretrained


class CamClassifier(ExplainedClassifier):
    """Features, a 1x1 convolution and global average pooling, as in CAM (Zhou et al. 2016, eq. 2, plus the bias).

        map[y, x] = sum over k of weight[k] * features[k, y, x] + bias
        logit = mean of map

    Pooling and a Linear layer are both linear, so the logit equals that of a Linear layer on pooled features. Layers
    that timm has between pooling and its own classifier (as in MobileNetV3) would break this identity.
    """

    method = "cam"
    head: nn.Conv2d

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
        with in_float32(images.device):
            return self.head(features)[:, 0]  # type: ignore[no-any-return]


class _TimmFeatures(nn.Module):
    """The part of a timm CNN that computes the features."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.forward_features(images)  # type: ignore[no-any-return]


def cam_classifier(config: CnnConfig, tile_px: int) -> tuple[CamClassifier, Provenance]:
    """Build a timm CNN, cut at `config.stride`; return it with the provenance of its weights.

    Weights are loaded strictly into the whole network; then the stages after the cut, and timm's own head, are removed.

    Raises:
        ConfigError: timm has no such model, it has no such stage, or its features do not cover the tile.
        WeightsError: the configured weights are not available.
    """
    network = create_network(config.timm)
    stages = {stage["reduction"]: number for number, stage in enumerate(getattr(network, "feature_info", ()))}
    last = max(stages, default=0)
    stride = config.stride or last
    if stride not in stages or tile_px % stride:
        raise ConfigError(
            f"model.stride is {stride}, the stages of {config.timm} have {[*stages]}, and tiles {tile_px} px; choose a "
            "stride of a stage that divides tiles.tile_px"
        )
    provenance = load_pretrained(network, config)
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    if stride < last:
        network.prune_intermediate_layers([stages[stride]], prune_norm=True)
    network.reset_classifier(0, "")
    if isinstance(network, MobileNetV3):
        network.conv_head = network.norm_head = nn.Identity()  # timm has them between pooling and classifier
    cells = tile_px // stride
    with torch.no_grad():
        features = network.eval().forward_features(torch.zeros(1, 3, tile_px, tile_px))
    if tuple(features.shape[2:]) != (cells, cells):
        raise ConfigError(
            f"{config.timm} cannot be explained by a class activation map: of a tile of {tile_px} px it has features "
            f"{list(features.shape)}, expected [1, channels, {cells}, {cells}]; choose a model of `heatline models`"
        )
    return CamClassifier(_TimmFeatures(network.train()), features.shape[1], (cells, cells), mean, std), provenance
