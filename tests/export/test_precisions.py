"""Precisions of small models: made, compared with the model, admitted to the bundle or left out."""

import dataclasses
import resource
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from heatline.edge.bundle import GoldenTiles
from heatline.edge.bundle.manifest import Grid
from heatline.edge.errors import BundleError, ExportError, PrecisionError
from heatline.edge.inference.devices import shared_core
from heatline.edge.reference.difference import CELL_PX, CHANNELS
from heatline.export import precisions as precisions_module
from heatline.export.gate import torch_answers
from heatline.export.onnx_graph import Graphs, to_graphs
from heatline.export.openvino_ir import Ir, to_ir, write_graphs
from heatline.export.precisions import (
    BATCHES,
    LEAST_TOLERANCE,
    PRECISIONS,
    Candidate,
    Precisions,
    bf16_candidates,
    evaluate_candidates,
    int8_candidates,
    make_precisions,
)
from heatline.export.quantise import (
    LAYERS,
    VARIANTS,
    Quantisation,
    first_layers,
    in_f32_under_bf16,
    is_explanation,
    last_layers,
    output_layer,
    quantise,
)
from heatline.export.validation_tiles import RegionFinder, ValidationTiles
from heatline.train.models.dense import DenseClassifier
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import RolloutClassifier
from tests.export.conftest import TILE
from tests.toy_vit import ToyViT

pytestmark = pytest.mark.usefixtures("one_thread")

TILES = np.random.default_rng(3).integers(0, 256, (16, TILE, TILE, 3), np.uint8)
GRID = Grid(tile_px=TILE, smoothing_px=4.0)
HAS_BF16 = "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module", params=["cnn", pytest.param("vit", marks=pytest.mark.long)])
def model(request: pytest.FixtureRequest, small_cnn: ExplainedClassifier) -> ExplainedClassifier:
    if request.param == "cnn":
        return small_cnn
    torch.manual_seed(0)
    vit = ToyViT(tile_px=TILE)
    vit.discard_ratio = 0.5
    return vit.eval()


@pytest.fixture(scope="module")
def golden(model: ExplainedClassifier) -> GoldenTiles:
    return torch_answers(model, TILES)


@pytest.fixture(scope="module")
def validation(golden: GoldenTiles) -> ValidationTiles:
    """Validation tiles, half of which are defective."""
    find = RegionFinder(
        GRID, (golden.map.shape[1], golden.map.shape[2]), float(np.median(golden.map)), golden.scale("map")
    )
    regions, middle = find(golden.map), float(np.median(golden.logit))
    assert regions.any()
    return ValidationTiles(golden.tiles, golden.logit, golden.map, regions, "drawn", middle, find)


@pytest.fixture(scope="module")
def graphs(request: pytest.FixtureRequest, model: ExplainedClassifier, small_cnn: ExplainedClassifier) -> Graphs:
    shared: Graphs = request.getfixturevalue("cnn_graphs") if model is small_cnn else to_graphs(model, TILE)
    return shared


@pytest.fixture(scope="module")
def f32(graphs: Graphs) -> Ir:
    return to_ir(graphs.onnx)


def answers(ir: Ir, precision: str) -> list[NDArray[np.float32]]:
    """Return logit and map of the test's tiles."""
    model = ir.read()
    model.reshape({"tiles": list(TILES.shape)})
    found = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})({"tiles": TILES})
    return [found["logit"], found["map"]]


def made(f32: Ir, graphs: Graphs, validation: ValidationTiles, golden: GoldenTiles, **options: Any) -> Precisions:
    asked: dict[str, Any] = {"precisions": PRECISIONS, "allow": (), "transformer": False, "say": lambda line: None}
    for_bf16 = None if graphs.for_bf16 == graphs.onnx else lambda: to_ir(graphs.for_bf16)
    asked["quantisation_samples"] = (TILES,)
    return make_precisions(f32, for_bf16, validation, golden, **{**asked, **options})


def limits(monkeypatch: pytest.MonkeyPatch, flips: float, iou: float) -> None:
    """Set these limits, and none on golden tiles: on untrained models int8 differs much."""
    monkeypatch.setattr(precisions_module, "MOST_TOLERANCE", 100.0)
    for precision in ("bf16", "int8"):
        monkeypatch.setitem(precisions_module.LIMITS, precision, {"flips": flips, "iou_median": iou, "near_p5": iou})


