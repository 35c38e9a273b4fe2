"""Precisions of small models: made, compared with the model, admitted to the bundle or left out."""

import dataclasses
import resource
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import GoldenTiles
from heatline.edge.bundle.manifest import Grid
from heatline.edge.errors import BundleError, ExportError, PrecisionError
from heatline.edge.inference.devices import shared_core
from heatline.export import precisions as precisions_module
from heatline.export.gate import torch_answers
from heatline.export.onnx_graph import Graphs
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
    in_f32_under_bf16,
    is_explanation,
    outer_layers,
    output_layer,
    quantise,
)
from heatline.export.validation_tiles import RegionFinder, ValidationTiles
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.models.vit import RolloutClassifier
from tests.export.conftest import TILE

pytestmark = pytest.mark.usefixtures("one_thread")

TILES = np.random.default_rng(3).integers(0, 256, (16, TILE, TILE, 3), np.uint8)
GRID = Grid(tile_px=TILE, smoothing_px=4.0)
HAS_BF16 = "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Case(NamedTuple):
    """A small model, its graphs, and its answers: as golden tiles, and as validation tiles, half of them defective."""

    model: ExplainedClassifier
    graphs: Graphs
    f32: Ir
    golden: GoldenTiles
    validation: ValidationTiles


@pytest.fixture(scope="module", params=["cnn", pytest.param("vit", marks=pytest.mark.long)])
def case(request: pytest.FixtureRequest) -> Case:
    names = {"cnn": ("small_cnn", "cnn_graphs"), "vit": ("discarding_vit", "vit_graphs")}[request.param]
    model, graphs = map(request.getfixturevalue, names)
    golden = torch_answers(model, TILES)
    find, middle = finder(golden, float(np.median(golden.map))), float(np.median(golden.logit))
    validation = ValidationTiles(golden.tiles, golden.logit, golden.map, find(golden.map), "drawn", middle, find)
    return Case(model, graphs, to_ir(graphs.onnx), golden, validation)


def finder(golden: GoldenTiles, evidence_threshold: float) -> RegionFinder:
    height, width = golden.map.shape[1:]
    return RegionFinder(GRID, (height, width), evidence_threshold, golden.scale("map"))


def answers(ir: Ir, precision: str) -> list[NDArray[np.float32]]:
    """Return logit and map of the test's tiles."""
    model = ir.read()
    model.reshape({"tiles": list(TILES.shape)})
    found = shared_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})({"tiles": TILES})
    return [found["logit"], found["map"]]


def made(case: Case, **options: Any) -> Precisions:
    asked: dict[str, Any] = {"precisions": PRECISIONS, "allow": (), "transformer": False, "say": lambda line: None}
    for_bf16 = None if case.graphs.for_bf16 == case.graphs.onnx else lambda: to_ir(case.graphs.for_bf16)
    asked["quantisation_samples"] = (TILES,)
    return make_precisions(case.f32, for_bf16, case.validation, case.golden, **{**asked, **options})


def limits(monkeypatch: pytest.MonkeyPatch, flips: float, iou: float) -> None:
    """Set these limits, and none on golden tiles: on untrained models int8 differs much."""
    monkeypatch.setattr(precisions_module, "MOST_TOLERANCE", 100.0)
    for precision in ("bf16", "int8"):
        monkeypatch.setitem(precisions_module.LIMITS, precision, {"flips": flips, "iou_median": iou, "near_p5": iou})


