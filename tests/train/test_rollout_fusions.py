"""The maps of all fusions from one pass, compared with separate runs, and the figures of each."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatline.train.evaluation.observe import tile_row
from heatline.train.evaluation.scoring import count_pixels, peak_distance_px, study_mask
from heatline.train.models.vit import FUSIONS
from tests.toy_vit import ToyViT

pytestmark = pytest.mark.usefixtures("one_thread")

TILE = 64


def toy(seed: int = 0, scale: float = 0.3) -> ToyViT:
    torch.manual_seed(seed)
    model = ToyViT(TILE, layers=3)
    for value in model.parameters():  # timm starts with tokens that hardly differ
        torch.nn.init.normal_(value, std=scale)
    return model.eval()


def random_tiles(count: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, TILE, TILE, 3), np.uint8))


@pytest.mark.parametrize("scale", [0.3, 0.0], ids=["random", "constant"])
def test_each_map_is_that_of_a_classifier_with_its_fusion(scale: float) -> None:
    """Nothing is discarded, whatever the classifier's own variant; weights of zero make attention that is constant."""
    model, tiles = toy(scale=scale), random_tiles(5)
    if not scale:
        model.start_from(0.7)
    model.discard_ratio = 0.9
    maps = model.all_fusions(tiles)
    assert (maps.shape, maps.dtype, maps.requires_grad) == ((5, 3, 4, 4), torch.float32, False)
    model.discard_ratio = 0.0
    for at, model.fusion in enumerate(FUSIONS):
        with torch.no_grad():
            logits, expected = model(tiles)
        torch.testing.assert_close(maps[:, at], expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
        torch.testing.assert_close(maps[:, at].mean(dim=(1, 2)), logits)
    assert len({tuple(one.flatten().tolist()) for one in maps[0]}) == (3 if scale else 1)


def test_maps_are_computed_in_float32() -> None:
    model, tiles = toy(), random_tiles(2)
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.all_fusions(tiles)
    assert maps.dtype == torch.float32
    means = maps.mean(dim=(2, 3))
    torch.testing.assert_close(means, means[:, :1].expand(2, 3))


@pytest.mark.parametrize("logit", [-2.0, 2.0])
def test_each_map_of_a_tile_has_its_own_peak_and_pixels(logit: float) -> None:
    """Of a rollout with a negative logit the lowest value is the most relevant; padding does not count."""
    rng, inside = np.random.default_rng(4), (48, 40)
    maps: NDArray[np.float32] = rng.random((3, 4, 4), np.float32) * np.float32(logit)
    mask = np.zeros((TILE, TILE), np.bool_)
    mask[5:30, 10:25] = True
    _, defective, ambiguous, distances, px = tile_row("vit", logit, maps, mask, inside)
    assert (defective, ambiguous) == (True, False)
    for each, distance, counts in zip(maps, distances, px, strict=True):
        assert distance == peak_distance_px(each * np.float32(np.sign(logit)), mask, inside)
        found = study_mask(each, logit, TILE)[: inside[0], : inside[1]]
        assert counts == count_pixels(found, mask[: inside[0], : inside[1]])
    assert len(set(distances)) > 1
