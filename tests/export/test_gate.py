"""The gate passes only graphs that agree with the model, and maps that depend on the tiles."""

import dataclasses
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.bundle import GoldenTiles
from heatline.edge.errors import ExportError
from heatline.edge.inference.engine import ONNX_GRAPH
from heatline.export import gate
from heatline.export.gate import TOLERANCE, border, check_maps, effective_tiles, pass_gate, reorient, stuck
from tests.small_bundle import CELLS, golden_tiles, graph, to_openvino


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
    too_far = np.array([0, 0.51, 0, 0], np.float32) * golden.scale("map")
    with pytest.raises(ExportError, match=r"rounding alone moves a map of this model by 0\.51 of the scale"):
        pass_gate(dataclasses.replace(golden, map_rounding=too_far), graphs)


def write(folder: Path, onnx_graph: bytes) -> Path:
    for name, data in {ONNX_GRAPH: onnx_graph, **to_openvino(onnx_graph)}.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def graphs(tmp_path: Path) -> Path:
    return write(tmp_path, graph())


def test_graphs_that_agree_pass_and_one_that_compares_with_the_differences_of_its_tiles_alone(tmp_path: Path) -> None:
    for compares in (False, True):
        golden = golden_tiles(compares=compares)
        passed = pass_gate(golden, write(tmp_path, graph(compares=compares)))
        assert passed.tiles == 4
        assert set(passed.largest_difference) == {"logit", "map", "mean(map) - logit"}
        assert all(0 <= difference <= passed.tolerance for difference in passed.largest_difference.values())
    with pytest.raises(ExportError, match="off by"):
        pass_gate(dataclasses.replace(golden, difference=golden.difference[::-1]), tmp_path)


@pytest.mark.parametrize(("output", "message"), [("map", "in map|PyTorch itself"), ("both", "logit"), ("nan", "nan")])
def test_answers_off_by_two_tolerances_or_not_finite_are_refused(graphs: Path, output: str, message: str) -> None:
    golden = golden_tiles()
    off = {name: np.float32(2 * TOLERANCE) * golden.scale(name) for name in ("logit", "map")}
    logit = golden.logit + off["logit"] * (output == "both")
    maps = golden.map + off["map"] * (output in ("map", "both"))
    with pytest.raises(ExportError, match=message):
        pass_gate(GoldenTiles(golden.tiles, logit * np.float32(np.nan if output == "nan" else 1), maps), graphs)


def test_a_logit_that_is_not_the_mean_of_its_map_is_refused(graphs: Path) -> None:
    golden = golden_tiles()
    off = golden.logit + np.float32(0.01) * np.abs(golden.logit).max()
    with pytest.raises(ExportError, match="PyTorch itself"):
        pass_gate(GoldenTiles(golden.tiles, off, golden.map), graphs)
    with pytest.raises(ExportError, match=r"off by .* of the scale in top-mean\(map, 16\) - logit, allowed is 1e-04"):
        pass_gate(golden, graphs, top_cells=16)
    assert "top-mean(map, 196) - logit" in pass_gate(golden, graphs, CELLS**2).largest_difference


def test_an_ir_of_another_model_is_refused(graphs: Path) -> None:
    for name, data in to_openvino(graph(gain=90.0)).items():
        (graphs / name).write_bytes(data)
    with pytest.raises(ExportError, match="openvino"):
        pass_gate(golden_tiles(), graphs)


SEED = st.integers(0, 2**32 - 1)
SIDES = st.sampled_from([7, 14, 28])
SHARED_3X3, OUTERMOST = "the map is stuck: .* lie in the same 3x3 cells", "the map is drawn to the border: .* outermost"


def noise(seed: int, cells: int, tiles: int = 100) -> NDArray[np.float32]:
    """Cold maps with peaks at random places."""
    return np.random.default_rng(seed).normal(-6, 1, (tiles, cells, cells)).astype(np.float32)


@pytest.mark.parametrize(("cells", "at_border"), [(7, 24 / 49), (14, 52 / 196), (28, 108 / 784)])
def test_random_peaks_pass_without_a_warning(cells: int, at_border: float) -> None:
    checks = check_maps(noise(0, cells))
    assert (checks.warnings, checks.tiles) == ([], 100)
    assert checks.border.chance == pytest.approx(at_border)
    assert abs(checks.border.beyond_chance) < 0.1


@pytest.mark.parametrize(("share_of_tiles", "fate"), [(0.15, "passes"), (0.45, "warns"), (0.75, "refused")])
def test_a_share_between_the_limits_causes_a_warning(share_of_tiles: float, fate: str) -> None:
    maps, places = noise(0, 28, 200), np.random.default_rng(1).integers(1, 27, (200, 2))
    places[: int(200 * share_of_tiles)] = 10, 17
    maps[np.arange(200), *places.T] += 20
    if fate == "refused":
        with pytest.raises(ExportError, match="expected at most 51 %; train longer, or on more good frames"):
            check_maps(maps)
        return
    warnings = check_maps(maps).warnings
    assert [warning.partition(":")[0] for warning in warnings] == ["the map may be stuck"] * (fate == "warns")
    assert all("1 % of the map; expected at most 26 %" in warning for warning in warnings)


