"""Recipes that train once per fold: without the fold, and without the next one, which sets the thresholds."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from heatline.bench.recipes.judge import Answers
from heatline.bench.recipes.rows import Training
from heatline.bench.recipes.sets import DataSet, LinkedPicture, draw_pictures, link_folder
from heatline.bench.recipes.truth import Truth
from heatline.edge.errors import BenchError
from heatline.train.config import DenseRecipeConfig, TrainConfig
from heatline.train.dense.copies import Painter, digest_pictures, grid_samples
from heatline.train.dense.extraction import Extracted, extract_features
from heatline.train.dense.fit_head import predict
from heatline.train.dense.out_of_fold import OutOfFold
from heatline.train.dense.train import train_dense
from heatline.train.fit import fit
from heatline.train.models.dense import DenseClassifier
from heatline.train.run import RunFolder, load_run
from heatline.train.tiles import cut

BATCH = 16
ReportLine = Callable[[str], None]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Fold:
    """A fold of a seed.

    Args:
        fold_of: of each group of `truth`.
    """

    seed: int
    number: int
    truth: Truth
    fold_of: NDArray[np.int64]

    @property
    def following(self) -> int:
        """The next fold, which calibrates."""
        return (self.number + 1) % (int(self.fold_of.max()) + 1)

    @cached_property
    def tested(self) -> Flags:
        """[frames]"""
        return np.asarray(self._of_frame == self.number)

    @cached_property
    def calibrating(self) -> Flags:
        """[frames]"""
        return np.asarray(self._of_frame == self.following)

    @property
    def trained(self) -> Flags:
        """[frames], all others."""
        return np.asarray(~(self.tested | self.calibrating))

    def groups(self, number: int) -> list[str]:
        """Return the names of the groups of a fold."""
        names: list[str] = np.array(self.truth.tiles.groups)[self.fold_of == number].tolist()
        return names

    def answered(
        self,
        logit: NDArray[np.float32],
        maps: NDArray[np.float16],
        *,
        knows_defects: bool = True,
        one_scale: bool = True,
        top_mean: bool = True,
    ) -> Answers:
        """Return the answers of a model that was trained on the other frames."""
        return Answers(
            self.seed,
            self.number,
            logit,
            maps,
            self.tested,
            self.calibrating,
            knows_defects=knows_defects,
            one_scale=one_scale,
            top_mean=top_mean,
        )

    @cached_property
    def _of_frame(self) -> NDArray[np.int64]:
        of_frame = np.zeros(len(self.truth.store), np.int64)
        of_frame[self.truth.tiles.table.frame] = self.fold_of[self.truth.tiles.group]
        return of_frame


def train_whole_network(fold: Fold, config: TrainConfig, report_line: ReportLine) -> tuple[Answers, Training]:
    """Train `finetune` or `study`; the next fold also chooses the checkpoint."""
    split = msgspec.structs.replace(config.split, val=fold.groups(fold.following), test=fold.groups(fold.number))
    out = f"{config.out}/fold{fold.number}"
    config = msgspec.structs.replace(config, split=split, out=out, resume=RunFolder(Path(out)).config.exists())
    return _answers(fold, fit(config, report_line))


def train_good_only(fold: Fold, config: TrainConfig, report_line: ReportLine) -> tuple[Answers, Training]:
    """Train `heatline` on good pictures only.

    Raises:
        BenchError: there are no good pictures.
    """
    images = [
        image
        for image, trained in zip(fold.truth.store.images, fold.trained.tolist(), strict=True)
        if trained and not image.defective
    ]
    if not images:
        raise BenchError(f"{config.data} has no good pictures to train on; name another set with --set")
    data = Path(f"{config.out}/fold{fold.number}_pictures")
    link_folder(data, [LinkedPicture.of(image) for image in images])
    run = RunFolder(Path(f"{config.out}/fold{fold.number}"))
    config = msgspec.structs.replace(
        config,
        data=str(data),
        truth="labels",
        reference="off",  # the frames are answered from their tiles alone
        split=msgspec.structs.replace(config.split, group="group", pattern=None),
        out=str(run.folder),
    )
    if not (run.summary.exists() and run.read_summary().finished):
        train_dense(config, run, report_line)
    return _answers(fold, run, knows_defects=False)


def train_few(
    fold: Fold, config: TrainConfig, of: DataSet, count: int, report_line: ReportLine
) -> tuple[Answers, Training]:
    """Train `heatline` on some pictures of the other folds; its own cross-validation sets the thresholds.

    Args:
        count: of pictures.
    Raises:
        BenchError: the pictures were not cross-validated.
    """
    truth, run = fold.truth, RunFolder(Path(f"{config.out}/fold{fold.number}"))
    others = [image for image, tested in zip(truth.store.images, fold.tested.tolist(), strict=True) if not tested]
    drawn = draw_pictures(others, count, fold.seed)
    if not (run.summary.exists() and run.read_summary().finished):
        annotated = [image for image in drawn if image.annotation is not None]
        data = of.link(Path(f"{run.folder}_pictures"), drawn, annotated)
        split = msgspec.structs.replace(config.split, group="group", pattern=None)
        config = msgspec.structs.replace(config, data=str(data), split=split, out=str(run.folder), reference="off")
        train_dense(config, run, report_line)
    if not run.out_of_fold.exists():
        raise BenchError(f"{len(drawn)} pictures of {of.name} make one fold; train on more")
    logit, maps, placed = place(OutOfFold.read(run.out_of_fold), truth)
    model, rows = load_run(run.folder).model, np.flatnonzero(fold.tested[truth.tiles.table.frame])
    assert isinstance(model, DenseClassifier), "the recipe made the model one with a dense head"
    with grid_features(model, config, truth, rows, report_line) as found:
        parts = predict(model.head, found.features, np.arange(len(rows)), bf16=False)
    logit[rows] = np.concatenate([logits for logits, _ in parts])
    maps[rows] = np.concatenate([each for _, each in parts])
    summary, defective = run.read_summary(), sum(image.defective for image in drawn)
    training = Training(
        seed=fold.seed,
        fold=fold.number,
        seconds=summary.seconds,
        tiles_per_s=summary.tiles_per_s,
        good=len(drawn) - defective,
        defective=defective,
    )
    return Answers(fold.seed, fold.number, logit, maps, fold.tested, placed >= 0, fewest_good=1), training


@contextmanager
def grid_features(
    model: DenseClassifier, config: TrainConfig, truth: Truth, rows: NDArray[np.int64], report_line: ReportLine
) -> Iterator[Extracted]:
    """Give the features of some grid tiles; errors as of `extract_features`."""
    recipe, tile_px = config.recipe, config.tiles.tile_px
    assert isinstance(recipe, DenseRecipeConfig), "the caller composes it"
    digests = digest_pictures(truth.store.images)
    painter = Painter(truth.store, truth.tiles, digests, recipe.augment, tile_px, model.map_hw[0])
    grid = grid_samples(truth.tiles)
    samples = [grid[row] for row in rows.tolist()]
    yield extract_features(model.eval(), tile_px, painter, samples, config.features, report_line)


def place(found: OutOfFold, truth: Truth) -> tuple[NDArray[np.float32], NDArray[np.float16], NDArray[np.int64]]:
    """Return logits [tiles], maps [tiles, h, w] and the fold of each frame; frames without an answer have fold -1.

    Raises:
        BenchError: the answers are of other pictures.
    """
    fold_of = dict(zip(found.frames.tolist(), found.fold.tolist(), strict=True))
    fold = np.array([fold_of.get(name, -1) for name in truth.tiles.pictures])
    answered = (fold >= 0)[truth.tiles.table.frame]
    if len(fold_of) != (fold >= 0).sum() or len(found.logit) != answered.sum():
        raise BenchError("the cross-validation is of other pictures than the truth; delete --work and measure again")
    logit = np.zeros(len(answered), np.float32)
    maps = np.zeros((len(answered), *found.map.shape[1:]), np.float16)
    logit[answered], maps[answered] = found.logit, found.map
    return logit, maps, fold


def _answers(fold: Fold, run: RunFolder, *, knows_defects: bool = True) -> tuple[Answers, Training]:
    summary = run.read_summary()
    frames = np.flatnonzero(fold.tested | fold.calibrating)
    model = load_run(run.folder).model
    logit, maps = answer(model, fold.truth, frames)
    training = Training(seed=fold.seed, fold=fold.number, seconds=summary.seconds, tiles_per_s=summary.tiles_per_s)
    return fold.answered(logit, maps, knows_defects=knows_defects, top_mean=model.top_cells is not None), training


def answer(
    model: torch.nn.Module, truth: Truth, frames: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """Return logits [tiles] and maps [tiles, h, w] of a trained model on the tiles of some frames; zeros for others."""
    table, tile_px = truth.tiles.table, truth.rule.tile_px
    rows = np.flatnonzero(np.isin(table.frame, frames))
    logit, maps = np.zeros(len(table), np.float32), np.zeros((0, 0, 0), np.float16)
    tiles = np.empty((BATCH, tile_px, tile_px, 3), np.uint8)
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        for row, tile in zip(part.tolist(), tiles, strict=False):
            cut(truth.store, int(table.frame[row]), int(table.y[row]), int(table.x[row]), tile)
        with torch.inference_mode():
            found, found_maps = model(torch.from_numpy(tiles[: len(part)]))
        if not len(maps):
            maps = np.zeros((len(table), *found_maps.shape[1:]), np.float16)
        logit[part], maps[part] = found.numpy(), found_maps.numpy()
    return logit, maps
