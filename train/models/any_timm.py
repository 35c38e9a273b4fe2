"""Models without a file in `configs/model`: any model of timm by its timm name, with a default configuration."""

from functools import cache
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from heatline.edge.errors import ConfigError
from heatline.train.config import CnnConfig, VitConfig


@cache
def default_config(name: str) -> CnnConfig | VitConfig | None:
    """Return the configuration of a timm model, with or without pretrained tag; None if timm has no such model.

    timm's own `VisionTransformer` is a ViT. Every other model is treated as a CNN; building it fails if its features
    are not those of a CNN.

    Raises:
        ConfigError: timm has the model, but not with this tag.
    """
    if not timm.is_model(name):
        return None
    network = empty_network(name)
    about = network.pretrained_cfg
    exact = name if "." in name or about["tag"] in ("", "untrained") else f"{name}.{about['tag']}"
    if is_plain_vit(network):
        return VitConfig(name=name, timm=exact, weights="imagenet", fusion="max", discard_ratio=0.0)
    return CnnConfig(name=name, timm=exact, weights="imagenet", stride=None)


def empty_network(name: str) -> Any:
    """Create a timm network on the meta device, without memory for its weights.

    Raises:
        ConfigError: timm has no such model, or not with this tag.
    """
    with torch.device("meta"):
        return create_network(name)


def create_network(name: str) -> Any:
    """Create a timm network with random weights.

    Raises:
        ConfigError: timm has no such model, or not with this tag.
    """
    if not timm.is_model(name):
        raise ConfigError(f"model.timm={name} is not a model of timm {timm.__version__}; see timm.list_models()")
    try:
        return timm.create_model(name, pretrained=False)
    except RuntimeError as error:
        if "Invalid pretrained tag" not in str(error):
            raise
        tags = [full.partition(".")[2] for full in timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)]
        raise ConfigError(
            f"timm {timm.__version__} does not have {name}; its pretrained tags are: {', '.join(tags)}"
        ) from error


def is_plain_vit(network: Any) -> bool:
    """Whether it is timm's `VisionTransformer` itself; a subclass may process its tokens differently."""
    return type(network) is VisionTransformer
