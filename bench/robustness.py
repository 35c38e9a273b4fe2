"""`heatline bench robustness`: verdicts and regions of frames that are brighter, darker, defocused or moved."""

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.bench.changes import Pixels
from heatline.bench.machine import without_flags
from heatline.bench.markdown import markdown_table
from heatline.bench.plausibility import AS_IT_IS, FOLDS, MILD, Spoil, choose_evenly, require_groups
from heatline.bench.recipes.metrics import count_hit, label_defects
from heatline.bench.recipes.sets import DataSet, unless_set
from heatline.bench.result_file import read_result
from heatline.edge.bundle import Bundle, open_verified_engine
from heatline.edge.errors import BenchError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry.regions import found_cells
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.inspection.verdict import Verdict
from heatline.edge.reference.alignment import Pose
from heatline.edge.reference.reference import Reference
from heatline.edge.util.text import format_count
from heatline.export.map_gate import overlaps
from heatline.export.run_to_bundle import export_run
from heatline.train.compose import compose
from heatline.train.dense.train import train_dense
from heatline.train.folds import assign_folds
from heatline.train.readers import LabelledImage
from heatline.train.references import References
from heatline.train.run import RunFolder, load_run, read_data

Mask = NDArray[np.bool_]
Motion = NDArray[np.float64]
"""[2, 3], takes a px (x, y) of the unchanged frame to that of the changed one, as OpenCV writes it."""
ReportLine = Callable[[str], None]


class Change(NamedTuple):
    """A change of a frame."""

    of: Spoil = MILD[AS_IT_IS]
    px: int = 0
    """Shift to the right and down."""
    degrees: float = 0
    """Turn around the centre, clockwise."""

    def motion(self, frame_hw: tuple[int, int]) -> Motion:
        return Pose(self.px, self.px, self.degrees, 1.0, 0.0).matrix(frame_hw)


UNCHANGED = "unchanged"
CHANGES = {
    UNCHANGED: Change(),
    **{name: Change(MILD[name]) for name in ("20 % brighter", "20 % darker", "defocused by 1 px")},
    **{f"shifted by {px} px": Change(px=px) for px in (2, 5, 10, 20)},
    **{f"turned by {degrees:g} degrees": Change(degrees=degrees) for degrees in (0.5, 1)},
}
FRAMES = 40
"""Most good frames and most defective frames of a fold."""
FALSE_REJECT = 0.01
"""The default of `heatline export`."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that the figures depend on, besides the set."""

    seeds: list[int]
    folds: list[int]
    """Folds to inspect, each by a bundle of the others."""
    frames: int
    """Most good frames and most defective frames of each fold."""
    overrides: list[str]
    """Overrides of the training, sorted."""
    false_reject: float = FALSE_REJECT
    """Wanted share of rejected good frames."""


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
    misaligned: int = 0
    """Of the refused ones, those that cannot be compared with their reference; 0 also in older results."""
    stand_ins: bool = False
    """Whether no frame is good, and the clean tiles of defective frames stand in for good ones."""


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
    """Pixels of its regions, bool [H, W]."""
    clean: Verdict | None
    """Of its tiles without a defective pixel alone; None: it has no such tile."""
    misaligned: bool
    """Whether it has no verdict as it cannot be compared with its reference."""


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
    clean: Verdict | None = None
    misaligned: bool = False


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
                run,
                place,
                name=one.name,
                version="1",
                false_reject=settings.false_reject,
                precisions=(),
                say=report_line,
            )
            # A new design has a reference too, of its own frames, as after heatline bundle set-reference.
            references = None if run.references is None else run.references.on(run.data.folder, images)
            report_line(f"{one.name}: inspecting {len(chosen)} frames, each in {len(CHANGES)} variants")
            _inspect(bundle, chosen, references, compared)
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


def _inspect(
    bundle: Bundle,
    images: Sequence[LabelledImage],
    references: References | None,
    compared: dict[str, list[Comparison]],
) -> None:
    with contextlib.closing(open_verified_engine(bundle).engine) as engine:
        inspector = Inspector(bundle.manifest, engine, plausibility=bundle.plausibility())
        for number, image in enumerate(images):
            rgb, reference = image.pixels(), None if references is None else references.of(image)
            frame_hw = rgb.shape[0], rgb.shape[1]
            mask = image.mask(frame_hw)
            mask = np.zeros(frame_hw, np.bool_) if mask is None else mask
            defects, seen = label_defects(mask)[0], dict[str, Inspected]()
            for kind, change in CHANGES.items():
                motion = change.motion(frame_hw)
                changed = moved_picture(change.of(rgb, np.random.default_rng(number)), motion)
                seen[kind] = inspect_frame(inspector, changed, moved(mask, motion), reference)
                compared[kind].append(compare(image.defective, defects, seen[UNCHANGED], seen[kind], motion))


