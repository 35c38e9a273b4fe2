"""`heatline bench map-cost`: its plan, its measurements and its ratios."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import heatline.bench.map_cost as map_cost
from heatline.bench.command import flops as flops_command
from heatline.bench.flops import Flops, count
from heatline.bench.map_cost import WITH_MAP, ModelGraphs, Row, drawn_tiles, find_wrong_answer, measure, plan
from heatline.edge.errors import ConfigError
from heatline.export.openvino_ir import Ir, to_ir
from heatline.train.compose import read_model
from heatline.train.config import CnnConfig, VitConfig
from heatline.train.models.build import size_of
from tests import small_bundle

pytestmark = pytest.mark.usefixtures("one_thread")

TILE_PX = 64
CNN = CnnConfig(name="small_cnn", timm="test_efficientnet", weights="none", stride=16)
VIT = VitConfig(name="toy", timm="test_vit", weights="none", fusion="max", discard_ratio=0.5)


def planned(config: CnnConfig | VitConfig, tile_px: int = TILE_PX, **options: Any) -> list[Row]:
    return plan(config, tile_px=tile_px, rounds=3, **options)


class _SmallModel:
    top_cells = None

    def __call__(self, tiles: torch.Tensor) -> list[torch.Tensor]:
        return [torch.from_numpy(one) for one in small_bundle.answer(tiles.numpy())]


class SmallGraphs:
    """Replaces exports, which take seconds: the small bundle's graph serves as the graph with and without a map."""

    def model(self, setting: Row) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        return _SmallModel()

    def irs(self, setting: Row) -> dict[str, Ir]:
        return dict.fromkeys((WITH_MAP, "pooling"), to_ir(small_bundle.graph()))


def measured(graphs: Any, config: CnnConfig | VitConfig, **options: Any) -> Row:
    (setting,) = planned(config, small_bundle.TILE if isinstance(graphs, SmallGraphs) else TILE_PX, **options)
    return measure(setting, graphs)


@pytest.mark.parametrize("config", [None, *(pytest.param(one, marks=pytest.mark.long) for one in (CNN, VIT))], ids=str)
def test_a_graph_with_a_map_is_compared_with_the_fastest_without(
    config: CnnConfig | VitConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_cost, "SECONDS_PER_ROUND", 1e-6)
    graphs: Any = SmallGraphs() if config is None else ModelGraphs(config, TILE_PX)
    found = measured(graphs, config or CNN, batches=[2])
    assert found.bare in ("pooling", "fused attention", "explicit attention")
    assert found.map_ms_per_tile is not None
    assert 0 < found.ratio.lowest <= found.ratio.median <= found.ratio.highest


def test_wrong_or_missing_answers_are_detected() -> None:
    settings = planned(CNN, precisions=["f32", "bf16", "int8"])
    tiles = drawn_tiles(3, small_bundle.TILE) // np.array([1, 2, 8], np.uint8)[:, None, None, None]
    logits, maps = small_bundle.answer(tiles)

    def fault(setting: Row, found: Any, found_maps: Any = None, has_map: bool = True) -> str:
        answers = {"logit": found} | ({} if found_maps is None else {"map": found_maps})
        return str(find_wrong_answer(logits, maps, answers, setting, has_map=has_map))

    for setting in settings:
        assert fault(setting, logits, maps) == fault(setting, logits, None, has_map=False) == "None"
        assert fault(setting, logits, None) == fault(setting, logits, maps * 0) == "it gives no maps"
        assert "mean(map) == logit is off" in fault(setting, logits, maps * 2)
        assert "mean(map) == logit is off" in fault(setting, logits, maps * np.nan)
        assert "not finite" in fault(setting, logits * np.nan, maps)
    flat = np.broadcast_to(logits[:, None, None], maps.shape)
    assert "its maps differ from the model's" in fault(settings[0], logits, flat)
    assert "its logits differ from the model's" in fault(settings[0], logits + 1, None, has_map=False)


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
        return CliRunner().invoke(flops_command, arguments, catch_exceptions=False).stdout

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
