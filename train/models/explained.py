"""What every model of ours is: tiles in, logit and explanation map out, in one forward pass.

The same module trains and is exported, so nothing can come between the two: normalisation is inside, and the logit *is*
a pooling of the map. A family (CNN with class activation map, ViT with attention rollout) only says how it explains.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


class ExplainedClassifier(nn.Module, ABC):
    """A binary classifier whose map is raw evidence in logit units, and whose logit is the mean of the map's cells.

    Args:
        mean, std: normalisation of RGB in 0..1, per channel.
    """

    method: str
    """How the map is made, for the manifest: `cam`, `rollout-max`, ..."""
    map_hw: tuple[int, int]
    """Cells of the map of one tile."""
    top_cells: int | None = None
    """How many of the map's highest cells the logit is the mean of; None: all."""
    head: nn.Module
    """What a family adds to its features. Of one layer, its one bias is the logit of a tile without evidence."""
    explained_from = "head.weight"
    """The parameter from which on the graph explains: what follows it stays in f32 in every precision."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self._mean: Tensor
        self._std: Tensor
        self.register_buffer("_mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def start_from(self, log_odds: float) -> None:
        """Make the untrained head say `log_odds` of every tile.

        Defective tiles are rare. A head that starts elsewhere spends its first steps, and the pretrained features, on
        learning how rare; here the first gradient is already about what tells defective from good.
        """
        assert isinstance(self.head, nn.Conv2d | nn.Linear), "other heads start otherwise"
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, log_odds)  # type: ignore[arg-type]

    @abstractmethod
    def evidence(self, images: Tensor) -> Tensor:
        """The map [N, h, w] of normalised images [N, 3, H, W], in logit units."""

    def logits(self, tiles: Tensor) -> Tensor:
        """Logits float32 [N] of RGB tiles uint8 [N, H, W, 3]: those of `forward`, and what training needs.

        A family whose map costs extra overrides this with the same logits without their map.
        """
        logits, _ = self(tiles)
        return logits  # type: ignore[no-any-return]

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 [N] and maps float32 [N, h, w] of RGB tiles uint8 [N, H, W, 3]."""
        maps = self.evidence(self.normalised(tiles)).float()
        return pool(maps, self.top_cells), maps

    def map_rounding(self, tiles: Tensor) -> Tensor:
        """How far rounding can move the maps of RGB tiles uint8 [N, H, W, 3] beyond itself, logits [N].

        Nothing, unless the map hangs on decisions that rounding can turn.
        """
        return torch.zeros(len(tiles), device=tiles.device)

    def normalised(self, tiles: Tensor) -> Tensor:
        """Images float32 [N, 3, H, W] of RGB tiles uint8 [N, H, W, 3]."""
        return (tiles.permute(0, 3, 1, 2).float() - self._mean) / self._std


def pool(maps: Tensor, top_cells: int | None) -> Tensor:
    """As `edge.bundle.pooling.pool`, with gradients: logits [N] of maps [N, h, w]."""
    if top_cells is None:
        return maps.mean(dim=(1, 2))
    return maps.flatten(1).topk(top_cells, dim=1, sorted=False).values.mean(dim=1)


def in_float32(device: torch.device) -> AbstractContextManager[object]:
    """No autocast for what is done within: the end of a forward pass is cheap, and its sums are the result."""
    if device.type == "meta":  # computes nothing, and knows no autocast
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
