"""Evaluate a run or a bundle on labelled pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from heatline.edge.calibration.statistics import FEWEST_GROUPS
from heatline.edge.errors import InputError
from heatline.edge.images import digest_picture
from heatline.edge.inference import EngineKind, Precision
from heatline.edge.picture_folders import find_layout
from heatline.edge.util.text import format_count, is_are, utf8_safe
from heatline.train.evaluation.evaluated import EvaluatedModel, open_model
from heatline.train.evaluation.figures import compute_figures, compute_intervals
from heatline.train.evaluation.gallery import FrameGallery, relative_name
from heatline.train.evaluation.observe import Observed, Picture, observe
from heatline.train.evaluation.result import (
    Evaluation,
    EvaluationSubject,
    FrameAnswer,
    ImplausibleFrame,
    TruthEvaluation,
    count_kinds,
    describe_escapes,
    write_evaluation,
)
from heatline.train.evaluation.rows import unique_ends
from heatline.train.evaluation.sweep import Sweep, SweepTiles
from heatline.train.progress import Track
from heatline.train.readers import LabelledFolder, LabelledImage
from heatline.train.readers.folder import LABELS_ONLY, truths_in
from heatline.train.run import read_as

ALL, CROSS_VALIDATION = "all", "cross-validation"
LOOSE = 0.05
"""A warning is given if the bound of the false-reject rate is above this share."""


@dataclass(frozen=True)
class EvaluationOptions:
    """The pictures, the truths and the engine of an evaluation."""

    data: Path | None = None
    """Folder of pictures; None: the folder that the run was trained on."""
    truths: tuple[str, ...] | None = None
    """None: all truths of the folder, or the labels if it has no other."""
    part: str | None = None
    """test, val, train or all. None: test, if the model names test groups and the folder has them, else all."""
    groups: tuple[str, ...] | None = None
    """These groups instead of a part."""
    column: str | None = None
    """Column of labels.csv that names groups. None: as in the training."""
    pattern: str | None = None
    """Instead of a column, a regular expression on file names."""
    engine: EngineKind = "openvino"
    """Engine of a bundle."""
    precision: Precision = "f32"
    """Precision of a bundle."""
    false_reject: float = 0.01
    """Share of good frames that the thresholds of a run may reject; a bundle has its own thresholds."""


@dataclass(frozen=True)
class SelectedPictures:
    """The pictures of an evaluation."""

    folder: Path
    truths: tuple[str, ...]
    pictures: tuple[Picture, ...]
    groups: tuple[str, ...]
    """Name of each group, by its number; file names if the pictures have no groups."""
    grouped: bool
    part: str
    """test, val, train, all, or a description of the groups."""
    trained_on: int
    """Number of pictures whose groups the model was trained on."""
    set_threshold: int = 0
    """Number of good pictures of the groups that set the threshold that judges them."""


def evaluate_model(
    path: Path, options: EvaluationOptions, folder: Path | None = None, track: Track = iter
) -> Evaluation:
    """Open a model and evaluate it.

    Args:
        path: a run's folder or a bundle.
        folder: gets `evaluation.json` and the gallery; None: nothing is written.
        track: wraps the pictures, to show progress.
    Raises:
        InputError: an option names something that does not exist, or a picture or its truth cannot be used.
        BundleError, TrainingError, ExportError, EngineError: the model cannot be used.
        InputError, TrainingError: `folder` cannot be written.
    """
    model = open_model(path, options.engine, options.precision, options.false_reject, track)
    return evaluate_pictures(model, select_pictures(model, options), folder, track)


def evaluate_pictures(
    model: EvaluatedModel, selection: SelectedPictures, folder: Path | None = None, track: Track = iter
) -> Evaluation:
    """Evaluate an open model on selected pictures; other arguments and errors as for `evaluate_model`."""
    sweep_tiles = _sweep_function(model)
    sweep = None if sweep_tiles is None else Sweep(sweep_tiles)
    calibration = model.settings.calibration
    frame_gallery = None if folder is None else FrameGallery(calibration, selection.folder)
    references = None if model.run is None else model.run.references
    if references is not None:
        references = references.on(selection.folder, [picture.image for picture in selection.pictures])
    found = observe(model, selection.pictures, selection.truths, sweep, track, frame_gallery, references)
    implausible = [
        ImplausibleFrame(*_image_and_group(selection, picture), picture.image.defective, found.rejected[at])
        for at, picture in enumerate(selection.pictures)
        if at in found.rejected
    ]
    judged = [picture for at, picture in enumerate(selection.pictures) if at not in found.rejected]
    counted = replace(selection, pictures=tuple(judged))
    truths = []
    for truth, (of_tiles, of_frames) in found.by_truth.items():
        figures = partial(
            compute_figures, of_tiles, of_frames, model.cell_px, set_threshold=selection.set_threshold > 0
        )
        intervals, intervals_are = compute_intervals(figures, len(selection.groups) if selection.grouped else 0)
        truths.append(
            TruthEvaluation(
                truth=truth,
                figures=figures(np.ones(len(selection.groups))),
                intervals=intervals,
                intervals_are=intervals_are,
                sweep=sweep.figures(truth) if sweep is not None and of_frames["placed"].any() else None,
            )
        )
    evaluation = Evaluation(
        subject=_describe_subject(model, counted),
        calibration=calibration,
        truths=truths,
        frames=_frame_answers(model, counted, found),
        gallery=[] if folder is None or frame_gallery is None else frame_gallery.write(folder),
        rests_on=_describe_pictures(counted),
        implausible=implausible,
        set_threshold=selection.set_threshold,
    )
    warnings = [describe_escapes(evaluation, count_kinds([evaluation])), *_warnings(selection, evaluation, model)]
    evaluation = msgspec.structs.replace(evaluation, warnings=[each for each in warnings if each])
    if folder is not None:
        write_evaluation(evaluation, folder)
    return evaluation


def select_pictures(model: EvaluatedModel, options: EvaluationOptions) -> SelectedPictures:
    """Return the pictures that the options select, with all their truths.

    Raises:
        InputError: there is no such folder, truth, part or group.
    """
    folder = options.data or model.data
    if folder is None:
        raise InputError(f"{model.path} does not record the folder of its pictures; name a folder with --data")
    truths = (
        options.truths
        or tuple(truth for truth in truths_in(find_layout(folder)) if truth != LABELS_ONLY)
        or (LABELS_ONLY,)
    )
    folders = {truth: _read(folder, truth, options, model) for truth in truths}
    first = folders[truths[0]]
    digests = set(model.summary.get("digests", []))
    known = {image.path for image in first.images if digest_picture(image.path) in digests} if digests else set()
    is_same = bool(known)
    images, part = _select(model, options, first, is_same=is_same)
    by_path = {truth: {image.path: image for image in each.images} for truth, each in folders.items()}
    grouped = all(image.group is not None for image in images)
    group_names = [str(image.group) if grouped else image.name_in_folder for image in images]
    groups = tuple(sorted(set(group_names)))
    number = {group: n for n, group in enumerate(groups)}
    pictures = tuple(
        Picture({truth: images_of[image.path] for truth, images_of in by_path.items()}, number[group])
        for image, group in zip(images, group_names, strict=True)
    )
    trained = model.groups("train") | {image.group for image in first.images if image.path in known and image.group}
    trained_on = sum(image.path in known or image.group in trained for image in images) if is_same else 0
    setting = (model.groups("val") or trained) if is_same else set()
    set_threshold = sum(
        not image.defective and image.group in setting and image.path not in model.held_out for image in images
    )
    return SelectedPictures(
        folder, truths, pictures, groups, grouped, part, 0 if part == "train" else trained_on, set_threshold
    )


def _read(folder: Path, truth: str, options: EvaluationOptions, model: EvaluatedModel) -> LabelledFolder:
    """Read the folder as the training did, except where the options say otherwise."""
    reading = model.reading
    if options.column is not None or options.pattern is not None:
        reading = {**reading, "group": options.column, "pattern": options.pattern, "discover": False}
    elif model.run is not None:
        own = model.run.data
        if truth == own.truth and folder.resolve() == own.folder.resolve():
            return own
    return read_as(reading, folder, truth)


def _select(
    model: EvaluatedModel, options: EvaluationOptions, labelled: LabelledFolder, *, is_same: bool
) -> tuple[list[LabelledImage], str]:
    """Return the selected pictures, and the name of their part.

    Args:
        is_same: whether the model was trained on pictures of this folder.
    """
    if options.column is not None:
        labelled.groups()  # raises if the column does not exist, also if no group of it is selected
    part, wanted = options.part, set(options.groups or ())
    present = {image.group for image in labelled.images}
    if part is None and not wanted:
        is_test = is_same and model.groups("test") and model.groups("test") <= present
        part = "test" if is_test else ALL
    if part == ALL:
        return list(labelled.images), ALL
    if part is not None:
        wanted = model.groups(part)
    if part is not None and not wanted:
        raise InputError(f"{model.path} names no groups as {part}; name groups with --groups, or choose --part all")
    missing = sorted(wanted - present)
    if missing and part is None:
        raise InputError(
            f"{labelled.folder} has no picture of the group {missing[0]!r}; it has {', '.join(labelled.groups())}"
        )
    if missing:
        raise InputError(
            f"{labelled.folder} has {len(wanted) - len(missing)} of the {len(wanted)} {part} groups of {model.path}, "
            f"{missing[0]!r} is missing; groups were read from {labelled.groups_are}: name the folder of the "
            "training, and choose the source of groups with --group or --pattern"
        )
    images = [image for image in labelled.images if image.group in wanted]
    return images, part or f"groups {', '.join(options.groups or ())}"


def _sweep_function(model: EvaluatedModel) -> SweepTiles | None:
    """Return the function that computes all rollouts of a ViT's run; None for other models."""
    if model.run is None or model.family != "vit":
        return None
    from heatline.train.models.vit import RolloutClassifier

    classifier = model.run.model
    assert isinstance(classifier, RolloutClassifier)
    return classifier.sweep


