"""Evaluate a run or a bundle: inspect each labelled picture once, as the line does, and compare it with its truth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import TileGrid
from heatline.edge.geometry.regions import found_cells
from heatline.edge.heatmap_picture import ColourScale
from heatline.edge.images import digest_picture
from heatline.edge.inspection.inspector import Inspector, PendingFrame
from heatline.edge.inspection.verdict import Judgement, Thresholds
from heatline.edge.picture_folders import find_layout
from heatline.edge.util.text import format_count, is_are, utf8_safe
from heatline.train.evaluation.evaluated import EvaluatedModel, open_model
from heatline.train.evaluation.gallery import FrameGallery, draw_frame
from heatline.train.evaluation.result import (
    LOOSE,
    DefectKind,
    Evaluation,
    EvaluationSubject,
    FrameAnswer,
    ImplausibleFrame,
    count_kinds,
    describe_escapes,
    write_evaluation,
)
from heatline.train.evaluation.scoring import (
    FEWEST_GROUPS,
    FRAME,
    GATE_LOGIT,
    Figures,
    Weights,
    compute_figures,
    compute_intervals,
    count_pixels,
    divide_by_size,
    match_regions,
    peak_distance_px,
    study_mask,
    tile_type,
)
from heatline.train.frames import DEFECTIVE_SHARE
from heatline.train.models.vit import FUSIONS, RolloutClassifier
from heatline.train.progress import Track
from heatline.train.readers import LabelledImage
from heatline.train.readers.folder import truths_in
from heatline.train.references import References
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
    tiles, frames = np.array(found.tile_rows, tile_type(len(found.maps))), np.array(found.frame_rows, FRAME)

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


BATCH = 16
"""Highest number of tiles per forward pass of a rollout with all fusions."""


@dataclass
class Observed:
    """What was observed of all pictures."""

    maps: tuple[str, ...]
    """Names of each tile's maps."""
    frames: list[FrameAnswer] = field(default_factory=list)
    implausible: list[ImplausibleFrame] = field(default_factory=list)
    tile_rows: list[tuple[Any, ...]] = field(default_factory=list)
    """Of `tile_type`."""
    frame_rows: list[tuple[Any, ...]] = field(default_factory=list)
    """Of `FRAME`."""


def observe(
    model: EvaluatedModel,
    images: Sequence[LabelledImage],
    groups: Sequence[int],
    track: Track = iter,
    gallery: FrameGallery | None = None,
    references: References | None = None,
) -> Observed:
    """Inspect all pictures; those without a verdict, as they do not show the product, are in no row and no gallery.

    Args:
        groups: number of each picture's group.
        references: what a run compares the pictures with; None: nothing, or what a bundle holds.
    """
    calibration = model.settings.calibration
    inspector = Inspector(model.settings, model.engine, plausibility=model.plausibility, references=model.references)
    scale = ColourScale.around(calibration.evidence_threshold, calibration.background)
    rollout = model.run.model if model.run and isinstance(model.run.model, RolloutClassifier) else None
    found = Observed(("study",) if rollout is None else ("study", *FUSIONS))
    for number, (group, image) in enumerate(zip(groups, track(images), strict=True)):
        rgb, held_out, loose = image.pixels(), model.held_out.get(image.path), model.loose_held_out.get(image.path)
        thresholds = inspector.thresholds = Thresholds.of(held_out or calibration)
        reference = None if references is None else references.of(image)
        frame = Frame(Stamp("evaluate", number + 1, image.path.name), rgb, "RGB8")
        pending = inspector.start(frame, reference=reference)
        judgement = inspector.finish(pending)
        labelled = image.name_in_folder, None if image.group is None else utf8_safe(image.group), image.defective
        if judgement.reject_reason is not None:
            found.implausible.append(ImplausibleFrame(*labelled, judgement.reject_reason))
            continue
        grid = pending.stitcher.grid
        mask = image.mask(grid.frame_hw)
        if mask is not None and image.defective and not mask.any():
            mask = None
        counts = (None, None, None) if mask is None else match_regions(judgement.regions, mask, model.cell_px).score
        defects, hit, false_regions = counts
        if gallery is not None:
            pose = judgement.pose
            shown = None if reference is None or pose is None else reference.moved_to(pose)
            draw = partial(draw_frame, rgb, mask, shown, judgement, pending.stitcher.cell_px, scale)
            gallery.add(len(found.frames), judgement.score, image.defective, draw)
        found.frames.append(
            FrameAnswer(
                *labelled,
                judgement.score,
                defects,
                hit,
                false_regions,
                threshold=None if held_out is None else held_out.score_threshold,
                loose_threshold=model.loose_threshold if loose is None else loose.score_threshold,
                kinds=list(_score_kinds(image, mask, pending, judgement, model.cell_px)) if image.defective else [],
            )
        )
        px = (0, 0, 0, 0) if mask is None else count_pixels(line_mask(pending, judgement, thresholds), mask)
        verdict = group, judgement.score, image.defective, judgement.verdict == "DEFECT", mask is not None
        found.frame_rows.append((*verdict, defects or 0, hit or 0, false_regions or 0, px))
        if mask is not None:
            masks = cut_mask(mask, grid)
            maps = pending.maps[:, None]
            if rollout is not None:
                maps = np.concatenate([maps, fusion_maps(rollout, grid.tiles(rgb), pending.logits, masks)], axis=1)
            inside_hw = min(grid.tile_px, grid.frame_hw[0]), min(grid.tile_px, grid.frame_hw[1])
            for logit, tile_maps, tile_mask in zip(pending.logits.tolist(), maps, masks, strict=True):
                found.tile_rows.append((group, *tile_row(model.family, logit, tile_maps, tile_mask, inside_hw)))
    return found


