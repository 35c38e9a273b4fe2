"""The stored result of an evaluation: `evaluation.json` and its gallery. Reports read nothing else.

It also counts what the thresholds miss and reject, by class and size of the defects, and says it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

from heatline.edge.bundle import Calibration
from heatline.edge.bundle.manifest import passes
from heatline.edge.errors import InputError
from heatline.edge.util.text import encode_json, format_count, on_one_line
from heatline.train.evaluation.figures import Figures
from heatline.train.evaluation.sweep import SweepFigures
from heatline.train.files import write_atomically
from heatline.train.run import RunFolder

SCHEMA = 5
FILE = "evaluation.json"
LOOSE = 0.05
"""A second share of false rejects, whose misses are printed beside those of the wanted share."""

Kind = Literal["escaped", "rejected"]


class GalleryItem(msgspec.Struct, frozen=True):
    """A whole frame, twice: with its truth outlined, and under its heatmap; in a file beside `evaluation.json`."""

    kind: Kind
    """`escaped`: the defective frames of the lowest scores. `rejected`: the good frames of the highest scores. A
    threshold decides which of them are failures."""
    file: str
    """Relative to the folder of `evaluation.json`."""
    image: str
    logit: float
    """Score of the frame."""
    caption: str
    """What the picture shows, from left to right or from top to bottom."""


class DefectKind(msgspec.Struct, frozen=True):
    """Defects of one class, or of one size, in a defective frame."""

    by: Literal["class", "size"]
    name: str
    score: float
    """Of the frame; if it has defects of several classes, or sizes, the highest logit of the tiles that show these."""
    area_px: int | None = None
    """None: their place is not known."""


class FrameAnswer(msgspec.Struct, frozen=True):
    """The line's answer for one frame. The verdict is DEFECT if the score reaches the score threshold."""

    image: str
    """Path below the folder of pictures."""
    group: str | None
    defective: bool
    """By its label."""
    score: float
    """Highest logit of its tiles."""
    defects: int | None = None
    """Defects by the first truth; None, as the next two, if the place of the defect is not known."""
    hit: int | None = None
    """Defects that are hit at the calibrated thresholds."""
    false_regions: int | None = None
    threshold: float | None = None
    """The score threshold that judged it, if other frames of the data set it; None: that of the evaluation."""
    loose_threshold: float | None = None
    """The same for `LOOSE` false rejects; None: not known."""
    kinds: list[DefectKind] = []
    """Classes and sizes of its defects; empty for a good frame."""


class ImplausibleFrame(msgspec.Struct, frozen=True):
    """A frame without a verdict, because it does not show the product."""

    image: str
    """Path below the folder of pictures."""
    group: str | None
    defective: bool
    """By its label."""
    why: str
    """The reason, with its figures."""


class TruthEvaluation(msgspec.Struct, frozen=True):
    """Result by one truth."""

    truth: str
    """masks, derived_masks, polygons, coco, boxes or labels."""
    figures: Figures
    intervals: dict[str, tuple[float, float]]
    """95 % intervals by dotted name, as `study.f1`, from a bootstrap over groups; empty where there are too few."""
    intervals_are: str
    """Basis of the intervals, or why there are none."""
    sweep: SweepFigures | None
    """All fusions and discard ratios; None unless a ViT is evaluated from its run."""


class EvaluationSubject(msgspec.Struct, frozen=True):
    """The model that was evaluated, its training, and the pictures."""

    name: str
    """Name in reports: that of the model's folder."""
    path: str
    kind: Literal["run", "bundle"]
    model: str
    family: Literal["cnn", "vit"]
    method: str
    """Method of the map: `cam`, `rollout-max`, ..."""
    map_hw: tuple[int, int]
    engine: str
    """torch, openvino or onnxruntime, with its precision."""
    recipe: str
    """Name of the recipe, with steps and batch."""
    data: str
    """Name of the folder of pictures."""
    part: str
    """test, val, train, all, or a description of the groups."""
    groups: list[str]
    pictures: int
    """Number of pictures that the figures count: those with a verdict."""
    lr: float | None = None
    """The highest learning rate."""
    val_loss: float | None = None
    """On the validation groups, at the checkpoint that was stored."""
    val_accuracy: float | None = None
    """Accuracy of the validation tiles at probability 0.5, at the same checkpoint."""


