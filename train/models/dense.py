"""A dense head on a pretrained trunk: a map of stride 8, and the mean of its highest cells as the logit.

The trunk is a timm CNN up to its last stage of stride 16. Its features of strides 4 and 8 locate a defect, those of
stride 16 recognise it; the head adds them up to one number per cell of 8 px, the evidence of a defect in logits. The
tile's logit is the mean of the few highest cells. So map and logit have the same scale, and averaging over the good
rest of the tile does not hide a small defect."""

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, softplus

from heatline.edge.errors import ConfigError
from heatline.edge.reference.difference import CHANNELS
from heatline.train.config import CnnConfig, Provenance
from heatline.train.models.explained import ExplainedClassifier, Novelty, in_float32, pool
from heatline.train.models.weights import create_network, load_pretrained

# Depthwise convolutions with fixed filters make a step of fine-tuning several times as fast on a CPU, where torch's
# backward pass of a depthwise convolution takes 5 to 50 times as long as the forward pass. The gradient of the filters
# is not computed; that of the images is a forward convolution: of the output's gradient, with stride - 1 zeros between
# its cells, by the rotated filters (transposed convolution; Dumoulin & Visin 2016, section 4.6).


class _ByImages(torch.autograd.Function):
    """Depthwise convolution of images [N, C, H, W] with filters [C, 1, k, k]; only the images get a gradient."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, filters: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(filters)
        ctx.height_width, ctx.stride, ctx.padding = images.shape[2:], stride, padding
        return conv2d(images, filters.to(images.dtype), None, stride, padding, groups=len(filters))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,), (filters,) = gradients, ctx.saved_tensors
        reach = filters.shape[-1] - 1
        if ctx.stride > 1:
            spread_hw = [side + 2 * ctx.padding - reach for side in ctx.height_width]
            spread = gradient.new_zeros(*gradient.shape[:2], *spread_hw).contiguous(memory_format=torch.channels_last)
            spread[:, :, :: ctx.stride, :: ctx.stride] = gradient
            gradient = spread
        rotated = filters.flip(2, 3).to(gradient.dtype)
        return conv2d(gradient, rotated, None, 1, reach - ctx.padding, groups=len(filters)), None, None, None


class FixedDepthwise(nn.Module):
    """Replaces a depthwise convolution; its filters become a buffer of the same name."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Buffer(conv.weight.detach())
        self._stride = conv.stride[0]
        self._padding = None if isinstance(conv, Conv2dSame) else int(conv.padding[0])

    def forward(self, images: Tensor) -> Tensor:
        padding = self._padding
        if padding is None:
            images, padding = pad_same(images, list(self.weight.shape[2:]), [self._stride] * 2), 0
        return _ByImages.apply(images, self.weight, self._stride, padding)  # type: ignore[no-any-return,no-untyped-call]


def fix_depthwise_filters(network: nn.Module) -> None:
    """Replace each depthwise convolution, in place; those of EfficientNet and MobileNetV3 have square filters."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and 1 < child.groups == child.in_channels and child.bias is None:
                setattr(module, name, FixedDepthwise(child))


STRIDES = (4, 8, 16)
"""Strides of the stages whose features the head uses, input px per cell."""
MAP_STRIDE = 8
"""Input px per cell of the map."""
CELL = 2
"""Side of the cells whose features show what a tile is, in cells of stride 16."""
TOP_CELLS = 16
"""Number of highest cells whose mean is the logit: 2 % of the 28x28 cells of a tile."""


class Trunk(nn.Module):
    """A timm CNN, pruned after its last stage of stride 16; the outputs of the modules `taps` are the features."""

    def __init__(self, network: Any, taps: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self._captured: dict[str, Tensor] = {}
        for name in taps:
            network.get_submodule(name).register_forward_hook(
                lambda _, __, out, name=name: self._captured.__setitem__(name, out)
            )
        self.taps = tuple(taps)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return each tap's features [N, channels, h, w] of normalised images [N, 3, H, W]."""
        self._captured.clear()
        self.network.forward_features(images)
        return tuple(self._captured[name] for name in self.taps)


