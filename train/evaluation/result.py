"""The stored result of an evaluation, `evaluation.json`, and what it says of the kinds of defects that pass."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

from heatline.edge.bundle import Calibration
from heatline.edge.bundle.manifest import passes
from heatline.edge.errors import InputError
from heatline.edge.util.text import encode_json, format_count, on_one_line
from heatline.train.evaluation.scoring import Figures
from heatline.train.files import write_atomically
from heatline.train.run import RunFolder

SCHEMA = 6
FILE = "evaluation.json"
LOOSE = 0.05
"""A second share of false rejects, whose misses are printed beside those of the wanted share."""


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
    score: float
    """Highest logit of its tiles."""
    defects: int | None = None
    """None, as the next two, if the place of the defect is not known."""
    hit: int | None = None
    """Defects that are hit at the calibrated thresholds."""
    false_regions: int | None = None
    threshold: float | None = None
    """The score threshold that judged it, if other frames of the data set it; None: that of the evaluation."""
    loose_threshold: float | None = None
    """The same for `LOOSE` false rejects; None: not known."""
    kinds: list[DefectKind] = []
    """Of its defects; empty for a good frame."""
    picture: str | None = None
    """File, relative to `evaluation.json`: the frame with its truth, its reference, and under its heatmap. Defective
    frames of the lowest scores have one, and good ones of the highest."""


class ImplausibleFrame(msgspec.Struct, frozen=True):
    """A frame without a verdict, because it does not show the product."""

    image: str
    group: str | None
    defective: bool
    why: str


class EvaluationSubject(msgspec.Struct, frozen=True):
    """The model that was evaluated, its training, and the pictures."""

    name: str
    """Name in reports: that of the model's folder."""
    path: str
    kind: Literal["run", "bundle"]
    model: str
    family: Literal["cnn", "vit"]
    method: str
    """Of the map: `cam`, `rollout-max`, ..."""
    map_hw: tuple[int, int]
    engine: str
    """torch, openvino or onnxruntime, with its precision."""
    recipe: str
    """With steps and batch."""
    data: str
    part: str
    """test, val, train, all, or a description of the groups."""
    groups: list[str]
    pictures: int
    """Those with a verdict."""
    lr: float | None = None
    """The highest."""
    val_loss: float | None = None
    """On the validation groups, at the checkpoint that was stored."""
    val_accuracy: float | None = None
    """Accuracy of the validation tiles at probability 0.5, at the same checkpoint."""


class Evaluation(msgspec.Struct, frozen=True):
    """Content of `evaluation.json`."""

    subject: EvaluationSubject
    truth: str
    """masks, derived_masks, polygons, coco, boxes or labels."""
    calibration: Calibration
    figures: Figures
    intervals: dict[str, tuple[float, float]]
    """95 % intervals of figures, from a bootstrap over groups."""
    intervals_are: str
    """Basis of the intervals, or why there are none."""
    frames: list[FrameAnswer]
    """In the order of the pictures, without those in `implausible`."""
    rests_on: str
    """Basis of the figures, as `the test groups of pcb (5 groups, 12 frames)`."""
    warnings: list[str] = []
    implausible: list[ImplausibleFrame] = []
    set_threshold: int = 0
    """Number of good frames of the groups that set the threshold that judges them: their rejects are not a rate."""
    schema: int = SCHEMA

    def threshold_of(self, frame: FrameAnswer) -> float:
        """Return the score threshold that judged a frame."""
        return self.calibration.score_threshold if frame.threshold is None else frame.threshold


