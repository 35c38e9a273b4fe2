"""Trains by the recipe `heatline`: from a configuration to a run's folder."""

import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress

from heatline.edge.cli.output import progress_console
from heatline.edge.util.text import format_count, list_some
from heatline.train.adequacy import defect_areas, describe_expectation, describe_few_groups, describe_small_defects
from heatline.train.config import DenseRecipeConfig, TilesConfig, TrainConfig
from heatline.train.dense.copies import Painter, digest_pictures, grid_samples, plan_copies
from heatline.train.dense.cross_validation import cross_validate, divide_groups
from heatline.train.dense.extraction import compare_samples, extract_features
from heatline.train.dense.fit_head import DEFECTIVE_CELL
from heatline.train.dense.samples import Samples, gather_samples
from heatline.train.dense.tiles import DenseTiles, LabelKind, OutOfFold, label_tiles
from heatline.train.discovery import describe_unvalidated
from heatline.train.files import write_atomically
from heatline.train.frames import FrameStore, delete_frames
from heatline.train.metrics import auroc, average_precision
from heatline.train.models.build import build_model, choose_precision
from heatline.train.models.dense import DenseClassifier
from heatline.train.progress import Shown, tracked
from heatline.train.readers import LabelledFolder, LabelledImage
from heatline.train.readers.labelled import digest_groups
from heatline.train.references import GAINS, ReferenceSummary, describe_reference, find_references, measure_alignment
from heatline.train.run import RunFolder, RunSummary, read_data, split_data

ReportLine = Callable[[str], None]
LEAST_GAIN = 0.005
"""How much one of `GAINS` must gain by a reference, and none may lose: less changes with the seed."""