@pytest.mark.parametrize("make", ["the ONNX graph", "the IR", "the files of the bundle"])
def test_a_full_temporary_disk_is_not_blamed_on_the_model(
    f32: Ir, graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, (_, hard) = f32.read(), resource.getrlimit(resource.RLIMIT_FSIZE)
    write = {
        "the ONNX graph": lambda: to_ir(graphs.onnx),
        "the IR": lambda: Ir.of(model),
        "the files of the bundle": lambda: write_graphs(tmp_path, f32.files("model_f32.xml")),
    }
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # files may not grow: to a write, what a full disk is
    try:
        with pytest.raises(BundleError) as full:
            write[make]()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert str(full.value).startswith(str(tmp_path))
    assert "check the disk and the permissions, or set TMPDIR to a folder on another disk" in str(full.value)


def test_the_explanation_is_not_quantised(f32: Ir, model: ExplainedClassifier) -> None:
    quantised = quantise(f32, (TILES[:4],), Quantisation(), transformer=isinstance(model, RolloutClassifier)).read()
    rounding = [each for each in quantised.get_ordered_ops() if each.get_type_name() == "FakeQuantize"]
    assert rounding
    readers = {
        reader.get_node().get_friendly_name()
        for each in rounding
        for output in each.outputs()
        for reader in output.get_target_inputs()
    }
    assert not {name for name in readers if is_explanation(name)}


def test_layers_that_stay_in_f32_are_not_quantised(f32: Ir) -> None:
    def quantised_layers(share: float) -> int:
        model = quantise(f32, (TILES[:4],), Quantisation(True, True, share, share / 2), transformer=False).read()
        return sum(
            each.get_type_name() in LAYERS and each.input_value(0).get_node().get_type_name() == "FakeQuantize"
            for each in model.get_ordered_ops()
        )

    assert quantised_layers(0.0) > quantised_layers(0.5) > 0


def test_quantisation_sends_no_telemetry(f32: Ir) -> None:
    """NNCF sends telemetry by default; with the environment variable it uses a stub that sends nothing."""
    quantise(f32, (TILES[:2],), Quantisation(), transformer=False)
    from nncf.telemetry import telemetry
    from nncf.telemetry.wrapper import NNCFTelemetryStub

    assert isinstance(telemetry, NNCFTelemetryStub)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_first_and_last_layers_have_the_requested_share(f32: Ir, share: float) -> None:
    model = f32.read()
    layers = [
        each.get_friendly_name()
        for each in model.get_ordered_ops()
        if each.get_type_name() in LAYERS and not is_explanation(each.get_friendly_name())
    ]
    first = set(first_layers(model, share))
    assert [name for name in layers if name in first] == layers[: round(share * len(layers))]
    last = set(last_layers(model, share))
    assert [name for name in layers if name in last] == layers[len(layers) - round(share * len(layers)) :]
    computed = {each.get_friendly_name() for each in model.get_ordered_ops() if each.get_type_name() != "Constant"}
    assert not {name for name in (first | last) & computed if is_explanation(name)}


def test_logit_and_map_depend_on_the_output_layer(f32: Ir) -> None:
    model = f32.read()
    last = set(output_layer(model))
    assert {"logit", "map"} <= last
    computed = [each for each in model.get_ordered_ops() if each.get_type_name() in LAYERS]
    assert [each.get_friendly_name() in last for each in computed] == [False] * (len(computed) - 1) + [True]


def test_layers_marked_as_f32_are_hardly_rounded_under_bf16(f32: Ir) -> None:
    """OpenVINO loses the mark on some operations that it fuses, so a few layers remain in bf16.

    It also rounds where it emulates bf16, on a processor that has AVX-512 alone; on others it computes in f32.
    """
    exact, rounded = answers(f32, "f32")[1], answers(f32, "bf16")[1]
    if np.array_equal(rounded, exact):
        assert not HAS_BF16
        return
    model = f32.read()
    noted = answers(in_f32_under_bf16(f32, first_layers(model, 1.0) + output_layer(model)), "bf16")[1]
    scale = np.abs(exact).max()
    assert 1e-4 * scale < 3 * np.abs(noted - exact).max() < np.abs(rounded - exact).max()


def test_the_marks_on_layers_do_not_change_f32(f32: Ir) -> None:
    noted = in_f32_under_bf16(f32, first_layers(f32.read(), 0.5))
    assert noted.weights == f32.weights
    assert noted.xml != f32.xml
    for a, b in zip(answers(f32, "f32"), answers(noted, "f32"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_precision_that_passes_enters_the_bundle_with_its_figures(
    f32: Ir, graphs: Graphs, validation: ValidationTiles, golden: GoldenTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, flips=1.0, iou=0.0)
    precisions = made(f32, graphs, validation, golden)
    gate = precisions.gate(validation)
    shipped = {"f32", "int8"} | ({"bf16"} if HAS_BF16 else set())
    assert {name for name, one in gate.precisions.items() if one.graph} == shipped == {"f32", *precisions.tolerances}
    assert {"model_f32.xml", "model_f32.bin", "model_int8.xml", "model_int8.bin"} <= set(precisions.files)
    for one in gate.precisions.values():
        assert one.graph is None or one.graph in precisions.files
    assert [each.batch for each in gate.precisions["int8"].attempts[-1].agreement] == list(BATCHES)
    assert (gate.tiles, gate.tiles_with_region) == (len(TILES), validation.with_region.sum())
    assert gate.limits["int8"]["flips"] == 1.0


def test_a_precision_that_fails_every_variant_is_left_out(
    f32: Ir, graphs: Graphs, validation: ValidationTiles, golden: GoldenTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, flips=1.0, iou=1.5)
    monkeypatch.setattr(precisions_module, "VARIANTS", VARIANTS[:2])
    lines: list[str] = []
    precisions = made(f32, graphs, validation, golden, say=lines.append)
    assert set(precisions.files) == {"model_f32.xml", "model_f32.bin"}
    assert precisions.tolerances == {}
    int8 = precisions.gate(validation).precisions["int8"]
    assert (int8.graph, [each.how for each in int8.attempts]) == (
        None,
        [variant.description for variant in VARIANTS[:2]],
    )
    assert int8.reason is not None
    assert "expected at least 1.5" in int8.reason
    assert any(line.startswith("int8, ") and int8.reason in line for line in lines)
    assert precisions.files["model_f32.xml"] == f32.xml


def test_an_allowed_precision_that_fails_records_the_missed_limits(
    f32: Ir, graphs: Graphs, validation: ValidationTiles, golden: GoldenTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, flips=1.0, iou=1.5)
    monkeypatch.setattr(precisions_module, "VARIANTS", VARIANTS[:1])
    precisions = made(f32, graphs, validation, golden, precisions=["int8"], allow=["int8"])
    gate = precisions.gate(validation)
    assert set(gate.precisions) == {"f32", "int8"}
    assert gate.precisions["int8"].graph == "model_int8.xml"
    assert gate.precisions["int8"].reason is not None
    assert "model_int8.xml" in precisions.files


def test_f32_remains_and_records_the_missed_limits(
    f32: Ir, graphs: Graphs, validation: ValidationTiles, golden: GoldenTiles
) -> None:
    """The separate gate of f32 is stricter than this one."""
    other = dataclasses.replace(validation, logit=-validation.logit + 2 * validation.score_threshold)
    gate = made(f32, graphs, other, golden, precisions=[]).gate(other).precisions["f32"]
    assert gate.graph == "model_f32.xml"
    assert gate.reason is not None
    assert "verdicts differ; at most 0.5 % may" in gate.reason


def test_tiles_without_a_region_are_warned_of(
    f32: Ir, graphs: Graphs, validation: ValidationTiles, golden: GoldenTiles
) -> None:
    find = RegionFinder(GRID, (validation.map.shape[1], validation.map.shape[2]), 1e6, golden.scale("map"))
    lines: list[str] = []
    made(f32, graphs, dataclasses.replace(validation, find_regions=find), golden, precisions=[], say=lines.append)
    assert lines[0].startswith("warning: no validation tile has a region, ")


def test_f32_that_cannot_be_run_ends_the_export(
    f32: Ir, graphs: Graphs, validation: ValidationTiles, golden: GoldenTiles
) -> None:
    with pytest.raises(ExportError, match="f32 cannot be run"):
        made(Ir(f32.xml, b""), graphs, validation, golden, precisions=[])


def test_a_graph_that_cannot_run_is_a_failed_attempt_and_never_allowed(
    f32: Ir, validation: ValidationTiles, golden: GoldenTiles
) -> None:
    broken = Candidate("broken", lambda: Ir(f32.xml, b""), "model_int8.xml")
    whole = Candidate("whole", lambda: f32, "model_int8.xml")
    alone = evaluate_candidates("int8", [broken], validation, golden, allow=True)
    assert (alone.gate.graph, alone.made, alone.gate.attempts[0].agreement) == (None, None, [])
    assert alone.gate.reason is not None
    assert "OpenVINO cannot use" in alone.gate.reason
    mended = evaluate_candidates("int8", [broken, whole], validation, golden)
    assert (mended.gate.graph, mended.gate.reason) == ("model_int8.xml", None)
    assert mended.made is not None
    assert mended.made.tolerance == LEAST_TOLERANCE


def test_the_last_variant_that_runs_is_allowed(f32: Ir, validation: ValidationTiles, golden: GoldenTiles) -> None:
    other = dataclasses.replace(validation, logit=-validation.logit + 2 * validation.score_threshold)
    ways = [Candidate(how, partial(Ir, f32.xml, weights), "model_int8.xml")
            for how, weights in (("first", f32.weights), ("second", f32.weights), ("broken", b""))]  # fmt: skip
    evaluated = evaluate_candidates("int8", ways, other, golden, allow=True)
    assert evaluated.gate.graph == "model_int8.xml"
    assert [each.how for each in evaluated.gate.attempts] == ["broken", "first", "second"]
    assert "verdicts differ; at most 0.5 % may" in (evaluated.gate.reason or "")


def test_the_reason_is_that_of_the_last_variant_that_runs(
    f32: Ir, validation: ValidationTiles, golden: GoldenTiles
) -> None:
    other = dataclasses.replace(validation, logit=-validation.logit + 2 * validation.score_threshold)
    ways = [Candidate(how, partial(Ir, f32.xml, weights), "model_int8.xml")
            for how, weights in (("runs", f32.weights), ("broken", b""))]  # fmt: skip
    evaluated = evaluate_candidates("int8", ways, other, golden)
    assert evaluated.gate.graph is None
    assert [each.how for each in evaluated.gate.attempts] == ["broken", "runs"]
    assert "verdicts differ; at most 0.5 % may" in (evaluated.gate.reason or "")


def test_a_variant_that_nncf_cannot_make_is_a_failed_attempt(
    f32: Ir, validation: ValidationTiles, golden: GoldenTiles
) -> None:
    too_small = TILES[:2, : TILE // 2, : TILE // 2]
    with pytest.raises(ExportError, match="NNCF cannot quantise this model"):
        quantise(f32, (too_small,), VARIANTS[0], transformer=False)
    ways = list(int8_candidates(f32, (too_small,), transformer=False))[:2]
    gone = evaluate_candidates("int8", ways, validation, golden, allow=True)
    assert (gone.gate.graph, len(gone.gate.attempts)) == (None, 2)
    assert "NNCF cannot" in (gone.gate.reason or "")


def test_every_precision_of_a_model_that_compares_is_made_and_judged_by_both_inputs(
    comparing_model: DenseClassifier, comparing_graphs: Graphs
) -> None:
    cells = TILE // CELL_PX
    difference = np.random.default_rng(4).integers(0, 256, (len(TILES), cells, cells, CHANNELS), np.uint8)
    golden = torch_answers(comparing_model, TILES, difference)
    find = RegionFinder(GRID, (cells, cells), float(np.median(golden.map)), golden.scale("map"))
    middle = float(np.median(golden.logit))
    validation = ValidationTiles(TILES, golden.logit, golden.map, find(golden.map), "drawn", middle, find, difference)
    evaluated = made(
        to_ir(comparing_graphs.onnx),
        comparing_graphs,
        validation,
        golden,
        quantisation_samples=(TILES, difference),
        allow=("bf16", "int8"),
    ).evaluated
    for precision in ("f32", "int8", *(["bf16"] if HAS_BF16 else [])):
        agreement = evaluated[precision].gate.attempts[-1].agreement  # type: ignore[index]
        assert [each.batch for each in agreement] == [*BATCHES]
        assert all((each.map_correlation or 0) > 0.9 for each in agreement), precision


def test_a_precision_that_the_machine_lacks_is_tried_once(
    f32: Ir, validation: ValidationTiles, golden: GoldenTiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PrecisionError("this processor has no bf16")

    monkeypatch.setattr(precisions_module, "open_engine", refuse)
    lines: list[str] = []
    evaluated = evaluate_candidates(
        "bf16", bf16_candidates(f32, None), validation, golden, allow=True, say=lines.append
    )
    assert (evaluated.gate.graph, len(evaluated.gate.attempts)) == (None, 1)
    assert evaluated.gate.reason == "the machine of the export has no bf16"
    assert lines == [f"bf16, {evaluated.gate.attempts[0].how}: {evaluated.gate.reason}"]


@pytest.mark.parametrize("factor", [1e3, np.nan])
@pytest.mark.parametrize("output", ["logit", "map"])
def test_a_difference_of_half_the_scale_is_never_allowed(
    f32: Ir, validation: ValidationTiles, golden: GoldenTiles, output: str, factor: float
) -> None:
    """With a tolerance as large as the scale, every answer would pass on the line, even zeros."""
    far = dataclasses.replace(golden, **{output: np.float32(factor) * getattr(golden, output)})
    ways = [Candidate(how, lambda: f32, "model_int8.xml") for how in ("first", "second")]
    evaluated = evaluate_candidates("int8", ways, validation, far, allow=True)
    assert (evaluated.gate.graph, evaluated.made) == (None, None)
    assert [each.missed for each in evaluated.gate.attempts] == [
        ["golden tiles are off by more than 0.5 of the scale"]
    ] * 2
