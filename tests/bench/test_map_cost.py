"""`heatline bench map-cost`: what it plans, what it runs, what it divides by what, and where it goes on."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openvino
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

import bench.map_cost.graphs as graphs_module
import bench.map_cost.measure as measure_module
import bench.map_cost.sweep as sweep_module
import bench.turns
from bench.commands.map_cost import map_cost as command
from bench.machine import machine
from bench.map_cost.graphs import WITH_MAP, ModelGraphs
from bench.map_cost.measure import measure, unlike_the_model
from bench.map_cost.plan import Asked, plan
from bench.map_cost.rows import Cost, MapCosts, Row, Setting, row_of
from bench.map_cost.runs import Answers
from bench.map_cost.sweep import Sweep, rows_in
from bench.map_cost.tiles import board_tiles
from bench.result_file import new_report, write_result
from bench.spread import Spread
from edge.errors import BenchError, ConfigError, EngineError, PrecisionError
from tests.toy_vit import ToyViT
from train.config import CnnConfig, VitConfig
from train.models.build import build_model
from train.models.rollout import method_of

pytestmark = pytest.mark.usefixtures("one_thread")

TILE_PX = 64
CNN = CnnConfig(name="small_cnn", timm="test_efficientnet", weights="none", stride=16)
VIT = VitConfig(name="toy", timm="test_vit", weights="none", fusion="max", discard_ratio=0.5)


@cache
def tiles_of(count: int, tile_px: int) -> NDArray[np.uint8]:
    """A board takes a second to draw."""
    return board_tiles(count, tile_px)


def toy_vit(config: VitConfig, tile_px: int) -> tuple[ToyViT, None]:
    """In place of timm's smallest ViT, which takes three times as long to export."""
    model = ToyViT(tile_px)
    model.fusion, model.discard_ratio = config.fusion, config.discard_ratio
    model.method = method_of(config.fusion, config.discard_ratio)
    return model, None


@pytest.fixture(scope="module")
def vit_graphs() -> Iterator[ModelGraphs]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs_module, "build_model", lambda config, tile_px: BUILD[type(config)](config, tile_px))
        yield ModelGraphs(VIT, TILE_PX, tiles_of(2, TILE_PX))


@pytest.fixture(scope="module")
def cnn_graphs() -> ModelGraphs:
    return ModelGraphs(CNN, TILE_PX, tiles_of(2, TILE_PX))


def planned(config: CnnConfig | VitConfig, **asked: Any) -> list[Setting]:
    return plan(config, Asked(**asked), tile_px=TILE_PX, threads=1, rounds=3, tiles=5)


def measured(graphs: ModelGraphs, config: CnnConfig | VitConfig, **asked: Any) -> Cost:
    (setting,) = planned(config, **asked)
    return measure(setting, graphs, tiles_of(setting.batch, TILE_PX), lambda what: None)


BUILD: dict[type, Callable[[Any, int], Any]] = {VitConfig: toy_vit, CnnConfig: build_model}


# What is planned.


def test_of_one_model_its_own_rollout_is_planned_in_openvino_and_f32() -> None:
    (row,) = planned(VIT)
    assert (row.method, row.fusion, row.discard_ratio) == ("rollout-max-discard-0.5", "max", 0.5)
    assert (row.way, row.engine, row.precision, row.batch) == ("graph", "openvino", "f32", 1)


def test_all_of_a_cnn_are_its_engines_precisions_and_the_ways_of_others() -> None:
    rows = planned(CNN, everything=True)
    assert [(row.way, row.engine, row.precision) for row in rows] == [
        ("graph", "openvino", "f32"),
        ("graph", "openvino", "bf16"),
        ("graph", "openvino", "int8"),
        ("graph", "onnxruntime", "f32"),
        ("hooks", "pytorch", "f32"),
        ("grad-cam", "pytorch", "f32"),
    ]
    assert {row.method for row in rows} == {"cam", "grad-cam"}


def test_all_of_a_vit_are_every_fusion_and_ratio_but_grad_cam_knows_neither() -> None:
    rows = planned(VIT, everything=True)
    assert len(rows) == len(set(rows)) == 3 * 2 * 5 + 1
    assert [row.method for row in rows if row.way == "hooks"] == [
        f"rollout-{fusion}{discard}" for fusion in ("min", "mean", "max") for discard in ("", "-discard-0.9")
    ]
    assert [row.fusion for row in rows if row.way == "grad-cam"] == [None]


