"""How others get a map in PyTorch: the same logits, the same map, and nothing left out."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.torch_ways import Eager, GradCam, WayToMaps, hooked, unlike_ours
from tests.toy_vit import ToyViT
from train.config import CnnConfig
from train.models.build import build_model
from train.models.explained import ExplainedClassifier
from train.models.rollout import Fusion

pytestmark = pytest.mark.usefixtures("one_thread")

CNN_PX, VIT_PX = 96, 64


@pytest.fixture(scope="module")
def cnn() -> ExplainedClassifier:
    torch.manual_seed(3)
    config = CnnConfig(name="small", timm="test_efficientnet", weights="none", stride=16)
    return build_model(config, CNN_PX)[0].eval()


def vit(fusion: Fusion = "max", discard_ratio: float = 0.0) -> ToyViT:
    torch.manual_seed(3)
    model = ToyViT(VIT_PX)
    for block in model.network.blocks:  # fresh ones attend to all tokens nearly alike
        block.attn.qkv.weight.data *= 20
    model.fusion, model.discard_ratio = fusion, discard_ratio
    return model.eval()


def tiles_of(px: int, count: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (count, px, px, 3), np.uint8)


def ours(model: ExplainedClassifier, tiles: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with torch.no_grad():
        logits, maps = model(torch.from_numpy(tiles))
    return logits.numpy(), maps.numpy()


def test_hooks_on_a_cnn_give_our_map_without_the_bias(cnn: ExplainedClassifier) -> None:
    way, tiles = hooked(cnn), tiles_of(CNN_PX)
    logits, maps = way(tiles)
    assert cnn.head.bias is not None
    np.testing.assert_allclose(maps + cnn.head.bias.item(), ours(cnn, tiles)[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits, maps.mean(axis=(1, 2)) + cnn.head.bias.item(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(Eager(cnn)(tiles), ours(cnn, tiles)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("fusion", "discard_ratio"), [("min", 0.0), ("mean", 0.5), ("max", 0.9)])
def test_hooks_and_matrices_give_our_rollout_up_to_its_highest_value(fusion: Fusion, discard_ratio: float) -> None:
    model, tiles = vit(fusion, discard_ratio), tiles_of(VIT_PX)
    _, maps = hooked(model)(tiles)
    logits, our_maps = ours(model, tiles)
    relevance = our_maps / logits[:, None, None]
    assert np.ptp(relevance) > 0.05  # there is something to see
    np.testing.assert_allclose(maps, relevance / relevance.max(axis=(1, 2), keepdims=True), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(Eager(model)(tiles), logits, rtol=1e-4, atol=1e-6)


def test_grad_cam_of_a_cnn_is_its_map_up_to_scale_where_that_speaks_for_a_defect(cnn: ExplainedClassifier) -> None:
    """Its weights are the head's, divided by the number of cells."""
    tiles, way = tiles_of(CNN_PX), GradCam(cnn)
    logits, maps = way(tiles)
    our_logits, our_maps = ours(cnn, tiles)
    assert cnn.head.bias is not None
    np.testing.assert_allclose(logits, our_logits, rtol=1e-4, atol=1e-6)
    for found, one in zip(maps, our_maps, strict=True):
        expected = cv2.resize(np.maximum(one - cnn.head.bias.item(), 0), (CNN_PX, CNN_PX))
        assert np.ptp(expected) > 0
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99999


def test_a_way_that_leaves_something_out_is_found(cnn: ExplainedClassifier) -> None:
    def wrong(model: Any, way: WayToMaps, px: int, change: Callable[[Any, Any], Any]) -> str:
        lazy = type("Lazy", (type(way),), {"__call__": lambda _, given: change(*way(given))})
        return str(unlike_ours(model, lazy.__new__(lazy), tiles_of(px)))

    of_cnn, transformer = hooked(cnn), vit("max", 0.9)
    of_vit, without_discard = hooked(transformer), hooked(vit("max"))(tiles_of(VIT_PX))[1]
    for model, way, px, change, says in (
        (cnn, of_cnn, CNN_PX, lambda logits, maps: (logits, maps), "None"),
        (cnn, of_cnn, CNN_PX, lambda logits, maps: (logits + 1, maps), "its logits are off by"),
        (cnn, of_cnn, CNN_PX, lambda logits, maps: (logits, maps[::-1]), "its maps are off by"),
        (cnn, of_cnn, CNN_PX, lambda logits, maps: (logits, maps[:, :-1]), "expected [3, 6, 6]"),
        (cnn, of_cnn, CNN_PX, lambda logits, maps: (logits, maps * np.nan), "its maps are no numbers"),
        (cnn, GradCam(cnn), CNN_PX, lambda logits, maps: (logits, maps * 0), "its maps are off by"),
        (transformer, of_vit, VIT_PX, lambda logits, maps: (logits, maps), "None"),
        (transformer, of_vit, VIT_PX, lambda logits, maps: (logits, without_discard), "its maps are off by"),
        (transformer, GradCam(transformer), VIT_PX, lambda logits, maps: (logits, maps * 0), "maps are flat"),
    ):
        assert says in wrong(model, way, px, change)
