"""`heatline bench map-cost`: its plan, its measurements and its ratios."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import openvino
import pytest
import torch

import heatline.bench.map_cost as map_cost
import heatline.bench.spread
from heatline.bench.engines import BareEngine
from heatline.bench.map_cost import (
    WITH_MAP,
    ModelGraphs,
    Row,
    drawn_tiles,
    find_wrong_answer,
    measure,
    measured_rows,
    plan,
)
from heatline.bench.spread import Spread
from heatline.edge.errors import BenchError, PrecisionError
from heatline.export.openvino_ir import Ir, to_ir
from heatline.train.config import CnnConfig, VitConfig
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


# Plan.


def test_planned_rows_are_the_models_defaults_or_the_named_ones() -> None:
    def rows(config: CnnConfig | VitConfig, **options: Any) -> list[tuple[object, ...]]:
        return [(row.method, row.precision, row.batch) for row in planned(config, **options)]

    assert rows(VIT) == [("rollout-max-discard-0.5", "f32", 1)]
    assert rows(CNN, batches=[1, 8, 8]) == [("cam", "f32", batch) for batch in (1, 8)]
    assert rows(VIT, fusions=["min", "mean"], discard_ratios=[0.0, 0.9]) == [
        (method, "f32", 1)
        for method in ("rollout-min", "rollout-min-discard-0.9", "rollout-mean", "rollout-mean-discard-0.9")
    ]


# Measurement.


@pytest.mark.parametrize("config", [None, *(pytest.param(one, marks=pytest.mark.long) for one in (CNN, VIT))], ids=str)
def test_a_graph_with_a_map_is_compared_with_the_fastest_without(
    config: CnnConfig | VitConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_cost, "SECONDS_PER_ROUND", 1e-6)
    graphs: Any = SmallGraphs() if config is None else ModelGraphs(config, TILE_PX)
    found = measured(graphs, config or CNN, batches=[2])
    assert found.bare in ("pooling", "fused attention", "explicit attention")
    assert found.ratio is not None
    assert found.map_ms_per_tile is not None
    assert 0 < found.ratio.lowest <= found.ratio.median <= found.ratio.highest


def test_the_fastest_classifier_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock moves only by the cost of each graph per batch."""
    now_s = 0.0
    costs = iter((3.0, 2.0, 2.5))

    class Charged(BareEngine):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.seconds = next(costs)

        def run(self, requests: int) -> None:
            nonlocal now_s
            super().run(requests)
            now_s += requests * self.seconds

    class Graphs(SmallGraphs):
        def irs(self, setting: Row) -> dict[str, Ir]:
            return dict.fromkeys((WITH_MAP, "fused attention", "explicit attention"), to_ir(small_bundle.graph()))

    monkeypatch.setattr(heatline.bench.spread, "perf_counter", lambda: now_s)
    monkeypatch.setattr(map_cost, "perf_counter", lambda: now_s)
    monkeypatch.setattr(map_cost, "BareEngine", Charged)
    found = measured(Graphs(), CNN, batches=[2])
    assert found.bare == "fused attention"
    assert found.ratio == Spread(1.5, 1.5, 1.5)
    assert found.map_ms_per_tile == Spread(1500.0, 1500.0, 1500.0)


def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    no_graphs: Any = None  # nothing is exported
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(PrecisionError, match="has no bf16, OpenVINO would compute in f32"):
        measured(no_graphs, VIT, precisions=["bf16"])


# Checks of the answers.


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


@pytest.mark.parametrize("skips_from", [0, 2])
def test_an_engine_that_stops_giving_maps_ends_the_row(skips_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[object] = []
    answers = BareEngine.answers

    def lazy(engine: BareEngine) -> Any:
        runs.append(engine)
        skips = len(runs) > skips_from
        return [
            {name: values * (name != "map" or not skips) for name, values in one.items()} for one in answers(engine)
        ]

    monkeypatch.setattr(BareEngine, "answers", lazy)
    monkeypatch.setattr(map_cost, "SECONDS_PER_ROUND", 1e-6)
    with pytest.raises(BenchError, match=r"small_cnn, cam: f32, batches of 1: .* as it gives no maps \(with map\)"):
        measured(SmallGraphs(), CNN)


# A sweep.


def test_a_setting_that_cannot_run_is_a_row_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = Spread(1.5, 1.4, 1.6)

    def measure_but_bf16(setting: Row, _: object) -> Row:
        if setting.precision == "bf16":
            raise PrecisionError("this processor has no bf16")
        return msgspec.structs.replace(setting, ratio=ratio)

    monkeypatch.setattr(map_cost, "measure", measure_but_bf16)
    monkeypatch.setattr(map_cost, "ModelGraphs", lambda *_: None)
    settings, configs = planned(CNN, precisions=["f32", "bf16", "int8"]), {CNN.name: CNN}
    rows = list(measured_rows(settings, configs, lambda _: None))
    assert [(row.precision, row.ratio, row.not_done) for row in rows] == [
        ("f32", ratio, None), ("bf16", None, "this processor has no bf16"), ("int8", ratio, None)
    ]  # fmt: skip
    with pytest.raises(PrecisionError):
        list(measured_rows(settings[1:2], configs, lambda _: None))
