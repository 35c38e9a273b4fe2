"""Trains the classifier of a screening stage, on the pictures of a run, by the run's own recipe."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from heatline.edge.cli.output import progress_console
from heatline.edge.errors import InputError
from heatline.train.config import CnnConfig, DenseRecipeConfig
from heatline.train.dense.cross_validation import CrossValidation
from heatline.train.dense.extraction import extract_features
from heatline.train.dense.fit_head import predict
from heatline.train.dense.samples import Painter, digest_pictures, gather_samples, grid_samples, plan_copies
from heatline.train.dense.tiles import LabelKind, OutOfFold, label_tiles
from heatline.train.frames import FrameStore
from heatline.train.models.dense import ScreeningClassifier, dense_classifier
from heatline.train.progress import Shown, tracked
from heatline.train.run import RunFolder, TrainedRun


@dataclass(frozen=True)
class HeldOutTiles:
    """All tiles of a run's pictures, as models answer that were not trained on the tile's group."""

    logit: NDArray[np.float32]
    """[N], of the model itself."""
    peak: NDArray[np.float32]
    """[2, N], highest map cell of the screening model, logits; and that of the one trained on all groups, which the
    bundle gets: it may answer higher or lower throughout."""
    frame: NDArray[np.int64]
    """[N], index of each tile's picture."""
    is_good: NDArray[np.bool_]
    """[N], whether the tile is known to show no defect."""


def train_screening(
    run: TrainedRun, seen_px: int, report_line: Callable[[str], None]
) -> tuple[ScreeningClassifier, HeldOutTiles]:
    """Train a head on features of tiles reduced to this side, px, with the same samples, losses and folds as the run's
    own.

    Raises:
        InputError: the run was not trained and cross-validated by a recipe with a dense head, or on good pictures only.
        TrainingError: its features cannot be extracted.
    """
    config, recipe = run.config, run.config.recipe
    if run.summary.folds is None or not isinstance(recipe, DenseRecipeConfig):
        raise InputError(
            f"{run.folder} has no cross-validation by recipe=heatline, and only held-out tiles show what a screening "
            "stage may clear; export it without --screen"
        )
    assert isinstance(config.model, CnnConfig), "the recipe made the model one with a dense head"
    torch.manual_seed(config.seed)
    model, _ = dense_classifier(config.model, seen_px, ScreeningClassifier)
    assert isinstance(model, ScreeningClassifier)
    model.eval().seen_px = seen_px
    images, tile_px = run.split.images(run.data, "train"), config.tiles.tile_px
    with tempfile.TemporaryDirectory() as scratch, Progress(console=progress_console(), transient=True) as progress:
        store = FrameStore.build(images, Path(scratch), tracked("decoding pictures"))
        tiles = label_tiles(store, config.tiles)
        digests = digest_pictures(images)
        painter = Painter(store, tiles, digests, recipe.augment, tile_px, model.map_hw[0])
        planned = [*grid_samples(tiles), *plan_copies(tiles, store, digests, recipe, tile_px)]
        features, _ = extract_features(
            model, tile_px, painter, planned, config.features, report_line, bf16=False, progress=progress
        )
        samples = gather_samples(tiles, planned, painter)
        validation = CrossValidation(model, tiles, samples, features, recipe, config.seed, bf16=False)
        steps = recipe.steps_for(len(tiles)) * validation.networks
        shown, done = Shown(progress, "training the screening stage, steps", report_line), iter(range(1, steps + 1))
        validation.train(lambda: shown.update(next(done), steps))
        held_out = validation.predict()
    assert held_out is not None, "the run has folds"
    validation.give()
    rows = np.arange(len(tiles))
    final = np.concatenate([maps.max(axis=(1, 2)) for maps in predict(model.head, features, rows, bf16=False)])
    own = OutOfFold.read(RunFolder(run.folder).out_of_fold)
    good = tiles.known == LabelKind.GOOD
    peak = np.stack([held_out.map.max(axis=(1, 2)), final], dtype=np.float32)
    return model.eval(), HeldOutTiles(own.logit, peak, tiles.table.frame, good)