def write_evaluation(evaluation: Evaluation, folder: Path, name: str = FILE) -> None:
    """Write an evaluation into a folder, atomically."""
    text = msgspec.json.format(encode_json(evaluation)) + b"\n"
    write_atomically(folder / name, partial(Path.write_bytes, data=text))


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `write_evaluation` wrote; an `InputError` if it cannot be read, or has another schema."""
    file = folder / FILE
    try:
        evaluation = msgspec.json.decode(file.read_bytes(), type=Evaluation)
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{file} cannot be read ({error}); evaluate again") from error
    if evaluation.schema != SCHEMA:
        raise InputError(f"{file} has schema {evaluation.schema}, this version reads {SCHEMA}; evaluate again")
    return evaluation


def has_evaluation(folder: Path) -> bool:
    """Whether a folder has an evaluation that this version can read."""
    try:
        read_evaluation(folder)
    except InputError:
        return False
    return True


def lacks_report(run: RunFolder) -> bool:
    """Whether a run was cross-validated, and has no report, or one that this version cannot read."""
    return run.out_of_fold.exists() and not (has_evaluation(run.report) and run.page.exists())


def is_complete(run: RunFolder) -> bool:
    """Whether a training is finished and nothing is left to write; errors as `RunFolder.read_summary`."""
    return run.summary.exists() and run.read_summary().finished and not lacks_report(run)


class KindVerdicts(msgspec.Struct, frozen=True):
    """Defective pictures, or those with defects of one class, or of one size."""

    by: Literal["class", "size"] | None
    """None: all defective pictures."""
    name: str
    missed: int
    """Pictures in which no tile that shows such a defect reaches the threshold."""
    pictures: int
    loose_missed: int | None
    """The same at the threshold for `LOOSE` false rejects; None: not known."""

    @property
    def loosely(self) -> str:
        return "" if self.loose_missed is None else f" (at {100 * LOOSE:g} %, {self.loose_missed:,})"

    def describe(self) -> str:
        return f"{self.name} {self.missed} of {self.pictures}{self.loosely}"


def count_kinds(evaluations: Iterable[Evaluation]) -> list[KindVerdicts]:
    """Count the pictures by class, then by size of their defects, smallest first; by neither if all have the same."""
    found: dict[tuple[Literal["class", "size"], str], list[_Judged]] = {}
    for evaluation in evaluations:
        for frame in evaluation.frames:
            for kind in frame.kinds:
                judged = kind.score, evaluation.threshold_of(frame), frame.loose_threshold, kind.area_px or 0
                found.setdefault((kind.by, kind.name), []).append(judged)
    several = [by for by in ("class", "size") if sum(key[0] == by for key in found) > 1]
    smallest_first = sorted(found, key=lambda key: (key[0], median(area for *_, area in found[key]), key[1]))
    return [_count(by, on_one_line(name), found[by, name]) for by, name in smallest_first if by in several]


_Judged = tuple[float, float, float | None, int]
"""Score, threshold, loose threshold and area in px of the defects of one kind in a picture."""


def _count(by: Literal["class", "size"] | None, name: str, judged: Sequence[_Judged]) -> KindVerdicts:
    loose = [score < loose for score, _, loose, _ in judged if loose is not None]
    return KindVerdicts(
        by,
        name,
        missed=sum(score < threshold for score, threshold, _, _ in judged),
        pictures=len(judged),
        loose_missed=sum(loose) if len(loose) == len(judged) else None,
    )


def describe_escapes(evaluation: Evaluation, kinds: Sequence[KindVerdicts]) -> str:
    """Describe what passes at the threshold; empty: no kind escapes, and most defective pictures do not."""
    frames = [frame for frame in evaluation.frames if frame.defective]
    judged = [(frame.score, evaluation.threshold_of(frame), frame.loose_threshold, 0) for frame in frames]
    every, wanted = _count(None, "", judged), evaluation.calibration.false_reject_per_frame
    escaping = [kind for kind in kinds if passes(kind.missed, kind.pictures)]
    if not every.missed or (not escaping and 2 * every.missed < every.pictures):
        return ""
    at = "At this threshold" if wanted is None else f"At {100 * wanted:g} % false rejects"
    of = format_count(every.pictures, "defective picture", ",")
    text = f"{at}, {every.missed:,} of {of} pass{every.loosely}"
    if escaping:
        named = (f"{'all' if kind.missed == kind.pictures else 'nearly all'} {kind.describe()}" for kind in escaping)
        text += f"; whole kinds of defects pass: {', '.join(named)}"
    return f"{text}."


def describe_kinds(evaluation: Evaluation) -> dict[str, str]:
    """Return what passes at the threshold, by name: the sentence of `describe_escapes`, classes, and sizes."""
    kinds = count_kinds([evaluation])
    by = {each: ", ".join(kind.describe() for kind in kinds if kind.by == each) for each in ("class", "size")}
    facts = {"escapes": describe_escapes(evaluation, kinds), **{f"missed by {each}": by[each] for each in by}}
    return {name: fact for name, fact in facts.items() if fact}
