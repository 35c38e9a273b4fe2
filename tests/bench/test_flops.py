"""`heatline bench flops`: held to arithmetic, to published figures, and to what `heatline models` says."""

import json
import math
from pathlib import Path

import msgspec
import pytest
import timm
import torch
from click.testing import CliRunner
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.commands.flops import flops as command
from bench.flops import FUSIONS, count
from bench.flops_rows import Flops
from bench.map_operations import rollout_operations
from bench.torch_ways import Classifier
from edge.errors import BenchError, ConfigError
from export.rollout_graph import Rollout
from train.config import CnnConfig, VitConfig, read_model
from train.models.build import build_model
from train.models.rollout import Fusion
from train.models.size import size_of

pytestmark = pytest.mark.usefixtures("one_thread")

DEPTHWISE = CnnConfig(name="small", timm="test_efficientnet", weights="none", stride=16)
SMALL_VIT = VitConfig(name="small", timm="test_vit", weights="none", fusion="max", discard_ratio=0.0)
MILLION = 1e6


def counted(config: CnnConfig | VitConfig, tile_px: int, *discard_ratios: float) -> Flops:
    return count(config, tile_px=tile_px, discard_ratios=discard_ratios, by_layer=True)


# Arithmetic.


def by_hand(config: CnnConfig | VitConfig, tile_px: int) -> dict[str, int]:
    """Multiply-adds of each layer, from its definition and from what it really gives."""
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


@pytest.mark.parametrize(("config", "tile_px"), [(DEPTHWISE, 96), (SMALL_VIT, 64)], ids=["cnn", "vit"])
def test_every_layer_is_counted_as_by_hand(config: CnnConfig | VitConfig, tile_px: int) -> None:
    layers = counted(config, tile_px).layers
    assert layers is not None
    assert {layer.name: layer.macs for layer in layers if layer.macs} == by_hand(config, tile_px)


def test_depthwise_convolutions_are_counted_by_their_groups() -> None:
    found = counted(DEPTHWISE, 96)
    network = timm.create_model("test_efficientnet")
    assert any(module.groups > 1 for module in network.modules() if isinstance(module, nn.Conv2d))
    depthwise = next(layer for layer in found.layers or () if layer.name.endswith("conv_dw"))
    _, channels, height, width = depthwise.output
    assert depthwise.macs == 3 * 3 * channels * height * width


@pytest.mark.parametrize(("config", "tile_px"), [(DEPTHWISE, 96), (SMALL_VIT, 64)], ids=["cnn", "vit"])
def test_layers_add_up_to_the_system_and_flops_are_two_per_mac(config: CnnConfig | VitConfig, tile_px: int) -> None:
    found = counted(config, tile_px)
    layers = found.layers or []
    assert sum(layer.parameters for layer in layers) == found.parameters
    assert sum(layer.macs for layer in layers) == found.macs
    assert sum(layer.macs_with_map for layer in layers) == found.macs_with_map
    assert found.gflops == 2 * found.macs / 1e9
    assert found.gflops_with_map == 2 * found.macs_with_map / 1e9
    assert count(config, tile_px=tile_px, discard_ratios=(), by_layer=False).layers is None


def test_a_class_activation_map_adds_its_layer_once_per_further_cell() -> None:
    found = counted(DEPTHWISE, 96)
    (added,) = found.maps
    channels = build_model(DEPTHWISE, 96)[0].head.weight.shape[1]
    assert found.map_hw == (6, 6)
    assert added.macs == found.macs_with_map - found.macs == channels * (6 * 6 - 1)
    assert added.operations is None


def test_a_rollout_adds_a_row_times_each_layers_matrix_whatever_its_fusion_and_ratio() -> None:
    found = counted(SMALL_VIT, 64, 0.0, 0.9)
    tokens, layers = 1 + 4 * 4, 6
    assert found.macs_with_map - found.macs == layers * tokens**2
    assert [of.method for of in found.maps] == [
        f"rollout-{fusion}{discard}" for discard in ("", "-discard-0.9") for fusion in FUSIONS
    ]
    assert {of.macs for of in found.maps} == {layers * tokens**2}


@pytest.mark.parametrize("name", ["mobilenetv3_large_d", "vit_tiny_patch16_224"])
def test_the_count_with_a_map_is_that_of_heatline_models(name: str) -> None:
    """But for a ViT's head, which is a sum of products there, and no matrix product."""
    found, size = counted(read_model(name), 224), size_of(read_model(name), 224)
    head = 192 if name.startswith("vit") else 0
    assert (found.parameters, found.macs_with_map, found.map_hw) == (size.parameters, size.macs + head, size.map_hw)


