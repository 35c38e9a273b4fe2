"""Selects validation tiles, on which each precision is compared with the model, good tiles for the map checks, and
quantisation samples.

Validation tiles come from the validation groups, on which no weight was trained. The recipe heatline trains on all
groups: for its runs, validation tiles come from half of the training groups. Quantisation samples come from other
groups, so that a quantisation is never evaluated on its own samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Calibration
from heatline.edge.bundle.manifest import Grid
from heatline.edge.errors import InputError
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inference import Engine, infer
from heatline.edge.util.text import format_count
from heatline.export.gate import TOLERANCE
from heatline.train.progress import Track
from heatline.train.readers import LabelledImage
from heatline.train.references import References
from heatline.train.validation_frames import Inputs, graph_inputs

ENOUGH_TILES, ENOUGH_WITH_REGION = 500, 200
GOOD_TILES = 240
"""Enough tiles to distinguish a place that is always hot from chance (export/gate.py)."""
QUANTISATION_TILES = 100
"""A third of NNCF's default, as statistics of activations settle with far fewer, and take most of an attempt's time."""


@dataclass(frozen=True)
class ValidationTiles:
    """Tiles, the model's own answers in f32, and the regions by the bundle's thresholds."""

    tiles: NDArray[np.uint8]
    """[N, tile, tile, 3]"""
    logit: NDArray[np.float32]
    """[N]"""
    map: NDArray[np.float32]
    """[N, h, w]"""
    regions: NDArray[np.bool_]
    """[N, rows, columns] of the heatmap: the result of `find_regions` for the maps."""
    tiles_are: str
    """A description of the tiles."""
    score_threshold: float
    """Logits."""
    find_regions: "RegionFinder"
    difference: NDArray[np.uint8] | None = None
    """[N, cells, cells, channels], if the model compares tiles with references."""

    @property
    def tile_px(self) -> int:
        return int(self.tiles.shape[1])

    @property
    def settled(self) -> NDArray[np.bool_]:
        """[N], whether the verdict does not depend on rounding. A threshold often equals the logit of a tile, and of
        all tiles that show the same."""
        rounding = TOLERANCE * float(np.abs(self.logit).max())
        return np.asarray(np.abs(self.logit - self.score_threshold) > rounding)

    @cached_property
    def with_region(self) -> NDArray[np.bool_]:
        """[N], whether the model finds a region that does not depend on rounding. The evidence threshold, too, often
        equals the peak of a tile."""
        return self.find_regions.settled(self.map)


class RegionFinder:
    """Finds regions in single tiles, by the line's own stitching, smoothing and threshold, as frames of one tile."""

    def __init__(self, grid: Grid, map_hw: tuple[int, int], evidence_threshold: float, scale: float) -> None:
        # The scale is the largest absolute value of a map.
        tile = TileGrid((grid.tile_px, grid.tile_px), grid.tile_px, 0)
        self._stitcher = Stitcher(tile, map_hw, grid.heatmap_cell_px, grid.smoothing_px)
        self.evidence_threshold, self._rounding = evidence_threshold, TOLERANCE * scale

    def __call__(self, maps: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return the cells [N, rows, columns] of maps [N, h, w] that reach the evidence threshold."""
        return self._heatmaps(maps) >= self.evidence_threshold

    def settled(self, maps: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return [N], whether maps [N, h, w] have a cell that exceeds the threshold by more than rounding."""
        return np.asarray(self._heatmaps(maps).max(axis=(1, 2)) > self.evidence_threshold + self._rounding)

    def _heatmaps(self, maps: NDArray[np.float32]) -> NDArray[np.float32]:
        """[N, rows, columns]"""
        heatmaps = np.empty((len(maps), *self._stitcher.heatmap_hw), np.float32)
        for one, out in zip(maps, heatmaps, strict=True):
            out[:] = self._stitcher.stitch(one[None])
        return heatmaps


def select_validation_tiles(
    images: Sequence[LabelledImage],
    model: Engine,
    engine: Engine,
    grid: Grid,
    map_hw: tuple[int, int],
    calibration: Calibration,
    scale: float,
    track: Track = iter,
    are: str = "of the validation groups",
    references: References | None = None,
) -> ValidationTiles:
    """Select enough tiles of the images: all tiles of the first frames, and those with a region of later frames, which
    are defective ones if there are any.

    This and the other functions leave out frames that cannot be aligned with their reference.

    Args:
        model: the model itself, behind the interface of an engine.
        engine: its graph in f32, which is faster: it finds the tiles of later frames that the model is run on.
        scale: largest absolute value of a map: float32 rounds each value by at most `TOLERANCE` of it.
        are: a description of the images.
    """
    find_regions = RegionFinder(grid, map_hw, calibration.evidence_threshold, scale)
    selected: list[tuple[NDArray[Any], ...]] = []
    tiles = with_region = whole = searched = 0
    has_defects = any(image.defective for image in images)
    for image in track(_shuffled(images)):
        if tiles >= ENOUGH_TILES and with_region >= ENOUGH_WITH_REGION:
            break
        if tiles >= ENOUGH_TILES and has_defects and not image.defective:
            continue
        inputs = cut_frame(image, grid, references)
        if inputs is None:
            continue
        if tiles < ENOUGH_TILES:
            whole += 1
        else:
            searched += 1
            hot = find_regions.settled(infer(engine, *inputs)[1])
            if not hot.any():
                continue
            inputs = tuple(each[hot] for each in inputs)
        logit, maps = infer(model, *inputs)
        has_region = find_regions.settled(maps)
        chosen = has_region if searched else np.ones_like(has_region)
        selected.append(tuple(each[chosen] for each in (logit, maps, find_regions(maps), *inputs)))
        tiles, with_region = tiles + int(chosen.sum()), with_region + int(has_region.sum())
    tiles_are = f"tiles of {whole} of the {format_count(len(images), 'frame')} {are}"
    if searched:
        tiles_are += f", and those with a region of {searched} more{' that are defective' if has_defects else ''}"
    logit, maps, regions, all_tiles, *difference = (np.concatenate(column) for column in zip(*selected, strict=True))
    return ValidationTiles(
        all_tiles, logit, maps, regions, tiles_are, calibration.score_threshold, find_regions, *difference
    )


def divide_by_group(
    images: Sequence[LabelledImage],
) -> tuple[list[LabelledImage], list[LabelledImage], str]:
    """Divide the frames of a run without validation groups into those for validation tiles, others for quantisation.

    No group is in both parts. If there is only one group, no frame is in both; a single frame is in both. Both parts
    get good and defective groups, if there are enough.

    Returns: both, and a description of the first.
    """
    groups: dict[str | None, list[LabelledImage]] = {}
    for image in _shuffled(images):
        groups.setdefault(image.group, []).append(image)
    parts = sorted(groups.values(), key=lambda group: sum(image.defective for image in group) / len(group))
    if len(parts) == 1:
        parts = [[image] for image in sorted(parts[0], key=lambda image: image.defective)]
    validation, others = ([image for part in parts[start::2] for image in part] for start in (0, 1))
    if not others:
        return validation, validation, "of the training groups, by which int8 is quantised too"
    return validation, others, "of the training groups"


def quantisation_tiles(images: Sequence[LabelledImage], grid: Grid, references: References | None = None) -> Inputs:
    """Select quantisation samples; an InputError if there is no frame."""
    if not images:
        raise InputError(
            "there is no image in the training groups, and int8 needs some as quantisation samples; choose other "
            "groups with split.val and split.test, or leave int8 out with --precision"
        )
    return _sample(images, grid, references, QUANTISATION_TILES)


def good_tiles(images: Sequence[LabelledImage], grid: Grid, references: References | None = None) -> Inputs:
    """Select at most `GOOD_TILES` tiles without a defective pixel; there may be none.

    If no frame is good, they come from defective frames with a mask.
    """
    return _sample(
        [image for image in images if not image.defective] or images, grid, references, GOOD_TILES, clean=True
    )


def _sample(
    images: Sequence[LabelledImage], grid: Grid, references: References | None, most: int, *, clean: bool = False
) -> Inputs:
    """Select at most so many tiles from as many images as possible, reproducibly; `clean`: without defective pixels."""
    chosen = _shuffled(images)[:most]
    per_image = -(-most // max(len(chosen), 1))
    rng = np.random.default_rng(0)
    samples = []
    for image in chosen:
        if (inputs := cut_frame(image, grid, references)) is not None:
            usable = np.flatnonzero(_is_clean(image, grid)) if clean and image.defective else len(inputs[0])
            some = rng.permutation(usable)[:per_image]
            samples.append([each[some] for each in inputs])  # copies, so that the frame's memory is freed
    if not samples:
        return (np.empty((0, grid.tile_px, grid.tile_px, 3), np.uint8),)
    return tuple(np.concatenate(column)[:most] for column in zip(*samples, strict=True))


def _is_clean(image: LabelledImage, grid: Grid) -> NDArray[np.bool_]:
    """Return for each tile of a defective frame whether it has no defective pixel; without a mask none is known."""
    rgb = image.pixels()
    mask = image.mask((rgb.shape[0], rgb.shape[1]))
    defective = np.ones(rgb.shape[:2], np.bool_) if mask is None else mask
    tiles = TileGrid((rgb.shape[0], rgb.shape[1]), grid.tile_px, grid.overlap_px)
    return np.asarray(~tiles.tiles(defective[..., None].view(np.uint8)).any(axis=(1, 2, 3)))


def cut_frame(image: LabelledImage, grid: Grid, references: References | None = None) -> Inputs | None:
    """Return what a graph takes for all tiles of one frame; None: it cannot be aligned with its reference."""
    rgb = image.pixels()
    tiles = TileGrid((rgb.shape[0], rgb.shape[1]), grid.tile_px, grid.overlap_px)
    return graph_inputs(image, rgb, tiles, references)


def _shuffled(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """Shuffle the images reproducibly: neighbours in a folder look alike, so the first ones would not represent all."""
    return [images[place] for place in np.random.default_rng(0).permutation(len(images))]
