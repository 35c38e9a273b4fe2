"""The tiles of a data set with their truth, its folds, and a model's answers to a fold."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from heatline.bench.recipes.sets import LinkedPicture, link_folder
from heatline.edge.errors import BenchError
from heatline.edge.geometry import TileGrid
from heatline.train.config import TilesConfig, TrainConfig
from heatline.train.dense.tiles import DenseTiles, LabelKind, OutOfFold, label_tiles
from heatline.train.dense.train import train_dense
from heatline.train.fit import fit
from heatline.train.frames import FrameStore, cut
from heatline.train.run import Round, RunFolder, load_run, read_data

BATCH = 16
ReportLine = Callable[[str], None]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """All grid tiles of a data set, frame by frame."""

    store: FrameStore
    rule: TilesConfig
    tiles: DenseTiles

    @classmethod
    def of(cls, config: TrainConfig, decoded: Path) -> "Truth":
        """Read all pictures of a configuration.

        Args:
            decoded: folder of decoded frames, which are used again while pictures and labels are unchanged.
        Raises:
            InputError: a picture cannot be read.
            TrainingError: the disk is full.
        """
        store = FrameStore.build(read_data(config).images, decoded)
        rule = config.tiles
        return cls(store, rule, label_tiles(store, rule))

    @cached_property
    def _start(self) -> NDArray[np.int64]:
        return np.searchsorted(self.tiles.table.frame, np.arange(len(self.store) + 1))

    def rows(self, frame: int) -> slice:
        """Return the rows of a frame's tiles."""
        return slice(int(self._start[frame]), int(self._start[frame + 1]))

    def grid(self, frame: int) -> TileGrid:
        return TileGrid(self.store.frame_hw(frame), self.rule.tile_px, self.rule.overlap_px)

    def inside_hw(self, row: int) -> tuple[int, int]:
        """Return height and width of the part of a tile, from its top left, that is inside the frame, px."""
        table, tile_px = self.tiles.table, self.rule.tile_px
        height, width = self.store.frame_hw(int(table.frame[row]))
        return min(tile_px, height - int(table.y[row])), min(tile_px, width - int(table.x[row]))

    def mask(self, row: int) -> Flags:
        """Return the defective pixels of a tile, bool [tile, tile]; none beyond the frame."""
        table, (height, width) = self.tiles.table, self.inside_hw(row)
        tile = self.store.mask_tile(int(table.frame[row]), int(table.y[row]), int(table.x[row]), self.rule.tile_px)
        tile[height:], tile[:, width:] = False, False
        return tile

    @cached_property
    def defective(self) -> Flags:
        """[frames]"""
        return np.array([image.defective for image in self.store.images], np.bool_)

    @cached_property
    def is_placed(self) -> Flags:
        """[tiles], whether it is known which of their pixels are defective."""
        return np.asarray(self.tiles.known != LabelKind.BAGGED)

    @cached_property
    def is_clean(self) -> Flags:
        """[tiles], whether none of their pixels is defective."""
        return np.asarray(self.tiles.known == LabelKind.GOOD)


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

    def frames(self, number: int) -> Flags:
        """Return which frames [frames] are in a fold."""
        of_frame = np.zeros(len(self.truth.store), np.int64)
        of_frame[self.truth.tiles.table.frame] = self.fold_of[self.truth.tiles.group]
        return np.asarray(of_frame == number)

    @cached_property
    def tested(self) -> Flags:
        """[frames]"""
        return self.frames(self.number)

    @cached_property
    def calibrating(self) -> Flags:
        """[frames]"""
        return self.frames(self.following)

    @property
    def trained(self) -> Flags:
        """[frames], all others."""
        return np.asarray(~(self.tested | self.calibrating))

    def groups(self, number: int) -> list[str]:
        """Return the names of the groups of a fold."""
        names: list[str] = np.array(self.truth.tiles.groups)[self.fold_of == number].tolist()
        return names


@dataclass(frozen=True)
class Answers:
    """Answers of one model."""

    seed: int
    fold: int
    logit: NDArray[np.float32]
    """[tiles]; any value for frames that are neither tested nor calibrating."""
    map: NDArray[np.float16]
    """[tiles, h, w]"""
    tested: Flags
    """[frames]"""
    calibrating: Flags
    """[frames] that set thresholds; the model was not trained on them either."""
    knows_defects: bool = True
    """Whether it was trained on defects, which puts logit and map cells on one scale. Otherwise a logit of 0 does
    not mean a probability of 0.5, which the study's rule assumes, and no defective frame sets a threshold."""
    top_mean: bool = True
    """Whether a tile's logit is the mean of its map's highest cells."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of a training."""

    seed: int
    fold: int | None
    """None: all folds at once."""
    seconds: float
    machine: dict[str, object] = {}
    """That trained and evaluated; fields of `heatline.bench.machine.Machine`."""
    rounds: list[Round] = []
    """Of fine-tuning, with `minutes`."""


def train_whole_network(fold: Fold, config: TrainConfig, report_line: ReportLine) -> tuple[Answers, Training]:
    """Train `finetune` or `study`; the next fold also chooses the checkpoint."""
    split = msgspec.structs.replace(config.split, val=fold.groups(fold.following), test=fold.groups(fold.number))
    out = f"{config.out}/fold{fold.number}"
    config = msgspec.structs.replace(config, split=split, out=out, resume=RunFolder(Path(out)).config.exists())
    return _answers(fold, fit(config, report_line))


def train_good_only(fold: Fold, config: TrainConfig, report_line: ReportLine) -> tuple[Answers, Training]:
    """Train `heatline` on nothing but the good pictures; a BenchError if there are none."""
    frames = np.flatnonzero(fold.trained & ~fold.truth.defective).tolist()
    if not frames:
        raise BenchError(f"fold {fold.number} leaves no good picture to train on; name another set with --set")
    run, images = RunFolder(Path(f"{config.out}/fold{fold.number}")), (fold.truth.store.images[at] for at in frames)
    good = [LinkedPicture(one.path, one.path.name, "good", str(one.group)) for one in images]
    data = str(link_folder(Path(f"{run.folder}_pictures"), good, {}))
    split = msgspec.structs.replace(config.split, group="group", pattern=None)
    # Without a reference, as frames are answered by their tiles alone.
    config = msgspec.structs.replace(
        config, data=data, truth="labels", reference="off", split=split, out=str(run.folder)
    )
    if not (run.summary.exists() and run.read_summary().finished):
        train_dense(config, run, report_line)
    return _answers(fold, run, knows_defects=False)


def _answers(fold: Fold, run: RunFolder, *, knows_defects: bool = True) -> tuple[Answers, Training]:
    model, asked = load_run(run.folder).model, fold.tested | fold.calibrating
    logit, maps = answer(model, fold.truth, np.flatnonzero(asked))
    top_mean = model.top_cells is not None
    answers = Answers(fold.seed, fold.number, logit, maps, fold.tested, fold.calibrating, knows_defects, top_mean)
    return answers, Training(seed=fold.seed, fold=fold.number, seconds=run.read_summary().seconds)


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


def answers_of(found: OutOfFold, truth: Truth, seed: int) -> Iterator[Answers]:
    """Yield the answers of a cross-validation fold by fold, with thresholds from all other folds.

    Frames without an answer are in no fold.

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
    for number in np.unique(found.fold).tolist():
        yield Answers(seed, number, logit, maps, fold == number, (fold >= 0) & (fold != number))