def test_what_is_named_is_planned_and_no_other() -> None:
    rows = planned(
        VIT, fusions=["min"], discard_ratios=[0.2, 0.2], engines=["pytorch"], batches=[1, 8], everything=True
    )
    assert [(row.method, row.way, row.batch) for row in rows] == [
        ("rollout-min-discard-0.2", "hooks", 1),
        ("rollout-min-discard-0.2", "hooks", 8),
        ("grad-cam", "grad-cam", 1),
        ("grad-cam", "grad-cam", 8),
    ]


# What is run.


@pytest.mark.long
@pytest.mark.parametrize("engine", [pytest.param("openvino", marks=pytest.mark.long), "onnxruntime"])
def test_the_fused_graph_and_both_bare_classifiers_are_timed(engine: str, vit_graphs: ModelGraphs) -> None:
    found = measured(vit_graphs, VIT, engines=[engine], batches=[2])
    assert found.bare in ("fused attention", "explicit attention")
    assert found.ratio == pytest.approx(found.map_ms_per_tile.median / found.bare_ms_per_tile.median)
    assert found.map_tiles_per_s == pytest.approx(1e3 / found.map_ms_per_tile.median)
    assert found.tiles_per_round == 4  # whole batches
    assert 0 < found.ratio_spread.lowest <= found.ratio_spread.median <= found.ratio_spread.highest


@pytest.mark.long
@pytest.mark.parametrize("engine", [pytest.param("openvino", marks=pytest.mark.long), "onnxruntime"])
def test_a_cnn_is_timed_beside_its_pooling(engine: str, cnn_graphs: ModelGraphs) -> None:
    assert measured(cnn_graphs, CNN, engines=[engine]).bare == "pooling"


def test_the_ways_of_others_are_timed_beside_pytorch_alone(vit_graphs: ModelGraphs, cnn_graphs: ModelGraphs) -> None:
    for graphs, config in ((vit_graphs, VIT), (cnn_graphs, CNN)):
        for setting in planned(config, engines=["pytorch"]):
            assert measure(setting, graphs, tiles_of(1, TILE_PX), lambda what: None).bare == "eager"


