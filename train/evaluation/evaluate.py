"""From a run or a bundle and labelled pictures to an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from edge.bundle import Calibration
from edge.errors import InputError
from edge.inference import EngineKind, Precision
from edge.util.text import format_count, is_are, utf8_safe
from train.evaluation.evaluated import EvaluatedModel, open_model
from train.evaluation.figures import figures_of
from train.evaluation.gallery import FrameGallery, Gallery, draw_gallery, name_below
from train.evaluation.intervals import FEWEST_GROUPS, intervals
from train.evaluation.observe import Observed, Picture, observe
from train.evaluation.result import (
    Evaluation,
    FrameAnswer,
    ImplausibleFrame,
    Told,
    TruthEvaluation,
    write_evaluation,
)
from train.evaluation.sweep import Sweep, SweepTiles
from train.progress import Track
from train.readers import LabelledFolder, LabelledImage
from train.readers.folder import LABELS_ONLY, truths_in
from train.run import read_as

ALL = "all"
LOOSE = 0.05
"""A bound of the false-reject rate above it is worth a warning."""


@dataclass(frozen=True)
class Asked:
    """Which pictures are held against which truths."""

    data: Path | None = None
    """None: those that taught the run."""
    truths: tuple[str, ...] | None = None
    """None: all that the folder has, or the labels where it has none."""
    part: str | None = None
    """test, val, train or all. None: test, where the model names its test groups and the folder has them, else all."""
    groups: tuple[str, ...] | None = None
    """Instead of a part."""
    column: str | None = None
    """Of labels.csv, that names groups. None: as the model was taught."""
    pattern: str | None = None
    """Instead, a regular expression on file names."""
    engine: EngineKind = "openvino"
    """For bundles."""
    precision: Precision = "f32"
    """For bundles."""
    false_reject: float = 0.01
    """For runs, which have no thresholds of their own: the share of good frames that theirs may reject."""


@dataclass(frozen=True)
class Chosen:
    """The pictures of an evaluation."""

    folder: Path
    truths: tuple[str, ...]
    pictures: tuple[Picture, ...]
    groups: tuple[str, ...]
    """Names, by number; of pictures without groups, their own names."""
    grouped: bool
    part: str
    """In words."""
    taught: int
    """How many of the pictures are of groups that taught the model."""


def evaluate_model(path: Path, asked: Asked, folder: Path | None = None, track: Track = iter) -> Evaluation:
    """Hold a model against all that is known of some pictures.

    Args:
        path: a run's folder or a bundle.
        folder: where `evaluation.json` and pictures to look at are written; None: nowhere.
        track: wraps pictures, to show how far it is.
    Raises:
        InputError: what was asked for is not there, or a picture or its truth cannot be used.
        BundleError, TrainingError, ExportError, EngineError: the model cannot be used.
        InputError, TrainingError: `folder` cannot be written.
    """
    judged = open_model(path, asked.engine, asked.precision, asked.false_reject, track)
    return evaluate_judged(judged, choose(judged, asked), folder, track)


def evaluate_judged(
    judged: EvaluatedModel, chosen: Chosen, folder: Path | None = None, track: Track = iter
) -> Evaluation:
    """As `evaluate_model`, with what was opened and chosen."""
    sweep_tiles = _sweep_of(judged)
    sweep = None if sweep_tiles is None else Sweep(sweep_tiles)
    galleries = {truth: Gallery(len(chosen.groups)) for truth in chosen.truths}
    calibration = judged.settings.calibration
    frame_gallery = None if folder is None else FrameGallery(calibration, chosen.folder)
    observed, why = observe(judged, chosen.pictures, galleries, sweep, track, frame_gallery)
    implausible = [
        ImplausibleFrame(*_named(chosen, chosen.pictures[at]), chosen.pictures[at].any.defective, words)
        for at, words in why.items()
    ]
    counted = replace(chosen, pictures=tuple(one for at, one in enumerate(chosen.pictures) if at not in why))
    truths = []
    for truth, found in observed.items():
        figures = partial(figures_of, found.tiles, found.frames, calibration.score_threshold, judged.cell_px)
        sure, sure_by = intervals(figures, len(chosen.groups) if chosen.grouped else 0)
        truths.append(
            TruthEvaluation(
                truth=truth,
                figures=figures(np.ones(len(chosen.groups))),
                intervals=sure,
                intervals_are=sure_by,
                sweep=sweep.figures(truth) if sweep is not None and found.frames.placed.any() else None,
                gallery=[]
                if folder is None
                else draw_gallery(galleries[truth], truth, calibration, sweep_tiles, folder),
            )
        )
    first = next(iter(observed.values()))
    frames = _frames(counted, first)
    stand_ins = [] if any(not frame.defective for frame in frames) else first.without_defects.tolist()
    evaluation = Evaluation(
        told=_told(judged, counted),
        calibration=calibration,
        truths=truths,
        frames=frames,
        gallery=[] if folder is None or frame_gallery is None else frame_gallery.write(folder),
        rests_on=_rests_on(counted),
        warnings=[*_no_verdict(implausible), *_warnings(chosen, frames, len(stand_ins), calibration)],
        good_stand_ins=stand_ins,
        implausible=implausible,
    )
    if folder is not None:
        write_evaluation(evaluation, folder)
    return evaluation


def choose(judged: EvaluatedModel, asked: Asked) -> Chosen:
    """The pictures that are asked for, with all their truths.

    Raises:
        InputError: there is no such folder, truth, part or group.
    """
    folder = asked.data or judged.data
    if folder is None:
        raise InputError(f"{judged.path} does not tell where its pictures lie; name a folder with --data")
    names = asked.truths or tuple(truth for truth in truths_in(folder) if truth != LABELS_ONLY) or (LABELS_ONLY,)
    read = {truth: _read(folder, truth, asked, judged) for truth in names}
    first = read[names[0]]
    images, part = _select(judged, asked, first)
    by_path = {truth: {image.path: image for image in each.images} for truth, each in read.items()}
    grouped = all(image.group is not None for image in images)
    group_of = [str(image.group) if grouped else image.path.name for image in images]
    groups = tuple(sorted(set(group_of)))
    number = {group: n for n, group in enumerate(groups)}
    pictures = tuple(
        Picture({truth: found[image.path] for truth, found in by_path.items()}, number[group])
        for image, group in zip(images, group_of, strict=True)
    )
    same = _same_data(judged, first)
    taught = sum(image.group in judged.groups("train") for image in images) if same else 0
    return Chosen(folder, names, pictures, groups, grouped, part, 0 if part == "train" else taught)


def _same_data(judged: EvaluatedModel, folder: LabelledFolder) -> bool:
    """Whether a folder is, by its name, the one that taught the model."""
    return bool(judged.summary.get("data") == folder.folder.resolve().name)


def _read(folder: Path, truth: str, asked: Asked, judged: EvaluatedModel) -> LabelledFolder:
    """The folder, read as the model's own data was where nothing else is said."""
    reading = judged.read
    if asked.column is not None or asked.pattern is not None:
        reading = {**reading, "group": asked.column, "pattern": asked.pattern, "discover": False}
    elif judged.run is not None:
        own = judged.run.data
        if truth == own.truth and folder.resolve() == own.folder.resolve():
            return own
    return read_as(reading, folder, truth)


