"""The plain difference to the reference, without anything learned: what a model that compares has to exceed."""

from collections.abc import Callable
from time import monotonic

import numpy as np

from heatline.bench.recipes.rows import Training
from heatline.bench.recipes.truth import Truth
from heatline.edge.bundle.pooling import pool
from heatline.edge.reference.difference import TOLERANCES_PX
from heatline.edge.util.text import format_count
from heatline.train.config import DenseRecipeConfig, TrainConfig
from heatline.train.dense.copies import Painter, digest_pictures, grid_samples
from heatline.train.dense.cross_validation import divide_groups
from heatline.train.dense.differences import compare_samples
from heatline.train.dense.out_of_fold import OutOfFold
from heatline.train.models.dense import MAP_STRIDE, TOP_CELLS
from heatline.train.references import find_references
from heatline.train.run import read_data

HIGHEST = [4 * (len(TOLERANCES_PX) - 1) + 1, 4 * (len(TOLERANCES_PX) - 1) + 3]
"""Channels of the highest excess beyond the widest tolerance, brighter and darker."""


def difference_answers(
    config: TrainConfig, truth: Truth, report_line: Callable[[str], None]
) -> tuple[OutOfFold, Training]:
    """Answer every tile by its highest grey excess over the reference: a map's cell has that of its px, 0 to 255, and a
    tile's logit is the mean of its highest cells, as that of a dense head.

    A picture that cannot be aligned with its reference differs nowhere.

    Args:
        config: of the recipe `heatline`, for folds and reference; the set must have references.
    Raises:
        InputError: there are no references, or one cannot be made.
    """
    recipe, tiles, store, tile_px = config.recipe, truth.tiles, truth.store, config.tiles.tile_px
    assert isinstance(recipe, DenseRecipeConfig), "the caller composes it"
    began = monotonic()
    wanted = "on" if config.reference in ("auto", "off") else config.reference
    sizes = [store.frame_hw(frame) for frame in range(len(store))]
    references, why = find_references(wanted, read_data(config), store.images, sizes)
    assert references is not None, "the reference was demanded"
    painter = Painter(store, tiles, digest_pictures(store.images), recipe.augment, tile_px, tile_px // MAP_STRIDE)
    found, poses = compare_samples(
        store, references, painter, grid_samples(tiles), tiles.table.frame, tile_px, lambda: None
    )
    unaligned = len(store) - sum(pose is not None for pose in poses.values())
    report_line(f"{why}; {format_count(unaligned, 'picture')} cannot be aligned")
    maps = found[..., HIGHEST].max(axis=3).astype(np.float16)
    _, first = np.unique(tiles.table.frame, return_index=True)
    fold = divide_groups(tiles, recipe, config.seed)[tiles.group[first]]
    answers = OutOfFold(np.array(tiles.pictures), fold, pool(maps.astype(np.float32), TOP_CELLS), maps)
    return answers, Training(seed=config.seed, fold=None, seconds=monotonic() - began, tiles_per_s=None)