def test_each_is_run_in_every_round_and_the_fastest_bare_classifier_is_what_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that stands still, but for what each graph is charged per batch."""
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

    monkeypatch.setattr(bench.turns, "perf_counter", lambda: now_s)
    monkeypatch.setattr(measure_module, "perf_counter", lambda: now_s)
    (setting,) = planned(VIT, batches=[2])
    costs = {WITH_MAP: 3.0, "fused attention": 2.0, "explicit attention": 2.5}
    runs = {name: Charged(name, seconds) for name, seconds in costs.items()}
    found = measure_module._timed(setting, runs, lambda what: None)
    timed = order[3:]  # after all have settled
    assert [name for name, _ in timed[:6]] == [
        "explicit attention", "fused attention", WITH_MAP, WITH_MAP, "fused attention", "explicit attention",
    ]  # fmt: skip
    assert {batches for _, batches in timed} == {2}  # 5 tiles in batches of 2
    assert (found.bare, found.tiles_per_round) == ("fused attention", 4)
    assert found.ratio == pytest.approx(1.5)
    assert found.map_ms_per_tile.median == pytest.approx(1500)

    quick = {name: Charged(name, seconds / 100) for name, seconds in costs.items()}
    found = measure_module._timed(msgspec.structs.replace(setting, tiles=None), quick, lambda what: None)
    assert found.tiles_per_round == 2 * 25  # half a second of what takes 20 ms per batch


@pytest.mark.long
def test_in_int8_both_are_quantised_once_for_all_rows(monkeypatch: pytest.MonkeyPatch, vit_graphs: ModelGraphs) -> None:
    quantised = []
    real = graphs_module.quantise

    def counted(*arguments: Any, **options: Any) -> Any:
        quantised.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(graphs_module, "quantise", counted)
    for batch in (1, 2):
        assert measured(vit_graphs, VIT, precisions=["int8"], batches=[batch]).ratio > 0
    assert quantised == [{"transformer": True}] * 3  # fused, and two kinds of bare ones


def test_an_attention_is_exported_once_for_all_rollouts(
    monkeypatch: pytest.MonkeyPatch, vit_graphs: ModelGraphs
) -> None:
    vit_graphs.onnx(planned(VIT)[0])
    monkeypatch.setattr(graphs_module, "to_attention", None)
    monkeypatch.setattr(graphs_module, "to_bare_onnx", None)
    graphs = {vit_graphs.onnx(setting)[WITH_MAP] for setting in planned(VIT, everything=True) if setting.way == "graph"}
    # Each fusion has two graphs without a discard, and three with: OpenVINO's, ONNX Runtime's, and that for bf16.
    assert len(graphs) == 3 * (2 + 3)


def test_a_precision_that_the_engine_lacks_is_refused(vit_graphs: ModelGraphs) -> None:
    with pytest.raises(EngineError, match="asked for bf16, it computes in f32 alone"):
        measured(vit_graphs, VIT, engines=["onnxruntime"], precisions=["bf16"])
    (hooks, _) = planned(VIT, engines=["pytorch"], precisions=["int8"])
    with pytest.raises(BenchError, match="PyTorch is timed in f32 alone, and int8 was asked for"):
        measure(hooks, vit_graphs, tiles_of(1, TILE_PX), lambda what: None)


def test_a_precision_that_the_processor_passes_over_is_refused_before_anything_is_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    never: Any = None
    with pytest.raises(PrecisionError, match="has no bf16, OpenVINO would compute in f32"):
        measured(never, VIT, precisions=["bf16"])


def test_a_precision_that_the_engine_takes_and_passes_over_is_refused(
    monkeypatch: pytest.MonkeyPatch, cnn_graphs: ModelGraphs
) -> None:
    """OpenVINO takes the hint, computes in f32 and says so only if it is asked."""
    compile_model = openvino.Core.compile_model

    def without_bf16(core: openvino.Core, model: Any, device: str, settings: dict[str, Any]) -> Any:
        return compile_model(core, model, device, {**settings, "INFERENCE_PRECISION_HINT": "f32"})

    monkeypatch.setattr(openvino.Core, "compile_model", without_bf16)
    monkeypatch.setattr(measure_module, "require_processor", lambda precision: None)
    with pytest.raises(PrecisionError, match="has no bf16, OpenVINO would compute in f32"):
        measured(cnn_graphs, CNN, precisions=["bf16"])


# What is timed does its work.


def answered(graphs: ModelGraphs, setting: Setting, change: Callable[[Any, Any], Any], *, has_map: bool = True) -> Any:
    """What is said of answers that differ from the model's own in one thing."""
    import torch

    tiles = tiles_of(3, TILE_PX)
    with torch.no_grad():
        logits, maps = (one.numpy() for one in graphs.model(setting)(torch.from_numpy(tiles)))
    return unlike_the_model(logits, maps, change(logits, maps), setting, has_map=has_map)


def test_a_graph_that_skips_its_work_is_not_timed(cnn_graphs: ModelGraphs) -> None:
    f32, bf16, int8 = planned(CNN, precisions=["f32", "bf16", "int8"])
    for setting in (f32, bf16, int8):
        assert answered(cnn_graphs, setting, lambda logits, maps: (logits, maps)) is None
        assert answered(cnn_graphs, setting, lambda logits, maps: (logits, None), has_map=False) is None
        assert answered(cnn_graphs, setting, lambda logits, maps: (logits, None)) == "it gives no maps"
        assert answered(cnn_graphs, setting, lambda logits, maps: (logits, maps * 0)) == "it gives no maps"
        assert "mean of its maps" in answered(cnn_graphs, setting, lambda logits, maps: (logits, maps * 2))
        assert "mean of its maps" in answered(cnn_graphs, setting, lambda logits, maps: (logits, maps * np.nan))
        assert "no numbers" in answered(cnn_graphs, setting, lambda logits, maps: (logits * np.nan, maps))

    def flat(logits: Any, maps: Any) -> Any:
        return logits, np.broadcast_to(logits[:, None, None], maps.shape)

    assert "its maps are off the model's" in answered(cnn_graphs, f32, flat)
    assert "its logits are off the model's" in answered(
        cnn_graphs, f32, lambda logits, maps: (logits + 1, None), has_map=False
    )