def _select(judged: EvaluatedModel, asked: Asked, labelled: LabelledFolder) -> tuple[list[LabelledImage], str]:
    """The pictures asked for, and which they are in words."""
    if asked.column is not None:
        labelled.groups()  # a column that was named must be there, though no group of it may be asked for
    if asked.groups is not None:
        return _of_groups(set(asked.groups), labelled), f"groups {', '.join(asked.groups)}"
    present = {image.group for image in labelled.images}
    if asked.part is None:
        wanted = judged.groups("test")
        if wanted and wanted <= present and _same_data(judged, labelled):
            return _of_part("test", judged, labelled), "test"
        return list(labelled.images), ALL
    if asked.part == ALL:
        return list(labelled.images), ALL
    return _of_part(asked.part, judged, labelled), asked.part


def _of_part(part: str, judged: EvaluatedModel, labelled: LabelledFolder) -> list[LabelledImage]:
    """The pictures of all groups that the model names for a part."""
    wanted = judged.groups(part)
    if not wanted:
        raise InputError(f"{judged.path} names no groups as {part}; name groups with --groups, or take --part all")
    images = [image for image in labelled.images if image.group in wanted]
    if missing := wanted - {str(image.group) for image in images}:
        raise InputError(
            f"{labelled.folder} has {len(wanted) - len(missing)} of the {len(wanted)} {part} groups of {judged.path}, "
            f"{min(missing)!r} is missing; groups were looked for in {labelled.groups_are}: name the folder that was "
            "trained on, and where groups are told with --group or --pattern"
        )
    return images


def _of_groups(wanted: set[str], labelled: LabelledFolder) -> list[LabelledImage]:
    images = [image for image in labelled.images if image.group in wanted]
    if missing := wanted - {str(image.group) for image in images}:
        raise InputError(
            f"{labelled.folder} has no picture of the group {min(missing)!r}; it has {', '.join(labelled.groups())}"
        )
    return images


def _sweep_of(judged: EvaluatedModel) -> SweepTiles | None:
    """What gives all rollouts of a ViT's run."""
    if judged.run is None or judged.family != "vit":
        return None
    from train.models.vit import RolloutClassifier

    model = judged.run.model
    assert isinstance(model, RolloutClassifier)
    return model.sweep


def _frames(chosen: Chosen, observed: Observed) -> list[FrameAnswer]:
    """Every frame by its name, with its defects by the first truth."""
    of = observed.frames
    answers = []
    for at, picture in enumerate(chosen.pictures):
        defects, hit, false_regions = (
            int(column[at]) if of.placed[at] else None for column in (of.defects, of.hit, of.false_regions)
        )
        answers.append(
            FrameAnswer(
                *_named(chosen, picture),
                defective=bool(of.defective[at]),
                score=float(of.logit[at]),
                defects=defects,
                hit=hit,
                false_regions=false_regions,
            )
        )
    return answers


