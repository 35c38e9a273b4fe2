"""`heatline bench flops`, compared with arithmetic, published figures and `heatline models`."""

import json
import math
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from heatline.bench.command import flops as command
from heatline.bench.flops import Classifier, Flops, count, layer_table
from heatline.edge.errors import BenchError, ConfigError
from heatline.train.compose import read_model
from heatline.train.config import CnnConfig, VitConfig
from heatline.train.models.build import build_model, size_of

pytestmark = pytest.mark.usefixtures("one_thread")

CNN = CnnConfig(name="small", timm="test_efficientnet", weights="none", stride=16)
VIT = VitConfig(name="small", timm="test_vit", weights="none", fusion="max", discard_ratio=0.0)


def count_by_hand(config: CnnConfig | VitConfig, tile_px: int) -> dict[str, int]:
    """Return the multiply-adds of each layer, from its definition and the shape of its real output."""
    classifier = Classifier(build_model(config, tile_px)[0])
    found: dict[str, int] = {}

    def keep(name: str, module: nn.Module, given: torch.Tensor, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            _, channels, height, width = output.shape
            per_cell = math.prod(module.kernel_size) * module.in_channels // module.groups
            found[name] = per_cell * channels * height * width
        elif isinstance(module, nn.Linear):
            found[name] = module.in_features * output.numel()
        elif name.endswith(".attn"):  # queries by keys, and attention by values, over all heads
            _, tokens, width = given.shape
            found[name] = 2 * tokens * tokens * width

    for name, module in classifier.named_modules():
        module.register_forward_hook(lambda one, given, output, name=name: keep(name, one, given[0], output))
    with torch.no_grad():
        classifier(torch.zeros(1, 3, tile_px, tile_px))
    return found


@pytest.mark.parametrize(("config", "tile_px"), [(CNN, 96), (VIT, 64)], ids=["cnn", "vit"])
def test_multiply_adds_agree_with_a_count_layer_by_layer(config: CnnConfig | VitConfig, tile_px: int) -> None:
    found, layers = count(config, tile_px=tile_px), count_by_hand(config, tile_px)
    assert found.macs == sum(layers.values())
    assert found.gflops == 2 * found.macs / 1e9
    assert found.gflops_with_map == 2 * found.macs_with_map / 1e9
    table = layer_table(config, tile_px=tile_px)
    assert all(f".{name.rpartition('.')[2]} " in table for name in layers)


def test_a_map_adds_the_expected_multiply_adds() -> None:
    found = count(CNN, tile_px=96)
    channels = build_model(CNN, 96)[0].head.weight.shape[1]
    assert found.map_hw == (6, 6)
    assert found.macs_with_map - found.macs == channels * (6 * 6 - 1)
    found = count(VIT, tile_px=64)
    tokens, layers = 1 + 4 * 4, 6
    assert (found.method, found.macs_with_map - found.macs) == ("rollout-max", layers * tokens**2)


@pytest.mark.parametrize(
    ("name", "tile_px", "head_macs", "published", "within"),
    [
        ("vit_tiny_patch16_224", 224, 0, 1.25e9, 0.003),
        # Howard et al. 2019 give 219 M, torchvision 0.217 G. heatline's network ends in one neuron after pooling.
        pytest.param("mobilenetv3_large", 224, 960 * 1280 + 1280 * 1000 - 960, 0.217e9, 0.003, marks=pytest.mark.long),
        pytest.param("efficientnetv2_s", 384, 1280 * 999, 8.366e9, 1e-3, marks=pytest.mark.long),
    ],
)
def test_known_networks_have_their_published_counts(
    name: str, tile_px: int, head_macs: int, published: float, within: float
) -> None:
    found, size = count(read_model(name), tile_px=tile_px), size_of(read_model(name), tile_px)
    assert found.macs + head_macs == pytest.approx(published, rel=within)
    # `heatline models` does not count a ViT's head, which is a sum of products and not a matrix product.
    head = 192 if name.startswith("vit") else 0
    assert (found.parameters, found.macs_with_map, found.map_hw) == (size.parameters, size.macs + head, size.map_hw)


def test_the_command_writes_systems_and_machine_as_json(tmp_path: Path) -> None:
    def invoke(*arguments: str) -> str:
        return CliRunner().invoke(command, arguments, catch_exceptions=False).stdout

    out = tmp_path / "flops.json"
    report = json.loads(invoke("--model", "test_vit", "--tile-px", "64", "--out", str(out), "--json"))
    assert json.loads(out.read_text()) == report
    assert (report["bench"], report["tile_px"]) == ("flops", 64)
    assert report["machine"]["processor"]
    (system,) = msgspec.convert(report["systems"], list[Flops])
    assert system.model == "test_vit"
    assert "blocks.0.attn" in invoke("--model", "test_vit", "--tile-px", "64", "--layers")
    with pytest.raises(ConfigError, match="not a multiple of the patches"):
        invoke("--model", "test_vit", "--tile-px", "65")
    with pytest.raises(BenchError, match="cannot be written"):
        invoke("--out", str(tmp_path / "none" / "flops.json"))
