"""The recipe `heatline`: from a configuration to a run's folder."""

import logging
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from threading import Lock

import msgspec
import numpy as np
import torch
from rich.progress import Progress

from edge.cli.output import progress_console
from edge.util.text import format_count
from train.adequacy import defect_areas, describe_few_groups, describe_small_defects
from train.config import DenseRecipeConfig, TrainConfig
from train.dense.copies import Painter, grid_samples, picture_digests, plan_copies
from train.dense.cross_validation import cross_validate, divide_groups
from train.dense.extraction import extracted
from train.dense.out_of_fold import OutOfFold
from train.dense.samples import gather_samples
from train.dense.tiles import DenseTiles, Known, know_tiles
from train.discovery import discover
from train.evaluation.ordering import auroc, average_precision
from train.files import write_whole
from train.frames import FrameStore
from train.models.build import build_model
from train.models.dense import DenseClassifier, check_later_stages
from train.precision import choose_precision
from train.progress import tracked
from train.readers import LabelledImage
from train.run import RunFolder, RunSummary, read_data, split_data
from train.tiles import TileRule

logger = logging.getLogger(__name__)
Say = Callable[[str], None]
SAID_TIMES = 10
"""How often a training says how far it is where no terminal shows a bar."""


def train_dense(config: TrainConfig, run: RunFolder, say: Say) -> None:
    """Extract features, cross-validate, and train the head that is used on all groups but those of the test.

    What is interrupted starts again, and finds its features in the cache.

    Raises:
        ConfigError, InputError, WeightsError, TrainingError, DivergedError: something cannot be used.
    """
    recipe = config.recipe
    assert isinstance(recipe, DenseRecipeConfig), "the caller chooses by the recipe"
    started, tile_px = time.monotonic(), config.tiles.tile_px
    torch.manual_seed(config.seed)
    model, weights = build_model(config.model, tile_px)
    assert isinstance(model, DenseClassifier), "the recipe made the model one with a dense head"
    model.eval()
    if recipe.finetune_steps:
        check_later_stages(model, tile_px)
    precision, reason = choose_precision(config.trainer.precision, "cpu")
    if config.discover:
        for line in discover(Path(config.data)).assumptions:
            say(line)
    data = read_data(config)
    split = split_data(config, data)
    images = split.images(data, "train")
    run.begin(config)
    store = FrameStore.build(images, run.cache, tracked("decoding pictures"))
    rule = TileRule(**msgspec.structs.asdict(config.tiles))
    tiles = know_tiles(store, rule)
    if not config.discover and (mixture := data.describe_mixture()):  # what is discovered is described above
        say(mixture)
    for line in [_described(images, tiles), *_warnings(store, images, tiles, rule)]:
        say(line)

    steps = recipe.steps_for(len(tiles)) + recipe.finetune_steps
    digests = picture_digests(images)
    painter = Painter(store, tiles, digests, recipe.augment, tile_px, model.map_hw[0])
    planned = [*grid_samples(tiles), *plan_copies(tiles, store, digests, recipe, tile_px)]
    with (
        Progress(console=progress_console(), transient=True) as progress,
        extracted(model, tile_px, painter, planned, config.features, say, progress) as found,
    ):
        copied = len(planned) - len(tiles)
        copies = f"{copied} {'copy' if copied == 1 else 'copies'}"
        say(f"features of {format_count(len(tiles), 'tile')} and {copies}: {found}")
        samples = gather_samples(tiles, planned, painter)
        folds = int(divide_groups(tiles, recipe, config.seed).max()) + 1
        validated = f"each of {folds} folds and for the model" if folds > 1 else "the model, without a cross-validation"
        say(f"{format_count(steps, 'step')} for {validated}; precision {precision}: {reason}")
        total, done = steps * (folds + 1 if folds > 1 else 1), 0
        training = progress.add_task("training", total=total)
        lock = Lock()

        def on_step() -> None:
            nonlocal done
            with lock:
                progress.advance(training)
                done += 1
                if not progress.console.is_terminal and done * SAID_TIMES // total > (done - 1) * SAID_TIMES // total:
                    say(f"{done} of {total} steps are done")

        out_of_fold = cross_validate(
            model,
            tiles,
            samples,
            found.features,
            recipe,
            config.seed,
            bf16=precision.startswith("bf16"),
            on_step=on_step,
        )
    if out_of_fold is not None:
        out_of_fold.write(run.out_of_fold)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    run.checkpoints.mkdir(exist_ok=True)
    write_whole(
        run.best,
        lambda file: torch.save({"state_dict": state, "global_step": steps}, file),
    )
    run.write_summary(
        RunSummary(
            finished=True,
            model=config.model.name,
            recipe=recipe.name,
            steps=steps,
            best_step=steps,
            val={} if out_of_fold is None else _figures(tiles, out_of_fold),
            data=data.name,
            truth=data.truth,
            groups={part: list(getattr(split, part)) for part in ("train", "val", "test")},
            labelled="pictures" if not len(tiles.located) and len(tiles.of(Known.BAGGED)) else "tiles",
            tiles={"train": tiles.table.counts()},
            weights=weights,
            precision=precision,
            tiles_per_s=found.tiles_per_s,
            seconds=time.monotonic() - started,
            versions={name: version(name) for name in ("heatline", "torch", "openvino", "timm")},
            folds=None if out_of_fold is None else int(out_of_fold.fold.max()) + 1,
        )
    )
    shutil.rmtree(run.cache)