def _frame_answers(model: EvaluatedModel, selection: SelectedPictures, found: Observed) -> list[FrameAnswer]:
    """Return an answer per frame, with its defects by the first truth."""
    _, of = next(iter(found.by_truth.values()))
    answers = []
    for at, picture in enumerate(selection.pictures):
        path, loose = picture.image.path, model.loose_held_out.get(picture.image.path)
        defects, hit, false_regions = (
            int(of[name][at]) if of["placed"][at] else None for name in ("defects", "hit", "false_regions")
        )
        answers.append(
            FrameAnswer(
                *_image_and_group(selection, picture),
                bool(of["defective"][at]),
                float(of["logit"][at]),
                defects,
                hit,
                false_regions,
                threshold=found.thresholds[at] if path in model.held_out else None,
                loose_threshold=model.loose_threshold if loose is None else loose.score_threshold,
                kinds=found.kinds[at],
            )
        )
    return answers


def _image_and_group(selection: SelectedPictures, picture: Picture) -> tuple[str, str | None]:
    """Return the names of a picture and of its group."""
    return (
        relative_name(selection.folder, picture.image.path),
        utf8_safe(selection.groups[picture.group]) if selection.grouped else None,
    )


def _describe_pictures(selection: SelectedPictures) -> str:
    """Describe the frames that the figures rest on, as `the test groups of pcb (5 groups, 12 frames)`."""
    parts = {
        "test": "the test groups",
        "val": "the validation groups",
        "train": "the training groups",
        ALL: "all frames",
    }
    counted = [format_count(len(selection.groups), "group", ",")] * selection.grouped
    counted.append(format_count(len(selection.pictures), "frame", ","))
    return f"{parts.get(selection.part, selection.part)} of {selection.folder.resolve().name} ({', '.join(counted)})"


