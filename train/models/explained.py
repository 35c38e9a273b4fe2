"""The base class of all models: one forward pass takes tiles and returns logits and explanation maps.

The same module is trained and exported, so both compute the same: normalisation is inside, and the logit *is* a pooling
of the map. A family (CNN with class activation map, ViT with attention rollout) only defines its map.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


class ExplainedClassifier(nn.Module, ABC):
    """A binary classifier whose map is evidence of a defect in logits, and whose logit is the mean of the map's cells.

    Args:
        mean, std: normalisation of RGB in 0..1, per channel.
    """

    method: str
    """Name of the map's method in the manifest: `cam`, `rollout-max`, ..."""
    map_hw: tuple[int, int]
    """Cells of the map of one tile, h and w."""
    top_cells: int | None = None
    """Number of highest cells whose mean is the logit; None: all cells."""
    head: nn.Module
    """The layers after the features. The bias of a single-layer head is the logit of a tile without evidence."""
    explained_from = "head.weight"
    """First parameter of the explaining part of the graph, which stays in f32 in every precision."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def start_from(self, log_odds: float) -> None:
        """Initialise the head so that every tile's logit is `log_odds`, the natural log-odds of a defect.

        Defective tiles are rare. Otherwise the first steps would fit this rate, at the expense of the pretrained
        features; with it, the first gradient already separates defective from good.
        """
        assert isinstance(self.head, nn.Conv2d | nn.Linear), "other heads override this method"
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, log_odds)  # type: ignore[arg-type]

    @abstractmethod
    def evidence(self, images: Tensor) -> Tensor:
        """Return maps [N, h, w] in logits of normalised images [N, 3, H, W]."""

    def logits(self, tiles: Tensor) -> Tensor:
        """Return the logits of `forward`, float32 [N], of RGB tiles uint8 [N, H, W, 3]; training needs only these.

        A family whose map costs extra time overrides this method to skip the map.
        """
        logits, _ = self(tiles)
        return logits  # type: ignore[no-any-return]

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits float32 [N] and maps float32 [N, h, w] of RGB tiles uint8 [N, H, W, 3]."""
        maps = self.evidence(self.normalised(tiles)).float()
        return pool(maps, self.top_cells), maps

    def map_rounding(self, tiles: Tensor) -> Tensor:
        """Return how far rounding can change each map, [N] in logits, of RGB tiles uint8 [N, H, W, 3].

        This is 0 unless the map depends on decisions that rounding can reverse.
        """
        return torch.zeros(len(tiles), device=tiles.device)

    def normalised(self, tiles: Tensor) -> Tensor:
        """Normalise RGB tiles uint8 [N, H, W, 3] to images float32 [N, 3, H, W]."""
        return (tiles.permute(0, 3, 1, 2).float() - self._mean) / self._std


def pool(maps: Tensor, top_cells: int | None) -> Tensor:
    """Pool maps [N, h, w] to logits [N] as `heatline.edge.bundle.pooling.pool` does, with gradients."""
    if top_cells is None:
        return maps.mean(dim=(1, 2))
    return maps.flatten(1).topk(top_cells, dim=1, sorted=False).values.mean(dim=1)


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Disable autocast: the end of a forward pass is cheap, and its sums are the result."""
    if device.type == "meta":  # has no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
