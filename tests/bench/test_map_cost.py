"""`heatline bench map-cost`: its plan, its measurements and its ratios."""

from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from numpy.typing import NDArray

import heatline.bench.map_cost.measure as measure_module
import heatline.bench.spread
from heatline.bench.map_cost.graphs import WITH_MAP, ModelGraphs
from heatline.bench.map_cost.measure import Answers, find_wrong_answer, measure, measured_rows
from heatline.bench.map_cost.plan import Cost, Setting, plan
from heatline.bench.spread import Spread
from heatline.edge.errors import BenchError, PrecisionError
from heatline.edge.inference import Precision
from heatline.export.openvino_ir import Ir, to_ir
from heatline.train.config import CnnConfig, VitConfig
from tests import small_bundle

pytestmark = pytest.mark.usefixtures("one_thread")

TILE_PX = 64
CNN = CnnConfig(name="small_cnn", timm="test_efficientnet", weights="none", stride=16)
VIT = VitConfig(name="toy", timm="test_vit", weights="none", fusion="max", discard_ratio=0.5)


def tiles_of(count: int, tile_px: int = TILE_PX) -> NDArray[np.uint8]:
    return np.random.default_rng(4).integers(0, 256, (count, tile_px, tile_px, 3), np.uint8)


def ignore_line(_line: str) -> None:
    pass


def planned(config: CnnConfig | VitConfig, **options: Any) -> list[Setting]:
    return plan(config, tile_px=TILE_PX, threads=1, rounds=3, **options)


class _SmallModel:
    top_cells = None

    def __call__(self, tiles: torch.Tensor) -> list[torch.Tensor]:
        return [torch.from_numpy(one) for one in small_bundle.answer(tiles.numpy())]


class SmallGraphs:
    """Replaces exports, which take seconds: the small bundle's graph serves as the graph with and without a map."""

    def model(self, setting: Setting) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        return _SmallModel()

    def onnx(self, setting: Setting) -> dict[str, bytes]:
        return {WITH_MAP: small_bundle.graph(), "pooling": small_bundle.graph()}

    def ir(self, graph: bytes, precision: Precision) -> Ir:
        return to_ir(graph)


def measured(graphs: Any, config: CnnConfig | VitConfig, **options: Any) -> Cost:
    (setting,) = planned(config, **options)
    tiles = tiles_of(setting.batch, small_bundle.TILE if isinstance(graphs, SmallGraphs) else TILE_PX)
    return measure(setting, graphs, tiles, ignore_line)


# Plan.


def test_planned_rows_are_the_models_defaults_or_the_named_ones() -> None:
    def rows(config: CnnConfig | VitConfig, **options: Any) -> list[tuple[object, ...]]:
        return [(row.method, row.engine, row.precision, row.batch) for row in planned(config, **options)]

    assert rows(VIT) == [("rollout-max-discard-0.5", "openvino", "f32", 1)]
    assert rows(CNN, engines=["openvino", "onnxruntime"], batches=[1, 8, 8]) == [
        ("cam", engine, "f32", batch) for engine in ("openvino", "onnxruntime") for batch in (1, 8)
    ]
    assert rows(VIT, fusions=["min", "mean"], discard_ratios=[0.0, 0.9]) == [
        (method, "openvino", "f32", 1)
        for method in ("rollout-min", "rollout-min-discard-0.9", "rollout-mean", "rollout-mean-discard-0.9")
    ]


# Measurement.


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("config", [None, *(pytest.param(one, marks=pytest.mark.long) for one in (CNN, VIT))], ids=str)
def test_a_graph_with_a_map_is_compared_with_the_fastest_without(
    config: CnnConfig | VitConfig | None, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure_module, "SECONDS_PER_ROUND", 1e-6)
    graphs: Any = SmallGraphs() if config is None else ModelGraphs(config, TILE_PX, tiles_of(2))
    found = measured(graphs, config or CNN, engines=[engine], batches=[2])
    assert found.bare in ("pooling", "fused attention", "explicit attention")
    assert found.tiles_per_round == 2, "whole batches"
    assert found.ratio == pytest.approx(found.map_ms_per_tile.median / found.bare_ms_per_tile.median)
    assert found.map_tiles_per_s == pytest.approx(1e3 / found.map_ms_per_tile.median)
    assert 0 < found.ratio_spread.lowest <= found.ratio_spread.median <= found.ratio_spread.highest


