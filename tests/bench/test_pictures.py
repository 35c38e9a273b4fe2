"""The pictures that benches make if none are given."""

from pathlib import Path

import numpy as np

from heatline.bench.pictures import draw_shapes, golden_mosaic, write_pictures
from heatline.edge.bundle import Bundle
from heatline.edge.geometry import TileGrid
from heatline.edge.images import list_images, read_rgb


def test_each_tile_of_a_mosaic_is_a_golden_tile(bundle: Bundle) -> None:
    golden, tiling = bundle.golden(), bundle.manifest.grid
    pitch = tiling.tile_px - tiling.overlap_px
    frame = golden_mosaic(bundle, (3 * pitch + tiling.overlap_px, 4 * pitch + tiling.overlap_px), seed=1)
    grid = TileGrid(frame.shape[:2], tiling.tile_px, tiling.overlap_px)
    assert len(grid) == 12
    for y, x in grid.origins_yx:
        assert any(np.array_equal(frame[y : y + pitch, x : x + pitch], tile[:pitch, :pitch]) for tile in golden.tiles)
    lowest = golden.tiles[golden.logit.argmin(), :pitch, :pitch]
    assert np.array_equal(golden_mosaic(bundle, (pitch, 2 * pitch), 1, lowest=1), np.hstack([lowest, lowest]))


def test_no_two_frames_of_a_camera_are_the_same(bundle: Bundle, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", bundle, (300, 500), 4)
    frames = [read_rgb(path) for path in list_images(tmp_path / "pictures")]
    assert {frame.shape for frame in frames} == {(300, 500, 3)}
    assert len({frame.tobytes() for frame in frames}) == 4


def test_the_same_seed_draws_the_same_shapes() -> None:
    first, again, other = (draw_shapes((240, 320), seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.std() > 20