@given(seed=SEED, cells=SIDES)
def test_figures_equal_those_of_a_count_by_hand(seed: int, cells: int) -> None:
    maps = noise(seed, cells, 20)
    peaks, over, outside = np.zeros((cells, cells)), 0.0, 0.0
    for one in maps.astype(float):
        middle = sorted(one.ravel())[(cells**2 - 1) // 2 : cells**2 // 2 + 1]
        rest = {place: max(0.0, float(one[place]) - sum(middle) / len(middle)) for place in np.ndindex(one.shape)}
        hottest = max(rest, key=lambda place: rest[place])
        peaks[hottest] += rest[hottest]
        over += sum(rest.values())
        outside += sum(value for (y, x), value in rest.items() if {y, x} & {0, cells - 1})
    corners = product(range(cells - 2), repeat=2)
    most = max(sum(peaks[y + dy, x + dx] for dy, dx in product(range(3), repeat=2)) for y, x in corners)
    found, at_border = stuck(maps), border(maps)
    assert (found.share, at_border.share) == pytest.approx((most / peaks.sum(), outside / over), rel=1e-4)


@given(seed=SEED, cells=SIDES, place=st.tuples(st.integers(0, 27), st.integers(0, 27)), at_border=st.booleans())
def test_a_map_that_is_always_hot_in_one_place_is_refused_unless_it_is_allowed(
    seed: int, cells: int, place: tuple[int, int], at_border: bool
) -> None:
    maps = noise(seed, cells)
    if at_border:
        maps[:, :, [0, -1]] += 20
        maps[:, [0, -1]] += 20
    else:
        maps[:, place[0] % cells, place[1] % cells] += 20
    with pytest.raises(ExportError, match=OUTERMOST if at_border else SHARED_3X3) as caught:
        check_maps(maps)
    assert str(caught.value).endswith("or allow it with --allow map")
    checks = check_maps(maps, allow=True)
    fault = OUTERMOST if at_border else SHARED_3X3
    assert any(re.search(rf"^{fault}.*; --allow map allowed it$", one) for one in checks.warnings)


def test_flat_constant_or_too_few_maps_are_not_called_stuck() -> None:
    blank = noise(3, 14, 400)
    blank[100:] = -6
    blank[100:, 0, 0] += 0.01  # all of these peak in the same cell
    assert (check_maps(blank).warnings, effective_tiles(blank)) == ([], pytest.approx(100, abs=15))
    few = noise(4, 14, gate.ENOUGH_TILES - 1)
    few[:, 3, 3] += 20
    for maps in (few, np.full((99, 14, 14), -3, np.float32), np.empty((0, 14, 14), np.float32)):
        checks = check_maps(maps)
        assert (checks.stuck, checks.border) == (None, None)
        assert f"the map is not checked: {len(maps)} good tiles count as " in checks.warnings[0]
    for cells, checked in ((4, []), (5, ["stuck"]), (6, ["stuck"]), (7, ["stuck", "border"])):
        coarse = check_maps(noise(5, cells))  # one place is most of a coarse map
        assert coarse.warnings == []
        assert [name for name in ("stuck", "border") if getattr(coarse, name) is not None] == checked


def test_parts_that_always_lie_in_the_same_place_are_no_stuck_map() -> None:
    """The map shows the brightest cell. The tiles are all bright in the same cell, but not once they are reoriented.

    Tiles lie in all eight orientations, their differences likewise, and colours do not change.
    """
    tiles = np.random.default_rng(6).integers(0, 99, (80, 14, 14, 3), np.uint8)
    tiles[:, 2, 9] = 255
    with pytest.raises(ExportError, match=SHARED_3X3):
        check_maps(tiles[..., 0].astype(np.float32))
    assert check_maps(reorient(tiles)[..., 0].astype(np.float32)).warnings == []
    tile = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(1, 4, 4, 3)
    for count in (0, 8, 19):
        lying = reorient(tile.repeat(count, axis=0))
        assert lying.shape == (count, 4, 4, 3)
        assert len({one.tobytes() for one in lying}) == min(count, 8)
        assert all({pixel.tobytes() for pixel in one.reshape(-1, 3)} == {each.tobytes() for each in tile.reshape(-1, 3)}
                   for one in lying)  # fmt: skip
    np.testing.assert_array_equal(reorient(tiles.repeat(8, axis=1).repeat(8, axis=2))[:, ::8, ::8], reorient(tiles))