def train_dense(config: TrainConfig, run: RunFolder, report_line: ReportLine) -> LabelledFolder:
    """Extract features, cross-validate, and train the final head on all groups except the test groups.

    An interrupted training starts again, and finds its features in the cache.

    Args:
        report_line: gets lines about the training, for people.
    Returns:
        The pictures, as they were read.
    """
    recipe = config.recipe
    assert isinstance(recipe, DenseRecipeConfig), "the caller chooses by the recipe"
    started, tile_px = time.monotonic(), config.tiles.tile_px
    torch.manual_seed(config.seed)
    model, weights = build_model(config.model, tile_px)
    assert isinstance(model, DenseClassifier), "the recipe made the model one with a dense head"
    model.eval()
    precision, reason = choose_precision(config.trainer.precision, "cpu")
    bf16 = precision.startswith("bf16")
    data = read_data(config, report_line)
    split = split_data(config, data)
    images = split.images(data, "train")
    store = FrameStore.build(images, run.cache, tracked("decoding pictures"))
    rule = config.tiles
    tiles = label_tiles(store, rule)
    folds = int(divide_groups(tiles, recipe, config.seed).max()) + 1
    must_compare = config.reference not in ("auto", "off")
    if config.reference == "auto" and (folds == 1 or not any(image.defective for image in images)):
        references, why = None, "no defects of a cross-validation could show what it gains; reference=on uses one"
    else:
        sizes = [store.frame_hw(at) for at in range(len(store))]
        references, why = find_references(config.reference, data, images, sizes)
    run.begin(config)  # only now: with a bad picture or reference mended, the same command shall train
    if not config.discover and (mixture := data.describe_mixture()):  # the assumptions above include it
        report_line(mixture)
    report_line(_describe_tiles(images, tiles))
    if expectation := describe_expectation(images):
        report_line(f"to expect: {expectation}")
    for line in _find_warnings(store, images, tiles, rule):
        report_line(line)

    report_line(f"{'no ' if references is None else ''}reference: {why}")
    steps = recipe.steps_for(len(tiles)) + recipe.finetune_steps
    digests = digest_pictures(images)
    painter = Painter(store, tiles, digests, recipe.augment, tile_px, model.map_hw[0])
    planned = [*grid_samples(tiles), *plan_copies(tiles, store, digests, recipe, tile_px)]
    with Progress(console=progress_console(), transient=True) as progress:
        features, tiles_per_s = extract_features(
            model, tile_px, painter, planned, config.features, report_line, bf16=bf16, progress=progress
        )
        samples = gather_samples(tiles, planned, painter)
        validated = f"each of {folds} folds and for the model" if folds > 1 else "the model, without a cross-validation"
        not_validated = None
        if folds == 1:
            not_validated = "recipe.folds=1" if recipe.folds == 1 else describe_unvalidated(data, images)
        twice = ", with and without the reference" if references is not None and not must_compare else ""
        report_line(f"{format_count(steps, 'step')} for {validated}{twice}; precision {precision}: {reason}")
        variants = [] if must_compare else [model]
        differences, random_state = None, torch.get_rng_state()
        everything = counted = np.ones(len(tiles), np.bool_)
        if references is not None:
            comparing = progress.add_task("comparing pictures", total=len(store))
            differences, poses = compare_samples(
                store,
                references,
                painter,
                planned,
                tiles.table.frame[[sample.row for sample in planned]],
                tile_px,
                lambda: progress.advance(comparing),
            )
            counted = np.isin(tiles.table.frame, [*poses])
            misaligned = [frame for frame, pose in sorted(poses.items()) if pose is None]
            if misaligned:
                report_line(
                    f"warning: {format_count(len(misaligned), 'picture')} "
                    f"({list_some([images[frame].name for frame in misaligned], 3)}) cannot be aligned with the "
                    "reference; a line gives such frames no verdict"
                )
            other, _ = build_model(config.model, tile_px)  # fine-tuning changes the trunk of each
            assert isinstance(other, DenseClassifier), "as above"
            other.head = other.head.untrained(compares=True)
            variants.append(other.eval())
        total, done = steps * (folds + 1 if folds > 1 else 1) * len(variants), 0
        shown, lock = Shown(progress, "training, steps", report_line), Lock()

        def on_step() -> None:
            nonlocal done
            with lock:
                done += 1
                shown.update(done, total)

        trained = []
        for variant in variants:
            torch.set_rng_state(random_state)  # a model that is kept is the one that would have been trained alone
            seen = features if not variant.compares or differences is None else features.with_differences(differences)
            out_of_fold = cross_validate(variant, tiles, samples, seen, recipe, config.seed, bf16=bf16, on_step=on_step)
            gains = {}
            if out_of_fold is not None and references is not None:
                gains = _measure(tiles, out_of_fold, counted) | _measure_cells(tiles, samples, out_of_fold, counted)
            trained.append((variant, out_of_fold, gains))
        model, out_of_fold, _ = trained[-1 if _prefers_last(trained) else 0]
        val = {}
        if out_of_fold is not None:
            val = _measure(tiles, out_of_fold, counted if model.compares else everything)
        comparison = None
        if references is not None:
            comparison = ReferenceSummary(
                scope=references.scope,
                file=None if references.file is None else str(references.file),
                kept=model.compares,
                found=why,
                misaligned=[images[frame].name for frame in misaligned],
                alignment=measure_alignment([pose for pose in poses.values() if pose is not None]),
                without={} if trained[0][0].compares else trained[0][2],
                compared=trained[-1][2],
            )
            report_line(describe_reference(comparison))
    if out_of_fold is not None:
        out_of_fold.write(run.out_of_fold)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    run.checkpoints.mkdir(exist_ok=True)
    write_atomically(
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
            val=val,
            data=data.name,
            truth=data.truth,
            groups={part: list(getattr(split, part)) for part in ("train", "val", "test")},
            digests=digest_groups(images),
            labelled="pictures" if not len(tiles.located) and len(tiles.of(LabelKind.BAGGED)) else "tiles",
            tiles={"train": tiles.table.counts()},
            weights=weights,
            precision=precision,
            tiles_per_s=tiles_per_s,
            seconds=time.monotonic() - started,
            versions={name: version(name) for name in ("heatline", "torch", "openvino", "timm")},
            folds=None if out_of_fold is None else int(out_of_fold.fold.max()) + 1,
            not_validated=not_validated,
            reference=comparison,
        )
    )
    delete_frames(run.cache)
    return data