def _warnings(selection: SelectedPictures, evaluation: Evaluation, model: EvaluatedModel) -> list[str]:
    """Return the reasons why the figures are worth less than they look."""
    frames, implausible = evaluation.frames, evaluation.implausible
    defective = sum(frame.defective for frame in implausible)
    aligned = ", or not aligned with its reference" if model.engine.compares else ""
    calibration, enough = evaluation.calibration, len(selection.groups) >= FEWEST_GROUPS
    wanted, at_most = calibration.false_reject_per_frame or 0.0, calibration.false_reject_at_most or 0.0
    # The report of a cross-validation tells how many new good frames may be rejected.
    is_loose = calibration.false_reject_per_frame is not None and selection.part != CROSS_VALIDATION
    found = {
        f"{format_count(len(implausible), 'frame', ',')} {is_are(len(implausible))} not like the product{aligned} "
        f"({len(implausible) - defective:,} good, {defective:,} defective): the line gives no verdict there, and no "
        "figure counts them.": implausible,
        "The model was trained on these frames: the figures do not show how it judges new parts.": selection.part
        == "train",
        f"The model was trained on the groups of at least {selection.trained_on:,} of the "
        f"{format_count(len(selection.pictures), 'frame', ',')}: the figures are better than those of new "
        "parts.": selection.trained_on,
        f"{selection.set_threshold:,} of the good frames, or others of their groups, set the threshold: how many of "
        "them reach it says nothing of new parts.": selection.set_threshold,
        "The frames have no groups: frames of one part may count several times, and no interval is "
        "known.": not selection.grouped,
        f"Too few groups: {len(selection.groups)}. With at least {FEWEST_GROUPS}, the report gives intervals of its "
        "figures.": selection.grouped and not enough,
        "No frame is defective: the rate of misses is not known.": not any(frame.defective for frame in frames),
        "No frame is good: the rate of false rejects is not known.": all(frame.defective for frame in frames),
        f"Few frames set the thresholds ({calibration.frames:,}): up to {100 * at_most:.0f} % of the good parts may be "
        f"rejected, where {100 * wanted:g} % is wanted.": is_loose and at_most > max(LOOSE, 2 * wanted),
    }
    return [sentence for sentence, holds in found.items() if holds]


