"""What a dense head is trained for: the loss of one step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from train.bags import log_sum_exp
from train.models.explained import pool

POSITIVE_WEIGHT = 0.25
"""Of the loss of tiles and bags; the rest is of good tiles. As a quarter of a balanced batch."""
DEFECTIVE_CELL = 0.12
"""A cell with more of it defective than this is a positive; one with none is a negative; others do not count."""


class StepMaps(NamedTuple):
    """Maps [N, h, w] of one step, in logits, and what is known of them."""

    located: Tensor
    located_share: Tensor
    """[N, h, w], how much of each cell is defective, or in a box."""
    located_exact: Tensor
    """bool [N]: not boxes."""
    good: Tensor
    synthetic: Tensor
    synthetic_share: Tensor
    bagged: Tensor
    bag: Tensor
    """int64 [N], the bag of each."""
    bags: int


def step_loss(maps: StepMaps, shift: float, top_cells: int | None) -> Tensor:
    """The loss of a step: of tiles, of the cells of good tiles, and of the cells around known defects.

    Args:
        shift: what is added to each logit, see `Sampler`.
        top_cells: of the pooling.
    """
    good = maps.good + shift
    loss = (1 - POSITIVE_WEIGHT) * softplus(pool(good, top_cells)).mean() + softplus(good).mean()
    positives = []
    if len(maps.located):
        positives.append(softplus(-pool(maps.located + shift, top_cells)))
    if maps.bags:
        bags = log_sum_exp(pool(maps.bagged, top_cells), maps.bag, maps.bags)
        positives.append(softplus(-(bags + shift)))
    if positives:
        loss = loss + POSITIVE_WEIGHT * torch.cat(positives).mean()
    if len(maps.located):
        loss = loss + _of_cells(maps.located + shift, maps.located_share, maps.located_exact)
    if len(maps.synthetic):
        exact = torch.ones(len(maps.synthetic), dtype=torch.bool)
        loss = loss + _of_cells(maps.synthetic + shift, maps.synthetic_share, exact)
    return loss


def _of_cells(maps: Tensor, share: Tensor, exact: Tensor) -> Tensor:
    """Defective and untouched cells count half each; in a box, no cell is known to be either."""
    defective = (share > DEFECTIVE_CELL) & exact[:, None, None]
    untouched = share == 0
    return 0.5 * _mean(softplus(-maps), defective) + 0.5 * _mean(softplus(maps), untouched)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp_min(1)


def bag_numbers(bags: Sequence[int]) -> Tensor:
    """int64 [tiles], the number of each tile's bag, of the sizes of the bags."""
    return torch.repeat_interleave(torch.arange(len(bags)), torch.tensor(list(bags), dtype=torch.int64))