def test_a_full_disk_is_not_blamed_on_the_model(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files, (_, hard) = case.f32.files("model_f32.xml"), resource.getrlimit(resource.RLIMIT_FSIZE)
    for write in (lambda: to_ir(case.graphs.onnx), lambda: write_graphs(tmp_path, files)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # files may not grow: to a write, what a full disk is
        try:
            with pytest.raises(BundleError, match="check the disk and the permissions, or set TMPDIR") as full:
                write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert str(full.value).startswith(str(tmp_path))


def test_neither_explanation_nor_layers_that_stay_in_f32_are_quantised(case: Case) -> None:
    """Nor does NNCF send telemetry: it uses a stub."""
    layers = [each.get_friendly_name() for each in case.f32.read().get_ordered_ops() if each.get_type_name() in LAYERS]
    layers = [name for name in layers if not is_explanation(name)]
    for variant, first, last in ((Quantisation("all"), 0, 0), (Quantisation("layers", True, 0.5, 0.25), 0.5, 0.25)):
        made = quantise(case.f32, (TILES[:4],), variant, transformer=isinstance(case.model, RolloutClassifier)).read()
        quantised = {
            reader.get_node().get_friendly_name()
            for each in made.get_ordered_ops()
            if each.get_type_name() == "FakeQuantize"
            for reader in each.output(0).get_target_inputs()
        }
        assert quantised & set(layers)
        assert not {name for name in quantised if is_explanation(name)}
        in_f32 = layers[: round(first * len(layers))] + layers[len(layers) - round(last * len(layers)) :]
        assert not quantised & set(in_f32)
    from nncf.telemetry import telemetry
    from nncf.telemetry.wrapper import NNCFTelemetryStub

    assert isinstance(telemetry, NNCFTelemetryStub)


def test_layers_marked_as_f32_are_hardly_rounded_under_bf16_and_equal_in_f32(case: Case) -> None:
    """OpenVINO loses the mark on some operations that it fuses, so a few layers remain in bf16.

    It also rounds where it emulates bf16, on a processor that has AVX-512 alone; on others it computes in f32.
    """
    f32 = case.f32
    marked = in_f32_under_bf16(f32, outer_layers(f32.read(), 1.0) + output_layer(f32.read()))
    for a, b in zip(answers(f32, "f32"), answers(marked, "f32"), strict=True):
        np.testing.assert_array_equal(a, b)
    exact, rounded, noted = answers(f32, "f32")[1], answers(f32, "bf16")[1], answers(marked, "bf16")[1]
    if np.array_equal(rounded, exact):
        assert not HAS_BF16
    else:
        assert 1e-4 * np.abs(exact).max() < 3 * np.abs(noted - exact).max() < np.abs(rounded - exact).max()


def test_a_precision_that_passes_enters_with_its_figures(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, flips=1.0, iou=0.0)
    precisions = made(case)
    gate = precisions.gate(case.validation)
    shipped = {"f32", "int8"} | ({"bf16"} if HAS_BF16 else set())
    assert {name for name, one in gate.precisions.items() if one.graph} == shipped == {"f32", *precisions.tolerances}
    assert {"model_f32.xml", "model_f32.bin", "model_int8.xml", "model_int8.bin"} <= set(precisions.files)
    assert [each.batch for each in gate.precisions["int8"].attempts[-1].agreement] == list(BATCHES)
    assert (gate.tiles, gate.tiles_with_region) == (len(TILES), case.validation.with_region.sum())
    assert gate.limits["int8"]["flips"] == 1.0


def test_an_allowed_precision_that_fails_records_the_missed_limits(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, flips=1.0, iou=1.5)
    lines: list[str] = []
    precisions = made(case, precisions=["int8"], allow=["int8"], say=lines.append)
    gate = precisions.gate(case.validation)
    assert set(gate.precisions) == {"f32", "int8"}
    int8 = gate.precisions["int8"]
    assert (int8.graph, "model_int8.xml" in precisions.files) == ("model_int8.xml", True)
    assert [each.how for each in int8.attempts] == [variant.description for variant in VARIANTS[1:]]
    assert "expected at least 1.5" in (int8.reason or "")
    assert any(line.startswith("int8, ") and str(int8.reason) in line for line in lines)


def test_f32_stays_with_the_limits_that_it_misses_but_must_run(case: Case) -> None:
    """The separate gate of f32 is stricter than this one."""
    other = dataclasses.replace(flipped(case.validation), find_regions=finder(case.golden, 1e6))
    lines: list[str] = []
    gate = made(case._replace(validation=other), precisions=[], say=lines.append).gate(other).precisions["f32"]
    assert gate.graph == "model_f32.xml"
    assert "verdicts differ; at most 0.5 % may" in (gate.reason or "")
    assert lines[0].startswith("warning: no validation tile has a region, ")
    with pytest.raises(ExportError, match="f32 cannot be run"):
        made(case._replace(f32=Ir(case.f32.xml, b"")), precisions=[])


def flipped(validation: ValidationTiles) -> ValidationTiles:
    """Tiles on which every verdict of the model is the other one."""
    return dataclasses.replace(validation, logit=-validation.logit + 2 * validation.score_threshold)


@pytest.mark.parametrize(
    ("tried", "options", "order", "ships", "reason"),
    [
        (["broken"], ["allow"], ["broken"], False, "OpenVINO cannot use"),
        (["broken", "whole"], [], ["broken", "whole"], True, ""),
        (["1", "2", "broken"], ["allow", "flipped"], ["broken", "1", "2"], True, "verdicts differ; at most 0.5 % may"),
        (["1", "broken"], ["flipped"], ["broken", "1"], False, "verdicts differ; at most 0.5 % may"),
        (["1", "2"], ["allow", "far"], ["1", "2"], False, "golden tiles are off by more than 0.5 of the scale"),
        (["1"], ["allow", "nan"], ["1"], False, "golden tiles are off by more than 0.5 of the scale"),
    ],
    ids=range(6),
)
def test_the_first_variant_that_passes_is_shipped_else_the_last_that_runs_if_it_is_allowed(
    case: Case, tried: list[str], options: list[str], order: list[str], ships: bool, reason: str
) -> None:
    """Beyond half the scale none is: as a tolerance, that would accept every answer on the line, even zeros."""
    weights = {"broken": b""}
    make = [partial(Ir, case.f32.xml, weights.get(how, case.f32.weights)) for how in tried]
    ways = [Candidate(how, each, "model_int8.xml") for how, each in zip(tried, make, strict=True)]
    factor = np.float32(1e3 if "far" in options else np.nan if "nan" in options else 1.0)
    golden = dataclasses.replace(case.golden, map=factor * case.golden.map)
    tiles = flipped(case.validation) if "flipped" in options else case.validation
    gate, made = evaluate_candidates("int8", ways, tiles, golden, allow="allow" in options)
    assert (gate.graph, made is not None) == ("model_int8.xml" if ships else None, ships)
    assert [each.how for each in gate.attempts] == order
    assert reason in (gate.reason or "")
    assert bool(reason) == bool(gate.reason)
    assert made is None or reason or made.tolerance == LEAST_TOLERANCE


def test_a_variant_that_nncf_cannot_make_has_failed(case: Case) -> None:
    too_small = TILES[:2, : TILE // 2, : TILE // 2]
    ways = list(int8_candidates(case.f32, (too_small,), transformer=False))[:1]
    gone, _ = evaluate_candidates("int8", ways, case.validation, case.golden, allow=True)
    assert (gone.graph, len(gone.attempts)) == (None, 1)
    assert "NNCF cannot quantise this model" in (gone.reason or "")


def test_a_precision_that_the_machine_lacks_is_tried_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PrecisionError("this processor has no bf16")

    monkeypatch.setattr(precisions_module, "open_engine", refuse)
    found, _ = evaluate_candidates("bf16", bf16_candidates(case.f32, None), case.validation, case.golden, allow=True)
    assert (found.graph, len(found.attempts)) == (None, 1)
    assert found.reason == "the machine of the export has no bf16"
