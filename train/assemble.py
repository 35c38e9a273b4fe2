"""Assembles a training of the whole network from a configuration and prepared data."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset, IterableDataset

from heatline.train.bags import Bags, EvaluationBags, TrainingBags
from heatline.train.batches import Batch, EvaluationBatches, Steps, TrainingBatches
from heatline.train.classifier import BagTraining, Budget, ClassifierTraining
from heatline.train.config import TrainConfig
from heatline.train.models.explained import ExplainedClassifier
from heatline.train.prepare import Prepared
from heatline.train.sampling import BatchSampler


@dataclass(frozen=True)
class Assembly:
    """The parts of a training, except the trainer."""

    training: ClassifierTraining
    budget: Budget
    defective_share_of_batch: float | None
    """Defective share of each batch; None: samples come in their natural proportion."""
    train_batches: Callable[[Steps], IterableDataset[Batch]]
    val_batches: Dataset[Batch]


def assemble(config: TrainConfig, prepared: Prepared, model: ExplainedClassifier, devices: int = 1) -> Assembly:
    """Assemble the training of `model`, and initialise its logits to the log-odds that a tile is defective.

    Args:
        devices: number of devices; each takes a batch per step.
    Raises:
        TrainingError: one class is missing.
    """
    assembly = (_on_tiles if prepared.labelled == "tiles" else _on_pictures)(config, prepared, model, devices)
    assembly.training.to(memory_format=torch.channels_last)
    return assembly


def _on_tiles(config: TrainConfig, prepared: Prepared, model: ExplainedClassifier, devices: int) -> Assembly:
    recipe, tiles, store = config.finetune, prepared.train, prepared.store
    sampler = BatchSampler(tiles.defective, recipe.batch, recipe.defective_share_of_batch, config.seed)
    budget = Budget.of(recipe, len(tiles), recipe.batch * devices)
    model.start_from(sampler.natural_log_odds)
    return Assembly(
        ClassifierTraining(model, recipe, budget, sampler.shift, config.seed),
        budget,
        sampler.defective_share,
        lambda steps: TrainingBatches(store, tiles, prepared.rule, sampler, recipe, steps),
        EvaluationBatches(store, prepared.val, config.tiles.tile_px),
    )


def _on_pictures(config: TrainConfig, prepared: Prepared, model: ExplainedClassifier, devices: int) -> Assembly:
    recipe, store, tile_px = config.finetune, prepared.store, config.tiles.tile_px
    bags = Bags.of(store, prepared.train)
    sampler = BatchSampler(bags.defective, recipe.bags, recipe.defective_share_of_batch, config.seed)
    budget = Budget.of(recipe, len(bags), recipe.bags * devices)
    model.start_from(sampler.natural_log_odds - math.log(bags.sizes.mean()))  # a bag's odds are the sum of its tiles'
    return Assembly(
        BagTraining(model, recipe, budget, sampler.shift, config.seed),
        budget,
        sampler.defective_share,
        lambda steps: TrainingBags(store, bags, tile_px, sampler, recipe, steps),
        EvaluationBags(store, Bags.of(store, prepared.val), tile_px),
    )
