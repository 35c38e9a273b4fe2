"""The checks find a map that is hot in one place whatever tiles show, and pass a map that depends on the tiles."""

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.bundle.manifest import MapCheck
from heatline.edge.errors import ExportError
from heatline.export.gate import ENOUGH_TILES, border, check_maps, effective_tiles, reorient, stuck

SEED = st.integers(0, 2**32 - 1)
CELLS = st.sampled_from([7, 14, 28])
SHARED_3X3, OUTERMOST = "the map is stuck: .* lie in the same 3x3 cells", "the map is drawn to the border: .* outermost"


def noise(seed: int, cells: int, tiles: int = 100) -> NDArray[np.float32]:
    """Cold maps with peaks at random places."""
    return np.random.default_rng(seed).normal(-6, 1, (tiles, cells, cells)).astype(np.float32)


def share(check: MapCheck | None) -> float:
    assert check is not None
    return check.share


@given(seed=SEED, cells=CELLS)
def test_random_peaks_pass_without_a_warning(seed: int, cells: int) -> None:
    checks = check_maps(noise(seed, cells))
    assert checks.warnings == []
    assert checks.tiles == 100
    assert checks.border is not None
    assert checks.border.chance == pytest.approx({7: 24 / 49, 14: 52 / 196, 28: 108 / 784}[cells])
    assert abs(checks.border.beyond_chance) < 0.1


@given(seed=SEED, cells=CELLS, place=st.tuples(st.integers(0, 27), st.integers(0, 27)))
def test_one_cell_that_is_always_hot_is_refused(seed: int, cells: int, place: tuple[int, int]) -> None:
    maps = noise(seed, cells)
    maps[:, place[0] % cells, place[1] % cells] += 20
    with pytest.raises(ExportError) as caught:
        check_maps(maps)
    assert "the map is stuck: 100 % of the peaks on 100 good tiles lie in the same 3x3 cells" in str(caught.value)
    assert str(caught.value).endswith("or allow it with --allow map")
    assert "\n" not in str(caught.value)


@given(seed=SEED, cells=CELLS)
def test_a_refused_map_can_be_allowed_and_the_checks_record_it(seed: int, cells: int) -> None:
    maps = noise(seed, cells)
    maps[:, 0, cells // 2] += 1e6
    checks = check_maps(maps, allow=True)
    assert [warning.partition(":")[0] for warning in checks.warnings] == [
        "the map is stuck", "the map is drawn to the border",
    ]  # fmt: skip
    assert share(checks.stuck) == 1
    assert share(checks.border) == pytest.approx(1, abs=1e-3)
    assert all(warning.endswith("; --allow map allowed it") for warning in checks.warnings)


@given(seed=SEED, cells=CELLS)
def test_a_hot_border_is_refused(seed: int, cells: int) -> None:
    maps = noise(seed, cells)
    maps[:, :, [0, -1]] += 20
    maps[:, [0, -1]] += 20
    with pytest.raises(ExportError, match=OUTERMOST):
        check_maps(maps)


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


@given(seed=SEED, cells=CELLS)
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
    assert share(stuck(maps)) == pytest.approx(most / peaks.sum(), rel=1e-4)
    assert share(border(maps)) == pytest.approx(outside / over, rel=1e-4)


@given(seed=SEED, scale=st.floats(0.01, 100), shift=st.floats(-50, 50))
def test_only_evidence_above_the_median_counts(seed: int, scale: float, shift: float) -> None:
    """A bias or a gain of all maps changes nothing."""
    maps = noise(seed, 14, 60)
    other = (maps * scale + shift).astype(np.float32)
    assume(np.ptp(other) > 1e-2 * np.abs(other).max())
    for figure in (stuck, border):
        assert share(figure(other)) == pytest.approx(share(figure(maps)), abs=0.02)


def test_blank_tiles_whose_flat_maps_all_peak_in_the_same_cell_are_not_a_stuck_map() -> None:
    maps = noise(3, 14, 400)
    maps[100:] = -6
    maps[100:, 0, 0] += 0.01
    checks = check_maps(maps)
    assert checks.warnings == []
    assert effective_tiles(maps) == pytest.approx(100, abs=15)


def test_constant_maps_and_too_few_maps_are_not_checked() -> None:
    few = noise(4, 14, ENOUGH_TILES - 1)
    few[:, 3, 3] += 20
    for maps in (few, np.full((99, 14, 14), -3, np.float32), np.empty((0, 14, 14), np.float32)):
        checks = check_maps(maps)
        assert (checks.stuck, checks.border) == (None, None)
        assert len(checks.warnings) == 1
        assert f"the map is not checked: {len(maps)} good tiles count as " in checks.warnings[0]


@pytest.mark.parametrize(("cells", "checked"), [(2, ""), (4, ""), (5, "stuck"), (6, "stuck"), (7, "stuck border")])
def test_a_place_that_is_most_of_a_coarse_map_is_not_checked(cells: int, checked: str) -> None:
    checks = check_maps(noise(5, cells))
    assert checks.warnings == []
    assert [name for name in ("stuck", "border") if getattr(checks, name) is not None] == checked.split()


def test_equally_hot_cells_share_the_peak() -> None:
    maps = np.zeros((60, 7, 7), np.float32)
    maps[:, [0, 6], [0, 6]] = 1
    assert share(stuck(maps)) == 0.5
    assert share(border(maps)) == 1


@pytest.mark.parametrize("count", [0, 8, 19])
def test_tiles_are_reoriented_in_all_eight_orientations(count: int) -> None:
    tile = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    lying = reorient(np.repeat(tile[None], count, axis=0))
    assert lying.shape == (count, 4, 4, 3)
    assert len({one.tobytes() for one in lying}) == min(count, 8)
    assert all(sorted(one[..., 0].ravel()) == sorted(tile[..., 0].ravel()) for one in lying)
    assert all((one[..., 1] == one[..., 0] + 1).all() for one in lying)  # colours do not change


def test_differences_are_oriented_as_their_tiles() -> None:
    cells = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 8), np.uint8)
    enlarged = cells.repeat(8, axis=1).repeat(8, axis=2)
    np.testing.assert_array_equal(reorient(enlarged)[:, ::8, ::8], reorient(cells))


def test_parts_that_always_lie_in_the_same_place_are_no_stuck_map() -> None:
    """The map shows the brightest cell. The tiles are all bright in the same cell, but not once they are reoriented."""
    tiles = np.random.default_rng(6).integers(0, 99, (80, 14, 14, 3), np.uint8)
    tiles[:, 2, 9] = 255
    with pytest.raises(ExportError, match=SHARED_3X3):
        check_maps(tiles[..., 0].astype(np.float32))
    assert check_maps(reorient(tiles)[..., 0].astype(np.float32)).warnings == []
