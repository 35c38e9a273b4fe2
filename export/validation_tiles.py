"""Tiles that each precision is held against the model on, tiles that the map is checked on, and tiles that a model is
quantised by.

Held are tiles of the validation groups, on which no weight was trained. The recipe heatline trains on all groups: of
its runs, tiles of half of the training groups are held. A model is quantised by tiles of other groups, so that what a
quantisation is judged on never shaped it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.bundle import Calibration
from edge.bundle.manifest import Grid
from edge.errors import InputError
from edge.geometry import Stitcher, TileGrid
from edge.inference import Engine, infer
from edge.util.text import format_count
from export.gate import TOLERANCE
from train.progress import Track
from train.readers import LabelledImage

ENOUGH_TILES, ENOUGH_WITH_REGION = 500, 200
GOOD_TILES = 240
"""Enough to tell a place that is always hot from chance (export/map_checks.py)."""
QUANTISATION_TILES = 300
"""What NNCF takes by default; statistics of activations settle well before."""


@dataclass(frozen=True)
class ValidationTiles:
    """Tiles, what the model itself says of them in f32, and what that means by the bundle's thresholds."""

    tiles: NDArray[np.uint8]
    """[N, tile, tile, 3]"""
    logit: NDArray[np.float32]
    """[N]"""
    map: NDArray[np.float32]
    """[N, h, w]"""
    regions: NDArray[np.bool_]
    """[N, rows, columns] of the heatmap: what `find_regions` finds in the maps."""
    tiles_are: str
    """Which tiles they are, in words."""
    score_threshold: float
    """Logits."""
    find_regions: "RegionFinder"

    @property
    def evidence_threshold(self) -> float:
        """Logits."""
        return self.find_regions.evidence_threshold

    @property
    def tile_px(self) -> int:
        return int(self.tiles.shape[1])

    @property
    def settled(self) -> NDArray[np.bool_]:
        """[N], where the verdict does not hang on rounding. A threshold lies on the very logit of some tile, and of all
        tiles that show the same."""
        rounding = TOLERANCE * float(np.abs(self.logit).max())
        return np.asarray(np.abs(self.logit - self.score_threshold) > rounding)

    @cached_property
    def with_region(self) -> NDArray[np.bool_]:
        """[N], where the model finds a region that does not hang on rounding. The evidence threshold too lies on the
        very peak of some tile."""
        return self.find_regions.settled(self.map)