class LaterStages(nn.Module):
    """A copy of a trunk's stages after its first tap, numbered modules: the part that fine-tuning trains.

    Batch normalisation keeps the pretrained averages, and depthwise filters stay fixed.
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        (module, first), (_, last) = (_numbered(name) for name in (trunk.taps[0], trunk.taps[-1]))
        self.names = [f"{module}{number}" for number in range(first + 1, last + 1)]
        self.stages = nn.ModuleList(copy.deepcopy(trunk.network.get_submodule(name)) for name in self.names)
        self._is_tap = [name in trunk.taps for name in self.names]
        for each in self.stages.modules():
            each._forward_hooks.clear()  # copied from the trunk
        self.requires_grad_(True)
        fix_depthwise_filters(self.stages)

    def forward(self, first: Tensor) -> tuple[Tensor, ...]:
        """Return the features of all taps, computed from those of the first."""
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

    def copy_to(self, trunk: Trunk) -> None:
        """Copy the weights into the trunk."""
        for name, stage in zip(self.names, self.stages, strict=True):
            trunk.network.get_submodule(name).load_state_dict(stage.state_dict())


class ChannelDropout(nn.Module):
    """Drops a random share of the channels of each tile during training, with its own random generator.

    The heads of several folds train in parallel; torch's own dropout would share one stream of random numbers.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self._keep = 1 - share
        self.generator = torch.Generator()

    def forward(self, hidden: Tensor) -> Tensor:
        if not self.training:
            return hidden
        mask = torch.rand(hidden.shape[:2], generator=self.generator) < self._keep
        return hidden * (mask / self._keep).to(hidden.dtype)[:, :, None, None]


class Projection(nn.Module):
    """Standardises features per channel and projects them to the head's width: step x step cells become one."""

    def __init__(self, channels: int, width: int, step: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, step, step, bias=False)
        self.mean = nn.Buffer(torch.zeros(channels))
        self.deviation = nn.Buffer(torch.ones(channels))

    def standardise(self, features: Tensor) -> None:
        """Set mean and standard deviation of each channel from features [N, channels, h, w]."""
        deviation, mean = torch.std_mean(features.float(), dim=(0, 2, 3))
        self.mean.copy_(mean)
        self.deviation.copy_(deviation + 1e-5 * (1 + mean.abs()))

    def forward(self, features: Tensor) -> Tensor:
        weight = self.conv.weight / self.deviation[:, None, None]
        bias = -(weight * self.mean[:, None, None]).sum(dim=(1, 2, 3))
        return nn.functional.conv2d(features, weight, bias, stride=self.conv.stride)


