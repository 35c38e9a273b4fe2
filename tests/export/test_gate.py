"""The gate passes only graphs that agree with the model."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatline.edge.bundle import GoldenTiles
from heatline.edge.errors import ExportError
from heatline.edge.inference.engine import ONNX_GRAPH
from heatline.export import gate
from heatline.export.gate import TOLERANCE, pass_gate
from tests.small_bundle import CELLS, golden_tiles, graph, to_openvino


@pytest.fixture
def graphs(tmp_path: Path) -> Path:
    onnx_graph = graph()
    for name, data in {ONNX_GRAPH: onnx_graph, **to_openvino(onnx_graph)}.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_graphs_that_agree_pass_with_their_figures(graphs: Path) -> None:
    passed = pass_gate(golden_tiles(), graphs)
    assert passed.tiles == 4
    assert set(passed.largest_difference) == {"logit", "map", "mean(map) - logit"}
    assert all(0 <= difference <= passed.tolerance for difference in passed.largest_difference.values())


def test_a_graph_that_compares_passes_with_the_differences_of_its_tiles_alone(tmp_path: Path) -> None:
    onnx_graph = graph(compares=True)
    for name, data in {ONNX_GRAPH: onnx_graph, **to_openvino(onnx_graph)}.items():
        (tmp_path / name).write_bytes(data)
    golden = golden_tiles(compares=True)
    assert pass_gate(golden, tmp_path).tiles == 4
    assert golden.difference is not None
    with pytest.raises(ExportError, match="off by"):
        pass_gate(dataclasses.replace(golden, difference=golden.difference[::-1]), tmp_path)


def test_map_rounding_is_subtracted_and_reported(graphs: Path) -> None:
    """Rounding may move one tile's map; its logit and the other maps are checked as usual."""
    golden = golden_tiles()
    scale = float(np.abs(golden.map).max())
    maps = golden.map.copy()
    maps[2, 0, :2] += np.array([0.01, -0.01], np.float32) * scale  # the mean remains equal to the logit
    rounding = np.array([0, 0, 0.0101, 0], np.float32) * scale
    passed = pass_gate(dataclasses.replace(golden, map=maps, map_rounding=rounding), graphs)
    assert passed.map_rounding == pytest.approx(0.0101, rel=1e-3)
    assert passed.largest_difference["map"] < 1e-4
    assert (passed.maps_moved, passed.largest_move) == (1, pytest.approx(0.01, rel=1e-2))
    for too_small in (np.roll(rounding, 1), rounding * 0.9):
        with pytest.raises(ExportError, match="in map"):
            pass_gate(dataclasses.replace(golden, map=maps, map_rounding=too_small), graphs)
    with pytest.raises(ExportError, match="logit"):
        pass_gate(dataclasses.replace(golden, logit=golden.logit * np.float32(1.001), map_rounding=rounding), graphs)
    with pytest.raises(ExportError):
        pass_gate(dataclasses.replace(golden, map=maps * np.float32(np.nan), map_rounding=rounding), graphs)


def test_maps_that_rounding_can_move_too_far_are_refused(graphs: Path) -> None:
    golden = golden_tiles()
    rounding = np.array([0, 0.51, 0, 0], np.float32) * golden.scale("map")
    with pytest.raises(ExportError, match=r"rounding alone moves a map of this model by 0\.51 of the scale"):
        pass_gate(dataclasses.replace(golden, map_rounding=rounding), graphs)


@pytest.mark.parametrize("output", ["logit", "map"])
def test_a_difference_of_two_tolerances_is_refused(graphs: Path, output: str) -> None:
    golden = golden_tiles()
    answers = {"logit": golden.logit.copy(), "map": golden.map.copy()}
    answers[output] += 2e-4 * np.abs(answers[output]).max()
    with pytest.raises(ExportError, match=output):
        pass_gate(GoldenTiles(golden.tiles, **answers), graphs)


def test_a_logit_that_is_not_the_mean_of_its_map_is_refused(graphs: Path) -> None:
    golden = golden_tiles()
    off = golden.logit + np.float32(0.01) * np.abs(golden.logit).max()
    with pytest.raises(ExportError, match="PyTorch itself"):
        pass_gate(GoldenTiles(golden.tiles, off, golden.map), graphs)


def test_a_logit_that_contradicts_the_stated_pooling_is_refused(graphs: Path) -> None:
    with pytest.raises(ExportError, match=r"off by .* of the scale in top-mean\(map, 16\) - logit, allowed is 1e-04"):
        pass_gate(golden_tiles(), graphs, top_cells=16)
    assert "top-mean(map, 196) - logit" in pass_gate(golden_tiles(), graphs, CELLS**2).largest_difference


def test_a_graph_that_answers_nan_is_refused(graphs: Path) -> None:
    golden = golden_tiles()
    with pytest.raises(ExportError):
        pass_gate(GoldenTiles(golden.tiles, np.full_like(golden.logit, np.nan), golden.map), graphs)


def test_an_ir_of_another_model_is_refused(graphs: Path) -> None:
    other = graph(gain=90.0)
    for name, data in to_openvino(other).items():
        (graphs / name).write_bytes(data)
    with pytest.raises(ExportError, match="openvino"):
        pass_gate(golden_tiles(), graphs)


def test_answers_that_depend_on_the_batch_are_refused(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each agrees with the model within the tolerance; two of them differ by more."""
    golden = golden_tiles()
    apart = np.float32(0.9 * TOLERANCE * np.abs(golden.map).max())

    def answers(shift: float) -> Iterator[Any]:
        yield "openvino", 1, golden.logit + apart, golden.map + apart
        yield "openvino", 8, golden.logit + np.float32(shift), golden.map + np.float32(shift)

    golden = dataclasses.replace(golden, logit=golden.logit * 0 + np.float32(np.abs(golden.map).max()))
    golden = dataclasses.replace(golden, map=np.broadcast_to(golden.logit[:, None, None], golden.map.shape).copy())
    monkeypatch.setattr(gate, "_answers", lambda *_: answers(float(apart)))
    pass_gate(golden, graphs)
    monkeypatch.setattr(gate, "_answers", lambda *_: answers(-float(apart)))
    with pytest.raises(ExportError, match=r"openvino in batches of 8 is off by 1\.8e-04"):
        pass_gate(golden, graphs)
