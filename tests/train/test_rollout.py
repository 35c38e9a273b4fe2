"""Attention rollout, compared with a slow reference, and in the model."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers.attention import Attention
from timm.layers.norm import LayerNorm
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from heatline.edge.errors import ConfigError, WeightsError
from heatline.train.config import VitConfig
from heatline.train.models.build import build_model
from heatline.train.models.vit import (
    Fusion,
    RolloutClassifier,
    attend,
    class_token_row,
    discard_lowest,
    fuse_heads,
    relevance,
)
from tests.train import oracles_rollout as oracle

pytestmark = pytest.mark.usefixtures("one_thread")

FUSIONS: tuple[Fusion, ...] = ("min", "mean", "max")
MEAN = STD = (0.5, 0.5, 0.5)


def softmax_attentions(seed: int, layers: int, tiles: int, heads: int, tokens: int) -> list[Tensor]:
    """Per layer [tiles, heads, tokens, tokens] float64, rows that sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    shape = (tiles, heads, tokens, tokens)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(layers)]


def our_row(attentions: list[Tensor], fusion: Fusion, discard_ratio: float) -> Tensor:
    return class_token_row([discard_lowest(fuse_heads(layer, fusion), discard_ratio) for layer in attentions])


# --------------------------------------------------------------------------------------------------- the pure functions


@pytest.mark.parametrize("fusion", FUSIONS)
@given(
    seed=st.integers(0, 2**32 - 1),
    layers=st.integers(1, 4),
    tiles=st.integers(1, 3),
    heads=st.integers(1, 3),
    tokens=st.integers(2, 7),
    discard_ratio=st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.8, 0.9, 0.99]),
    coarse=st.booleans(),
)
def test_the_row_equals_that_of_the_class_token_in_the_full_matrix_product(
    fusion: Fusion, seed: int, layers: int, tiles: int, heads: int, tokens: int, discard_ratio: float, coarse: bool
) -> None:
    attentions = softmax_attentions(seed, layers, tiles, heads, tokens)
    if coarse:  # many entries are equal
        attentions = [(layer * 8).round() / 8 for layer in attentions]
    rows = our_row(attentions, fusion, discard_ratio)
    assert rows.shape == (tiles, tokens)
    for tile in range(tiles):
        whole = oracle.rollout([layer[tile].numpy() for layer in attentions], fusion, discard_ratio)
        np.testing.assert_allclose(rows[tile].numpy(), whole[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(tiles, dtype=torch.float64))  # every layer's rows sum to 1


@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(2, 9), discard_ratio=st.floats(0, 1, exclude_max=True))
def test_the_discard_removes_exactly_the_lowest_entries_of_each_tile(
    seed: int, tokens: int, discard_ratio: float
) -> None:
    fused = softmax_attentions(seed, 1, 3, 1, tokens)[0][:, 0]
    kept = discard_lowest(fused, discard_ratio)
    for tile in range(3):
        gone = kept[tile] == 0
        assert int(gone.sum()) == math.floor(discard_ratio * tokens * tokens)
        assert torch.equal(kept[tile][~gone], fused[tile][~gone])
        if gone.any():
            assert fused[tile][gone].max() <= fused[tile][~gone].min()
        assert torch.equal(discard_lowest(fused[tile : tile + 1], discard_ratio)[0], kept[tile])


def test_all_patches_are_equal_if_the_discard_leaves_none() -> None:
    row = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.7, 0.1, 0.0, 0.2]])
    torch.testing.assert_close(relevance(row, 1), torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 2.0]]))
    torch.testing.assert_close(relevance(row, 2)[1], torch.tensor([0.0, 2.0]))


# ------------------------------------------------------------------------------------------------------------ the model


def small_vit(seed: int = 0, **options: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    network = VisionTransformer(
        **{"img_size": 64, "patch_size": 16, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0} | options
    )
    for value in network.parameters():  # timm starts with tokens that hardly differ, and scales that do nothing
        torch.nn.init.normal_(value, std=0.3)
    return network.eval()


def classifier(network: VisionTransformer, fusion: Fusion = "max", discard_ratio: float = 0.0) -> RolloutClassifier:
    return RolloutClassifier(network, fusion, discard_ratio, MEAN, STD).eval()


def tiles(count: int = 3, side: int = 64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


VITS = pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"qk_norm": True, "qkv_bias": False, "norm_layer": LayerNorm}, id="qk-norm"),
        pytest.param({"init_values": 0.1, "drop_path_rate": 0.2}, id="layer scale, drop path"),
        pytest.param({"pre_norm": True}, id="pre-norm (CLIP)"),
        pytest.param({"reg_tokens": 4, "no_embed_class": True}, id="registers"),
        pytest.param({"scale_attn_norm": True, "scale_mlp_norm": True}, id="norms inside"),
        pytest.param({"dynamic_img_size": True}, id="dynamic size"),
        pytest.param({"fc_norm": True}, id="norm after pooling"),
    ],
)