def test_what_skips_its_work_ends_the_row_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, cnn_graphs: ModelGraphs
) -> None:
    def without_maps(run: Any) -> list[Answers]:
        return [(logits, None if maps is None else maps * 0) for logits, maps in answers(run)]

    answers = measure_module.InOpenVino.answers
    monkeypatch.setattr(measure_module.InOpenVino, "answers", without_maps)
    with pytest.raises(BenchError, match="small_cnn, cam: openvino, f32, batches of 1: not timed, as it gives no maps"):
        measured(cnn_graphs, CNN)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_what_skips_its_work_while_it_is_timed_ends_the_row_too(
    engine: str, monkeypatch: pytest.MonkeyPatch, cnn_graphs: ModelGraphs
) -> None:
    """It answers rightly before the turns; the last request that was timed is then left out."""
    of = {"openvino": measure_module.InOpenVino, "onnxruntime": measure_module.InOnnxRuntime}[engine]
    asked: dict[Any, int] = {}

    def after_the_turns(run: Any) -> list[Answers]:
        asked[run] = asked.get(run, 0) + 1
        found = answers(run)
        return found if asked[run] == 1 else [*found[:-1], (found[-1][0] + 1, found[-1][1])]

    answers = of.answers
    monkeypatch.setattr(of, "answers", after_the_turns)
    with pytest.raises(BenchError, match="its time counts for nothing, as after the turns its logits are off"):
        measured(cnn_graphs, CNN, engines=[engine])


def test_a_way_of_others_that_skips_its_work_while_it_is_timed_ends_the_row(
    monkeypatch: pytest.MonkeyPatch, cnn_graphs: ModelGraphs
) -> None:
    real = measure_module._timed

    def lazy(setting: Setting, runs: Any, say: Any) -> Cost:
        cost = real(setting, runs, say)
        runs["eager"]._last = runs["eager"]._last * 0
        return cost

    monkeypatch.setattr(measure_module, "_timed", lazy)
    (hooks, *_) = planned(CNN, engines=["pytorch"])
    with pytest.raises(BenchError, match="after the turns the logits without a map are off"):
        measure(hooks, cnn_graphs, tiles_of(1, TILE_PX), lambda what: None)


def test_where_grad_cam_is_not_installed_its_row_says_so(
    monkeypatch: pytest.MonkeyPatch, cnn_graphs: ModelGraphs
) -> None:
    monkeypatch.setattr(measure_module, "grad_cam_is_missing", lambda: "install it")
    hooks, grad_cam = planned(CNN, engines=["pytorch"])
    with pytest.raises(BenchError, match="install it"):
        measure(grad_cam, cnn_graphs, tiles_of(1, TILE_PX), lambda what: None)
    measure(hooks, cnn_graphs, tiles_of(1, TILE_PX), lambda what: None)


# A sweep.

COST = Cost(
    bare="pooling",
    tiles_per_round=4,
    ratio=1.5,
    ratio_spread=Spread(1.5, 1.4, 1.6),
    map_ms_per_tile=Spread(3.0, 2.9, 3.1),
    bare_ms_per_tile=Spread(2.0, 1.9, 2.1),
    map_tiles_per_s=333.0,
)
SETTINGS = planned(CNN, everything=True)


def test_each_row_is_kept_as_soon_as_it_is_measured_and_none_is_measured_again() -> None:
    kept: list[int] = []
    asked: list[Setting] = []

    def cost(setting: Setting) -> Cost:
        asked.append(setting)
        assert kept == list(range(1, len(asked)))
        if setting.precision == "bf16":
            raise PrecisionError("this processor has no bf16")
        return COST

    first = Sweep(SETTINGS[:4], [])
    assert list(first.run(cost, lambda rows: kept.append(len(rows.rows)))) == SETTINGS[:4] == asked
    assert kept == [1, 2, 3, 4]
    assert [row.not_done for row in first.rows] == [None, "this processor has no bf16", None, None]

    asked.clear()
    second = Sweep(SETTINGS, first.rows)
    last: list[MapCosts] = []
    told = list(second.run(lambda setting: asked.append(setting) or COST, last.append))
    assert told == asked == [SETTINGS[1], *SETTINGS[4:]]  # what could not be measured is tried again
    assert len(second.rows) == len(last[-1].rows) == len(SETTINGS)
    assert all(row.cost == COST for row in second.rows)


def test_rows_of_other_sweeps_stay_in_the_file_and_out_of_the_report() -> None:
    kept: list[MapCosts] = []
    sweep = Sweep(SETTINGS[2:3], [row_of(SETTINGS[0], cost=COST)])
    assert sweep.rows == []
    list(sweep.run(lambda setting: COST, kept.append))
    (row,) = sweep.rows
    assert (sweep_module.setting_of(row), row.cost) == (SETTINGS[2], COST)
    assert kept[-1].rows == [row_of(SETTINGS[0], cost=COST), row]