def _describe_subject(model: EvaluatedModel, selection: SelectedPictures) -> EvaluationSubject:
    summary = model.summary
    steps, batch = summary.get("steps"), summary.get("batch")
    length = "" if steps is None else f", {format_count(steps, 'step')}" + (f" of {batch}" if batch else "")
    return EvaluationSubject(
        name=model.name,
        path=str(model.path),
        kind=model.kind,
        model=model.model_name,
        family=model.family,
        method=model.settings.map.method,
        map_hw=model.settings.map.hw,
        engine=model.engine_description,
        recipe=str(summary.get("recipe", "not known")) + length,
        data=selection.folder.resolve().name,
        part=selection.part,
        groups=[utf8_safe(group) for group in selection.groups] if selection.grouped else [],
        pictures=len(selection.pictures),
        lr=summary.get("lr"),
        val_loss=summary.get("val", {}).get("val_loss"),
        val_accuracy=summary.get("val", {}).get("val_accuracy"),
    )


def unique_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Return a unique name per model: the name of its folder, with as many parent folders as needed.

    Raises:
        InputError: two paths are one folder.
    """
    places = [path.resolve() for path in paths]
    if twice := [path for path, place in zip(paths, places, strict=True) if places.count(place) > 1]:
        raise InputError(f"{' and '.join(map(str, twice))} are one folder; name each model once")
    return dict(zip(paths, unique_ends(places, "-"), strict=True))