@VITS
@torch.no_grad()
def test_blocks_run_separately_equal_timms_and_the_map_is_their_rollout(
    options: dict[str, Any],
) -> None:
    network = small_vit(**options)
    assert network.blocks[0].attn.fused_attn
    model = classifier(network, "mean", 0.6)
    logits, maps = model(tiles())
    torch.testing.assert_close(model.logits(tiles()), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits)
    assert logits.dtype == maps.dtype == torch.float32
    tokens = torch.randn(2, 9, 16)
    for block in network.blocks:
        mixed, attention = attend(block, tokens)
        torch.testing.assert_close(mixed, block(tokens), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 2, 9))
    seen: list[np.ndarray] = []
    unfused = copy.deepcopy(network)
    for block in unfused.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output.double().numpy()))
    unfused.forward_features(model.normalised(tiles()))
    for tile in range(3):
        row = oracle.rollout([layer[tile] for layer in seen], "mean", 0.6)[0, network.num_prefix_tokens :]
        expected = (row / row.mean()).reshape(4, 4) * float(logits[tile])
        np.testing.assert_allclose(maps[tile].numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@torch.no_grad()
def test_a_gated_attention_is_supported() -> None:
    block = small_vit().blocks[0]
    block.attn = Attention(16, num_heads=2, qkv_bias=True, gated=True)
    tokens = torch.randn(2, 9, 16)
    torch.testing.assert_close(attend(block, tokens)[0], block(tokens), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_logits_and_map_are_f32_and_unchanged_under_autocast() -> None:
    model = classifier(small_vit(), "mean", 0.0)
    exact, exact_maps = model(tiles())
    seen: list[torch.dtype] = []
    model.head.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        logits, maps = model(tiles())
        fused_logits = model.logits(tiles())
    assert seen == [torch.float32] * 4
    assert logits.dtype == maps.dtype == fused_logits.dtype == torch.float32
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits)  # bf16 would break this identity
    torch.testing.assert_close(logits, exact, rtol=0, atol=float(0.1 * exact.abs().max()))
    torch.testing.assert_close(maps, exact_maps, rtol=0, atol=float(0.1 * exact_maps.abs().max()))


def test_the_rollout_passes_no_gradient() -> None:
    model = classifier(small_vit(), "mean", 0.3)
    weights = list(model.parameters())
    logits, maps = model(tiles(1))
    of_map = torch.autograd.grad(maps[0, 1, 2], weights, retain_graph=True, allow_unused=True)
    of_logit = torch.autograd.grad(logits[0], weights, allow_unused=True)
    share = float(maps[0, 1, 2].detach() / logits[0].detach())
    for one, other in zip(of_map, of_logit, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other * share, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_a_tile_depends_neither_on_its_neighbours_nor_on_their_number() -> None:
    model = classifier(small_vit(), "max", 0.9)
    _, maps = model(tiles(6))
    for number in range(6):
        _, alone = model(tiles(6)[number : number + 1])
        torch.testing.assert_close(alone[0], maps[number], rtol=0, atol=float(1e-4 * maps.abs().max()))


# ------------------------------------------------------------------------------------------------ from timm and weights


def config(timm_name: str, weights: str = "none", **options: Any) -> VitConfig:
    return VitConfig(
        **{"name": "x", "timm": timm_name, "weights": weights, "fusion": "max", "discard_ratio": 0.0} | options
    )


@torch.no_grad()
def test_weights_are_loaded_at_the_native_size_and_then_fitted_to_the_tiles(tmp_path: Path) -> None:
    torch.manual_seed(1)
    native = timm.create_model("test_vit", pretrained=False).eval()
    torch.save(native.state_dict(), tmp_path / "weights.pth")
    built, provenance = build_model(config("test_vit.r160_in1k", str(tmp_path / "weights.pth")), 96)
    assert isinstance(built, RolloutClassifier)
    assert built.map_hw == (6, 6)
    assert provenance.source == str(tmp_path / "weights.pth")
    expected = native.state_dict()
    expected["pos_embed"] = resample_abs_pos_embed(expected["pos_embed"], [6, 6], [10, 10], num_prefix_tokens=1)
    for name, value in built.network.state_dict().items():
        assert torch.equal(value, expected.pop(name)), name
    assert set(expected) == {"head.weight", "head.bias"}
    logits, maps = built.eval()(tiles(2, 96))
    torch.testing.assert_close(maps.mean(dim=(1, 2)), logits)

    same, _ = build_model(config("test_vit.r160_in1k", str(tmp_path / "weights.pth")), 160)
    assert isinstance(same, RolloutClassifier)
    images = same.normalised(tiles(2, 160))
    torch.testing.assert_close(same.network(images), native.forward_head(native.forward_features(images), True))

    torch.save({"pos_embed": torch.zeros(1, 37, 64)}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"do not fit test_vit\.r160_in1k"):
        build_model(config("test_vit.r160_in1k", str(tmp_path / "weights.pth")), 96)


@pytest.mark.parametrize(
    ("name", "excerpt"),
    [
        ("vit_medium_patch16_gap_256", "not timm's VisionTransformer with a class token"),
        ("resnet18", "not timm's VisionTransformer with a class token"),
        ("test_vit", r"tiles\.tile_px=100 is not a multiple of the patches of test_vit, 16 px"),
    ],
)
def test_models_that_the_rollout_cannot_explain_are_refused_with_the_reason(name: str, excerpt: str) -> None:
    with torch.device("meta"), pytest.raises(ConfigError, match=excerpt):
        build_model(config(name), 100 if name == "test_vit" else 224)
