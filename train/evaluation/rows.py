"""Rows of the report's tables: each is one model on one set of pictures, from one evaluation or from its folds.

Evaluations of one name, model and data with disjoint test groups are folds, such as a training per board left out.
Their figures are averaged with equal weights, and their counts added. If their groups overlap, they are different
models of one name, and their rows are labelled by their paths.

Figures are compared only over the same pictures. Two folds rest on the same pictures if they name the same groups and
the same number of pictures. Folds without groups must instead have the same name of their part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from pathlib import Path
from statistics import mean

import msgspec

from heatline.edge.util.text import format_count
from heatline.train.evaluation.result import Evaluation, EvaluationSubject, GalleryItem, TruthEvaluation
from heatline.train.evaluation.sweep import SHARES, SweepFigures

NAMED = 6
"""Lists of at most so many groups or folds are printed whole; longer ones are shortened."""

Pictures = tuple[tuple[str, ...], str, int]
"""The pictures of a fold: its groups, without groups the name of its part, and their number."""


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation, and the folder with its gallery."""

    evaluation: Evaluation
    folder: Path

    @property
    def subject(self) -> EvaluationSubject:
        return self.evaluation.subject

    @property
    def pictures(self) -> Pictures:
        groups = tuple(sorted(self.subject.groups))
        return groups, "" if groups else self.subject.part, self.subject.pictures

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

    def by_truth(self, truth: str) -> list[TruthEvaluation]:
        return [result for fold in self.folds if (result := fold.by_truth(truth)) is not None]

    def pictures(self, truth: str) -> tuple[Pictures, ...]:
        """Return the pictures of each fold that was evaluated by the truth, sorted."""
        return tuple(sorted(fold.pictures for fold in self.folds if fold.by_truth(truth)))

    def values(self, truth: str, name: str) -> list[float | None]:
        """Return a figure of each fold; None for a fold that does not know it.

        Args:
            name: dotted, as `study.f1`.
        """
        part, _, field = name.partition(".")
        return [getattr(getattr(result.figures, part), field, None) for result in self.by_truth(truth)]

    def figure(self, truth: str, name: str) -> float | None:
        """Return the mean of a figure over the folds; None unless all folds know it.

        A mean over some folds would be of other pictures. The mean is rounded only once, so that the mean of equal
        folds ties with each of them.
        """
        return mean_if_known(self.values(truth, name))

    def count(self, truth: str, name: str) -> int | None:
        """Return the sum of a count over the folds; None unless all folds know it."""
        mean_of_folds = self.figure(truth, name)
        return None if mean_of_folds is None else round(mean_of_folds * len(self.by_truth(truth)))

    def interval(self, truth: str, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a figure of a single evaluation; a mean over folds has none."""
        found = self.by_truth(truth)
        return found[0].intervals.get(name) if len(found) == 1 else None

    def sweep(self, truth: str) -> SweepFigures | None:
        """Return the mean of the folds' sweeps; a cell is None unless all folds know it.

        None if a fold has no sweep, or a sweep of other fusions and ratios.
        """
        found = [result.sweep for result in self.by_truth(truth)]
        sweeps = [sweep for sweep in found if sweep is not None]
        if not found or len(sweeps) < len(found) or len({str((each.fusions, each.ratios)) for each in sweeps}) > 1:
            return None
        tables = {
            name: [
                [mean_if_known(cells) for cells in zip(*lines, strict=True)]
                for lines in zip(*(getattr(each, name) for each in sweeps), strict=True)
            ]
            for name in SHARES
        }
        return msgspec.structs.replace(sweeps[0], **tables)

    def gallery(self, truth: str, kind: str) -> list[tuple[Path, GalleryItem]]:
        """Return the gallery items of a kind, each with the folder of its evaluation."""
        return [
            (fold.folder, item)
            for fold in self.folds
            if (found := fold.by_truth(truth)) is not None
            for item in found.gallery
            if item.kind == kind
        ]


@dataclass(frozen=True)
class PictureSet:
    """All rows on one set of pictures."""

    data: str
    rows: tuple[Row, ...]

    @property
    def truths(self) -> list[str]:
        """All truths, in the order of the evaluations."""
        evaluations = (fold.evaluation for row in self.rows for fold in row.folds)
        return list(dict.fromkeys(result.truth for evaluation in evaluations for result in evaluation.truths))

    def rows_with(self, truth: str) -> list[Row]:
        return [row for row in self.rows if row.by_truth(truth)]


def mean_if_known(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if a value is not known, or if there are no values."""
    known = [value for value in values if value is not None]
    return mean(map(float, known)) if known and len(known) == len(values) else None


def make_rows(evaluations: Iterable[StoredEvaluation]) -> list[PictureSet]:
    """Group evaluations into rows by data, sorted by family, model and name."""

    def key(stored: StoredEvaluation) -> tuple[str, str, str, str]:
        return stored.subject.data, stored.subject.family, stored.subject.model, stored.subject.name

    rows: dict[str, list[Row]] = {}
    for (data, _, _, name), same in groupby(sorted(evaluations, key=key), key=key):
        members = sorted(same, key=lambda stored: (stored.subject.groups, str(stored.subject.path)))
        groups = [set(stored.subject.groups) for stored in members]
        are_folds = all(groups) and all(first.isdisjoint(second) for first, second in combinations(groups, 2))
        rows.setdefault(data, []).extend(
            [Row(name, tuple(members))] if are_folds else [Row(name, (stored,)) for stored in members]
        )
    return [PictureSet(data, tuple(_with_unique_labels(of_data))) for data, of_data in rows.items()]


def unique_ends(paths: Sequence[Path], separator: str) -> list[str]:
    """Return the shortest end of each path that no other path has; equal texts get a number.

    >>> unique_ends([Path("a/vit"), Path("b/vit"), Path("b/cnn"), Path("b/cnn")], "-")
    ['a-vit', 'b-vit', 'b-cnn (1)', 'b-cnn (2)']
    """
    parts = [[part for part in path.parts if part != path.anchor] for path in paths]
    ends = []
    for own in parts:
        lengths = (n for n in range(1, len(own) + 1) if sum(other[-n:] == own[-n:] for other in parts) == 1)
        ends.append(separator.join(own[-next(lengths, len(own)) :]))
    return [
        end if ends.count(end) == 1 else f"{end} ({ends[: at + 1].count(end)})".lstrip() for at, end in enumerate(ends)
    ]


def _with_unique_labels(rows: Sequence[Row]) -> list[Row]:
    """Label rows of one name by the ends of their paths."""
    labels: dict[int, str] = {}
    for name in {row.label for row in rows}:
        same = [row for row in rows if row.label == name]
        ends = unique_ends([Path(row.subject.path) for row in same], "/") if len(same) > 1 else [name]
        labels |= {id(row): end for row, end in zip(same, ends, strict=True)}
    return [replace(row, label=labels[id(row)]) for row in rows]


def compare_rows(rows: Sequence[Row], truth: str) -> tuple[list[Row], str]:
    """Return the rows by one truth, each with the folds that all of them have, and a warning.

    There are no rows if no fold is common to all. The warning is empty if all rows have the same folds.
    """
    if not describe_mismatch(rows, truth):
        return list(rows), ""
    shared = set.intersection(*(set(row.pictures(truth)) for row in rows))
    if not shared:
        warning = f"Not compared: no fold is common to all rows. {_describe_rows(rows, truth)}."
        return [], f"{warning} Evaluate all on the same groups."
    common = [
        replace(row, folds=tuple(fold for fold in row.folds if fold.by_truth(truth) and fold.pictures in shared))
        for row in rows
    ]
    return common, f"Rows rest on different pictures. Compared here over the common ones: {_describe(shared)}."


def describe_mismatch(rows: Sequence[Row], truth: str) -> str:
    """Return a warning if rows rest on different folds, and an empty text if all rest on the same.

    Folds that were not evaluated by the truth do not count.
    """
    if len({frozenset(row.pictures(truth)) for row in rows}) <= 1:
        return ""
    return f"Rows rest on different pictures and do not compare. {_describe_rows(rows, truth)}."


def _describe_rows(rows: Sequence[Row], truth: str) -> str:
    """Describe the pictures of each row; rows of the same pictures are named together."""
    names: dict[tuple[Pictures, ...], list[str]] = {}
    for row in rows:
        names.setdefault(row.pictures(truth), []).append(row.label)
    return "; ".join(f"{', '.join(labels)}: {_describe(pictures)}" for pictures, labels in names.items())


def _describe(folds: Iterable[Pictures]) -> str:
    described = []
    for groups, part, pictures in sorted(folds):
        counted = format_count(pictures, "picture", ",")
        named = f"{'group' if len(groups) == 1 else 'groups'} {_join(groups)} ({counted})"
        described.append(named if groups else f"{part} ({counted}, without groups)")
    return _join(described, " and ")


def _join(names: Sequence[str], separator: str = ", ") -> str:
    """Join a short list whole; of a long one, the first names, the last, and their number."""
    if len(names) <= NAMED:
        return separator.join(names)
    return f"{separator.join(names[:3])} ... {names[-1]}, {len(names):,} in all"