def fusion_maps(
    classifier: RolloutClassifier, tiles: NDArray[np.uint8], logits: NDArray[np.float32], masks: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the maps of tiles by every fusion, [N, fusions, h, w]; 0 for tiles that are good and look good."""
    maps = np.zeros((len(tiles), len(FUSIONS), *classifier.map_hw), np.float32)
    needed = np.flatnonzero((logits > GATE_LOGIT) | masks.any(axis=(1, 2)))
    device = next(classifier.parameters()).device
    for start in range(0, len(needed), BATCH):
        batch = needed[start : start + BATCH]
        maps[batch] = classifier.all_fusions(torch.from_numpy(tiles[batch]).to(device)).cpu().numpy()
    return maps


def tile_row(
    family: str, logit: float, maps: NDArray[np.float32], mask: NDArray[np.bool_], inside_hw: tuple[int, int]
) -> tuple[Any, ...]:
    """Return the fields of `tile_type` after the group.

    Args:
        family: of the model: "cnn" or "vit".
        maps: [maps, h, w].
        mask: true pixels [tile, tile].
        inside_hw: part of the tile that is in the frame.
    """
    # A rollout's map is relevance times logit: with a negative logit, its lowest value is the most relevant.
    sign = np.sign(np.float32(logit)) if family == "vit" else np.float32(1)
    defective = bool(mask.mean() > DEFECTIVE_SHARE)
    inside = np.s_[: inside_hw[0], : inside_hw[1]]
    distances = [peak_distance_px(each * sign, mask, inside_hw) if defective else float("nan") for each in maps]
    px = [count_pixels(study_mask(each, logit, len(mask))[inside], mask[inside]) for each in maps]
    return logit, defective, bool(mask.any()) and not defective, distances, px


def _score_kinds(
    image: LabelledImage, mask: NDArray[np.bool_] | None, pending: PendingFrame, judgement: Judgement, cell_px: float
) -> Iterator[DefectKind]:
    """Yield the classes and sizes of a picture's defects; see `DefectKind`."""
    by_class = {} if mask is None else image.masks_by_class(mask)
    if not by_class and image.class_name is not None:
        yield DefectKind("class", image.class_name, judgement.score)
    divisions: dict[Literal["class", "size"], dict[str, NDArray[np.bool_]]] = {"class": by_class}
    if mask is not None:
        divisions["size"] = divide_by_size(mask, cell_px)
    for by, masks in divisions.items():
        shown = {name: of_kind for name, of_kind in masks.items() if of_kind.any()}
        for name, of_kind in shown.items():
            shows = cut_mask(of_kind, pending.stitcher.grid).any(axis=(1, 2))
            of_tiles = float(pending.logits[shows].max()) if len(shown) > 1 and shows.any() else judgement.score
            yield DefectKind(by, name, of_tiles, int(of_kind.sum()))


def cut_mask(mask: NDArray[np.bool_], grid: TileGrid) -> NDArray[np.bool_]:
    """Cut a mask into tiles, bool [tiles, tile, tile]; pixels beyond the frame are not defective."""
    padded = np.pad(mask, ((0, grid.tile_px), (0, grid.tile_px)))
    return np.stack([padded[y : y + grid.tile_px, x : x + grid.tile_px] for y, x in grid.origins_yx])


def line_mask(pending: PendingFrame, judgement: Judgement, thresholds: Thresholds) -> NDArray[np.bool_]:
    """Return the pixels of a frame that lie in its regions, bool [H, W]."""
    stitcher = pending.stitcher
    defective = pending.logits.astype(np.float64) >= thresholds.score
    cells = found_cells(judgement.heatmap, stitcher, defective, thresholds.evidence, thresholds.strong)
    height, width = stitcher.grid.frame_hw
    return np.kron(cells, np.ones((stitcher.cell_px, stitcher.cell_px), np.bool_))[:height, :width]