def _prefers_last(trained: Sequence[tuple[DenseClassifier, OutOfFold | None, dict[str, float]]]) -> bool:
    """Return whether the last of the trained models, which compares with a reference, is better than the first."""
    without, compared = trained[0][2], trained[-1][2]
    gains = [compared[name] - without[name] for name in GAINS if name in without and name in compared]
    return len(trained) > 1 and max(gains, default=0) > LEAST_GAIN and min(gains, default=0) > -LEAST_GAIN


def _measure(tiles: DenseTiles, out_of_fold: OutOfFold, counted: NDArray[np.bool_]) -> dict[str, float]:
    """Measure how well held-out logits separate tiles and pictures; leave out figures that lack a class.

    Args:
        counted: [tiles], those of the pictures that count.
    """
    logit, ones = out_of_fold.logit.astype(np.float64), np.ones(len(tiles))
    placed = np.isin(tiles.known, (LabelKind.GOOD, LabelKind.MASKED, LabelKind.BOXED))
    clear = placed & ~tiles.table.ambiguous & counted
    frames, number = np.unique(tiles.table.frame[counted], return_inverse=True)
    highest = np.full(len(frames), -np.inf)
    np.maximum.at(highest, number, logit[counted])
    defective = np.zeros(len(frames), np.bool_)
    np.logical_or.at(defective, number, tiles.known[counted] != LabelKind.GOOD)
    figures = {
        "val_ap": average_precision(logit[clear], tiles.table.defective[clear], ones[clear]),
        "val_auroc": auroc(logit[clear], tiles.table.defective[clear], ones[clear]),
        "val_picture_auroc": auroc(highest, defective, np.ones(len(frames))),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _measure_cells(
    tiles: DenseTiles, samples: Samples, out_of_fold: OutOfFold, counted: NDArray[np.bool_]
) -> dict[str, float]:
    """Measure the average precision of map cells, where the defective px are known; empty if a class is missing."""
    exact = np.isin(tiles.known, (LabelKind.GOOD, LabelKind.MASKED)) & counted
    share = samples.share[: len(tiles)][exact]
    level = out_of_fold.map[exact].view(np.uint16)
    counts = [np.bincount(level[chosen], minlength=1 << 16) for chosen in (share > DEFECTIVE_CELL, share == 0)]
    seen = np.flatnonzero(counts[0] + counts[1])
    value = np.tile(seen.astype(np.uint16).view(np.float16).astype(np.float64), 2)
    is_defective = np.repeat([True, False], len(seen))
    found = average_precision(value, is_defective, np.concatenate([each[seen] for each in counts]).astype(np.float64))
    return {} if found is None else {"val_cell_ap": found}


TILES_OF = {
    LabelKind.GOOD: "good",
    LabelKind.MASKED: "with masked defects",
    LabelKind.BOXED: "with boxed defects",
    LabelKind.BAGGED: "of pictures labelled as a whole",
    LabelKind.POINTED: "at points of missed defects",
    LabelKind.UNKNOWN: "beside them, not used",
}


def _describe_tiles(images: list[LabelledImage], tiles: DenseTiles) -> str:
    defective = sum(image.defective for image in images)
    counts = {known: len(tiles.of(known)) for known in LabelKind}
    parts = [f"{count} {TILES_OF[known]}" for known, count in counts.items() if count or known == LabelKind.GOOD]
    pictures = f"{format_count(len(images), 'picture')} in {format_count(len(tiles.groups), 'group')}"
    return f"{pictures}, {defective} defective; tiles: {', '.join(parts)}"


def _find_warnings(store: FrameStore, images: list[LabelledImage], tiles: DenseTiles, rule: TilesConfig) -> list[str]:
    masks = (store.mask(frame) for frame in range(len(images)))
    areas = [area for mask in masks if mask is not None for area in defect_areas(mask)]
    placed = np.isin(tiles.known, (LabelKind.GOOD, LabelKind.MASKED, LabelKind.BOXED))
    small = describe_small_defects(
        areas,
        int((tiles.table.ambiguous & placed).sum()),
        int((tiles.table.defective & placed).sum()),
        rule.tile_px,
        rule.defective_share,
    )
    return [f"warning: {line}" for line in (*small, *describe_few_groups(images))]
