"""Rows of the report's tables: each is one model on one set of pictures, from one evaluation or from its folds.

Evaluations of one name, model and data with disjoint test groups are folds, such as a training per board left out.
Their figures are averaged with equal weights, and their counts added. If their groups overlap, they are different
models of one name, and their rows are labelled by their paths.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, groupby
from pathlib import Path, PurePath
from statistics import mean

import msgspec

from heatline.train.evaluation.result import Evaluation, EvaluationSubject, GalleryItem, TruthEvaluation
from heatline.train.evaluation.sweep import SweepFigures

SHARES = ("precision", "recall", "f1", "jaccard", "accuracy", "pointing", "pointing_gated", "weighting")
"""Names of a sweep's tables."""


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation, and the folder with its gallery."""

    evaluation: Evaluation
    folder: Path

    @property
    def subject(self) -> EvaluationSubject:
        return self.evaluation.subject

    def by_truth(self, truth: str) -> TruthEvaluation | None:
        return next((result for result in self.evaluation.truths if result.truth == truth), None)


@dataclass(frozen=True)
class Row:
    """One model on one set of pictures."""

    label: str
    """Name of the model; unique among the rows of these pictures."""
    folds: tuple[StoredEvaluation, ...]
    """At least one, in the order of their groups."""

    @property
    def subject(self) -> EvaluationSubject:
        """Subject of the first fold, for the fields that all folds share."""
        return self.folds[0].subject

    @property
    def fusion(self) -> str | None:
        """Fusion of the heads of its rollout; None for a class activation map."""
        parts = self.subject.method.split("-")
        return parts[1] if parts[0] == "rollout" and len(parts) > 1 else None

    @property
    def discard_ratio(self) -> float:
        _, _, ratio = self.subject.method.partition("-discard-")
        return float(ratio or 0)

    def by_truth(self, truth: str) -> list[TruthEvaluation]:
        return [result for fold in self.folds if (result := fold.by_truth(truth)) is not None]

    def figure(self, truth: str, name: str) -> float | None:
        """Return the mean of a figure over the folds; None unless all folds know it.

        A mean over some folds would be of other pictures. The mean is rounded only once, so that the mean of equal
        folds ties with each of them.

        Args:
            name: dotted, as `study.f1`.
        """
        return mean_if_known(self._values(truth, name))

    def count(self, truth: str, name: str) -> int | None:
        """Return the sum of a count over the folds; None unless all folds know it."""
        values = _all_known(self._values(truth, name))
        return round(sum(values)) if values else None

    def interval(self, truth: str, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a figure of a single evaluation; a mean over folds has none."""
        found = self.by_truth(truth)
        return found[0].intervals.get(name) if len(found) == 1 else None

    def sweep(self, truth: str) -> SweepFigures | None:
        """Return the mean of the folds' sweeps; a cell is None unless all folds know it.

        None if a fold has no sweep, or a sweep of other fusions and ratios.
        """
        sweeps = [result.sweep for result in self.by_truth(truth)]
        first = sweeps[0] if sweeps else None
        if first is None:
            return None
        same = [each for each in sweeps if each and (each.fusions, each.ratios) == (first.fusions, first.ratios)]
        if len(same) < len(sweeps):
            return None
        tables = {
            name: [
                [mean_if_known(cells) for cells in zip(*lines, strict=True)]
                for lines in zip(*(getattr(each, name) for each in same), strict=True)
            ]
            for name in SHARES
        }
        return msgspec.structs.replace(first, **tables)

    def gallery(self, truth: str, kind: str) -> list[tuple[Path, GalleryItem]]:
        """Return the gallery items of a kind, each with the folder of its evaluation."""
        return [
            (fold.folder, item)
            for fold in self.folds
            if (found := fold.by_truth(truth)) is not None
            for item in found.gallery
            if item.kind == kind
        ]

    def _values(self, truth: str, name: str) -> list[float | None]:
        """Return the figure of each fold; None for a fold that does not know it."""
        part, _, field = name.partition(".")
        parts = [getattr(result.figures, part) for result in self.by_truth(truth)]
        values = [None if figures is None else getattr(figures, field) for figures in parts]
        return [None if value is None else float(value) for value in values]


@dataclass(frozen=True)
class PictureSet:
    """All rows on one set of pictures."""

    data: str
    rows: tuple[Row, ...]

    @cached_property
    def truths(self) -> list[str]:
        """All truths, in the order of the evaluations."""
        evaluations = (fold.evaluation for row in self.rows for fold in row.folds)
        return list(dict.fromkeys(result.truth for evaluation in evaluations for result in evaluation.truths))

    def rows_with(self, truth: str) -> list[Row]:
        return [row for row in self.rows if row.by_truth(truth)]


def mean_if_known(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if a value is not known, or if there are no values."""
    known = _all_known(values)
    return mean(known) if known else None


def make_rows(evaluations: Iterable[StoredEvaluation]) -> list[PictureSet]:
    """Group evaluations into rows by data, sorted by family, model and name."""

    def key(stored: StoredEvaluation) -> tuple[str, str, str, str]:
        return stored.subject.data, stored.subject.family, stored.subject.model, stored.subject.name

    rows: list[tuple[str, Row]] = []
    for (data, _, _, name), same in groupby(sorted(evaluations, key=key), key=key):
        members = sorted(same, key=lambda stored: (stored.subject.groups, str(stored.subject.path)))
        if len(members) > 1 and _are_disjoint([set(stored.subject.groups) for stored in members]):
            rows.append((data, Row(name, tuple(members))))
        else:
            rows += [(data, Row(name, (stored,))) for stored in members]
    return [
        PictureSet(data, tuple(_with_unique_labels([row for _, row in pairs])))
        for data, pairs in groupby(rows, key=lambda pair: pair[0])
    ]


def _all_known(values: Sequence[float | None]) -> list[float]:
    """Return the values; empty if one is not known."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _are_disjoint(groups: Sequence[set[str]]) -> bool:
    """Whether no group is in two sets; false if a set is empty, as its pictures are not known."""
    return all(groups) and all(first.isdisjoint(second) for first, second in combinations(groups, 2))


def _with_unique_labels(rows: list[Row]) -> list[Row]:
    """Label rows of one name by the shortest unique end of their paths, or by a number if their paths are equal."""
    labelled = []
    for row in rows:
        namesakes = [PurePath(other.subject.path).parts for other in rows if other.label == row.label]
        if len(namesakes) == 1:
            labelled.append(row)
            continue
        mine = PurePath(row.subject.path).parts
        ends = (mine[-length:] for length in range(1, len(mine) + 1))
        end = next((end for end in ends if sum(other[-len(end) :] == end for other in namesakes) == 1), mine)
        labelled.append(replace(row, label=str(PurePath(*end)) if end else row.label))
    labels = [row.label for row in labelled]
    numbers = [labels[: at + 1].count(label) for at, label in enumerate(labels)]
    return [
        row if labels.count(row.label) == 1 else replace(row, label=f"{row.label} ({number})")
        for row, number in zip(labelled, numbers, strict=True)
    ]
