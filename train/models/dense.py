"""A dense head on a pretrained trunk: a map of stride 8, whose highest cells are the logit.

The trunk is a timm CNN up to its last stage of stride 16. Its features of strides 4 and 8 say exactly where, those of
stride 16 say what; the head adds them up and gives one number per cell of 8 px, the evidence of a defect in logits. The
mean of the few highest cells is the tile's logit, so map and logit share one scale, and a small defect is not averaged
away by what is good around it.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, softplus

from edge.errors import ConfigError
from train.config import CnnConfig
from train.models.any_timm import create_network
from train.models.depthwise import fix_depthwise_filters
from train.models.explained import ExplainedClassifier, in_float32, pool
from train.models.novelty import Novelty
from train.models.weights import load_pretrained
from train.provenance import Provenance

STRIDES = (4, 8, 16)
"""Of the stages that features are taken from, input px per cell."""
MAP_STRIDE = 8
TOP_CELLS = 16
"""Of 28x28 cells: 2 % of the tile. docs/training.md says what fewer and more cost."""


class Trunk(nn.Module):
    """A timm CNN up to stride 16.

    Args:
        network: pruned after its last stage of stride 16.
        taps: names of the modules whose outputs are the features.
    """

    def __init__(self, network: Any, taps: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self._seen: dict[str, Tensor] = {}
        for name in taps:
            network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: self._see(name, out))
        self.taps = tuple(taps)

    def _see(self, name: str, features: Tensor) -> None:
        self._seen[name] = features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features [N, channels, h, w] of each tap, of normalised images [N, 3, H, W]."""
        self._seen.clear()
        self.network.forward_features(images)
        return tuple(self._seen[name] for name in self.taps)


class LaterStages(nn.Module):
    """The stages of a trunk after its first tap, as a network of their own: what fine-tuning trains.

    Their batch normalisation keeps the pretrained averages, and their depthwise filters stay as they are.

    Args:
        trunk: whose stages are copied.
    Raises:
        ConfigError: they do not follow each other as numbered modules do.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.names = _numbered_between(trunk.taps[0], trunk.taps[-1])
        modules = dict(trunk.network.named_modules())
        if not self.names or not set(self.names) <= set(modules):
            raise _cannot_be_fine_tuned(trunk)
        self.stages = nn.ModuleList(copy.deepcopy(modules[name]) for name in self.names)
        self._is_tap = [name in trunk.taps for name in self.names]
        for module in self.stages.modules():
            module._forward_hooks.clear()  # those of the trunk
        self.requires_grad_(True)
        fix_depthwise_filters(self.stages)

    def forward(self, first: Tensor) -> tuple[Tensor, ...]:
        """Features of all taps, of those of the first."""
        features, hidden = [first], first
        for stage, is_tap in zip(self.stages, self._is_tap, strict=True):
            hidden = stage(hidden)
            features += [hidden] if is_tap else []
        return tuple(features)

    def train(self, mode: bool = True) -> "LaterStages":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def put_into(self, trunk: Trunk) -> None:
        """Give the trunk these weights."""
        for name, stage in zip(self.names, self.stages, strict=True):
            trunk.network.get_submodule(name).load_state_dict(stage.state_dict())


def check_later_stages(model: "DenseClassifier", tile_px: int) -> None:
    """Refuse a network whose later stages cannot be fine-tuned, before its features are extracted.

    Modules may be numbered and yet not follow each other: between the blocks of a DenseNet are transitions. So the
    stages must give the trunk's own features on a tile, up to rounding.

    Args:
        tile_px: side of the model's tiles.
    Raises:
        ConfigError: they do not.
    """
    trunk = model.trunk
    stages = LaterStages(trunk).eval()
    image = torch.rand(1, 3, tile_px, tile_px, generator=torch.Generator().manual_seed(0))
    was_training = trunk.training
    try:
        with torch.no_grad():
            expected = trunk.eval()(image)
            found = stages(expected[0])
    except Exception as error:  # an unusual network ends in whatever it trips over
        raise _cannot_be_fine_tuned(trunk) from error
    finally:
        trunk.train(was_training)
    if [each.shape for each in found] != [each.shape for each in expected] or not all(
        torch.allclose(one, other, rtol=1e-2, atol=1e-2 * float(other.abs().max()))
        for one, other in zip(found, expected, strict=True)
    ):
        raise _cannot_be_fine_tuned(trunk)


def _cannot_be_fine_tuned(trunk: Trunk) -> ConfigError:
    return ConfigError(
        f"the stages of {type(trunk.network).__name__} after {trunk.taps[0]} do not follow each other by number, so "
        "they cannot be fine-tuned; choose another model, or recipe.finetune_steps=0"
    )


class ChannelDropout(nn.Module):
    """Leaves out a share of the channels of each tile while training, drawn by a generator of its own.

    Heads of several folds train side by side; torch's own dropout would have them share one stream of random numbers.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self._keep = 1 - share
        self.generator = torch.Generator()

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training:
            return hidden
        kept = torch.rand(hidden.shape[:2], generator=self.generator) < self._keep
        return hidden * (kept / self._keep).to(hidden.dtype)[:, :, None, None]


