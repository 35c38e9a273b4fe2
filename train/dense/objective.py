"""The loss of a dense head: weighted binary cross-entropy of tiles, bags and map cells."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from heatline.train.bags import log_sum_exp
from heatline.train.models.explained import pool

POSITIVE_WEIGHT = 0.25
"""Weight of positives in the cross-entropy of tiles and bags; good tiles have the rest."""
DEFECTIVE_CELL = 0.12
"""A cell with a larger defective share is a positive, a cell without defect a negative; others do not count."""


class StepMaps(NamedTuple):
    """Maps [N, h, w] of one step, in logits, and their labels."""

    located: Tensor
    """Tiles with marked defects."""
    located_share: Tensor
    """[N, h, w], share of each cell that is defective, or inside a box: 0..1."""
    located_exact: Tensor
    """bool [N], False if the marks are boxes."""
    good: Tensor
    synthetic: Tensor
    """Good tiles with a synthetic defect."""
    synthetic_share: Tensor
    """[N, h, w], share of each cell that is defective: 0..1."""
    bagged: Tensor
    """Tiles of bags."""
    bag: Tensor
    """int64 [N], index of each tile's bag."""
    bags: int
    """Number of bags."""


def step_loss(maps: StepMaps, shift: float, top_cells: int | None) -> Tensor:
    """Return the loss of a step, a scalar: the sum of

    - (1 - w) * mean of softplus(z) over good tiles' logits z + w * mean of softplus(-z) over positives, where
      w = `POSITIVE_WEIGHT`, and positives are tiles with marked defects and bags (log-sum-exp of their tiles' logits);
    - the mean of softplus(c) over all cells c of good tiles;
    - for marked and for synthetic defects, half the mean of softplus(-c) over defective cells and half that of
      softplus(c) over untouched cells. Cells inside boxes do not count.

    softplus(-z) and softplus(z) are the cross-entropy of a positive and of a negative with logit z.

    Args:
        shift: added to each logit z and cell c, in logits; see `HeadTraining`.
        top_cells: number of highest cells whose mean is a tile's logit; None: all.
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
        loss = loss + _cell_loss(maps.located + shift, maps.located_share, maps.located_exact)
    if len(maps.synthetic):
        exact = torch.ones(len(maps.synthetic), dtype=torch.bool)
        loss = loss + _cell_loss(maps.synthetic + shift, maps.synthetic_share, exact)
    return loss


def _cell_loss(maps: Tensor, share: Tensor, exact: Tensor) -> Tensor:
    """Return the loss of cells: defective and untouched cells count half each; cells in a box do not count."""
    defective = (share > DEFECTIVE_CELL) & exact[:, None, None]
    untouched = share == 0
    return 0.5 * _mean(softplus(-maps), defective) + 0.5 * _mean(softplus(maps), untouched)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp_min(1)


def bag_numbers(bags: Sequence[int]) -> Tensor:
    """Return the index of each tile's bag, int64 [tiles], for bags of these sizes."""
    return torch.repeat_interleave(torch.arange(len(bags)), torch.tensor(list(bags), dtype=torch.int64))