def _named(chosen: Chosen, picture: Picture) -> tuple[str, str | None]:
    """A picture's name and its group's."""
    return (
        name_below(chosen.folder, picture.any.path),
        utf8_safe(chosen.groups[picture.group]) if chosen.grouped else None,
    )


def _no_verdict(implausible: Sequence[ImplausibleFrame]) -> list[str]:
    """That frames get no verdict, if any."""
    if not implausible:
        return []
    defective = sum(frame.defective for frame in implausible)
    return [
        f"{format_count(len(implausible), 'frame', ',')} {is_are(len(implausible))} not like the product "
        f"({len(implausible) - defective:,} good, {defective:,} defective): the line gives no verdict there, and no "
        "figure counts them."
    ]


def _rests_on(chosen: Chosen) -> str:
    """The frames that the figures come from, in words."""
    parts = {
        "test": "the test groups",
        "val": "the validation groups",
        "train": "the training groups",
        ALL: "all frames",
    }
    counted = [format_count(len(chosen.groups), "group", ",")] * chosen.grouped
    counted.append(format_count(len(chosen.pictures), "frame", ","))
    return f"{parts.get(chosen.part, chosen.part)} of {chosen.folder.resolve().name} ({', '.join(counted)})"


def _warnings(chosen: Chosen, frames: Sequence[FrameAnswer], stand_ins: int, calibration: Calibration) -> list[str]:
    """What makes the figures worth less than they look."""
    found = []
    if chosen.part == "train":
        found.append("These frames trained the model: the figures say nothing of new parts.")
    elif chosen.taught:
        found.append(
            f"{chosen.taught:,} of the {format_count(len(chosen.pictures), 'frame', ',')} "
            f"{is_are(chosen.taught)} of groups that trained the model: the figures are "
            "better than new parts would give."
        )
    if not chosen.grouped:
        found.append("The frames name no groups: frames of one part may count as several, and no interval is known.")
    elif len(chosen.groups) < FEWEST_GROUPS:
        found.append(
            f"Too few groups: {len(chosen.groups)}. With at least {FEWEST_GROUPS}, the report says how certain its "
            "figures are."
        )
    if not any(frame.defective for frame in frames):
        found.append("No frame is defective: nothing is known of misses.")
    if all(frame.defective for frame in frames):
        instead = (
            f"{format_count(stand_ins, 'defective frame', ',')} {'stands' if stand_ins == 1 else 'stand'} in, without "
            "the tiles that show a defect"
        )
        found.append(f"No frame is good: {instead if stand_ins else 'nothing is known of false rejects'}.")
    wanted, at_most = calibration.false_reject_per_frame, calibration.false_reject_at_most
    if wanted is not None and at_most is not None and at_most > max(LOOSE, 2 * wanted):
        found.append(
            f"Few frames set the thresholds ({calibration.frames:,}): up to {100 * at_most:.0f} % of the good parts "
            f"may be rejected, where {100 * wanted:g} % is wanted."
        )
    return found


def _told(judged: EvaluatedModel, chosen: Chosen) -> Told:
    summary = judged.summary
    steps, batch = summary.get("steps"), summary.get("batch")
    recipe = str(summary.get("recipe", "not known"))
    if steps is not None:
        recipe += f", {format_count(steps, 'step')}" + (f" of {batch}" if batch else "")
    pictures = summary.get("labelled") == "pictures"
    return Told(
        name=judged.name,
        path=str(judged.path),
        kind=judged.kind,
        model=judged.model,
        family=judged.family,
        method=judged.settings.map.method,
        map_hw=judged.settings.map.hw,
        engine=judged.engine_is,
        weights=str(summary.get("weights", {}).get("source", "not known")),
        recipe=recipe,
        steps=steps,
        seconds=summary.get("seconds"),
        taught_by="labels of whole pictures" if pictures else str(summary.get("truth", "not known")),
        data=chosen.folder.resolve().name,
        part=chosen.part,
        groups=[utf8_safe(group) for group in chosen.groups] if chosen.grouped else [],
        pictures=len(chosen.pictures),
        lr=summary.get("lr"),
        val_loss=summary.get("val", {}).get("val_loss"),
        val_accuracy=summary.get("val", {}).get("val_accuracy"),
    )


def names_of(paths: Sequence[Path]) -> dict[Path, str]:
    """A name of its own for each of several models: the folder's, with as many above it as it takes.

    Raises:
        InputError: two of them are one folder.
    """
    places = [path.resolve() for path in paths]
    if twice := [path for path, place in zip(paths, places, strict=True) if places.count(place) > 1]:
        raise InputError(f"{' and '.join(map(str, twice))} are one folder; name each model once")
    parts = {path: place.parts[1:] for path, place in zip(paths, places, strict=True)}
    names: dict[Path, str] = {}
    for path, own in parts.items():
        others = [other for place, other in parts.items() if place != path]
        depth = next((n for n in range(1, len(own) + 1) if all(own[-n:] != other[-n:] for other in others)), len(own))
        name = "-".join(own[-depth:])
        while name in names.values():  # a-b/c and a/b-c
            name += "-"
        names[path] = name
    return names
