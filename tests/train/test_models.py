"""The eight models with a file, other timm models by name, and `heatline models`."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from heatline.edge.errors import ConfigError
from heatline.train.commands.models import DENSE_MODELS
from heatline.train.compose import compose, model_names, read_model
from heatline.train.config import CnnConfig, VitConfig
from heatline.train.models.build import build_model, size_of
from heatline.train.models.cnn import CamClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import RolloutClassifier
from tests.command import complaint, heatline
from tests.train.oracles_size import macs

pytestmark = pytest.mark.usefixtures("one_thread")

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


def untrained(name: str, **changes: object) -> CnnConfig | VitConfig:
    return msgspec.structs.replace(read_model(name), **{"weights": "none"} | changes)  # type: ignore[return-value]


def tiles(count: int, side: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


def assert_it_explains_itself(model: ExplainedClassifier, tile_px: int, cells: int) -> None:
    with torch.no_grad():
        logits, maps = model.eval()(tiles(2, tile_px))
        assert maps.shape == (2, cells, cells)
        assert model.map_hw == (cells, cells)
        assert maps.std() > 0
        torch.testing.assert_close(maps.mean(dim=(1, 2)), logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.logits(tiles(2, tile_px)), logits, rtol=1e-5, atol=1e-5)


# The eight models with a file.


def test_the_listed_models_have_a_file() -> None:
    assert sorted(EIGHT) == model_names()


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in SHORT else pytest.mark.long) for name in EIGHT],
)
def test_each_listed_model_matches_its_file_and_loads_weights_into_every_layer(name: str, tmp_path: Path) -> None:
    timm_name, cells, width, (mean, std) = EIGHT[name]
    config = read_model(name)
    assert (config.name, config.timm, config.weights) == (name, timm_name, "imagenet")
    assert timm_name in timm.list_models(pretrained=True)
    assert msgspec.to_builtins(config) == msgspec.to_builtins(
        compose([f"model={name}", "data=x", "recipe=finetune"]).model
    )
    torch.manual_seed(1)
    saved = timm.create_model(timm_name, pretrained=False).state_dict()
    torch.save(saved, tmp_path / "weights.pth")
    model, provenance = build_model(untrained(name, weights=str(tmp_path / "weights.pth")), 224)
    assert provenance.source == str(tmp_path / "weights.pth")
    assert isinstance(model, CamClassifier | RolloutClassifier)
    loaded = (model.features if isinstance(model, CamClassifier) else model).network.state_dict()
    assert len(loaded) > 50
    for key, value in loaded.items():
        assert torch.equal(value, saved[key]), key
    assert_it_explains_itself(model, 224, cells)
    assert model.head.weight.shape[:2] == (1, width)
    black, white = (torch.full((1, 1, 1, 3), value, dtype=torch.uint8) for value in (0, 255))
    torch.testing.assert_close(model.normalised(black).ravel(), -torch.tensor(mean) / torch.tensor(std))
    torch.testing.assert_close(model.normalised(white).ravel(), (1 - torch.tensor(mean)) / torch.tensor(std))
    assert not [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer.out_features == 1000]


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenetv3_large", pytest.param("efficientnetv2_s", marks=pytest.mark.long)])
def test_a_full_cnn_gives_the_features_that_timm_pools(name: str) -> None:
    torch.manual_seed(2)
    network = timm.create_model(EIGHT[name][0], pretrained=False).eval()
    pooled: list[Tensor] = []
    network.global_pool.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0]))
    torch.manual_seed(2)
    model = build_model(untrained(name), 64)[0].eval()
    assert isinstance(model, CamClassifier)
    images = model.normalised(tiles(1, 64))
    network(images)
    torch.testing.assert_close(model.features(images), pooled[0])


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenetv3_large_d", pytest.param("efficientnetv2_s_d", marks=pytest.mark.long)])
def test_a_downscaled_cnn_gives_the_last_features_of_stride_16(name: str) -> None:
    torch.manual_seed(2)
    network = timm.create_model(EIGHT[name][0], pretrained=False).eval()
    torch.manual_seed(2)
    model = build_model(untrained(name), 64)[0].eval()
    assert isinstance(model, CamClassifier)
    images = model.normalised(tiles(1, 64))
    after_each_stage = [network.bn1(network.conv_stem(images))]
    for stage in network.blocks:
        after_each_stage.append(stage(after_each_stage[-1]))
    last = [features for features in after_each_stage if features.shape[2:] == (4, 4)][-1]
    torch.testing.assert_close(model.features(images), last)
    assert isinstance(model.features.network.conv_head, nn.Identity)


# Other timm models.


@pytest.mark.parametrize(
    ("name", "stride", "cells"), [("test_resnet", 16, 4), ("test_vit", None, 4), ("resnet18", None, 2)]
)
def test_another_timm_model_is_found_by_its_name(name: str, stride: int | None, cells: int) -> None:
    cut = [] if stride is None else [f"model.stride={stride}"]
    config = compose([f"model={name}", *cut, "data=x", "recipe=finetune", "tiles.tile_px=64"]).model
    assert (config.name, config.timm, config.weights) == (name, name, "imagenet")
    assert config.family == ("vit" if name == "test_vit" else "cnn")
    torch.manual_seed(0)
    assert_it_explains_itself(build_model(msgspec.structs.replace(config, weights="none"), 64)[0], 64, cells)


@pytest.mark.parametrize(
    ("overrides", "excerpt"),
    [
        (["model=resnet5"], "resnet5 is not a model of timm"),
        (["model=resnet18.mine"], "resnet18.mine is not a model of timm"),
        (
            ["model.fusion=max"],
            "there is no key 'model.fusion' with recipe=heatline and model=efficientnet_lite0_d; model has ",
        ),
        (["model=test_vit", "recipe=finetune", "model.stride=16"], "there is no key 'model.stride' with "),
        (
            ["model.fuzion=max"],
            "efficientnet_lite0_d; model has family, name, timm, weights, stride, head, ",
        ),
    ],
)
def test_unknown_models_and_keys_are_refused_in_a_sentence(overrides: list[str], excerpt: str) -> None:
    with pytest.raises(ConfigError) as raised:
        compose(["data=x", *overrides])
    assert excerpt in str(raised.value)
    assert "\n" not in str(raised.value)


# Size and cost.


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", pytest.param("regnetx_002", marks=pytest.mark.long)])
def test_parameters_and_multiply_adds_equal_a_manual_count(name: str) -> None:
    tile_px = 160
    model, _ = build_model(untrained(name), tile_px)
    size = size_of(read_model(name), tile_px)
    assert size.parameters == sum(value.numel() for value in model.parameters())
    assert size.macs == macs(model, tile_px)
    assert size.map_hw == model.map_hw


@pytest.mark.parametrize(
    "names", [["mobilenetv3_large", "vit_tiny_patch16_224"], pytest.param([], marks=pytest.mark.long)]
)
def test_the_command_shows_models_and_the_studys_figure(names: list[str]) -> None:
    shown = heatline("models", *names, "--json")
    assert shown.returncode == 0, shown.stderr
    report = json.loads(shown.stdout)
    assert report["tile_px"] == 224
    rows = {row["name"]: row for row in report["models"]}
    assert sorted(rows) == sorted(names or [*EIGHT, *DENSE_MODELS])
    table_1_1 = {
        "efficientnetv2_s": 8.37,
        "mobilenetv3_large": 0.22,
        "vit_tiny_patch16_224": 1.30,
        "deit_tiny_patch16_224": 1.08,
    }
    for name, row in rows.items():
        cells = 28 if name in DENSE_MODELS else EIGHT[name][1]
        assert (row["timm"], row["map_hw"]) == (EIGHT[name.removesuffix("_dense")][0], [cells] * 2)
        assert row["flops"] == 2 * row["macs"]
        assert row["study_gflops"] == table_1_1.get(name)


def test_the_command_shows_any_model_of_timm_to_people_too() -> None:
    shown = heatline("models", "resnet18", env={"COLUMNS": "160"})
    assert ["resnet18", "11.18", "1.814", "3.627", "7x7", "resnet18"] in map(str.split, shown.stdout.splitlines())
    assert "GFLOPs = 2 x GMACs" in shown.stdout


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "no_such_net"])
def test_the_command_refuses_what_a_training_would_refuse(name: str) -> None:
    shown = heatline("models", name)
    assert shown.returncode == ConfigError.exit_code
    assert name in complaint(shown)
