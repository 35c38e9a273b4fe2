"""Trains by the recipe `heatline`: from a configuration to a run's folder."""

import shutil
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from threading import Lock

import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from rich.progress import Progress

from heatline.edge.cli.output import progress_console
from heatline.edge.util.text import format_count, list_some
from heatline.train.adequacy import defect_areas, describe_expectation, describe_few_groups, describe_small_defects
from heatline.train.config import DenseRecipeConfig, TilesConfig, TrainConfig
from heatline.train.dense.cross_validation import (
    LEAST_GAIN,
    CrossValidation,
    divide_groups,
    measure_cells,
    measure_tiles,
)
from heatline.train.dense.extraction import compare_samples, extract_features
from heatline.train.dense.improve import Improvement
from heatline.train.dense.samples import Painter, digest_pictures, gather_samples, grid_samples, plan_copies
from heatline.train.dense.tiles import DenseTiles, LabelKind, OutOfFold, label_tiles
from heatline.train.discovery import describe_unvalidated
from heatline.train.files import write_atomically
from heatline.train.frames import FrameStore, delete_frames
from heatline.train.models.build import build_model, choose_precision
from heatline.train.models.dense import DenseClassifier
from heatline.train.progress import Shown, tracked
from heatline.train.readers import LabelledFolder, LabelledImage
from heatline.train.readers.labelled import digest_groups
from heatline.train.references import GAINS, ReferenceSummary, describe_reference, find_references, measure_alignment
from heatline.train.run import Round, RunFolder, RunSummary, read_data, split_data

ReportLine = Callable[[str], None]
MOST_BEFORE_ROUNDS = 2_000
"""Steps of a head that rounds of fine-tuning train further: thousands more would take the time of all rounds."""


def train_dense(config: TrainConfig, run: RunFolder, report_line: ReportLine) -> LabelledFolder:
    """Extract features, cross-validate, and train the final head on all groups except the test groups.

    With `config.minutes`, rounds of fine-tuning then improve this first result. An interrupted training goes on after
    its last round; before the first result it starts again, and finds its features in the cache.

    Args:
        report_line: gets lines about the training, for people.
    Returns:
        The pictures, as they were read.
    """
    recipe = config.recipe
    assert isinstance(recipe, DenseRecipeConfig), "the caller chooses by the recipe"
    before = run.read_summary() if config.resume and run.summary.exists() else None
    started, tile_px = time.monotonic() - (before.seconds if before else 0), config.tiles.tile_px
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
    if config.minutes is not None:
        recipe = replace(recipe, steps=min(recipe.steps_for(len(tiles)), MOST_BEFORE_ROUNDS))
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
        twice = ", with and without the reference" if references is not None and not must_compare else ""
        report_line(f"{format_count(steps, 'step')} for {validated}{twice}; precision {precision}: {reason}")
        variants = [] if must_compare else [model]
        differences, random_state = None, torch.get_rng_state()
        everything = counted = np.ones(len(tiles), np.bool_)
        comparison = before.reference if before else None
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
        continues = before is not None and run.rounds.exists()
        if continues:  # the variant is chosen already
            variants = [each for each in variants if each.compares == bool(comparison and comparison.kept)]
        total, done = steps * (folds + 1 if folds > 1 else 1) * len(variants), 0
        shown, lock = Shown(progress, "training, steps", report_line), Lock()

        def on_step() -> None:
            nonlocal done
            with lock:
                done += 1
                shown.update(done, total)

        def measure(found: OutOfFold, counted: NDArray[np.bool_]) -> dict[str, float]:
            return measure_tiles(tiles, found.logit, counted) | measure_cells(tiles, samples, found.map, counted)

        trained = []
        for variant in variants:
            torch.set_rng_state(random_state)  # a model that is kept is the one that would have been trained alone
            seen = features if not variant.compares or differences is None else features.with_differences(differences)
            validation = CrossValidation(variant, tiles, samples, seen, recipe, config.seed, bf16=bf16)
            improvement = Improvement(validation, run.rounds, started, config.minutes or 0, report_line)
            if continues:
                improvement.restore()
            else:
                validation.train(on_step)
                if recipe.finetune_steps:
                    validation.fine_tune(recipe.finetune_steps, on_step=on_step)
            out_of_fold = validation.predict()
            gains = {} if out_of_fold is None or references is None else measure(out_of_fold, counted)
            trained.append((improvement, out_of_fold, gains))
        improvement, out_of_fold, _ = trained[-1 if _prefers_last([gains for *_, gains in trained]) else 0]
        model = improvement.validation.model
        counted = counted if model.compares else everything
        val = {} if out_of_fold is None else measure(out_of_fold, counted)
        if references is not None and not continues:
            comparison = ReferenceSummary(
                scope=references.scope,
                file=None if references.file is None else str(references.file),
                kept=model.compares,
                found=why,
                misaligned=[images[frame].name for frame in misaligned],
                alignment=measure_alignment([pose for pose in poses.values() if pose is not None]),
                without={} if must_compare else trained[0][2],
                compared=trained[-1][2],
            )
            report_line(describe_reference(comparison))
        may_improve = config.minutes is not None and bool(val)
        summary = RunSummary(
            finished=not may_improve,
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
            folds=None if out_of_fold is None else folds,
            not_validated=None
            if folds > 1
            else "recipe.folds=1"
            if recipe.folds == 1
            else describe_unvalidated(data, images),
            reference=comparison,
            top_cells=improvement.validation.top_cells,
        )
        if before is not None and continues:
            summary = before
        else:
            _write(run, summary, improvement.validation, out_of_fold)
        if may_improve:
            shown = Shown(progress, "fine-tuning, steps", report_line)

            def keep(found: OutOfFold, figures: dict[str, float]) -> None:
                nonlocal summary
                summary = replace(
                    summary,
                    val=figures,
                    steps=steps + improvement.steps,
                    best_step=steps + improvement.steps,
                    seconds=time.monotonic() - started,
                    rounds=[*improvement.rounds],
                    top_cells=improvement.validation.top_cells,
                )
                _write(run, summary, improvement.validation, found)

            first = Round(steps=steps, seconds=summary.seconds, step_s=0, predict_s=0, figures=summary.val, kept=True)
            improvement.run(first, lambda found: measure(found, counted), keep, shown.update)
            run.write_summary(
                replace(summary, finished=True, seconds=time.monotonic() - started, rounds=improvement.rounds)
            )
        elif config.minutes is not None:
            report_line("no cross-validated figure could show what gains, so the first result is the last")
    delete_frames(run.cache)
    return data