class DenseHead(nn.Module):
    """Computes the map from the features of a trunk.

    Args:
        channels: feature channels of each tap.
        strides: stride of each tap, input px per cell.
        width: hidden channels.
        compares: whether the last features are differences to a reference, see `heatline.edge.reference.difference`.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int, *, compares: bool = False) -> None:
        super().__init__()
        self.channels, self.strides, self.width = tuple(channels), tuple(strides), width
        self.projections = nn.ModuleList(
            Projection(each, width, max(1, MAP_STRIDE // stride))
            for each, stride in zip(channels, strides, strict=True)
        )
        self.difference = Projection(CHANNELS, width, 1) if compares else None
        self.norm = nn.BatchNorm2d(width)
        self.dropout = ChannelDropout(0.1)
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)
        )
        self.out = nn.Conv2d(width, 1, kernel_size=1)
        self.floor = nn.Buffer(torch.tensor(-4.0))
        """Soft lower bound of the map, logits: no cell is much better than good."""
        self.novelty: Novelty | None = None
        """Adds evidence to cells that differ from good ones; only for trainings without known defects."""

    def standardise(self, features: Sequence[Tensor]) -> None:
        """Set each channel's mean and standard deviation from features of some tiles, before the training."""
        for each, _, project in self._projected(features):
            project.standardise(each)

    def _projected(self, features: Sequence[Tensor]) -> Iterable[tuple[Tensor, int, Projection]]:
        """Return the features of each tap, and the difference to a reference, with stride and projection."""
        projections: list[Any] = [*self.projections, *filter(None, [self.difference])]
        return zip(features, [*self.strides, MAP_STRIDE][: len(projections)], projections, strict=True)

    def taps(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the features of all taps unchanged, without the difference to a reference."""
        return features[: len(self.strides)]

    def untrained(self, *, compares: bool | None = None) -> "DenseHead":
        """Return a new head for the same features; `compares` None: as this one."""
        compares = self.difference is not None if compares is None else compares
        return DenseHead(self.channels, self.strides, self.width, compares=compares)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the map [N, h, w], stride 8, in logits, of each tap's features [N, channels, h, w]."""
        projected: dict[int, list[Tensor]] = {}
        for each, stride, project in self._projected(features):
            projected.setdefault(max(stride, MAP_STRIDE), []).append(project(each))
        fine = projected.pop(MAP_STRIDE)
        enlarged = [
            interpolate(
                functools.reduce(torch.add, coarse),
                scale_factor=stride / MAP_STRIDE,
                mode="bilinear",
                align_corners=False,
            )
            for stride, coarse in projected.items()
        ]
        hidden = functools.reduce(torch.add, [*enlarged, *fine])  # OpenVINO adds the last within their convolutions
        hidden = self.dropout(self.norm(hidden).relu())
        hidden = (hidden + self.block(hidden).relu()).float()
        with in_float32(hidden.device):
            evidence = self.floor + softplus(self.out(hidden)[:, 0] - self.floor)
        return evidence if self.novelty is None else evidence + self.novelty(self.taps(features), self.strides)


class FineTuned(nn.Module):
    """The later stages of a trunk with a head; computes the map from features, as a head does."""

    def __init__(self, stages: LaterStages, head: DenseHead) -> None:
        super().__init__()
        self.stages, self.head, self.strides = stages, head, head.strides

    def taps(self, features: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the features of all taps, computed from those of the first, without the difference to a reference."""
        return self.stages(features[0])  # type: ignore[no-any-return]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the map [N, h, w] of features [N, channels, h, w]: the first tap's, and the difference."""
        difference = features[-1:] if self.head.difference is not None else ()
        return self.head([*self.taps(features), *difference])  # type: ignore[no-any-return]


class DenseClassifier(ExplainedClassifier):
    """A trunk with a dense head."""

    method = "dense"
    top_cells: int = TOP_CELLS
    cell: int = CELL
    explained_from = "head.out.weight"
    head: DenseHead

    def __init__(
        self, trunk: Trunk, head: DenseHead, map_hw: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(mean, std)
        self.trunk, self.head, self.map_hw = trunk, head, map_hw
        self.shown_by = head.strides.index(STRIDES[-1])
        """Index of the first tap of stride 16: later taps distinguish other products less well."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the state as PyTorch does; the head gets the parts that only some trainings give it, if the state has
        them: prototypes of good cells, and the projection of differences to a reference.
        """
        prototypes = state_dict.get("head.novelty.prototypes")
        self.head.novelty = None if prototypes is None else Novelty(prototypes.shape[1], prototypes.shape[0])
        compares = "head.difference.conv.weight" in state_dict
        self.head.difference = Projection(CHANNELS, self.head.width, 1) if compares else None
        return super().load_state_dict(state_dict, strict, assign)

    def start_from(self, log_odds: float) -> None:
        nn.init.constant_(self.head.out.bias, log_odds)  # type: ignore[arg-type]

    def features(self, tiles: Tensor) -> tuple[Tensor, ...]:
        """Return each tap's features [N, channels, h, w] of RGB tiles uint8 [N, H, W, 3]."""
        return self.trunk(self.normalised(tiles))  # type: ignore[no-any-return]

    def evidence(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))  # type: ignore[no-any-return]

    @property
    def compares(self) -> bool:
        """Whether it compares tiles with a reference: `with_features` then needs the differences."""
        return self.head.difference is not None

    def forward(self, tiles: Tensor, difference: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits and maps; arguments as in `with_features`."""
        logits, maps, _ = self.with_features(tiles, difference)
        return logits, maps

    def with_features(self, tiles: Tensor, difference: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [N], maps [N, h, w] and features of RGB tiles uint8 [N, H, W, 3], in one pass.

        The features [N, side, side, channels] are those of the tap `shown_by`, averaged over cells of 2x2 (32 px;
        16 px if the tile has an odd number of them): they describe what the cells show.

        Args:
            difference: uint8 [N, h, w, CHANNELS], if it `compares`.
        """
        features = self.features(tiles)
        maps = self.head(features if difference is None else [*features, difference.permute(0, 3, 1, 2).float()])
        return pool(maps, self.top_cells), maps, self.cells(features)

    def cells(self, features: Sequence[Tensor]) -> Tensor:
        """Return the features of cells, as `with_features` does, of each tap's features [N, channels, h, w]."""
        shown = features[self.shown_by]
        return avg_pool2d(shown, self._cell(shown.shape[-1])).permute(0, 2, 3, 1).float()

    def cells_shape(self, tile_px: int) -> tuple[int, int, int]:
        """Return the cells of a tile, h and w, and their channels."""
        side = tile_px // STRIDES[-1]
        side //= self._cell(side)
        return side, side, self.head.channels[self.shown_by]

    def _cell(self, side: int) -> int:
        """Return the side of the cells of a tile, in cells of stride 16: they cover all of it."""
        return self.cell if side % self.cell == 0 else 1


class TileFeatures(nn.Module):
    """Computes the features of raw tiles; an inference engine runs this part of a model in evaluation mode."""

    def __init__(self, model: DenseClassifier, tile_px: int) -> None:
        super().__init__()
        self.model = model
        # Networks of other strides, padding or epsilons may have weights of the same names and values.
        trunk = model.trunk
        digest = sha256(f"{tile_px} {trunk.taps} {trunk}".encode())
        for name, tensor in {**trunk.state_dict(), "mean": model._mean, "std": model._std}.items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        self.identity = digest.hexdigest()
        """Digest of everything that determines the features of a tile."""

    def forward(self, tiles: Tensor) -> tuple[Tensor, ...]:
        return self.model.features(tiles)


def dense_classifier(config: CnnConfig, tile_px: int, *, is_small: bool = False) -> tuple[DenseClassifier, Provenance]:
    """Build a timm CNN, cut after stride 16, with an untrained dense head; return it with its weights' provenance.

    Args:
        tile_px: side of what the trunk sees.
        is_small: end with the first of several stages of stride 16; EfficientNet-lite0 then takes 72 % of the time.

    Raises:
        ConfigError: timm has no such model, its stages lack a stride, or tiles do not divide into cells of 16 px.
        WeightsError: the configured weights are not available.
    """
    network = create_network(config.timm)
    stages = {
        stage["reduction"]: (number, stage["module"])
        for number, stage in enumerate(getattr(network, "feature_info", ()))
    }
    if not set(STRIDES) <= set(stages) or tile_px % STRIDES[-1]:
        raise ConfigError(
            f"{config.timm} has stages of strides {sorted(stages)}, and tiles have {tile_px} px; recipe=heatline needs "
            f"strides {', '.join(map(str, STRIDES))}, and tiles.tile_px a multiple of {STRIDES[-1]}"
        )
    provenance = load_pretrained(network, config)
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    network.prune_intermediate_layers([stages[STRIDES[-1]][0]], prune_norm=True)
    fine, middle, coarse = (stages[stride][1] for stride in STRIDES)
    module, number = _numbered(coarse)
    taps = dict.fromkeys((fine, middle, f"{module}{number - 1}", coarse))  # timm lists the last module of a stride
    trunk = Trunk(network.eval(), [*taps][: 3 if is_small else None])
    trunk.requires_grad_(False)
    with torch.no_grad():
        features = trunk(torch.zeros(1, 3, tile_px, tile_px))
    cells = tile_px // MAP_STRIDE
    strides = [tile_px // each.shape[-1] for each in features]
    head = DenseHead([each.shape[1] for each in features], strides, config.width)
    return DenseClassifier(trunk, head, (cells, cells), mean, std), provenance


def _numbered(module: str) -> tuple[str, int]:
    """Return the parts of a module's name: for blocks.4, `blocks.` and 4."""
    name = module.rstrip("0123456789")
    return name, int(module[len(name) :])
