"""Novelty: evidence from the distance to good cells, for dense heads that are trained without known defects.

A head that is trained only on synthetic defects recognises what resembles them. The distance to prototypes of good
cells needs no defects and finds others; it is added to the head's evidence, in plain operators that export.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from heatline.train.models.explained import in_float32
from heatline.train.models.prototypes import PROTOTYPES, Prototypes

STRIDES = (8, 16)
"""Strides of the compared features, input px per cell: finer features change with every grain of the surface."""
NEAREST = 0.3
"""Lower bound of distances, in standard deviations: near a prototype, rounding would decide the distance."""
EVIDENCE_SHARE = 0.15
"""Weight of the head's evidence relative to novelty, both in standard deviations over good cells that were not trained
on. Of the values from 0.05 to 0.3 it found most on KolektorSDD and magnetic tile: a lower value misses what resembles
synthetic defects, a higher one misses other defects.
"""


class Novelty(nn.Module):
    """Evidence from each cell's distance to the nearest prototype p of good cells:

        evidence = gain * (max(NEAREST, min over p of ||whitening^T (x - mean) - p||) - offset)

    in logits, where x are the cell's features; computed at stride 16 and enlarged bilinearly. The distance is that of
    PatchCore (Roth et al. 2022, https://arxiv.org/abs/2106.08265), to few whitened centres, not to stored cells.

    Args:
        channels: channels of all features of `STRIDES` together.
        prototypes: number of prototypes.
    """

    def __init__(self, channels: int, prototypes: int = PROTOTYPES) -> None:
        super().__init__()
        self.mean: Tensor
        self.whitening: Tensor
        self.prototypes: Tensor
        self.offset: Tensor
        self.gain: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("whitening", torch.eye(channels))
        self.register_buffer("prototypes", torch.zeros(prototypes, channels))
        self.register_buffer("offset", torch.tensor(0.0))
        self.register_buffer("gain", torch.tensor(0.0))

    @classmethod
    def of(cls, known: Prototypes) -> "Novelty":
        """Create it from prototypes; its evidence is 0 until `weigh` is called."""
        novelty = cls(known.centres.shape[1], len(known.centres))
        for name, value in (("mean", known.mean), ("whitening", known.whitening), ("prototypes", known.centres)):
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


def concatenate_cells(features: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Concatenate the features of `STRIDES`, averaged to stride 16: [N, all channels, h, w]."""
    parts = [
        avg_pool2d(each, STRIDES[-1] // stride) if stride < STRIDES[-1] else each
        for each, stride in zip(features, strides, strict=True)
        if stride in STRIDES
    ]
    return torch.cat([part.float() for part in parts], dim=1)
