"""Evaluate a run or a bundle on labelled pictures."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from heatline.edge.errors import InputError
from heatline.edge.images import digest_picture
from heatline.edge.picture_folders import find_layout
from heatline.edge.util.text import format_count, is_are, utf8_safe
from heatline.train.evaluation.evaluated import EvaluatedModel, open_model
from heatline.train.evaluation.figures import FEWEST_GROUPS, Figures, Weights, compute_figures, compute_intervals
from heatline.train.evaluation.gallery import FrameGallery
from heatline.train.evaluation.observe import observe
from heatline.train.evaluation.result import (
    LOOSE,
    Evaluation,
    EvaluationSubject,
    count_kinds,
    describe_escapes,
    write_evaluation,
)
from heatline.train.progress import Track
from heatline.train.readers import LabelledImage
from heatline.train.readers.folder import truths_in
from heatline.train.run import read_as

ALL, CROSS_VALIDATION = "all", "cross-validation"


@dataclass(frozen=True)
class SelectedPictures:
    """The pictures of an evaluation."""

    folder: Path
    truth: str
    images: list[LabelledImage]
    grouped: bool
    """Whether every picture has a group."""
    part: str
    """test, val, train, all or cross-validation."""
    trained_on: int
    """Pictures whose groups the model was trained on."""
    set_threshold: int
    """Good pictures of the groups that set the threshold that judges them."""

    @property
    def groups(self) -> list[str]:
        """The group of each picture; its name if the pictures have no groups."""
        return [str(image.group) if self.grouped else image.name_in_folder for image in self.images]


def evaluate_model(
    path: Path,
    data: Path | None = None,
    truth: str | None = None,
    part: str | None = None,
    *,
    folder: Path | None = None,
    false_reject: float = 0.01,
    track: Track = iter,
) -> Evaluation:
    """Open a run's folder or a bundle and evaluate it.

    Args:
        data, truth, part: as for `select_pictures`.
        folder: gets `evaluation.json` and the gallery; None: nothing is written.
        false_reject: share of good frames that the thresholds of a run may reject.
        track: wraps the pictures, to show progress.
    Raises:
        InputError: as `select_pictures`; or a picture or its truth cannot be used.
        BundleError, TrainingError, ExportError, EngineError: the model cannot be used, or `folder` not be written.
    """
    model = open_model(path, false_reject=false_reject, track=track)
    return evaluate_pictures(model, select_pictures(model, data, truth, part), folder, track)


def evaluate_pictures(
    model: EvaluatedModel, selection: SelectedPictures, folder: Path | None = None, track: Track = iter
) -> Evaluation:
    """Evaluate an open model on selected pictures; other arguments and errors as for `evaluate_model`."""
    gallery = None if folder is None else FrameGallery()
    references = None if model.run is None else model.run.references
    if references is not None:
        references = references.on(selection.folder, selection.images)
    groups, number = np.unique(selection.groups, return_inverse=True)
    found = observe(model, selection.images, number.tolist(), track, gallery, references)
    tiles, frames = found.columns

    def figures(weights: Weights) -> Figures:
        return compute_figures(tiles, frames, found.maps, weights, set_threshold=selection.set_threshold > 0)

    intervals, intervals_are = compute_intervals(figures, len(groups) if selection.grouped else 0)
    answers = found.frames
    if folder is not None and gallery is not None:
        files = gallery.write(folder)
        answers = [msgspec.structs.replace(answer, picture=files.get(at)) for at, answer in enumerate(answers)]
    evaluation = Evaluation(
        subject=_describe_subject(model, selection, len(answers)),
        truth=selection.truth,
        calibration=model.settings.calibration,
        figures=figures(np.ones(len(groups))),
        intervals=intervals,
        intervals_are=intervals_are,
        frames=answers,
        rests_on=_describe_pictures(selection, len(answers)),
        implausible=found.implausible,
        set_threshold=selection.set_threshold,
    )
    evaluation = msgspec.structs.replace(evaluation, warnings=_warnings(selection, evaluation, model))
    if folder is not None:
        write_evaluation(evaluation, folder)
    return evaluation


def select_pictures(
    model: EvaluatedModel, data: Path | None = None, truth: str | None = None, part: str | None = None
) -> SelectedPictures:
    """Return the pictures of an evaluation.

    Args:
        data: their folder; None: that which the run was trained on.
        truth: None: that of the training if the folder has it, else the first of the folder.
        part: test, val, train or all; None: test, if the model names test groups and was trained on the folder, else
            all.
    Raises:
        InputError: there is no such folder, truth or part.
    """
    own = None if model.run is None else model.run.data
    folder = own.folder if data is None and own is not None else data
    if folder is None:
        raise InputError(f"{model.path} does not record the folder of its pictures; name a folder with --data")
    truths = truths_in(find_layout(folder))
    trained_by = model.reading.get("truth")
    truth = truth or (trained_by if trained_by in truths else truths[0])
    if own is not None and (truth, folder.resolve()) == (own.truth, own.folder.resolve()):
        labelled = own
    else:
        labelled = read_as(model.reading, folder, truth)
    digests = set(model.summary.get("digests", []))
    known = {image.path for image in labelled.images if digest_picture(image.path) in digests} if digests else set()
    present = {image.group for image in labelled.images}
    if part is None:
        part = "test" if known and model.groups("test") and model.groups("test") <= present else ALL
    wanted = present if part == ALL else model.groups(part)
    if not wanted:
        raise InputError(f"{model.path} names no groups as {part}; choose --part all")
    if missing := sorted(map(str, wanted - present)):
        raise InputError(
            f"{labelled.folder} has {len(wanted) - len(missing)} of the {len(wanted)} {part} groups of {model.path}, "
            f"{missing[0]!r} is missing; groups were read from {labelled.groups_are}: name the folder of the training"
        )
    images = [image for image in labelled.images if image.group in wanted]
    trained = model.groups("train") | {image.group for image in labelled.images if image.path in known and image.group}
    trained_on = sum(image.path in known or image.group in trained for image in images) if known else 0
    setting = (model.groups("val") or trained) if known else set()
    set_threshold = sum(
        not image.defective and image.group in setting and image.path not in model.held_out for image in images
    )
    grouped = all(image.group is not None for image in images)
    return SelectedPictures(folder, truth, images, grouped, part, 0 if part == "train" else trained_on, set_threshold)


def _describe_pictures(selection: SelectedPictures, judged: int) -> str:
    """Describe the frames that the figures rest on, as `the test groups of pcb (5 groups, 12 frames)`."""
    part = {"val": "validation", "train": "training"}.get(selection.part, selection.part)
    whose = "all frames" if part == ALL else f"the {part} groups"
    groups = f"{format_count(len(set(selection.groups)), 'group', ',')}, " if selection.grouped else ""
    return f"{whose} of {selection.folder.resolve().name} ({groups}{format_count(judged, 'frame', ',')})"


def _warnings(selection: SelectedPictures, evaluation: Evaluation, model: EvaluatedModel) -> list[str]:
    """Return the reasons why the figures are worth less than they look."""
    frames, implausible = evaluation.frames, evaluation.implausible
    defective = sum(frame.defective for frame in implausible)
    aligned = ", or not aligned with its reference" if model.engine.compares else ""
    escapes = describe_escapes(evaluation, count_kinds([evaluation]))
    calibration, groups = evaluation.calibration, len(set(selection.groups))
    unplaced = evaluation.figures["frame.unplaced"] or 0
    wanted, at_most = calibration.false_reject_per_frame or 0.0, calibration.false_reject_at_most or 0.0
    # The report of a cross-validation tells how many new good frames may be rejected.
    is_loose = calibration.false_reject_per_frame is not None and selection.part != CROSS_VALIDATION
    found = {
        escapes: escapes,
        f"{format_count(len(implausible), 'frame', ',')} {is_are(len(implausible))} not like the product{aligned} "
        f"({len(implausible) - defective:,} good, {defective:,} defective): the line gives no verdict there, and no "
        "figure counts them.": implausible,
        "The model was trained on these frames: the figures do not show how it judges new parts.": selection.part
        == "train",
        f"The model was trained on the groups of at least {selection.trained_on:,} of the "
        f"{format_count(len(selection.images), 'frame', ',')}: the figures are better than those of new "
        "parts.": selection.trained_on,
        f"{selection.set_threshold:,} of the good frames, or others of their groups, set the threshold: how many of "
        "them reach it says nothing of new parts.": selection.set_threshold,
        "The frames have no groups: frames of one part may count several times, and no interval is "
        "known.": not selection.grouped,
        f"Too few groups: {groups}. With at least {FEWEST_GROUPS}, the report gives intervals of its "
        "figures.": selection.grouped and groups < FEWEST_GROUPS,
        f"{unplaced:,} of the {format_count(len(frames), 'frame', ',')} {is_are(int(unplaced))} only labelled good or "
        "defective, without the place of the defect: only figures of frames count them.": unplaced,
        "No frame is defective: the rate of misses is not known.": not any(frame.defective for frame in frames),
        "No frame is good: the rate of false rejects is not known.": all(frame.defective for frame in frames),
        f"Few frames set the thresholds ({calibration.frames:,}): up to {100 * at_most:.0f} % of the good parts may be "
        f"rejected, where {100 * wanted:g} % is wanted.": is_loose and at_most > max(LOOSE, 2 * wanted),
    }
    return [sentence for sentence, holds in found.items() if holds]


def _describe_subject(model: EvaluatedModel, selection: SelectedPictures, pictures: int) -> EvaluationSubject:
    summary = model.summary
    steps, batch = summary.get("steps"), summary.get("batch")
    length = "" if steps is None else f", {format_count(steps, 'step')}" + (f" of {batch}" if batch else "")
    return EvaluationSubject(
        name=model.path.resolve().name,
        path=str(model.path),
        kind="bundle" if model.run is None else "run",
        model=model.model_name,
        family=model.family,
        method=model.settings.map.method,
        map_hw=model.settings.map.hw,
        engine=model.engine_description,
        recipe=str(summary.get("recipe", "not known")) + length,
        data=selection.folder.resolve().name,
        part=selection.part,
        groups=[utf8_safe(group) for group in sorted(set(selection.groups))] if selection.grouped else [],
        pictures=pictures,
        lr=summary.get("lr"),
        val_loss=summary.get("val", {}).get("val_loss"),
        val_accuracy=summary.get("val", {}).get("val_accuracy"),
    )