class Evaluation(msgspec.Struct, frozen=True):
    """Content of `evaluation.json`."""

    subject: EvaluationSubject
    calibration: Calibration
    truths: list[TruthEvaluation]
    frames: list[FrameAnswer]
    """In the order of the pictures, without those in `implausible`."""
    gallery: list[GalleryItem]
    """Pictures of whole frames, the worst of each kind first."""
    rests_on: str
    """Basis of the figures, as `the test groups of pcb (5 groups, 12 frames)` or `5-fold cross-validation over 38
    groups`."""
    warnings: list[str] = []
    """Sentences that the report shows before any figure."""
    implausible: list[ImplausibleFrame] = []
    """Frames without a verdict; no figure counts them."""
    set_threshold: int = 0
    """Number of good frames of the groups that set the threshold that judges them: their rejects are not a rate."""
    schema: int = SCHEMA

    def threshold_of(self, frame: FrameAnswer) -> float:
        """Return the score threshold that judged a frame, logits."""
        return self.calibration.score_threshold if frame.threshold is None else frame.threshold


class _Versioned(msgspec.Struct):
    """The field that every version of `evaluation.json` has."""

    schema: int


def write_evaluation(evaluation: Evaluation, folder: Path) -> Path:
    """Write `evaluation.json` into a folder, atomically; return its path."""
    text = msgspec.json.format(encode_json(evaluation)) + b"\n"
    file = folder / FILE
    write_atomically(file, lambda place: place.write_bytes(text))
    return file


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `write_evaluation` wrote.

    Raises:
        InputError: the file cannot be read, or has another schema.
    """
    file = folder / FILE
    try:
        content = file.read_bytes()
        schema = msgspec.json.decode(content, type=_Versioned).schema
        if schema != SCHEMA:  # checked first, because a file of another version may have another form
            raise InputError(f"{file} has schema {schema}, this version reads {SCHEMA}; evaluate again")
        return msgspec.json.decode(content, type=Evaluation)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{file} cannot be read ({error}); evaluate again") from error


def lacks_report(run: RunFolder) -> bool:
    """Whether a run was cross-validated, and has no report, or one that this version cannot read."""
    if not run.out_of_fold.exists():
        return False
    try:
        read_evaluation(run.report)
    except InputError:
        return True
    return not run.page.exists()


def is_complete(run: RunFolder) -> bool:
    """Whether a training is finished and nothing is left to write; errors as `RunFolder.read_summary`."""
    return run.summary.exists() and run.read_summary().finished and not lacks_report(run)


class Verdicts(msgspec.Struct, frozen=True):
    """Pictures at the score threshold that judged each."""

    missed: int
    """Defective pictures below the threshold."""
    defective: int
    rejected: int
    """Good pictures that reach the threshold."""
    good: int
    loose_missed: int | None = None
    """Defective pictures below the threshold for `LOOSE` false rejects; None: not known."""


class KindVerdicts(msgspec.Struct, frozen=True):
    """Pictures with defects of one class, or of one size."""

    by: Literal["class", "size"]
    name: str
    missed: int
    """Pictures in which no tile that shows such a defect reaches the threshold."""
    pictures: int
    loose_missed: int | None
    """The same at the threshold for `LOOSE` false rejects; None: not known."""

    @property
    def escapes(self) -> bool:
        return passes(self.missed, self.pictures)

    def describe(self) -> str:
        """Describe the counts, as "Blowhole 18 of 18 (at 5 %, 6)"."""
        return f"{self.name} {self.missed} of {self.pictures}{_describe_loose(self.loose_missed)}"


def count_verdicts(evaluation: Evaluation) -> Verdicts:
    """Count the pictures that are judged wrongly."""
    defective = [frame for frame in evaluation.frames if frame.defective]
    good = [frame for frame in evaluation.frames if not frame.defective]
    return Verdicts(
        missed=sum(frame.score < evaluation.threshold_of(frame) for frame in defective),
        defective=len(defective),
        rejected=sum(frame.score >= evaluation.threshold_of(frame) for frame in good),
        good=len(good),
        loose_missed=_count_below((frame.score, frame.loose_threshold) for frame in defective),
    )


def count_kinds(evaluations: Iterable[Evaluation]) -> list[KindVerdicts]:
    """Count the pictures by class, then by size of their defects; the smallest defects come first.

    If all defects have one class, or one size, it says nothing and is left out.
    """
    found: dict[tuple[Literal["class", "size"], str], list[tuple[DefectKind, float, float | None]]] = {}
    for evaluation in evaluations:
        for frame in evaluation.frames:
            for kind in frame.kinds:
                judged = kind, evaluation.threshold_of(frame), frame.loose_threshold
                found.setdefault((kind.by, kind.name), []).append(judged)
    area = {key: median(kind.area_px or 0 for kind, _, _ in judged) for key, judged in found.items()}
    several = {by for by in ("class", "size") if sum(key[0] == by for key in found) > 1}
    return [
        KindVerdicts(
            by,
            on_one_line(name),
            missed=sum(kind.score < threshold for kind, threshold, _ in found[by, name]),
            pictures=len(found[by, name]),
            loose_missed=_count_below((kind.score, loose) for kind, _, loose in found[by, name]),
        )
        for by, name in sorted(found, key=lambda key: (key[0], area[key], key[1]))
        if by in several
    ]


def describe_escapes(evaluation: Evaluation, kinds: Sequence[KindVerdicts]) -> str | None:
    """Describe in a sentence what passes at the threshold; None: no kind escapes, and most defective pictures do not.

    Args:
        kinds: of `count_kinds`.
    """
    verdicts, wanted = count_verdicts(evaluation), evaluation.calibration.false_reject_per_frame
    escaping = [kind for kind in kinds if kind.escapes]
    if not verdicts.missed or (not escaping and 2 * verdicts.missed < verdicts.defective):
        return None
    at = "At this threshold" if wanted is None else f"At {100 * wanted:g} % false rejects"
    of = format_count(verdicts.defective, "defective picture", ",")
    text = f"{at}, {verdicts.missed:,} of {of} pass{_describe_loose(verdicts.loose_missed)}"
    if escaping:
        named = (f"{'all' if kind.missed == kind.pictures else 'nearly all'} {kind.describe()}" for kind in escaping)
        text += f"; whole kinds of defects pass: {', '.join(named)}"
    return f"{text}."


def describe_kinds(evaluation: Evaluation) -> dict[str, str]:
    """Return what passes at the threshold, by name: the sentence of `describe_escapes`, classes, and sizes."""
    kinds = count_kinds([evaluation])
    escapes = describe_escapes(evaluation, kinds)
    by = {each: ", ".join(kind.describe() for kind in kinds if kind.by == each) for each in ("class", "size")}
    facts = {"escapes": escapes or "", **{f"missed by {each}": counts for each, counts in by.items()}}
    return {name: fact for name, fact in facts.items() if fact}


def _count_below(judged: Iterable[tuple[float, float | None]]) -> int | None:
    """Count the scores below their thresholds; None if a threshold is not known."""
    scored = list(judged)
    known = [score < threshold for score, threshold in scored if threshold is not None]
    return sum(known) if len(known) == len(scored) else None


def _describe_loose(missed: int | None) -> str:
    return "" if missed is None else f" (at {100 * LOOSE:g} %, {missed:,})"
