"""Pictures of which only the label is known, as bags of tiles."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from heatline.edge.errors import TrainingError
from heatline.train.batches import log_sum_exp
from heatline.train.compose import compose
from heatline.train.fit import fit
from tests.train.trained import NAMED_SPLIT, SMALL

logits_in_bags = st.lists(st.lists(st.floats(-30, 30), min_size=1, max_size=9), min_size=1, max_size=6)


def flat(bags: list[list[float]]) -> tuple[Tensor, Tensor]:
    tiles = torch.tensor([logit for bag in bags for logit in bag], dtype=torch.float64)
    return tiles, torch.tensor([place for place, bag in enumerate(bags) for _ in bag])


@given(logits_in_bags)
def test_a_bags_odds_are_the_sum_of_its_tiles_odds(bags: list[list[float]]) -> None:
    pooled = log_sum_exp(*flat(bags), len(bags))
    for logit, bag in zip(pooled.tolist(), bags, strict=True):
        assert math.exp(logit) == pytest.approx(sum(math.exp(tile) for tile in bag))
        assert logit >= max(bag) - 1e-12
        assert len(bag) > 1 or logit == bag[0]


@given(logits_in_bags)
def test_each_tile_gets_its_share_of_the_gradient(bags: list[list[float]]) -> None:
    tiles, bag = flat(bags)
    tiles.requires_grad_()
    log_sum_exp(tiles, bag, len(bags)).sum().backward()
    expected = [math.exp(tile) / sum(math.exp(other) for other in each) for each in bags for tile in each]
    assert tiles.grad is not None
    np.testing.assert_allclose(tiles.grad.numpy(), expected, rtol=1e-6, atol=1e-12)


def test_a_whole_network_needs_the_place_of_the_defects(blobs: Path, tmp_path: Path) -> None:
    config = compose([f"data={blobs}", f"out={tmp_path / 'run'}", "truth=labels", *SMALL, *NAMED_SPLIT])
    with pytest.raises(TrainingError, match=r"is larger than a tile of \d+ px and has only a label.*recipe=heatline"):
        fit(config)
    assert not (tmp_path / "run" / "config.yaml").exists()
