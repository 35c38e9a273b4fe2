"""The base class of all models: one forward pass takes tiles and returns logits and explanation maps.

The same module is trained and exported, so both compute the same: normalisation is inside, and the logit *is* a pooling
of the map. A family (CNN with class activation map, ViT with attention rollout) only defines its map."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate


class ExplainedClassifier(nn.Module, ABC):
    """A binary classifier whose map is evidence of a defect in logits, and whose logit is the mean of the map's cells.

    `mean` and `std` normalise RGB in 0..1.
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
        self._mean = nn.Buffer(torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self._std = nn.Buffer(torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def start_from(self, log_odds: float) -> None:
        """Initialise the head so that every tile's logit is `log_odds`, the natural log-odds of a defect.

        Otherwise the first steps would fit this rate, at the expense of the pretrained features.
        """
        assert isinstance(self.head, nn.Conv2d | nn.Linear), "other heads override this method"
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, log_odds)  # type: ignore[arg-type]

    @abstractmethod
    def evidence(self, images: Tensor) -> Tensor:
        """Return maps [N, h, w] in logits of normalised images [N, 3, H, W]."""

    def logits(self, tiles: Tensor) -> Tensor:
        """Return the logits of `forward`; a family whose map costs extra time skips the map here."""
        return self(tiles)[0]  # type: ignore[no-any-return]

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
    # The meta device has no autocast.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


# Novelty: evidence from the distance to good cells, for dense heads that are trained without known defects. A head that
# is trained only on synthetic defects recognises what resembles them; this distance finds others.

PROTOTYPES = 1000
MOST_CELLS = 15_000
"""Maximum number of cells that whitening and prototypes are computed from."""
STRIDES = (8, 16)
"""Strides of the compared features, input px per cell: finer features change with every grain of the surface."""
NEAREST = 0.3
"""Lower bound of distances, in standard deviations: near a prototype, rounding would decide the distance."""
EVIDENCE_SHARE = 0.15
"""Weight of the head's evidence relative to novelty, both in standard deviations over good cells that were not trained
on. Of the values from 0.05 to 0.3 it found most on KolektorSDD and magnetic tile."""


class Novelty(nn.Module):
    """Evidence from each cell's distance to the nearest prototype p of good cells:

        evidence = gain * (max(NEAREST, min over p of ||whitening^T (x - mean) - p||) - offset)

    in logits, where x are the cell's features; computed at stride 16 and enlarged bilinearly. Distance and prototypes
    are those of PatchCore (Roth et al. 2022, https://arxiv.org/abs/2106.08265), but each direction of the features is
    divided by the root of its deviation over good cells: undivided, few directions decide, and divided by the whole
    deviation, noise does.
    """

    def __init__(self, channels: int, prototypes: int = PROTOTYPES) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(channels))
        self.whitening = nn.Buffer(torch.eye(channels))
        self.prototypes = nn.Buffer(torch.zeros(prototypes, channels))
        self.offset = nn.Buffer(torch.tensor(0.0))
        self.gain = nn.Buffer(torch.tensor(0.0))

    @classmethod
    def of(cls, good: NDArray[np.float32]) -> "Novelty":
        """Compute prototypes from features of good cells [n, c]; the evidence is 0 until `weigh` is called."""
        mean = good.mean(axis=0)
        variance, axes = np.linalg.eigh(np.cov(good - mean, rowvar=False))
        deviation = np.sqrt(variance.clip(1e-4 * variance.mean()))
        # Whitened directions have a variance of 1 on average.
        whitening = (axes / np.sqrt(deviation * deviation.mean())).astype(np.float32)
        prototypes = farthest_points((good - mean) @ whitening, PROTOTYPES)
        novelty = cls(*prototypes.T.shape)
        for name, value in (("mean", mean), ("whitening", whitening), ("prototypes", prototypes)):
            getattr(novelty, name).copy_(torch.from_numpy(value))
        return novelty

    def weigh(self, offset: float, gain: float) -> None:
        """Set `offset`, a distance, and `gain`, logits per unit of distance above it."""
        self.offset.fill_(offset)
        self.gain.fill_(gain)

    def distance(self, features: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
        """Return each cell's distance [N, h, w], stride 8, of features [N, channels, h, w] of each stride."""
        cells = concatenate_cells(features, strides)
        with in_float32(cells.device):
            weight = self.whitening.T[..., None, None]
            whitened = conv2d(cells.float(), weight, -(self.whitening.T @ self.mean))
            squares = (self.prototypes**2).sum(dim=1)
            to_each = conv2d(whitened, -2 * self.prototypes[..., None, None], squares)
            nearest = to_each.amin(dim=1, keepdim=True) + (whitened**2).sum(dim=1, keepdim=True)
            distance = nearest.clamp(min=NEAREST**2).sqrt()
            return interpolate(distance, scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]

    def forward(self, features: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
        """Return the evidence [N, h, w], stride 8, in logits."""
        return self.gain * (self.distance(features, strides) - self.offset)


def farthest_points(points: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return at most `count` of the points [n, c]: the first, and then always the one farthest from all chosen ones."""
    squares, chosen = (points**2).sum(axis=1), [0]
    nearest = np.full(len(points), np.inf, np.float32)
    for _ in range(min(count, len(points)) - 1):
        last = chosen[-1]
        nearest = np.minimum(nearest, squares + squares[last] - 2 * (points @ points[last]))
        chosen.append(int(nearest.argmax()))
    return points[chosen]


def concatenate_cells(features: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Concatenate the features of `STRIDES`, averaged to stride 16: [N, all channels, h, w]."""
    parts = [
        avg_pool2d(each, STRIDES[-1] // stride) if stride < STRIDES[-1] else each
        for each, stride in zip(features, strides, strict=True)
        if stride in STRIDES
    ]
    return torch.cat([part.float() for part in parts], dim=1)
