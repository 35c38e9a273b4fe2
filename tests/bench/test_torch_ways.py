"""How others get a map in PyTorch: the same logits, the same map, and nothing left out."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import bench.torch_ways
from bench.torch_ways import Classifier, Eager, GradCam, WayToMaps, grad_cam_is_missing, hooked, unlike_ours
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


def test_the_bare_classifier_has_our_logits(cnn: ExplainedClassifier) -> None:
    for model, px in ((cnn, CNN_PX), (vit(), VIT_PX)):
        np.testing.assert_allclose(Eager(model)(tiles_of(px)), ours(model, tiles_of(px))[0], rtol=1e-4, atol=1e-6)


def test_hooks_on_a_cnn_give_our_map_but_for_the_bias(cnn: ExplainedClassifier) -> None:
    way, tiles = hooked(cnn), tiles_of(CNN_PX)
    logits, maps = way(tiles)
    assert cnn.head.bias is not None
    np.testing.assert_allclose(maps + cnn.head.bias.item(), ours(cnn, tiles)[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits, maps.mean(axis=(1, 2)) + cnn.head.bias.item(), rtol=1e-4, atol=1e-6)
    assert unlike_ours(cnn, way, tiles) is None


@pytest.mark.parametrize("fusion", ["min", "mean", "max"])
@pytest.mark.parametrize("discard_ratio", [0.0, 0.5, 0.9])
def test_hooks_and_matrices_give_our_rollout_up_to_its_highest_value(fusion: Fusion, discard_ratio: float) -> None:
    model, tiles = vit(fusion, discard_ratio), tiles_of(VIT_PX)
    way = hooked(model)
    _, maps = way(tiles)
    logits, our_maps = ours(model, tiles)
    relevance = our_maps / logits[:, None, None]
    assert np.ptp(relevance) > 0.05  # there is something to see
    np.testing.assert_allclose(maps, relevance / relevance.max(axis=(1, 2), keepdims=True), rtol=1e-4, atol=1e-6)
    assert unlike_ours(model, way, tiles) is None


def test_grad_cam_gives_a_cnns_map_up_to_scale_but_for_what_speaks_against_a_defect(cnn: ExplainedClassifier) -> None:
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
    assert unlike_ours(cnn, way, tiles) is None


def test_grad_cam_of_a_vit_is_that_of_its_last_blocks_tokens() -> None:
    """Held to the definition: gradients' mean over tokens, times the tokens, what is positive, from 0 to 1."""
    model, tiles = vit(), tiles_of(VIT_PX)
    logits, maps = GradCam(model)(tiles)
    np.testing.assert_allclose(logits, ours(model, tiles)[0], rtol=1e-4, atol=1e-6)
    classifier, kept = Classifier(model), []
    classifier.features.blocks[-1].norm1.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    out = classifier(classifier.images(tiles))
    (gradient,) = torch.autograd.grad(out.sum(), kept[0])
    weights = gradient[:, 1:].mean(dim=1, keepdim=True)
    cams = (weights * kept[0][:, 1:]).sum(dim=2).clamp_min(0).detach().reshape(-1, 4, 4).numpy()
    for found, cam in zip(maps, cams, strict=True):
        expected = cv2.resize((cam - cam.min()) / (cam.max() - cam.min()), (VIT_PX, VIT_PX))
        np.testing.assert_allclose(found, expected / expected.max(), atol=1e-4)


def test_no_hook_and_no_setting_is_left_on_the_model(cnn: ExplainedClassifier) -> None:
    transformer = vit()
    before = [block.attn.fused_attn for block in transformer.network.blocks]
    for model, px in ((cnn, CNN_PX), (transformer, VIT_PX)):
        for way in (hooked(model), GradCam(model)):
            way(tiles_of(px))
        assert not any(module._forward_hooks for module in model.modules())
        assert all(weight.grad is None for weight in model.parameters())
    assert [block.attn.fused_attn for block in transformer.network.blocks] == before


@pytest.mark.parametrize("make", [hooked, GradCam])
def test_a_tiles_map_does_not_depend_on_its_batch(make: Callable[[Any], WayToMaps], cnn: ExplainedClassifier) -> None:
    for model, px in ((cnn, CNN_PX), (vit("mean", 0.5), VIT_PX)):
        tiles, way = tiles_of(px), make(model)
        _, together = way(tiles)
        alone = np.concatenate([way(tiles[[place]])[1] for place in range(len(tiles))])
        np.testing.assert_allclose(together, alone, atol=1e-4 * np.abs(alone).max())


def test_a_way_that_leaves_something_out_is_seen(cnn: ExplainedClassifier) -> None:
    """Each lacks something of the real one, whose class says what its map is to be."""
    tiles, model = tiles_of(CNN_PX), cnn
    of_cnn, of_vit = hooked(cnn), hooked(vit("max", 0.9))

    def with_answers(way: WayToMaps, change: Callable[[Any, Any], Any]) -> WayToMaps:
        lazy = type("Lazy", (type(way),), {"__call__": lambda _, given: change(*way(given))})
        made: WayToMaps = lazy.__new__(lazy)
        return made

    def wrong(way: WayToMaps, change: Callable[[Any, Any], Any]) -> str | None:
        return unlike_ours(model, with_answers(way, change), tiles)

    assert wrong(of_cnn, lambda logits, maps: (logits, maps)) is None
    assert "its logits are off by" in str(wrong(of_cnn, lambda logits, maps: (logits + 1, maps)))
    assert "its maps are off by" in str(wrong(of_cnn, lambda logits, maps: (logits, maps[::-1])))
    assert "expected [3, 6, 6]" in str(wrong(of_cnn, lambda logits, maps: (logits, maps[:, :-1])))
    assert wrong(of_cnn, lambda logits, maps: (logits, maps * np.nan)) == "its maps are no numbers"
    assert "its maps are off by" in str(wrong(GradCam(cnn), lambda logits, maps: (logits, maps * 0)))
    model, tiles = vit("max", 0.9), tiles_of(VIT_PX)
    assert wrong(of_vit, lambda logits, maps: (logits, maps)) is None
    without_discard = hooked(vit("max"))(tiles)[1]
    assert "its maps are off by" in str(wrong(of_vit, lambda logits, maps: (logits, without_discard)))
    assert wrong(GradCam(model), lambda logits, maps: (logits, maps * 0)) == "3 of its 3 maps are flat"


def test_where_grad_cam_is_not_installed_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grad_cam_is_missing() is None
    monkeypatch.setattr(bench.torch_ways, "find_spec", lambda name: None)
    assert "pip install -e '.[peers]'" in str(grad_cam_is_missing())