class RegionFinder:
    """Where single tiles show evidence: the line's own stitching, smoothing and threshold, on a frame of one tile.

    Args:
        scale: largest absolute value of a map.
    """

    def __init__(self, grid: Grid, map_hw: tuple[int, int], evidence_threshold: float, scale: float) -> None:
        tile = TileGrid((grid.tile_px, grid.tile_px), grid.tile_px, 0)
        self._stitcher = Stitcher(tile, map_hw, grid.heatmap_cell_px, grid.smoothing_px)
        self.evidence_threshold, self._rounding = evidence_threshold, TOLERANCE * scale

    def __call__(self, maps: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Cells over the evidence threshold [N, rows, columns], of maps [N, h, w]."""
        return self._heatmaps(maps) >= self.evidence_threshold

    def settled(self, maps: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether maps [N, h, w] have a cell that exceeds the threshold by more than rounding, [N]."""
        return np.asarray(self._heatmaps(maps).max(axis=(1, 2)) > self.evidence_threshold + self._rounding)

    def _heatmaps(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, rows, columns]"""
        heatmaps = np.empty((len(maps), *self._stitcher.heatmap_hw), np.float32)
        for one, out in zip(maps, heatmaps, strict=True):
            out[:] = self._stitcher.stitch(one[None])
        return heatmaps


def hold_tiles(
    images: Sequence[LabelledImage],
    model: Engine,
    grid: Grid,
    map_hw: tuple[int, int],
    calibration: Calibration,
    scale: float,
    track: Track = iter,
    are: str = "of the validation groups",
) -> ValidationTiles:
    """Tiles of the images, until there are enough: all of the first frames, and of later ones those with a region.

    Args:
        images: at least one.
        model: the model itself, behind the interface of an engine.
        scale: largest absolute value of a map: float32 rounds each by `TOLERANCE` of it at most.
        track: wraps the images as they are run, to show how far that is.
        are: which images they are, in words.
    """
    find_regions = RegionFinder(grid, map_hw, calibration.evidence_threshold, scale)
    kept: list[tuple[NDArray[Any], ...]] = []
    tiles = with_region = whole = searched = 0
    for image in track(_shuffled(images)):
        if tiles >= ENOUGH_TILES and with_region >= ENOUGH_WITH_REGION:
            break
        cut = cut_frame(image, grid)
        logit, maps = infer(model, cut)
        found = find_regions.settled(maps)
        if tiles < ENOUGH_TILES:
            keep, whole = np.ones_like(found), whole + 1
        else:
            keep, searched = found, searched + 1
        kept.append((cut[keep], logit[keep], maps[keep], find_regions(maps[keep])))
        tiles, with_region = tiles + int(keep.sum()), with_region + int(found.sum())
    tiles_are = f"tiles of {whole} of the {format_count(len(images), 'frame')} {are}"
    if searched:
        tiles_are += f", and those with a region of {searched} more"
    all_tiles, logit, maps, regions = (np.concatenate(column) for column in zip(*kept, strict=True))
    return ValidationTiles(all_tiles, logit, maps, regions, tiles_are, calibration.score_threshold, find_regions)


def divide_by_group(
    images: Sequence[LabelledImage],
) -> tuple[list[LabelledImage], list[LabelledImage], str]:
    """Frames that precisions are held to, other frames to quantise by, and which the first are in words.

    For runs without validation groups. No group is in both; of a single group, no frame; a single frame is in both.
    Both get good and defective groups alike, as far as there are enough.

    Args:
        images: at least one.
    """
    groups: dict[str | None, list[LabelledImage]] = {}
    for image in _shuffled(images):
        groups.setdefault(image.group, []).append(image)
    parts = sorted(groups.values(), key=lambda group: sum(image.defective for image in group) / len(group))
    if len(parts) == 1:
        parts = [[image] for image in sorted(parts[0], key=lambda image: image.defective)]
    held, others = ([image for part in parts[start::2] for image in part] for start in (0, 1))
    if not others:
        return held, held, "of the training groups, by which int8 is quantised too"
    return held, others, "of the training groups"


def quantisation_tiles(images: Sequence[LabelledImage], grid: Grid) -> NDArray[np.uint8]:
    """Tiles [N, tile, tile, 3] of as many frames as can be; of the same frames, the same ones each time.

    Raises:
        InputError: there is no frame.
    """
    if not images:
        raise InputError(
            "there is no image in the training groups, and int8 is quantised by such; choose other groups with "
            "split.val and split.test, or leave int8 out with --precision"
        )
    chosen = _shuffled(images)[:QUANTISATION_TILES]
    of_each = -(-QUANTISATION_TILES // len(chosen))
    rng = np.random.default_rng(0)
    tiles = []
    for image in chosen:
        cut = cut_frame(image, grid)
        tiles.append(cut[rng.permutation(len(cut))[:of_each]])  # copies, so that the frame can be forgotten
    return np.concatenate(tiles)[:QUANTISATION_TILES]


def good_tiles(images: Sequence[LabelledImage], grid: Grid) -> NDArray[np.uint8]:
    """Tiles [N, tile, tile, 3] without a defective pixel, at most `GOOD_TILES`, of as many good frames as can be.

    Where no frame is good, those of defective frames stand in, where it is known; there may be none.
    """
    frames = [image for image in images if not image.defective] or images
    chosen = _shuffled(frames)[:GOOD_TILES]
    of_each = -(-GOOD_TILES // max(len(chosen), 1))
    rng = np.random.default_rng(0)
    tiles = [np.empty((0, grid.tile_px, grid.tile_px, 3), np.uint8)]
    for image in chosen:
        rgb = image.pixels()
        mask = image.mask((rgb.shape[0], rgb.shape[1])) if image.defective else np.zeros(rgb.shape[:2], np.bool_)
        if mask is not None:
            clean = ~_cut(mask[..., None].view(np.uint8), grid).any(axis=(1, 2, 3))
            tiles.append(_cut(rgb, grid)[rng.permutation(np.flatnonzero(clean))[:of_each]])
    return np.concatenate(tiles)[:GOOD_TILES]


def cut_frame(image: LabelledImage, grid: Grid) -> NDArray[np.uint8]:
    """All tiles of one frame [N, tile, tile, 3]."""
    return _cut(image.pixels(), grid)


def _cut(pixels: NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    """All tiles [N, tile, tile, C] of pixels [H, W, C]."""
    return TileGrid((pixels.shape[0], pixels.shape[1]), grid.tile_px, grid.overlap_px).tiles(pixels)


def _shuffled(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Neighbours in a folder look alike, so that the first frames would not stand for all."""
    return [images[place] for place in np.random.default_rng(0).permutation(len(images))]