def _write(run: RunFolder, summary: RunSummary, validation: CrossValidation, out_of_fold: OutOfFold | None) -> None:
    """Write a result; a run that is killed meanwhile has none, and is resumed."""
    run.summary.unlink(missing_ok=True)
    shutil.rmtree(run.report, ignore_errors=True)  # of the result before
    validation.give()
    state = {f"model.{name}": value for name, value in validation.model.state_dict().items()}
    run.checkpoints.mkdir(exist_ok=True)
    write_atomically(run.best, lambda file: torch.save({"state_dict": state, "global_step": summary.steps}, file))
    if out_of_fold is not None:
        out_of_fold.write(run.out_of_fold)
    run.write_summary(summary)


def _prefers_last(gains: Sequence[dict[str, float]]) -> bool:
    """Return whether the figures of the last model, which compares with a reference, are better than the first's."""
    without, compared = gains[0], gains[-1]
    gained = [compared[name] - without[name] for name in GAINS if name in without and name in compared]
    return len(gains) > 1 and max(gained, default=0) > LEAST_GAIN and min(gained, default=0) > -LEAST_GAIN


TILES_OF = {
    LabelKind.GOOD: "good",
    LabelKind.MASKED: "with masked defects",
    LabelKind.BOXED: "with boxed defects",
    LabelKind.BAGGED: "of pictures labelled as a whole",
    LabelKind.POINTED: "with marks of missed defects",
    LabelKind.UNKNOWN: "beside them, not used",
}


def _describe_tiles(images: list[LabelledImage], tiles: DenseTiles) -> str:
    parts = [
        f"{count} {name}"
        for known, name in TILES_OF.items()
        if (count := len(tiles.of(known))) or known == LabelKind.GOOD
    ]
    pictures = f"{format_count(len(images), 'picture')} in {format_count(len(tiles.groups), 'group')}"
    return f"{pictures}, {sum(image.defective for image in images)} defective; tiles: {', '.join(parts)}"


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
