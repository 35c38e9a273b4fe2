"""Grouped cross-validation: a head that was not trained on a tile's group predicts the tile. Figures of these."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatline.edge.bundle.pooling import pool
from heatline.train.config import DenseRecipeConfig
from heatline.train.dense.cache import Features
from heatline.train.dense.fit_head import (
    TILES_AT_ONCE,
    HeadTraining,
    Network,
    OnStep,
    predict,
    prototype_distances,
)
from heatline.train.dense.samples import MARKED, Kind, Samples
from heatline.train.dense.tiles import DEFECTIVE_CELL, DenseTiles, LabelKind, OutOfFold
from heatline.train.metrics import auroc, average_precision
from heatline.train.models.dense import TOP_CELLS, DenseClassifier, DenseHead, FineTuned, LaterStages
from heatline.train.models.explained import EVIDENCE_SHARE
from heatline.train.readers.labelled import assign_folds


def divide_groups(tiles: DenseTiles, recipe: DenseRecipeConfig, seed: int) -> NDArray[np.int64]:
    """Assign each group a fold, so that all folds have about as many good, marked defective and bagged tiles.

    All groups get fold 0 if any head would otherwise lack what it must be trained on: good tiles, and defective ones
    if the recipe draws no synthetic defects.
    """
    bagged, good = tiles.known == LabelKind.BAGGED, tiles.known == LabelKind.GOOD
    defective = np.isin(tiles.known, MARKED)
    weight = np.stack([defective, bagged, good], axis=1).astype(np.float64)
    fold_of = assign_folds(tiles.group, weight[:, weight.any(axis=0)], min(recipe.folds, len(tiles.groups)), seed)
    needed = [good] if recipe.synthetic else [good, ~good]
    if any(len(np.unique(fold_of[tiles.group[kind]])) < 2 for kind in needed):
        return np.zeros_like(fold_of)
    return fold_of


class CrossValidation:
    """One network per fold, trained without the fold, and one that is trained on all groups: the model's own.

    They train in parallel on all processors. If all known tiles are good, each head gets prototypes of good cells, and
    novelty is added to all maps with one weight, computed from the heads' predictions of the folds that they were not
    trained on. With only one fold there are no such predictions.

    Args:
        model: its head and its trunk are those that training starts from.
        samples, features: the grid tiles come first.
    """

    def __init__(
        self,
        model: DenseClassifier,
        tiles: DenseTiles,
        samples: Samples,
        features: Features,
        recipe: DenseRecipeConfig,
        seed: int,
        *,
        bf16: bool,
    ) -> None:
        self.model, self._tiles, self._features = model, tiles, features
        fold_of = divide_groups(tiles, recipe, seed)
        self.folds = int(fold_of.max()) + 1
        self._fold = fold_of[tiles.group]
        # No fold has the number `folds`: that network is trained on all groups.
        self._numbers = range(self.folds + 1) if self.folds > 1 else range(self.folds, self.folds + 1)
        self._heads = {number: model.head.untrained() for number in self._numbers}
        self._fine_tuned: dict[int, FineTuned] = {}
        self._trainings = {
            number: HeadTraining(samples, features, fold_of != number, recipe, seed * 1_009 + number, bf16=bf16)
            for number in self._numbers
        }
        self.top_cells = model.top_cells
        """Pooling of the last predictions."""
        self._grid, self._map_hw = np.flatnonzero(samples.kind == Kind.TILE), samples.share.shape[1:]
        self.networks, self.tiles = len(self._numbers), len(self._grid)
        """Their number, and that of grid tiles."""

    def train(self, on_step: OnStep = lambda: None) -> None:
        """Train the heads.

        Args:
            on_step: called after each step of each network, by several threads.
        """
        self._in_parallel(lambda number, step: self._trainings[number].train(self._heads[number], step), on_step)

    def fine_tune(self, steps: int, done: int = 0, on_step: OnStep = lambda: None) -> None:
        """Train the later stages of the trunk and the heads, see `HeadTraining.fine_tune`."""
        self._in_parallel(
            lambda number, step: self._trainings[number].fine_tune(self._own_stages(number), steps, done, step), on_step
        )

    def _own_stages(self, number: int) -> FineTuned:
        if number not in self._fine_tuned:
            self._fine_tuned[number] = FineTuned(LaterStages(self.model.trunk), self._heads[number])
        return self._fine_tuned[number]

    def predict(self) -> OutOfFold | None:
        """Return each network's predictions of its fold; None if there is only one fold, see `divide_groups`.

        The heads get their novelty first, and the predictions choose the pooling.
        """
        grid = self._grid
        maps = np.zeros((len(grid), *self._map_hw), np.float16)
        is_good_only = self.folds > 1 and bool((self._tiles.known == LabelKind.GOOD).all())
        distance = np.zeros(maps.shape if is_good_only else 0, np.float16)

        def predict_fold(number: int, step: OnStep) -> None:
            network = self._network(number)
            mine = grid[self._fold == number]
            for start in range(0, len(mine), TILES_AT_ONCE):
                rows = mine[start : start + TILES_AT_ONCE]
                (maps[rows],) = predict(network, self._features, rows, bf16=False)
                step()
            if is_good_only:
                self._trainings[number].fit_prototypes(network)
                if len(mine):
                    distance[mine] = prototype_distances(network, self._features, mine)

        self._in_parallel(predict_fold)
        if is_good_only:
            _add_novelty([*self._heads.values()], maps, distance)
        if self.folds == 1:
            return None
        _, first = np.unique(self._tiles.table.frame, return_index=True)
        self.top_cells, logit = choose_pooling(self._tiles, maps)
        return OutOfFold(np.array(self._tiles.pictures), self._fold[first], logit, maps)

    @property
    def own(self) -> Network:
        """The network that was trained on all groups; it computes maps from features."""
        return self._network(self.folds)

    def _network(self, number: int) -> Network:
        return self._fine_tuned.get(number, self._heads[number])

    def give(self) -> None:
        """Give the model the network that was trained on all groups, and the pooling."""
        self.model.top_cells = self.top_cells
        self.model.head = self._heads[self.folds]
        if self.folds in self._fine_tuned:
            self._fine_tuned[self.folds].stages.copy_to(self.model.trunk)

    def state(self) -> dict[int, dict[str, Tensor]]:
        """Return the weights of the fine-tuned networks."""
        return {number: network.state_dict() for number, network in self._fine_tuned.items()}

    def restore(self, state: dict[int, dict[str, Tensor]]) -> None:
        """Take the weights that `state` returned, in place of training."""
        for number, weights in state.items():
            self._own_stages(number).load_state_dict(weights)
            self._own_stages(number).eval()

    def _in_parallel(self, work: Callable[[int, OnStep], object], on_step: OnStep = lambda: None) -> None:
        """Do the work of each network, by its number; if one fails, the others end with their next step."""
        stopping = Event()

        def step() -> None:
            if stopping.is_set():
                raise CancelledError
            on_step()

        def do(number: int) -> None:
            torch.set_num_threads(threads_each)
            work(number, step)

        processors, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
        threads_each = max(1, processors // len(self._numbers))
        try:
            with ThreadPoolExecutor(processors, "fold") as executor:
                running = [executor.submit(do, number) for number in self._numbers]
                try:
                    for job in running:
                        job.result()
                finally:
                    stopping.set()  # also after Ctrl-C
                    for job in running:
                        job.cancel()
        finally:
            torch.set_num_threads(threads)


def _add_novelty(heads: Sequence[DenseHead], maps: NDArray[np.float16], distance: NDArray[np.float16]) -> None:
    """Add novelty to the heads and to their maps, weighted by their spread over good cells of other groups.

    Args:
        maps: [tiles, h, w], without novelty; changed in place.
        distance: [tiles, h, w], distance to the prototypes of the same heads, in standard deviations.
    """
    spread = float(distance.std(dtype=np.float64))
    offset, gain = float(distance.mean(dtype=np.float64)), float(maps.std(dtype=np.float64))
    gain /= EVIDENCE_SHARE * max(spread, 1e-6)
    for head in heads:
        assert head.novelty is not None, "all heads have prototypes"
        head.novelty.weigh(offset, gain)
    for rows in np.array_split(np.arange(len(distance)), -(-len(distance) // ROWS_AT_A_TIME)):
        maps[rows] = maps[rows].astype(np.float32) + gain * (distance[rows].astype(np.float32) - offset)


ROWS_AT_A_TIME = 1_000
"""Maps that are processed in float32 at once."""

FEWER_CELLS = (12, 8)
"""Numbers of highest cells that may score a tile in place of those of the training: where defects are small and the map
is sharp, the others are good cells."""
LEAST_GAIN = 0.005
"""What a figure of the cross-validation must gain by another pooling, or by a reference: less changes with the seed."""


def choose_pooling(tiles: DenseTiles, maps: NDArray[np.float16]) -> tuple[int, NDArray[np.float32]]:
    """Return the number of highest cells whose mean scores a tile, and the logits [N] of held-out maps [N, h, w].

    It is that of the training, or the one of `FEWER_CELLS` that separates pictures best.
    """
    blocks = np.array_split(maps, -(-len(maps) // ROWS_AT_A_TIME))
    by_cells = {
        cells: np.concatenate([pool(block.astype(np.float32), cells) for block in blocks])
        for cells in (TOP_CELLS, *FEWER_CELLS)
    }
    reached = {cells: _picture_auroc(tiles, logit) or 0.0 for cells, logit in by_cells.items()}
    reached[TOP_CELLS] += LEAST_GAIN
    chosen = max(reached, key=reached.__getitem__)
    return chosen, by_cells[chosen]


def measure_tiles(tiles: DenseTiles, logit: NDArray[np.float32], counted: NDArray[np.bool_]) -> dict[str, float]:
    """Measure how well held-out logits separate tiles and pictures; leave out figures that lack a class.

    Args:
        logit: [tiles].
        counted: [tiles], those of the pictures that count.
    """
    clear = np.isin(tiles.known, (LabelKind.GOOD, LabelKind.MASKED, LabelKind.BOXED)) & ~tiles.table.ambiguous & counted
    of_tiles = logit[clear].astype(np.float64), tiles.table.defective[clear], np.ones(clear.sum())
    figures = {
        "val_ap": average_precision(*of_tiles),
        "val_auroc": auroc(*of_tiles),
        "val_picture_auroc": _picture_auroc(tiles, logit, counted),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _picture_auroc(
    tiles: DenseTiles, logit: NDArray[np.float32], counted: NDArray[np.bool_] | slice = slice(None)
) -> float | None:
    frames, number = np.unique(tiles.table.frame[counted], return_inverse=True)
    highest, defective = np.full(len(frames), -np.inf), np.zeros(len(frames), np.bool_)
    np.maximum.at(highest, number, logit[counted].astype(np.float64))
    np.logical_or.at(defective, number, tiles.known[counted] != LabelKind.GOOD)
    return auroc(highest, defective, np.ones(len(frames)))


def measure_cells(
    tiles: DenseTiles, samples: Samples, maps: NDArray[np.float16], counted: NDArray[np.bool_]
) -> dict[str, float]:
    """Measure the average precision of held-out maps' cells, where the defective px are known; empty if a class is
    missing.

    Args:
        maps: [tiles, h, w].
        counted: as in `measure_tiles`.
    """
    exact = np.isin(tiles.known, (LabelKind.GOOD, LabelKind.MASKED)) & counted
    share, level = samples.share[: len(tiles)][exact], maps[exact].view(np.uint16)
    counts = [np.bincount(level[chosen], minlength=1 << 16) for chosen in (share > DEFECTIVE_CELL, share == 0)]
    seen = np.flatnonzero(counts[0] + counts[1])
    value = np.tile(seen.astype(np.uint16).view(np.float16).astype(np.float64), 2)
    is_defective = np.repeat([True, False], len(seen))
    found = average_precision(value, is_defective, np.concatenate([each[seen] for each in counts]).astype(np.float64))
    return {} if found is None else {"val_cell_ap": found}