def inspect_frame(
    inspector: Inspector, rgb: Pixels, mask: Mask | None = None, reference: Reference | None = None
) -> Inspected:
    """Inspect RGB uint8 [H, W, 3] as a line.

    Args:
        mask: its defective pixels [H, W]; None: there are none.
        reference: what it is compared with, if the bundle's graph compares.

    Raises:
        EngineError: there is no usable answer for some tile.
    """
    pending = inspector.start(Frame(Stamp("bench", 1), rgb, "RGB8"), reference=reference)
    judged, stitcher, thresholds = inspector.finish(pending), pending.stitcher, inspector.thresholds
    defective = pending.logits.astype(np.float64) >= thresholds.score
    cells = found_cells(judged.heatmap, stitcher, defective, thresholds.evidence, thresholds.strong)
    pixels = cells.repeat(stitcher.cell_px, axis=0).repeat(stitcher.cell_px, axis=1)
    marked = np.zeros(rgb.shape[:2], np.bool_) if mask is None else mask
    clean = ~stitcher.grid.tiles(marked[..., None].view(np.uint8)).any(axis=(1, 2, 3))
    of_clean: Verdict | None = ("DEFECT" if defective[clean].any() else "GOOD") if clean.any() else None
    return Inspected(
        judged.verdict if judged.reject_reason is None else "NO_VERDICT",
        pixels[: rgb.shape[0], : rgb.shape[1]],
        of_clean,
        judged.implausible is None and judged.misaligned is not None,
    )


def moved_picture(rgb: Pixels, motion: Motion) -> Pixels:
    """Move a picture; mirror it at the border, where an edge would look like a defect.

    A turn interpolates by Lanczos' kernel, which blurs least: a camera does not blur a turned part.
    """
    size = rgb.shape[1], rgb.shape[0]
    found = cv2.warpAffine(rgb, motion, size, flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(found, np.uint8)


def moved(values: NDArray[Any], motion: Motion) -> NDArray[Any]:
    """Move numbers of defects or a mask [H, W]; pixels that came in from outside are 0."""
    size = values.shape[1], values.shape[0]
    as_numbers = cv2.warpAffine(values.astype(np.uint16), motion, size, flags=cv2.INTER_NEAREST)
    return np.asarray(as_numbers).astype(values.dtype)


def compare(
    defective: bool, defects: NDArray[np.int32], before: Inspected, after: Inspected, motion: Motion
) -> Comparison:
    """Compare the results of a frame unchanged and changed, in the coordinates of the changed one, where both show it.

    Args:
        defects: of `label_defects` in the unchanged frame, [H, W].
    """
    defects, of_before = moved(defects, motion), moved(before.pixels, motion)
    of_after = after.pixels & moved(np.ones_like(after.pixels), motion)
    both = before.verdict == after.verdict == "DEFECT" and bool((of_before | of_after).any())
    iou = float(overlaps(of_before[None], of_after[None])[0]) if both else None
    hit_before, hit = (count_hit(defects, each, 1) for each in (of_before, of_after))
    count = int(np.count_nonzero(np.unique(defects)))
    return Comparison(
        defective, before.verdict, after.verdict, iou, count, hit_before, hit, after.clean, after.misaligned
    )


def count_figures(change: str, compared: Sequence[Comparison]) -> ChangeFigures:
    """Count over all frames of a change."""
    judged = [one for one in compared if one.after != "NO_VERDICT"]
    both = [one for one in judged if one.before != "NO_VERDICT"]
    good, defective = ([one.after for one in judged if one.defective is kind] for kind in (False, True))
    stand_ins = bool(compared) and all(one.defective for one in compared)
    if stand_ins:
        good = [one.clean for one in judged if one.clean is not None]
    iou = [one.iou for one in both if one.defective and one.iou is not None]
    marked = [one for one in both if one.defective]
    return ChangeFigures(
        change=change,
        frames=len(compared),
        refused=len(compared) - len(judged),
        good=len(good),
        rejected=good.count("DEFECT"),
        defective=len(defective),
        found=defective.count("DEFECT"),
        became_defect=sum((one.before, one.after) == ("GOOD", "DEFECT") for one in both),
        became_good=sum((one.before, one.after) == ("DEFECT", "GOOD") for one in both),
        overlaps=len(iou),
        iou_median=float(np.median(iou)) if iou else None,
        iou_p5=float(np.quantile(iou, 0.05)) if iou else None,
        defects=sum(one.defects for one in marked),
        hit_unchanged=sum(one.hit_before for one in marked),
        hit=sum(one.hit for one in marked),
        misaligned=sum(one.misaligned for one in compared),
        stand_ins=stand_ins,
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
    "refused as implausible": lambda one: _of(one.refused - one.misaligned, one.frames),
    "refused as misaligned": lambda one: _of(one.misaligned, one.frames),
    "good frames rejected": lambda one: _of(one.rejected, one.good) + " stand-ins" * (one.stand_ins and one.good > 0),
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