@pytest.mark.parametrize(
    ("fusion", "discard_ratio", "per_entry"),
    [
        # Two comparisons of three heads, a sum of rows, a product and a sum in the chain.
        ("max", 0.0, {"openvino": 5, "openvino bf16": 5, "onnxruntime": 5}),
        ("mean", 0.0, {"openvino": 6, "openvino bf16": 6, "onnxruntime": 6}),
        # 30 digits (14) of a comparison and a sum; then what goes is compared and left out, and ties counted.
        # ONNX Runtime: six counts of a comparison, a product and a sum; then three more and a sort.
        ("min", 0.9, {"openvino": 5 + 60 + 4, "openvino bf16": 5 + 28 + 2, "onnxruntime": 5 + 18 + 4}),
        ("max", 0.5, {"openvino": 5 + 60 + 4, "openvino bf16": 5 + 28 + 2, "onnxruntime": 5 + 18 + 4}),
    ],
)
def test_operations_of_a_rollout_are_those_of_its_passes_over_the_matrices(
    fusion: Fusion, discard_ratio: float, per_entry: dict[str, int]
) -> None:
    """Vectors are left out here: they are 1 in 197 of it."""
    tokens, layers = 197, 12
    rollout = Rollout(
        tokens=tokens, prefix_tokens=1, heads=3, map_hw=(14, 14), fusion=fusion, discard_ratio=discard_ratio
    )
    found = rollout_operations(rollout, layers)
    assert found.keys() == per_entry.keys()
    for name, operations in found.items():
        assert operations == pytest.approx(per_entry[name] * layers * tokens**2, rel=0.005)


# What others publish.


def test_vit_tiny_is_counted_as_its_definition_says() -> None:
    patches, tokens, width, layers = 196, 197, 192, 12
    products = tokens * width * (3 * width + width + 2 * 4 * width)  # of a layer's weights
    attention = 2 * tokens * tokens * width
    embedding = patches * 16 * 16 * 3 * width
    found = counted(read_model("vit_tiny_patch16_224"), 224)
    assert found.macs == layers * (products + attention) + embedding + width
    assert found.macs - layers * attention == pytest.approx(
        1.08e9, rel=0.006
    )  # as the DeiT paper and Table 1.1 have it
    assert found.macs == pytest.approx(1.25e9, rel=0.003)
    same = counted(read_model("deit_tiny_patch16_224"), 224)
    assert (same.macs, same.parameters, same.layers) == (found.macs, found.parameters, found.layers)
    assert (found.study_gflops, same.study_gflops) == (1.30, 1.08)


def test_mobilenetv3_large_with_its_published_head_has_its_published_count() -> None:
    """Howard et al. 2019 give 219 M; torchvision 0.217 G. Ours ends in one neuron after pooling."""
    found = counted(read_model("mobilenetv3_large"), 224)
    head = 960 * 1280 + 1280 * 1000
    assert found.macs - 960 + head == pytest.approx(0.217e9, rel=0.003)


@pytest.mark.long
def test_efficientnetv2_s_at_its_native_resolution_has_torchvisions_count() -> None:
    found = counted(read_model("efficientnetv2_s"), 384)
    assert found.macs + 1280 * 999 == pytest.approx(8.366e9, rel=1e-3)
    assert found.study_gflops == 8.37


def test_the_counter_passes_over_fused_attention_on_a_processors_own_tensors() -> None:
    """Why all is counted on tensors without memory. If this fails, torch has learnt it: docs/flops.md says so."""
    network, images = timm.create_model("test_vit").eval(), torch.zeros(1, 3, 160, 160)
    with torch.no_grad(), FlopCounterMode(display=False) as here:
        network(images)
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as without_memory:
        timm.create_model("test_vit").eval()(torch.zeros(1, 3, 160, 160))
    tokens, width, layers = 101, 64, 6
    assert without_memory.get_total_flops() - here.get_total_flops() == 2 * layers * 2 * tokens**2 * width


# The command.


def test_the_command_gives_each_system_and_the_machine_as_json(tmp_path: Path) -> None:
    out = tmp_path / "flops.json"
    done = CliRunner().invoke(
        command,
        ["--model", "test_vit", "--model", "mobilenetv3_large_d", "--tile-px", "64", "--out", str(out), "--json"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert json.loads(out.read_text()) == report
    assert (report["bench"], report["tile_px"]) == ("flops", 64)
    assert report["machine"]["processor"]
    assert "FLOPs = 2 x MACs" in report["units"]
    systems = msgspec.convert(report["systems"], list[Flops])
    assert [one.model for one in systems] == ["test_vit", "mobilenetv3_large_d"]
    assert all(one.layers is None for one in systems)


def test_the_command_says_what_is_printed_and_what_table_1_1_is() -> None:
    done = CliRunner().invoke(command, ["--model", "mobilenetv3_large", "--layers"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["mobilenetv3_large", "2.97", "0.2141", "0.2141", "0.4282", "0.4283", "0.022%", "7x7", "0.22"] in lines
    assert ["mobilenetv3_large,", "cam", "0.046"] in lines
    assert ["linear", "addmm", "1x1", "961", "0.001", "0.047"] in lines
    words = " ".join(done.stdout.split())
    assert "MACs are multiply-adds, FLOPs = 2 x MACs; fvcore" in words
    assert "no activation, normalisation or pooling" in words
    assert "EfficientNetV2-S: 384 px" in words
    assert "ViT-tiny and DeiT-tiny are one graph" in words


def test_what_cannot_be_counted_or_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no_such_net"):
        CliRunner().invoke(command, ["--model", "no_such_net"], catch_exceptions=False)
    with pytest.raises(ConfigError, match="no multiple of the patches"):
        CliRunner().invoke(command, ["--model", "test_vit", "--tile-px", "65"], catch_exceptions=False)
    with pytest.raises(BenchError, match="cannot be written"):
        CliRunner().invoke(command, ["--out", str(tmp_path / "none" / "flops.json")], catch_exceptions=False)