def test_every_graph_runs_in_every_round_and_the_fastest_classifier_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The clock moves only by the cost of each graph per batch."""
    now_s, order = 0.0, []

    class Charged:
        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

        def __call__(self, batches: int) -> None:
            nonlocal now_s
            now_s += batches * self.seconds
            order.append((self.name, batches))

        def answers(self) -> list[Answers]:
            raise NotImplementedError

    monkeypatch.setattr(heatline.bench.spread, "perf_counter", lambda: now_s)
    monkeypatch.setattr(measure_module, "perf_counter", lambda: now_s)
    (setting,) = planned(VIT, batches=[2])
    costs = {WITH_MAP: 3.0, "fused attention": 2.0, "explicit attention": 2.5}
    charged: Any = {name: Charged(name, seconds) for name, seconds in costs.items()}
    found = measure_module._timed(setting, charged, ignore_line)
    timed = order[2 + 3 :]  # after the runs that determine the length of a turn, and the warm-up
    expected = ["explicit attention", "fused attention", WITH_MAP]
    assert [name for name, _ in timed[:6]] == [*expected, *expected[::-1]]
    assert {batches for _, batches in timed} == {1}, "a batch takes longer than a turn"
    assert (found.bare, found.tiles_per_round) == ("fused attention", 2)
    assert found.ratio == pytest.approx(1.5)
    assert found.map_ms_per_tile.median == pytest.approx(1500)
    quick: Any = {name: Charged(name, seconds / 100) for name, seconds in costs.items()}
    found = measure_module._timed(setting, quick, ignore_line)
    assert found.tiles_per_round == 2 * 25, "half a second of batches of 20 ms"


def test_a_precision_that_the_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    no_graphs: Any = None  # nothing is exported
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(PrecisionError, match="has no bf16, OpenVINO would compute in f32"):
        measured(no_graphs, VIT, precisions=["bf16"])


# Checks of the answers.


def test_wrong_or_missing_answers_are_detected() -> None:
    settings = planned(CNN, precisions=["f32", "bf16", "int8"])
    logits, maps = small_bundle.answer(
        tiles_of(3, small_bundle.TILE) // np.array([1, 2, 8], np.uint8)[:, None, None, None]
    )

    def fault(setting: Setting, *answers: Any, has_map: bool = True) -> str:
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
    ("skips_from", "words"), [(0, "not timed, as it gives no maps"), (2, "after the rounds it gives")]
)
def test_an_engine_that_stops_giving_maps_ends_the_row(
    skips_from: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[object] = []
    answers = measure_module.InOpenVino.answers

    def lazy(run: Any) -> list[Answers]:
        runs.append(run)
        skips = len(runs) > skips_from
        return [(logits, None if maps is None else maps * (not skips)) for logits, maps in answers(run)]

    monkeypatch.setattr(measure_module.InOpenVino, "answers", lazy)
    monkeypatch.setattr(measure_module, "SECONDS_PER_ROUND", 1e-6)
    with pytest.raises(BenchError, match=f"small_cnn, cam: openvino, f32, batches of 1: .*{words}"):
        measured(SmallGraphs(), CNN)


# A sweep.


def test_a_setting_that_cannot_run_is_a_row_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cost = Cost(
        bare="pooling", tiles_per_round=4, ratio=1.5, ratio_spread=Spread(1.5, 1.4, 1.6), map_tiles_per_s=333.0,
        map_ms_per_tile=Spread(3.0, 2.9, 3.1), bare_ms_per_tile=Spread(2.0, 1.9, 2.1),
    )  # fmt: skip

    def measure_but_bf16(setting: Setting, *_: object) -> Cost:
        if setting.precision == "bf16":
            raise PrecisionError("this processor has no bf16")
        return cost

    monkeypatch.setattr(measure_module, "measure", measure_but_bf16)
    monkeypatch.setattr(measure_module, "ModelGraphs", lambda *_: None)
    settings, configs = planned(CNN, precisions=["f32", "bf16", "int8"]), {CNN.name: CNN}
    rows = list(measured_rows(settings, configs, ignore_line))
    assert [(row.precision, row.cost, row.not_done) for row in rows] == [
        ("f32", cost, None), ("bf16", None, "this processor has no bf16"), ("int8", cost, None)
    ]  # fmt: skip
    assert all(row.at_utc and len(row.load or []) == 3 for row in rows)
    with pytest.raises(PrecisionError):
        list(measured_rows(settings[1:2], configs, ignore_line))
