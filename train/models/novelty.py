"""What is unlike all good cells, as a part of a dense head: for trainings that know no defect.

A head that has seen synthetic defects alone is sure of what looks like them. The distance to prototypes of good cells
needs no defect, and finds what nobody drew; it is added to the head's evidence, in plain operators.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from train.models.explained import in_float32
from train.models.prototypes import PROTOTYPES, Prototypes

STRIDES = (8, 16)
"""Of the features that are compared: finer ones change with every grain."""
NEAREST = 0.3
"""Of all distances: of a cell that is a prototype itself, rounding would decide."""
EVIDENCE_SHARE = 0.15
"""Weight of the head's evidence over that of novelty, both in standard deviations of good cells that they were not
trained on. Of 0.05 to 0.3 it found most on KolektorSDD and magnetic tile: less loses what synthetic defects show, more
loses what nobody drew.
"""


class Novelty(nn.Module):
    """Distance of each cell to the nearest prototype, as evidence.

    Args:
        channels: of the features of `STRIDES`, all together.
        prototypes: how many there are.
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
        """Of these prototypes; it adds nothing until `weigh`."""
        novelty = cls(known.centres.shape[1], len(known.centres))
        for name, value in (("mean", known.mean), ("whitening", known.whitening), ("prototypes", known.centres)):
            getattr(novelty, name).copy_(torch.from_numpy(value))
        return novelty

    def weigh(self, offset: float, gain: float) -> None:
        """Add `gain` for each unit by which the distance exceeds `offset`."""
        self.offset.fill_(offset)
        self.gain.fill_(gain)

    def distance(self, features: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
        """[N, h, w] of stride 8, of features [N, channels, h, w] of each stride."""
        cells = cells_of(features, strides)
        with in_float32(cells.device):
            weight = self.whitening.T[..., None, None]
            whitened = conv2d(cells.float(), weight, -(self.whitening.T @ self.mean))
            squares = (self.prototypes**2).sum(dim=1)
            to_each = conv2d(whitened, -2 * self.prototypes[..., None, None], squares)
            nearest = to_each.amin(dim=1, keepdim=True) + (whitened**2).sum(dim=1, keepdim=True)
            distance = nearest.clamp(min=NEAREST**2).sqrt()
            return interpolate(distance, scale_factor=2.0, mode="bilinear", align_corners=False)[:, 0]

    def forward(self, features: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
        """Evidence [N, h, w] of stride 8, in logits."""
        return self.gain * (self.distance(features, strides) - self.offset)


def cells_of(features: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Features of `STRIDES` side by side, [N, all channels, h, w] of stride 16."""
    parts = [
        avg_pool2d(each, STRIDES[-1] // stride) if stride < STRIDES[-1] else each
        for each, stride in zip(features, strides, strict=True)
        if stride in STRIDES
    ]
    return torch.cat([part.float() for part in parts], dim=1)
