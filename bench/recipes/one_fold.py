"""Recipes that train once per fold: without the fold, and without the next one, which sets the thresholds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from heatline.bench.recipes.judge import Answers
from heatline.bench.recipes.rows import Training
from heatline.bench.recipes.sets import LinkedPicture, link_folder
from heatline.bench.recipes.truth import Truth
from heatline.edge.errors import BenchError
from heatline.train.config import TrainConfig
from heatline.train.dense.train import train_dense
from heatline.train.fit import fit
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
        split=msgspec.structs.replace(config.split, group="group", pattern=None),
        out=str(run.folder),
    )
    if not (run.summary.exists() and run.read_summary().finished):
        train_dense(config, run, report_line)
    return _answers(fold, run, knows_defects=False)


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
