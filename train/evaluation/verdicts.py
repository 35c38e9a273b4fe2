"""Counts what the thresholds of an evaluation miss and reject, also by class and size of the defects, and says it."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Literal

import msgspec

from heatline.edge.bundle.missed_kinds import passes
from heatline.edge.util.text import format_count, on_one_line
from heatline.train.evaluation.result import LOOSE, DefectKind, Evaluation


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