def test_each_row_has_its_own_time_and_load() -> None:
    before = row_of(SETTINGS[0], cost=COST, at_utc="2026-11-26T06:32:10Z", load=[0.1, 0.2, 0.3])
    sweep = Sweep(SETTINGS[:2], [before])
    list(sweep.run(lambda setting: COST, lambda rows: None))
    kept, new = sweep.rows
    assert kept == before
    assert datetime.strptime(str(new.at_utc), "%Y-%m-%dT%H:%M:%SZ") > datetime(2026, 11, 26)
    assert len(new.load or []) == 3


def test_one_row_alone_that_cannot_be_measured_ends_with_its_own_error() -> None:
    def refuse(setting: Setting) -> Cost:
        raise PrecisionError("no bf16")

    with pytest.raises(PrecisionError, match="no bf16"):
        list(Sweep(SETTINGS[:1], []).run(refuse, lambda rows: None))
    with pytest.raises(BenchError, match="none of 2 rows could be measured; the first: no bf16"):
        list(Sweep(SETTINGS[:2], []).run(refuse, lambda rows: None))


def test_a_fault_of_ours_is_no_row() -> None:
    with pytest.raises(ZeroDivisionError):
        list(Sweep(SETTINGS, []).run(lambda setting: 1 // 0, lambda rows: None))  # type: ignore[arg-type,return-value]


def file_of(path: Path, rows: list[Row], **changed: Any) -> Path:
    report = new_report("map-cost", {**machine(), **changed}, MapCosts(rows=rows))
    write_result(path, report)
    return path


def test_rows_come_back_from_the_file_as_they_were(tmp_path: Path) -> None:
    rows = [row_of(SETTINGS[0], cost=COST), row_of(SETTINGS[1], not_done="no bf16")]
    assert rows_in(file_of(tmp_path / "rows.json", rows), machine()) == rows
    assert rows_in(tmp_path / "none.json", machine()) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"processor": "another one"}, "processor another one, here"),
        ({"cores": 64}, "cores 64, here"),
        ({"governor": "powersave"}, "governor powersave, here"),
        ({"affinity": [77]}, r"affinity \[77\], here"),
        ({"commit": "0123456789ab"}, "commit 0123456789ab, here .* of one machine and one commit; name another file"),
        ({"versions": {**machine()["versions"], "openvino": "1.0"}}, "openvino 1.0, here 20"),  # type: ignore[dict-item]
    ],
)
def test_rows_of_another_machine_or_version_are_not_mixed_with_these(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    file = file_of(tmp_path / "rows.json", [row_of(SETTINGS[0], cost=COST)], **changed)
    with pytest.raises(BenchError, match=words):
        rows_in(file, machine())


@pytest.mark.parametrize("text", ['{"runs": []}', '{"bench": "map-cost", "machine": {}, "rows": [{"model": "x"}]}'])
def test_a_file_that_is_no_such_result_is_not_written_over(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(BenchError, match="holds no rows of `heatline bench map-cost`"):
        CliRunner().invoke(command, ["--model", "test_vit", "--out", str(file)], catch_exceptions=False)
    assert file.read_text() == text


# The command.


@pytest.fixture
def without_measuring(monkeypatch: pytest.MonkeyPatch) -> list[Setting]:
    """What is asked to be measured, and is not."""
    asked: list[Setting] = []

    def cost(setting: Setting, graphs: Any, tiles: NDArray[np.uint8], say: Callable[[str], None]) -> Cost:
        asked.append(setting)
        return COST

    monkeypatch.setattr(sweep_module, "ModelGraphs", lambda *arguments: None)
    monkeypatch.setattr(sweep_module, "board_tiles", tiles_of)
    monkeypatch.setattr(sweep_module, "measure", cost)
    return asked


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


ONE_ROW = ["--model", "test_vit", "--tile-px", "64", "--rounds", "2", "--tiles", "2", "--fusion", "min",
           "--discard-ratio", "0.9", "--engine", "onnxruntime", "--precision", "f32", "--batch", "1"]  # fmt: skip


def test_the_command_measures_one_row(monkeypatch: pytest.MonkeyPatch, vit_graphs: ModelGraphs) -> None:
    monkeypatch.setattr(sweep_module, "ModelGraphs", lambda *arguments: vit_graphs)
    monkeypatch.setattr(sweep_module, "board_tiles", tiles_of)
    printed = json.loads(invoke(*ONE_ROW, "--json").stdout)
    assert (printed["bench"], printed["machine"]["cores"]) == ("map-cost", len(os.sched_getaffinity(0)))
    (row,) = msgspec.convert(printed["rows"], list[Row])
    assert (row.method, row.rounds, row.tiles) == ("rollout-min-discard-0.9", 2, 2)
    assert row.cost is not None
    assert row.cost.ratio > 0


@pytest.mark.usefixtures("without_measuring")
def test_of_one_row_the_command_prints_ratio_spread_and_both_medians() -> None:
    shown = invoke(*ONE_ROW).stdout
    assert "test_vit, rollout-min-discard-0.9: onnxruntime, f32, batches of 1" in shown
    assert "2 rounds of 4 tiles" in shown
    assert "1.500 of medians; by rounds 1.500 (1.400 to 1.600)" in shown
    assert "2.00 (1.90 to 2.10) ms per tile, with pooling" in shown


@pytest.mark.usefixtures("without_measuring")
def test_without_a_model_all_are_measured_but_for_the_same_graph_twice(without_measuring: list[Setting]) -> None:
    done = invoke("--json")
    rows = msgspec.convert(json.loads(done.stdout)["rows"], list[Row])
    left_out = [row for row in rows if row.cost is None]
    assert [row.model for row in left_out] == ["deit_tiny_patch16_224"]
    assert "it is the graph of vit_tiny_patch16_224, and costs the same" in str(left_out[0].not_done)
    assert len(without_measuring) == len(rows) - 1 == 6 * 6 + 31
    assert f"1 of {len(rows)}: deit" in done.stderr
    assert {row.rounds for row in rows} == {15}


def test_deit_is_measured_where_it_is_named(without_measuring: list[Setting]) -> None:
    invoke("--model", "deit_tiny_patch16_224")
    assert [setting.model for setting in without_measuring] == ["deit_tiny_patch16_224"]


def test_the_same_command_goes_on_where_it_was_ended(
    monkeypatch: pytest.MonkeyPatch, without_measuring: list[Setting], tmp_path: Path
) -> None:
    out = str(tmp_path / "rows.json")
    measured_before = sweep_module.measure

    def ended_at_the_third(setting: Setting, *rest: Any) -> Cost:
        if len(without_measuring) == 2:
            raise KeyboardInterrupt
        return measured_before(setting, *rest)

    monkeypatch.setattr(sweep_module, "measure", ended_at_the_third)
    arguments = ["--model", "mobilenetv3_large_d", "--all", "--out", out]
    ended = CliRunner().invoke(command, arguments)
    assert ended.exit_code != 0
    assert f"ended with 2 of 6 rows; they are in {out}, and the same command goes on there" in ended.stderr
    assert ended.stdout.count("mobilenetv3_large_d") == 2  # what there is of the table
    assert len(json.loads(Path(out).read_text())["rows"]) == 2

    monkeypatch.setattr(sweep_module, "measure", measured_before)
    again = invoke(*arguments)
    assert f"2 of 6 rows are in {out} already, and not measured again" in again.stderr
    assert len(without_measuring) == 6
    rows = msgspec.convert(json.loads(Path(out).read_text())["rows"], list[Row])
    assert without_measuring == [sweep_module.setting_of(row) for row in rows]


def test_what_was_not_done_stands_below_the_table_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, without_measuring: list[Setting]
) -> None:
    measured_before = sweep_module.measure

    def without_bf16(setting: Setting, *rest: Any) -> Cost:
        if setting.precision == "bf16":
            raise PrecisionError("this processor has no bf16")
        return measured_before(setting, *rest)

    monkeypatch.setattr(sweep_module, "measure", without_bf16)
    shown = invoke("--model", "mobilenetv3_large_d", "--model", "efficientnet_lite0_d", "--all").stdout
    assert "1.500 (1.400 to 1.600)" in shown
    below = shown.partition("not done, as this processor has no bf16:\n")[2].splitlines()
    assert [line.strip() for line in below] == [
        f"{model}, cam: openvino, bf16, batches of 1" for model in ("mobilenetv3_large_d", "efficientnet_lite0_d")
    ]


def test_a_discard_ratio_of_a_cnn_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mobilenetv3_large_d is a cnn, and --fusion and --discard-ratio are a ViT"):
        invoke("--model", "mobilenetv3_large_d", "--fusion", "max")
