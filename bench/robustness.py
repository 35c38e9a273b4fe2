"""`heatline bench robustness`: verdicts and regions of frames that are brighter, darker, defocused or shifted."""

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.bench.changes import Pixels
from heatline.bench.machine import without_flags
from heatline.bench.markdown import markdown_table
from heatline.bench.plausibility import (
    AS_IT_IS,
    FOLDS,
    MILD,
    SHIFT_PX,
    SHIFTED,
    choose_evenly,
    require_groups,
)
from heatline.bench.recipes.metrics import count_hit, label_defects
from heatline.bench.recipes.sets import DataSet, unless_set
from heatline.bench.result_file import read_result
from heatline.edge.bundle import Bundle, open_verified_engine
from heatline.edge.errors import BenchError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry.regions import found_cells
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.inspection.references import product_references
from heatline.edge.inspection.verdict import Verdict
from heatline.edge.util.text import format_count
from heatline.export.map_gate import overlaps
from heatline.export.run_to_bundle import export_run
from heatline.train.compose import compose
from heatline.train.dense.train import train_dense
from heatline.train.folds import assign_folds
from heatline.train.readers import LabelledImage
from heatline.train.run import RunFolder, load_run, read_data

UNCHANGED = "unchanged"
CHANGES = {UNCHANGED if kind == AS_IT_IS else kind: change for kind, change in MILD.items()}
FRAMES = 40
"""Most good frames and most defective frames of a fold."""
FALSE_REJECT = 0.01
"""The default of `heatline export`."""
Mask = NDArray[np.bool_]
ReportLine = Callable[[str], None]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that the figures depend on, besides the set."""

    seeds: list[int]
    folds: list[int]
    """Folds to inspect, each by a bundle of the others."""
    frames: int
    """Most good frames and most defective frames of each fold."""
    overrides: list[str]
    """Overrides of the training, sorted."""


class ChangeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one kind of changed frames; docs/bundle.md defines them."""

    change: str
    frames: int
    refused: int
    good: int
    """Good frames with a verdict; `defective` likewise."""
    rejected: int
    defective: int
    found: int
    became_defect: int
    became_good: int
    overlaps: int
    """Defective frames that are DEFECT unchanged and changed."""
    iou_median: float | None
    iou_p5: float | None
    defects: int
    """Of defective frames with a verdict unchanged and changed."""
    hit_unchanged: int
    hit: int


class SetResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one data set."""

    set: str
    truth: str
    settings: Settings
    groups: int
    """Groups left out of training, over all folds and seeds."""
    changes: list[ChangeFigures]
    machine: dict[str, Any] = {}
    """Machine and commit that measured the set; fields of `heatline.bench.machine.Machine`, without `flags`."""

    def is_of(self, truth: str, settings: Settings) -> bool:
        """Return whether another measurement would have the same truth, settings and changes."""
        return (self.truth, self.settings, [each.change for each in self.changes]) == (truth, settings, [*CHANGES])


class RobustnessResult(msgspec.Struct, frozen=True):
    """Sets that were measured so far, one of each name and settings."""

    sets: list[SetResult]

    def has(self, name: str, truth: str, settings: Settings) -> bool:
        """Return whether a set was measured by this truth and these settings."""
        return any(one.set == name and one.is_of(truth, settings) for one in self.sets)

    def plus(self, result: SetResult) -> "RobustnessResult":
        """Add a set; it replaces the one of its name and settings."""
        others = [one for one in self.sets if (one.set, one.settings) != (result.set, result.settings)]
        return RobustnessResult([*others, result])

    def by(self, settings: Settings) -> list[SetResult]:
        """Return the sets that were measured by these settings."""
        return [one for one in self.sets if one.settings == settings]


class Inspected(NamedTuple):
    """Verdict and regions of a frame."""

    verdict: Verdict
    pixels: Mask
    """Pixels of its regions in the unchanged frame, bool [h, w], without those that were shifted out of it."""


class Comparison(NamedTuple):
    """One frame, unchanged and changed."""

    defective: bool
    before: Verdict
    after: Verdict
    iou: float | None
    """IoU of the regions; None: not DEFECT both times."""
    defects: int
    hit_before: int
    hit: int


def measure(
    one: DataSet, data: Path, work: Path, settings: Settings, overrides: Sequence[str], report_line: ReportLine
) -> SetResult:
    """Train and export without each fold, and inspect the fold's frames unchanged and changed.

    Args:
        data: folder of all data sets.
        work: folder for links and temporary runs and bundles.
        overrides: of the training: those of `settings`, and others that change no figure.
    Raises:
        BenchError: there is no such fold, or the set has one group.
        ConfigError, InputError, WeightsError, TrainingError, ExportError, BundleError, EngineError: something cannot
            be used.
    """
    own = one.overrides(data, work)
    training = unless_set(own, overrides)
    images = read_data(compose(own)).images
    require_groups(one.name, images)
    compared: dict[str, list[Comparison]] = {change: [] for change in CHANGES}
    groups = 0
    work.mkdir(parents=True, exist_ok=True)
    for seed, fold in itertools.product(settings.seeds, settings.folds):
        left_out = _groups_of(images, seed, fold, one.name)
        groups += len(left_out)
        tested = [image for image in images if str(image.group) in left_out]
        by_kind = ([image for image in tested if image.defective is kind] for kind in (False, True))
        chosen = [image for kind in by_kind for image in choose_evenly(kind, settings.frames)]
        report_line(f"{one.name}: seed {seed}, fold {fold}: training without {format_count(len(left_out), 'group')}")
        with tempfile.TemporaryDirectory(dir=work) as scratch:
            config = compose([*training, f"seed={seed}", "recipe=heatline"])
            split = msgspec.structs.replace(config.split, test=[*left_out])
            config = msgspec.structs.replace(config, split=split, out=f"{scratch}/run")
            train_dense(config, RunFolder(Path(config.out)), report_line)
            run, place = load_run(Path(config.out)), Path(scratch) / "bundle"
            bundle = export_run(
                run, place, name=one.name, version="1", false_reject=FALSE_REJECT, precisions=(), say=report_line
            )
            report_line(f"{one.name}: inspecting {len(chosen)} frames, each in {len(CHANGES)} variants")
            _inspect(bundle, chosen, compared)
    changes = [count_figures(change, found) for change, found in compared.items()]
    return SetResult(set=one.name, truth=one.truth, settings=settings, groups=groups, changes=changes)


def _groups_of(images: Sequence[LabelledImage], seed: int, fold: int, name: str) -> list[str]:
    """Return the groups of a fold; all folds have about equal numbers of good and of defective frames."""
    groups, number = np.unique([str(image.group) for image in images], return_inverse=True)
    defective = np.array([image.defective for image in images])
    kinds = np.stack([kind for kind in (defective, ~defective) if kind.any()], axis=1).astype(np.float64)
    fold_of = assign_folds(number.astype(np.int64), kinds, min(FOLDS, len(groups)), seed)
    if fold > fold_of.max():
        raise BenchError(f"{name} has no fold {fold}; name one of 0 to {fold_of.max()}")
    return [str(group) for group in groups[fold_of == fold]]


def _inspect(bundle: Bundle, images: Sequence[LabelledImage], compared: dict[str, list[Comparison]]) -> None:
    with contextlib.closing(open_verified_engine(bundle).engine) as engine:
        inspector = Inspector(
            bundle.manifest, engine, plausibility=bundle.plausibility(), references=product_references(bundle)
        )
        for number, image in enumerate(images):
            rgb = image.pixels()
            mask = image.mask((rgb.shape[0], rgb.shape[1]))
            defects, _ = label_defects(np.zeros(rgb.shape[:2], np.bool_) if mask is None else mask)
            unchanged = inspect_frame(inspector, rgb)
            for kind, change in CHANGES.items():
                changed = np.ascontiguousarray(change(rgb, np.random.default_rng(number)))
                seen = (
                    unchanged
                    if kind == UNCHANGED
                    else inspect_frame(inspector, changed, SHIFT_PX if kind == SHIFTED else 0)
                )
                compared[kind].append(compare(image.defective, defects, unchanged, seen))


def inspect_frame(inspector: Inspector, rgb: Pixels, beside_px: int = 0) -> Inspected:
    """Inspect RGB uint8 [H, W, 3] as a line.

    Args:
        beside_px: shift of the frame to the right and down.

    Raises:
        EngineError: there is no usable answer for some tile.
    """
    pending = inspector.start(Frame(Stamp("bench", 1), rgb, "RGB8"))
    judged, stitcher, thresholds = inspector.finish(pending), pending.stitcher, inspector.thresholds
    defective = pending.logits.astype(np.float64) >= thresholds.score
    cells = found_cells(judged.heatmap, stitcher, defective, thresholds.evidence, thresholds.strong)
    verdict = judged.verdict if judged.reject_reason is None else "NO_VERDICT"
    return Inspected(verdict, to_pixels(cells, judged.frame_hw, stitcher.cell_px, beside_px))


def to_pixels(cells: Mask, frame_hw: tuple[int, int], cell_px: int, beside_px: int) -> Mask:
    """Enlarge heatmap cells [h, w] to pixels, moved back by the shift: [H - beside_px, W - beside_px]."""
    pixels = cells.repeat(cell_px, axis=0).repeat(cell_px, axis=1)[: frame_hw[0], : frame_hw[1]]
    return pixels[beside_px:, beside_px:]


def compare(defective: bool, defects: NDArray[np.int32], before: Inspected, after: Inspected) -> Comparison:
    """Compare the results of a frame unchanged and changed, where both show it.

    Args:
        defects: of `label_defects`, [H, W].
    """
    seen = np.s_[: after.pixels.shape[0], : after.pixels.shape[1]]
    before, defects = before._replace(pixels=before.pixels[seen]), defects[seen]
    both = before.verdict == after.verdict == "DEFECT" and bool((before.pixels | after.pixels).any())
    iou = float(overlaps(before.pixels[None], after.pixels[None])[0]) if both else None
    hit_before, hit = (count_hit(defects, each.pixels, 1) for each in (before, after))
    count = int(np.count_nonzero(np.unique(defects)))
    return Comparison(defective, before.verdict, after.verdict, iou, count, hit_before, hit)


def count_figures(change: str, compared: Sequence[Comparison]) -> ChangeFigures:
    """Count over all frames of a change."""
    judged = [one for one in compared if one.after != "NO_VERDICT"]
    both = [one for one in judged if one.before != "NO_VERDICT"]
    good, defective = ([one for one in judged if one.defective is kind] for kind in (False, True))
    iou = [one.iou for one in both if one.defective and one.iou is not None]
    marked = [one for one in both if one.defective]
    return ChangeFigures(
        change=change,
        frames=len(compared),
        refused=len(compared) - len(judged),
        good=len(good),
        rejected=sum(one.after == "DEFECT" for one in good),
        defective=len(defective),
        found=sum(one.after == "DEFECT" for one in defective),
        became_defect=sum((one.before, one.after) == ("GOOD", "DEFECT") for one in both),
        became_good=sum((one.before, one.after) == ("DEFECT", "GOOD") for one in both),
        overlaps=len(iou),
        iou_median=float(np.median(iou)) if iou else None,
        iou_p5=float(np.quantile(iou, 0.05)) if iou else None,
        defects=sum(one.defects for one in marked),
        hit_unchanged=sum(one.hit_before for one in marked),
        hit=sum(one.hit for one in marked),
    )


def read_robustness(file: Path) -> list[SetResult]:
    """Read the sets that a file holds so far; none where there is no file.

    Raises:
        BenchError: it is not a result of this bench.
    """
    if not file.exists():
        return []
    report = read_result(file)
    machine = report.get("machine")
    try:
        sets = msgspec.convert(report, RobustnessResult).sets
        of_file = without_flags(machine) if isinstance(machine, dict) else {}
        return [one if one.machine else msgspec.structs.replace(one, machine=of_file) for one in sets]
    except msgspec.ValidationError as error:
        raise BenchError(
            f"{file} was not written by heatline bench robustness ({error}); name another --out"
        ) from error


ROWS: dict[str, Callable[[ChangeFigures], str]] = {
    "refused as implausible": lambda one: _of(one.refused, one.frames),
    "good frames rejected": lambda one: _of(one.rejected, one.good),
    "defective frames found": lambda one: _of(one.found, one.defective),
    "GOOD became DEFECT, DEFECT became GOOD": lambda one: f"{one.became_defect}, {one.became_good}",
    "IoU of regions, median; 5th percentile": lambda one: (
        f"{one.iou_median:.2f}; {one.iou_p5:.2f}" if one.overlaps else "-"
    ),
    "defects hit (in the same frames, unchanged)": lambda one: (
        f"{_of(one.hit, one.defects)} ({one.hit_unchanged})" if one.defects else "-"
    ),
}


def table(sets: Sequence[SetResult]) -> str:
    """Write sets as Markdown: a row per figure and change, a column per set."""
    rows = [["", *(one.set for one in sets)]]
    for figure, cell in ROWS.items():
        rows.append([f"**{figure}**", *[""] * len(sets)])
        rows += [[change, *(_cell(cell, one, change) for one in sets)] for change in CHANGES]
    rows.append(["groups left out", *(str(one.groups) for one in sets)])
    return markdown_table(rows)


def _cell(cell: Callable[[ChangeFigures], str], one: SetResult, change: str) -> str:
    """Format a cell; a set that an older version measured may lack the change."""
    return next((cell(each) for each in one.changes if each.change == change), "-")


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}" if whole else "-"