def _figures(tiles: DenseTiles, out_of_fold: OutOfFold) -> dict[str, float]:
    """How well out-of-fold logits tell tiles and pictures apart, as far as both kinds are known."""
    logit, ones = out_of_fold.logit.astype(np.float64), np.ones(len(tiles))
    placed = np.isin(tiles.known, (Known.GOOD, Known.MASKED, Known.BOXED))
    clear = placed & ~tiles.table.ambiguous
    frames, number = np.unique(tiles.table.frame, return_inverse=True)
    highest = np.full(len(frames), -np.inf)
    np.maximum.at(highest, number, logit)
    defective = np.zeros(len(frames), np.bool_)
    np.logical_or.at(defective, number, tiles.known != Known.GOOD)
    found = {
        "val_ap": average_precision(logit[clear], tiles.table.defective[clear], ones[clear]),
        "val_auroc": auroc(logit[clear], tiles.table.defective[clear], ones[clear]),
        "val_picture_auroc": auroc(highest, defective, np.ones(len(frames))),
    }
    return {name: value for name, value in found.items() if value is not None}


def _described(images: list[LabelledImage], tiles: DenseTiles) -> str:
    defective = sum(image.defective for image in images)
    counts = {known: len(tiles.of(known)) for known in Known}
    parts = [f"{counts[Known.GOOD]} good"]
    parts += [f"{counts[Known.MASKED]} with masked defects"] if counts[Known.MASKED] else []
    parts += [f"{counts[Known.BOXED]} with boxed defects"] if counts[Known.BOXED] else []
    parts += [f"{counts[Known.BAGGED]} of pictures that are labelled as a whole"] if counts[Known.BAGGED] else []
    said = f"{format_count(len(images), 'picture')} in {format_count(len(tiles.groups), 'group')}"
    return f"{said}, {defective} defective; tiles: {', '.join(parts)}"


def _warnings(store: FrameStore, images: list[LabelledImage], tiles: DenseTiles, rule: TileRule) -> list[str]:
    masks = (store.mask(frame) for frame in range(len(images)))
    areas = [area for mask in masks if mask is not None for area in defect_areas(mask)]
    placed = tiles.known != Known.BAGGED
    small = describe_small_defects(
        areas,
        int((tiles.table.ambiguous & placed).sum()),
        int((tiles.table.defective & placed).sum()),
        rule.tile_px,
        rule.defective_share,
    )
    return [f"warning: {line}" for line in (*small, *describe_few_groups(images))]
