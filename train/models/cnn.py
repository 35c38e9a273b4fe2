"""CNNs with a class activation map (CAM; Zhou et al. 2016, https://arxiv.org/abs/1512.04150)."""

from typing import Any

import torch
from torch import Tensor, nn

from heatline.edge.errors import ConfigError
from heatline.train.config import CnnConfig, Provenance
from heatline.train.models.explained import ExplainedClassifier, in_float32
from heatline.train.models.weights import create_network, last_stages, load_pretrained


class CamClassifier(ExplainedClassifier):
    """Features, a 1x1 convolution and global average pooling, as in CAM (Zhou et al. 2016, eq. 2, plus the bias).

        map[y, x] = sum over k of weight[k] * features[k, y, x] + bias
        logit = mean of map

    Pooling and a Linear layer are both linear, so their order does not matter: the logit equals that of a Linear layer
    on pooled features. Layers that timm has between pooling and its own classifier (as in MobileNetV3) are left out,
    as they would break this identity.

    Args:
        features: from images [N, 3, H, W] to features [N, channels, h, w].
        channels: number of feature channels.
        map_hw: cells of the map, h and w.
        mean, std: normalisation of RGB in 0..1.
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
            evidence: Tensor = self.head(features)[:, 0]
        return evidence


class _TimmFeatures(nn.Module):
    """The part of a timm CNN that computes the features."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.forward_features(images)
        return features


def cam_classifier(config: CnnConfig, tile_px: int) -> tuple[CamClassifier, Provenance]:
    """Build a timm CNN, cut at `config.stride`; return it with the provenance of its weights.

    Weights are loaded strictly into the whole network; then the stages after the cut, and timm's own head, are removed.

    Raises:
        ConfigError: timm has no such model, the model has no stage of that stride or cannot be cut there, or its
            features are not a grid of cells that cover the tile.
        WeightsError: the configured weights are not available.
    """
    network = create_network(config.timm)
    stages = last_stages(network, config)
    stride = config.stride or [*stages][-1]
    if stride not in stages:
        raise ConfigError(
            f"model.stride is {stride}, and the stages of {config.timm} have {[*stages]}; choose one of them"
        )
    provenance = load_pretrained(network, config)
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    try:
        if stride == [*stages][-1]:
            network.reset_classifier(0, "")
        else:
            network.prune_intermediate_layers([stages[stride][0]], prune_norm=True)
        with torch.enable_grad():
            features = network.eval().forward_features(torch.zeros(1, 3, tile_px, tile_px))
    except Exception as error:  # an unusual network may raise anything
        raise ConfigError(
            f"{config.timm} cannot be cut at stride {stride} and run on tiles of {tile_px} px "
            f"({type(error).__name__}: {' '.join(str(error).split())}); choose another model.stride or tiles.tile_px, "
            "or another model"
        ) from error
    cells, shape = tile_px // stride, list(getattr(features, "shape", ()))
    if len(shape) != 4 or shape[2:] != [tile_px / stride] * 2:
        raise ConfigError(
            f"{config.timm} ({type(network).__name__}) cannot be explained by a class activation map: of a tile of "
            f"{tile_px} px it has features {shape}, expected [1, channels, h, w] with cells of {stride} px that cover "
            "the tile; choose another CNN, or a ViT that is timm's VisionTransformer"
        )
    remove_unused_layers(features, network)
    return CamClassifier(_TimmFeatures(network.train()), features.shape[1], (cells, cells), mean, std), provenance


def remove_unused_layers(features: Tensor, network: nn.Module) -> None:
    """Remove from a network, in place, each layer whose weights do not influence the features.

    timm keeps the layers between pooling and classifier (the 1x1 convolution of MobileNetV3, VGG's two large ones):
    they would be counted, saved and shipped, and never run.
    """
    weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    gradients = torch.autograd.grad(features, list(weights.values()), torch.ones_like(features), allow_unused=True)
    unused = {name for (name, _), gradient in zip(weights.items(), gradients, strict=True) if gradient is None}
    for name, module in list(network.named_modules()):
        own = {f"{name}.{inside}" for inside, _ in module.named_parameters()}
        if name and own and own <= unused:
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, nn.Identity())
            unused -= own
