"""Trains the classifier of a screening stage, on the pictures of a run, by the run's own recipe."""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from heatline.edge.cli.output import progress_console
from heatline.edge.errors import InputError
from heatline.edge.inference.engine import reduce_tile
from heatline.edge.reference.difference import reduce_difference
from heatline.train.config import CnnConfig, DenseRecipeConfig
from heatline.train.dense.cache import key_of
from heatline.train.dense.cross_validation import CrossValidation
from heatline.train.dense.extraction import compare_samples, extract_features
from heatline.train.dense.fit_head import predict
from heatline.train.dense.samples import Painter, Sample, digest_pictures, gather_samples, grid_samples, plan_copies
from heatline.train.dense.tiles import DenseTiles, LabelKind, OutOfFold, label_tiles
from heatline.train.frames import FrameStore
from heatline.train.models.dense import DenseClassifier, dense_classifier
from heatline.train.progress import Shown, tracked
from heatline.train.run import RunFolder, TrainedRun

FINETUNE_STEPS = 400
"""At most, and as many as the head's. Of the tiles of good drawn boards, 95 % are cleared with them, 90 % without, by
a trunk of one more stage."""


@dataclass(frozen=True)
class HeldOutTiles:
    """All tiles of a run's pictures, as models answer that were not trained on the tile's group."""

    logit: NDArray[np.float32]
    """[N], of the model itself; -inf in frames that could not be aligned with their reference."""
    peak: NDArray[np.float32]
    """[2, N], highest map cell of the screening model, logits; and that of the one trained on all groups, which the
    bundle gets: it may answer higher or lower throughout."""
    frame: NDArray[np.int64]
    """[N], index of each tile's picture."""
    is_good: NDArray[np.bool_]
    """[N], whether the tile is known to show no defect."""
    defects: Sequence[NDArray[np.int64]]
    """Indices of the tiles that show each defect, see `tiles_of_defects`."""

    @property
    def good_frames(self) -> NDArray[np.int64]:
        """The pictures of which all tiles are good."""
        return np.setdiff1d(self.frame, self.frame[~self.is_good])

    def detected(self, score: float) -> list[NDArray[np.int64]]:
        """Return the tiles of each defect that reach a score threshold, logits, of the defects that have any."""
        reach = self.logit >= score
        return [rows[reach[rows]] for rows in self.defects if reach[rows].any()]


def tiles_of_defects(store: FrameStore, tiles: DenseTiles, tile_px: int) -> list[NDArray[np.int64]]:
    """Return the tiles that show each defect: a connected area of marked px. A tile without exact marks is alone."""
    marked = np.isin(tiles.known, (LabelKind.MASKED, LabelKind.BOXED))
    found = [np.array([row]) for row in np.flatnonzero(~marked & (tiles.known != LabelKind.GOOD))]
    for frame in np.unique(tiles.table.frame[marked]):
        mask = store.mask(int(frame))
        assert mask is not None, "what is marked has a mask"
        _, areas = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
        shown = defaultdict[int, list[int]](list)
        for row in np.flatnonzero(marked & (tiles.table.frame == frame)).tolist():
            _, y, x = tiles.table.place(row)
            for area in np.unique(areas[y : y + tile_px, x : x + tile_px]).tolist():
                shown[area].append(row)
        found += [np.array(rows) for area, rows in shown.items() if area]
    return found


class ReducingPainter(Painter):
    """Draws samples as a line shows them to the small graph."""

    def key(self, sample: Sample) -> bytes:
        return key_of(super().key(sample), "reduced", self._tile_px)

    def paint(self, sample: Sample, out: NDArray[np.uint8]) -> None:
        super().paint(sample, tile := np.empty((self._tile_px, self._tile_px, 3), np.uint8))
        reduce_tile(tile, out)


def train_screening(
    run: TrainedRun, seen_px: int, report_line: Callable[[str], None]
) -> tuple[DenseClassifier, HeldOutTiles]:
    """Train a head, then the later stages too, on tiles reduced to this side, px, with the same samples, losses and
    folds as the run's own.

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
    model, _ = dense_classifier(config.model, seen_px, is_small=True)
    model.head = model.head.untrained(compares=run.references is not None)
    model.eval().cell = 1  # it has few: a cell shows four times as many px of the tile
    images, tile_px = run.split.images(run.data, "train"), config.tiles.tile_px
    with tempfile.TemporaryDirectory() as scratch, Progress(console=progress_console(), transient=True) as progress:
        store = FrameStore.build(images, Path(scratch), tracked("decoding pictures"))
        tiles = label_tiles(store, config.tiles)
        defects = tiles_of_defects(store, tiles, tile_px)
        digests = digest_pictures(images)
        painter = ReducingPainter(store, tiles, digests, recipe.augment, tile_px, model.map_hw[0])
        planned = [*grid_samples(tiles), *plan_copies(tiles, store, digests, recipe, tile_px)]
        features, _ = extract_features(
            model, seen_px, painter, planned, config.features, report_line, bf16=False, progress=progress
        )
        if run.references is not None:
            frames = tiles.table.frame[[sample.row for sample in planned]]
            comparing = progress.add_task("comparing pictures", total=len(store))
            differences, poses = compare_samples(
                store, run.references, painter, planned, frames, tile_px, lambda: progress.advance(comparing)
            )
            features = features.with_differences(reduce_difference(differences, model.map_hw[0]))
        samples = gather_samples(tiles, planned, painter)
        validation = CrossValidation(model, tiles, samples, features, recipe, config.seed, bf16=False)
        steps_of_head = recipe.steps_for(len(tiles))
        finetune_steps = min(FINETUNE_STEPS, steps_of_head)
        steps = (steps_of_head + finetune_steps) * validation.networks
        shown, done = Shown(progress, "training the screening stage, steps", report_line), iter(range(1, steps + 1))
        validation.train(lambda: shown.update(next(done), steps))
        validation.fine_tune(finetune_steps, on_step=lambda: shown.update(next(done), steps))
        held_out = validation.predict()
    assert held_out is not None, "the run has folds"
    rows = np.arange(len(tiles))
    final = np.concatenate([maps.max(axis=(1, 2)) for maps in predict(validation.own, features, rows, bf16=False)])
    validation.give()
    logit = OutOfFold.read(RunFolder(run.folder).out_of_fold).logit
    if run.references is not None:  # a line gives frames that are not aligned no verdict
        logit[~np.isin(tiles.table.frame, [frame for frame, pose in poses.items() if pose])] = -np.inf
    good = tiles.known == LabelKind.GOOD
    peak = np.stack([held_out.map.max(axis=(1, 2)), final], dtype=np.float32)
    return model.eval(), HeldOutTiles(logit, peak, tiles.table.frame, good, defects)
