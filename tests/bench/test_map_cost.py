"""`heatline bench map-cost`: what it runs, in which order, and what it divides by what."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import msgspec
import openvino
import pytest
from click.testing import CliRunner

import bench.map_cost
import bench.turns
import export.onnx_graph as onnx_graph
import export.quantise as quantise_module
from bench.command import bench as command
from bench.map_cost import MapCost, measure_map_cost
from edge.errors import BenchError, ConfigError, EngineError
from edge.inference import EngineKind, Precision
from train.config import VitConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = VitConfig(name="small", timm="test_vit", weights="none", fusion="max", discard_ratio=0.5)
WITHOUT_DISCARD = msgspec.structs.replace(SMALL, discard_ratio=0.0)


@pytest.fixture(scope="module", autouse=True)
def each_graph_is_exported_once() -> Iterator[None]:
    """An export takes seconds; the network is the same in all tests, and a bare one knows of no method."""
    graphs, bare = onnx_graph.to_graphs, onnx_graph.to_bare_onnx
    current: list[Any] = [None]

    @cache
    def graphs_of(method: str, tile_px: int) -> Any:
        return graphs(current[0], tile_px)

    @cache
    def bare_of(tile_px: int, *attention: Any) -> bytes:
        return bare(current[0], tile_px, *attention)

    def shared_graphs(model: Any, tile_px: int) -> Any:
        current[0] = model
        return graphs_of(model.method, tile_px)

    def shared_bare(model: Any, tile_px: int, *attention: Any) -> bytes:
        current[0] = model
        return bare_of(tile_px, *attention)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "to_graphs", shared_graphs)
        patch.setattr(onnx_graph, "to_bare_onnx", shared_bare)
        yield


def measure(
    engine: EngineKind = "openvino", precision: Precision = "f32", batch: int = 2, config: VitConfig = SMALL
) -> MapCost:
    return measure_map_cost(
        config,
        engine=engine,
        precision=precision,
        batch=batch,
        tile_px=64,
        threads=1,
        rounds=3,
        tiles_per_round=5,
        say=lambda line: None,
    )


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_fused_graph_and_both_bare_classifiers_are_timed(engine: EngineKind) -> None:
    found = measure(engine)
    assert found.bare in ("fused attention", "explicit attention")
    assert found.method == "rollout-max-discard-0.5"
    assert found.ratio == pytest.approx(found.fused_ms_per_tile.median / found.bare_ms_per_tile.median)
    assert found.fused_tiles_per_s == pytest.approx(1e3 / found.fused_ms_per_tile.median)
    assert 0 < found.ratio_spread.lowest <= found.ratio_spread.median <= found.ratio_spread.highest


def test_each_is_run_in_every_round_and_the_faster_bare_classifier_is_what_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that stands still, but for what each graph is charged per batch."""
    now_s, order = 0.0, []
    costs = iter([(3.0, "fused"), (2.0, "fused attention"), (2.5, "explicit attention")])

    def compiled(*_: object, **__: object) -> Callable[[int], None]:
        seconds, name = next(costs)

        def run(batches: int) -> None:
            nonlocal now_s
            now_s += batches * seconds
            order.append((name, batches))

        return run

    monkeypatch.setattr(bench.map_cost, "_in_openvino", compiled)
    monkeypatch.setattr(bench.turns, "perf_counter", lambda: now_s)
    found = measure()
    timed = order[3:]  # after all have settled
    assert [name for name, _ in timed[:6]] == [
        "explicit attention", "fused attention", "fused", "fused", "fused attention", "explicit attention",
    ]  # fmt: skip
    assert {batches for _, batches in timed} == {2}  # 5 tiles in batches of 2
    assert found.bare == "fused attention"
    assert found.ratio == pytest.approx(1.5)
    assert found.fused_ms_per_tile.median == pytest.approx(1500)


@pytest.mark.slow
def test_in_int8_both_are_quantised(monkeypatch: pytest.MonkeyPatch) -> None:
    quantised = []
    real = quantise_module.quantise

    def counted(*arguments: Any, **options: Any) -> Any:
        quantised.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(quantise_module, "quantise", counted)
    assert measure("openvino", "int8", config=WITHOUT_DISCARD).precision == "int8"
    assert quantised == [{"transformer": True}] * 3  # fused, and two kinds of bare ones


def test_a_precision_that_the_engine_lacks_is_refused() -> None:
    with pytest.raises(EngineError, match="asked for bf16, it computes in f32 alone"):
        measure("onnxruntime", "bf16")


def test_the_command_prints_ratio_spread_and_both_medians() -> None:
    done = CliRunner().invoke(
        command,
        ["map-cost", "--model", "test_vit", "--tile-px", "64", "--rounds", "2", "--tiles", "2", "--fusion", "min",
         "--discard-ratio", "0.9", "--engine", "openvino", "--precision", "f32", "--batch", "1", "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["method"] == "rollout-min-discard-0.9"
    assert set(MapCost.__struct_fields__) < set(printed)
    assert {"median", "lowest", "highest"} == set(printed["ratio_spread"])


def test_a_discard_ratio_of_a_cnn_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mobilenetv3_large_d is a cnn, and --fusion and --discard-ratio are a ViT"):
        CliRunner().invoke(
            command, ["map-cost", "--model", "mobilenetv3_large_d", "--fusion", "max"], catch_exceptions=False
        )


def test_a_precision_that_the_processor_passes_over_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO takes the hint, computes in f32 and says so only if it is asked."""
    compile_model = openvino.Core.compile_model

    def without_bf16(core: openvino.Core, model: Any, device: str, settings: dict[str, Any]) -> Any:
        return compile_model(core, model, device, {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(openvino.Core, "compile_model", without_bf16)
    with pytest.raises(BenchError, match="has no bf16, OpenVINO computes in f32"):
        measure("openvino", "bf16", config=WITHOUT_DISCARD)
