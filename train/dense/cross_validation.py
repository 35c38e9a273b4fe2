"""Grouped cross-validation: a head that was not trained on a tile's group predicts the tile."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray

from heatline.edge.bundle.pooling import pool
from heatline.train.config import DenseRecipeConfig
from heatline.train.dense.cache import Features
from heatline.train.dense.copies import Kind
from heatline.train.dense.fit_head import HeadTraining, Network, predict, prototype_distances
from heatline.train.dense.samples import MARKED, Samples
from heatline.train.dense.tiles import DenseTiles, LabelKind, OutOfFold
from heatline.train.models.dense import TOP_CELLS, DenseClassifier, DenseHead, FineTuned, LaterStages
from heatline.train.models.explained import EVIDENCE_SHARE
from heatline.train.readers.labelled import assign_folds

ROWS_AT_A_TIME = 1_000
"""Maps that are processed in float32 at once."""


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


def cross_validate(
    model: DenseClassifier,
    tiles: DenseTiles,
    samples: Samples,
    features: Features,
    recipe: DenseRecipeConfig,
    seed: int,
    *,
    bf16: bool,
    on_step: Callable[[], object] = lambda: None,
) -> OutOfFold | None:
    """Train one head without each fold and one on all groups, in parallel on all processors.

    If all known tiles are good, each head gets prototypes of good cells, and novelty is added to all maps with one
    weight, computed from the heads' predictions of the folds that they were not trained on. With only one fold there
    are no such predictions.

    Args:
        model: gets the head, and the later stages, that were trained on all groups.
        samples, features: the grid tiles come first.
        on_step: called after each step of each head, by several threads.
    Returns:
        Each head's predictions of its fold; None if there is only one fold, see `divide_groups`.
    """
    fold_of = divide_groups(tiles, recipe, seed)
    folds = int(fold_of.max()) + 1
    grid = np.flatnonzero(samples.kind == Kind.TILE)
    fold = fold_of[tiles.group]
    heads = [model.head.untrained() for _ in range(folds + 1)]
    networks: dict[int, FineTuned] = {}
    map_hw = samples.share.shape[1:]
    _, first = np.unique(tiles.table.frame, return_index=True)
    out_of_fold = OutOfFold(
        frames=np.array(tiles.pictures),
        fold=fold[first],
        logit=np.zeros(len(grid), np.float32),
        map=np.zeros((len(grid), *map_hw), np.float16),
    )

    is_good_only = folds > 1 and bool((tiles.known == LabelKind.GOOD).all())
    distance = np.zeros(out_of_fold.map.shape if is_good_only else 0, np.float16)
    stopping = Event()

    def step() -> None:
        if stopping.is_set():
            raise CancelledError
        on_step()

    def train(number: int) -> None:
        trained = fold_of != number  # no fold has the number `folds`: that head is trained on all groups
        torch.set_num_threads(threads_each)
        network: Network = heads[number]
        training = HeadTraining(samples, features, trained, recipe, seed * 1_009 + number, bf16=bf16)
        training.train(heads[number], step)
        if recipe.finetune_steps:
            network = networks[number] = FineTuned(LaterStages(model.trunk), heads[number])
            training.fine_tune(networks[number], step)
        mine = grid[fold == number]
        if len(mine):
            parts = predict(network, features, mine, bf16=False)
            out_of_fold.logit[mine] = np.concatenate([logits for logits, _ in parts])
            out_of_fold.map[mine] = np.concatenate([maps for _, maps in parts])
        if is_good_only:
            training.fit_prototypes(network)
            if len(mine):
                distance[mine] = prototype_distances(network, features, mine)

    jobs = range(folds + 1) if folds > 1 else [folds]
    processors, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    threads_each = max(1, processors // len(jobs))
    try:
        with ThreadPoolExecutor(processors, "fold") as executor:
            running = [executor.submit(train, number) for number in jobs]
            try:
                for job in running:
                    job.result()
            finally:
                stopping.set()  # after Ctrl-C, or if one failed, the others end with their next step
                for job in running:
                    job.cancel()
    finally:
        torch.set_num_threads(threads)
    if is_good_only:
        _add_novelty(heads, out_of_fold, distance)
    model.head = heads[folds]
    if folds in networks:
        networks[folds].stages.copy_to(model.trunk)
    return out_of_fold if folds > 1 else None


def _add_novelty(heads: Sequence[DenseHead], out_of_fold: OutOfFold, distance: NDArray[np.float16]) -> None:
    """Add novelty to the heads and to their predictions, weighted by their spread over good cells of other groups.

    Args:
        out_of_fold: predictions without novelty; changed in place.
        distance: [tiles, h, w], distance to the prototypes of the same heads, in standard deviations.
    """
    spread = float(distance.std(dtype=np.float64))
    offset, gain = float(distance.mean(dtype=np.float64)), float(out_of_fold.map.std(dtype=np.float64))
    gain /= EVIDENCE_SHARE * max(spread, 1e-6)
    for head in heads:
        assert head.novelty is not None, "all heads have prototypes"
        head.novelty.weigh(offset, gain)
    for rows in np.array_split(np.arange(len(distance)), -(-len(distance) // ROWS_AT_A_TIME)):
        maps = out_of_fold.map[rows].astype(np.float32) + gain * (distance[rows].astype(np.float32) - offset)
        out_of_fold.map[rows], out_of_fold.logit[rows] = maps, pool(maps, TOP_CELLS)