class Projection(nn.Module):
    """Features standardised per channel, then projected to the head's width, in one convolution.

    Args:
        channels: of the features.
        width: of the head.
        step: side of the square of cells that become one.
    """

    def __init__(self, channels: int, width: int, step: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, step, step, bias=False)
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def standardise(self, features: Tensor) -> None:
        """Take mean and deviation from features [N, channels, h, w]."""
        deviation, mean = torch.std_mean(features.float(), dim=(0, 2, 3))
        self.mean.copy_(mean)
        self.deviation.copy_(deviation + 1e-5 * (1 + mean.abs()))

    def forward(self, features: Tensor) -> Tensor:
        weight = self.conv.weight / self.deviation[:, None, None]
        bias = -(weight * self.mean[:, None, None]).sum(dim=(1, 2, 3))
        return nn.functional.conv2d(features, weight, bias, stride=self.conv.stride)


class DenseHead(nn.Module):
    """From the features of a trunk to a map.

    Args:
        channels: of the features of each tap.
        strides: of each tap, input px per cell.
        width: hidden channels.
        dropout: share of hidden channels that a training step leaves out.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.channels, self.strides, self.width = tuple(channels), tuple(strides), width
        self.projections = nn.ModuleList(
            Projection(each, width, max(1, MAP_STRIDE // stride))
            for each, stride in zip(channels, strides, strict=True)
        )
        self.norm = nn.BatchNorm2d(width)
        self.dropout = ChannelDropout(dropout)
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
        )
        self.out = nn.Conv2d(width, 1, kernel_size=1)
        self.floor: Tensor
        self.register_buffer("floor", torch.tensor(-4.0))
        """Of the map: below it, evidence fades, as no cell is much better than good."""
        self.novelty: Novelty | None = None
        """What is added for cells that are unlike good ones, where no defect was known."""

    def standardise(self, features: Sequence[Tensor]) -> None:
        """Take each channel's mean and deviation from features of some tiles, before the training."""
        for each, project in zip(features, self.projections, strict=True):
            assert isinstance(project, Projection)
            project.standardise(each)

    def taps(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Features of all taps, as they come."""
        return features

    def untrained(self) -> "DenseHead":
        """Another head for the same features."""
        return DenseHead(self.channels, self.strides, self.width)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The map [N, h, w], of stride 8, in logits, of features [N, channels, h, w]."""
        by_stride: dict[int, Tensor] = {}
        for each, stride, project in zip(features, self.strides, self.projections, strict=True):
            projected = project(each)
            size = max(stride, MAP_STRIDE)
            by_stride[size] = by_stride[size] + projected if size in by_stride else projected
        hidden = by_stride.pop(MAP_STRIDE)
        for stride, coarse in by_stride.items():
            scale = stride / MAP_STRIDE
            hidden = hidden + interpolate(coarse, scale_factor=scale, mode="bilinear", align_corners=False)
        hidden = self.dropout(self.norm(hidden).relu())
        hidden = (hidden + self.block(hidden).relu()).float()
        with in_float32(hidden.device):
            evidence = self.floor + softplus(self.out(hidden)[:, 0] - self.floor)
        return evidence if self.novelty is None else evidence + self.novelty(features, self.strides)


class FineTuned(nn.Module):
    """The later stages of a trunk and a head: as a head, from features to the map."""

    def __init__(self, stages: LaterStages, head: DenseHead) -> None:
        super().__init__()
        self.stages, self.head = stages, head

    @property
    def strides(self) -> tuple[int, ...]:
        """Of each tap, input px per cell."""
        return self.head.strides

    def taps(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Features of all taps, of those of the first."""
        return self.stages(features[0])  # type: ignore[no-any-return]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """The map [N, h, w] of features, of which the first tap's are enough."""
        return self.head(self.taps(features))  # type: ignore[no-any-return]


class DenseClassifier(ExplainedClassifier):
    """Trunk and dense head.

    Args:
        trunk: from normalised images to features.
        head: from features to the map.
        map_hw: cells of the map, h and w.
        mean, std: normalisation of RGB in 0..1.
    """

    method = "dense"
    top_cells = TOP_CELLS
    explained_from = "head.out.weight"
    head: DenseHead

    def __init__(
        self, trunk: Trunk, head: DenseHead, map_hw: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(mean, std)
        self.trunk, self.head, self.map_hw = trunk, head, map_hw
        self.shown_by = head.strides.index(STRIDES[-1])
        """Number of the first tap of stride 16: later ones tell other products apart less well."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As PyTorch's; the head has prototypes of good cells where the state has them."""
        prototypes = state_dict.get("head.novelty.prototypes")
        self.head.novelty = None if prototypes is None else Novelty(prototypes.shape[1], prototypes.shape[0])
        return super().load_state_dict(state_dict, strict, assign)

    def start_from(self, log_odds: float) -> None:
        nn.init.constant_(self.head.out.bias, log_odds)  # type: ignore[arg-type]

    def features(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Of RGB tiles uint8 [N, H, W, 3]: what is extracted once, as training leaves the trunk as it is."""
        return self.trunk(self.normalised(tiles))  # type: ignore[no-any-return]

    def evidence(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))  # type: ignore[no-any-return]

    def with_features(self, tiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and maps, and features [N, channels] of `shown_by`, averaged over the tile: what it shows as a whole.

        They come from the same pass.
        """
        features = self.features(tiles)
        maps = self.head(features)
        return pool(maps, self.top_cells), maps, features[self.shown_by].mean(dim=(2, 3)).float()


class TileFeatures(nn.Module):
    """What an engine extracts: the features of raw tiles.

    Args:
        model: a dense classifier, in evaluation mode.
        tile_px: side of its tiles.
    """

    def __init__(self, model: DenseClassifier, tile_px: int) -> None:
        super().__init__()
        self.model = model
        self.identity = _digest(model, tile_px)
        """Of all that determines the features of a tile."""

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        return self.model.features(tiles)


def dense_classifier(config: CnnConfig, tile_px: int) -> tuple[DenseClassifier, Provenance]:
    """A CNN of timm with its weights, cut after stride 16, and a dense head that knows nothing yet.

    Raises:
        ConfigError: timm has no such model, it has no stages of strides 4, 8 and 16, or it cannot be cut there.
        WeightsError: the weights that were asked for cannot be had.
    """
    network = create_network(config.timm)
    stages = _stages(network, config)
    provenance = load_pretrained(network, config)
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    sample = torch.zeros(1, 3, tile_px, tile_px)
    try:
        network.prune_intermediate_layers([max(number for number, _ in stages)], prune_norm=True)
        names = [name for _, name in stages]
        if before := _stage_before(network, names[-1]):
            names.insert(-1, before)
        trunk = Trunk(network.eval(), names)
        with torch.no_grad():
            features = list(trunk(sample))
        if before and features[-2].shape[2:] != features[-1].shape[2:]:  # it is of a finer stride
            trunk.taps = (*trunk.taps[:-2], trunk.taps[-1])
            del features[-2]
    except Exception as error:  # an unusual network ends in whatever it trips over
        raise ConfigError(
            f"{config.timm} cannot be cut at stride {STRIDES[-1]} and run on tiles of {tile_px} px "
            f"({type(error).__name__}: {' '.join(str(error).split())}); choose another model or tiles.tile_px, or "
            "recipe=finetune"
        ) from error
    strides = [tile_px // each.shape[-1] for each in features]
    if sorted(set(strides)) != list(STRIDES) or any(
        each.shape[2:] != (tile_px / stride, tile_px / stride) for each, stride in zip(features, strides, strict=True)
    ):
        raise ConfigError(
            f"{config.timm} has features of {[tuple(each.shape[1:]) for each in features]} for tiles of {tile_px} px, "
            f"expected cells of {', '.join(map(str, STRIDES))} px; choose tiles.tile_px as a multiple of "
            f"{STRIDES[-1]}, another model, or recipe=finetune"
        )
    trunk.requires_grad_(False)
    cells = tile_px // MAP_STRIDE
    head = DenseHead([each.shape[1] for each in features], strides, config.width)
    return DenseClassifier(trunk, head, (cells, cells), mean, std), provenance


def _stages(network: Any, config: CnnConfig) -> list[tuple[int, str]]:
    """Numbers and module names of the last stage of each stride.

    Raises:
        ConfigError: one is not there.
    """
    infos = list(getattr(network, "feature_info", None) or ())
    last = {info["reduction"]: (number, info["module"]) for number, info in enumerate(infos)}
    if not set(STRIDES) <= set(last) or not hasattr(network, "prune_intermediate_layers"):
        raise ConfigError(
            f"{config.timm} has stages of strides {sorted(last) or 'unknown'}, and the recipe needs "
            f"{', '.join(map(str, STRIDES))}; choose a CNN that has them, or recipe=finetune"
        )
    return [last[stride] for stride in STRIDES]


def _numbered_between(first: str, last: str) -> list[str]:
    """Names of the modules after `first` up to `last`: of blocks.1 and blocks.4, blocks.2 to blocks.4."""
    begin, end = re.fullmatch(r"(.*?)([0-9]+)", first), re.fullmatch(r"(.*?)([0-9]+)", last)
    if begin is None or end is None or begin[1] != end[1]:
        return []
    return [f"{begin[1]}{number}" for number in range(int(begin[2]) + 1, int(end[2]) + 1)]


def _stage_before(network: nn.Module, name: str) -> str | None:
    """The module numbered one less, as `blocks.3` before `blocks.4`: timm names only the last stage of a stride."""
    found = re.fullmatch(r"(.*?)([0-9]+)", name)
    before = f"{found[1]}{int(found[2]) - 1}" if found else ""
    return before if before in dict(network.named_modules()) else None


def _digest(model: DenseClassifier, tile_px: int) -> str:
    trunk = model.trunk
    # Networks of other strides, padding or epsilons may have weights of the same names and values.
    digest = sha256(f"{tile_px} {trunk.taps} {trunk}".encode())
    state = {**trunk.state_dict(), "mean": model._mean, "std": model._std}
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
