"""The rows of the report's tables: each is one model on one set of pictures, from one evaluation or from its folds.

Evaluations of one name, model and data whose test groups are disjoint are folds, as of a training per board left out:
their figures are averaged, each fold alike, and their counts added. Where their groups overlap, they are different
things of one name, and are told apart by their paths.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, groupby
from pathlib import Path, PurePath
from statistics import mean

import msgspec

from train.evaluation.result import Evaluation, GalleryItem, Told, TruthEvaluation
from train.evaluation.sweep import SweepFigures

SHARES = ("precision", "recall", "f1", "jaccard", "accuracy", "pointing", "pointing_gated", "weighting")
"""Tables of a sweep."""


@dataclass(frozen=True)
class Read:
    """An evaluation, and the folder with its pictures."""

    evaluation: Evaluation
    folder: Path

    @property
    def told(self) -> Told:
        return self.evaluation.told

    def against(self, truth: str) -> TruthEvaluation | None:
        return next((one for one in self.evaluation.truths if one.truth == truth), None)


@dataclass(frozen=True)
class Row:
    """One model on one set of pictures."""

    label: str
    """Its name; unlike any other's on these pictures."""
    folds: tuple[Read, ...]
    """At least one; in the order of their groups if several."""

    @property
    def told(self) -> Told:
        """Of the first fold: what all share stands in each."""
        return self.folds[0].told

    @property
    def fusion(self) -> str | None:
        """Of the heads of its rollout; None of a class activation map."""
        parts = self.told.method.split("-")
        return parts[1] if parts[0] == "rollout" and len(parts) > 1 else None

    @property
    def discard_ratio(self) -> float:
        _, _, ratio = self.told.method.partition("-discard-")
        return float(ratio or 0)

    def against(self, truth: str) -> list[TruthEvaluation]:
        return [one for fold in self.folds if (one := fold.against(truth)) is not None]

    def figure(self, truth: str, name: str) -> float | None:
        """A share: the mean over the folds; None unless all know it, as a mean over some would be of other pictures.

        The mean is exact before it is rounded once, so that equal folds give what each of them gives, and tie with it.

        Args:
            name: dotted, as `study.f1`.
        """
        return mean_if_known(self._values(truth, name))

    def count(self, truth: str, name: str) -> int | None:
        """A count: the sum over the folds; None unless all know it."""
        values = _all_known(self._values(truth, name))
        return round(sum(values)) if values else None

    def interval(self, truth: str, name: str) -> tuple[float, float] | None:
        """95 %, of a single evaluation; folds have one each, and their mean none."""
        found = self.against(truth)
        return found[0].intervals.get(name) if len(found) == 1 else None

    def sweep(self, truth: str) -> SweepFigures | None:
        """Over fusions and ratios: the mean of the folds' tables; a cell is None unless all know it.

        None where a fold has none, or another grid.
        """
        sweeps = [one.sweep for one in self.against(truth)]
        first = sweeps[0] if sweeps else None
        if first is None:
            return None
        alike = [one for one in sweeps if one and (one.fusions, one.ratios) == (first.fusions, first.ratios)]
        if len(alike) < len(sweeps):
            return None
        tables = {
            name: [
                [mean_if_known(cells) for cells in zip(*lines, strict=True)]
                for lines in zip(*(getattr(one, name) for one in alike), strict=True)
            ]
            for name in SHARES
        }
        return msgspec.structs.replace(first, **tables)

    def gallery(self, truth: str, kind: str) -> list[tuple[Path, GalleryItem]]:
        """Pictures of a kind, each with the folder that it lies in."""
        return [
            (fold.folder, item)
            for fold in self.folds
            if (found := fold.against(truth)) is not None
            for item in found.gallery
            if item.kind == kind
        ]

    def _values(self, truth: str, name: str) -> list[float | None]:
        """Of each fold; None where it does not know the figure."""
        part, _, field = name.partition(".")
        parts = [getattr(one.figures, part) for one in self.against(truth)]
        values = [None if figures is None else getattr(figures, field) for figures in parts]
        return [None if value is None else float(value) for value in values]


@dataclass(frozen=True)
class Pictures:
    """All that was evaluated on one set of pictures."""

    data: str
    rows: tuple[Row, ...]

    @cached_property
    def truths(self) -> list[str]:
        """In the order in which they are first met."""
        evaluations = (fold.evaluation for row in self.rows for fold in row.folds)
        return list(dict.fromkeys(one.truth for evaluation in evaluations for one in evaluation.truths))

    def against(self, truth: str) -> list[Row]:
        return [row for row in self.rows if row.against(truth)]


def mean_if_known(values: Sequence[float | None]) -> float | None:
    """The mean; None unless all values are known, and of none."""
    known = _all_known(values)
    return mean(known) if known else None


def rows_of(reads: Iterable[Read]) -> list[Pictures]:
    """Rows by data, models alike beside each other, in the order of their names."""

    def same(read: Read) -> tuple[str, str, str, str]:
        return read.told.data, read.told.family, read.told.model, read.told.name

    rows: list[tuple[str, Row]] = []
    for (data, _, _, name), alike in groupby(sorted(reads, key=same), key=same):
        members = sorted(alike, key=lambda read: (read.told.groups, str(read.told.path)))
        if len(members) > 1 and _disjoint([set(read.told.groups) for read in members]):
            rows.append((data, Row(name, tuple(members))))
        else:
            rows += [(data, Row(name, (read,))) for read in members]
    return [
        Pictures(data, tuple(_told_apart([row for _, row in its])))
        for data, its in groupby(rows, key=lambda pair: pair[0])
    ]


def _all_known(values: Sequence[float | None]) -> list[float]:
    """The values; empty unless all are known."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _disjoint(groups: Sequence[set[str]]) -> bool:
    """Whether no group is in two; where a set names no groups, nothing says so."""
    return all(groups) and all(one.isdisjoint(other) for one, other in combinations(groups, 2))


def _told_apart(rows: list[Row]) -> list[Row]:
    """Rows of one name are called by as much of their paths as tells them apart, and by number if nothing does."""
    unlike = []
    for row in rows:
        namesakes = [PurePath(other.told.path).parts for other in rows if other.label == row.label]
        if len(namesakes) == 1:
            unlike.append(row)
            continue
        mine = PurePath(row.told.path).parts
        ends = (mine[-length:] for length in range(1, len(mine) + 1))
        end = next((end for end in ends if sum(other[-len(end) :] == end for other in namesakes) == 1), mine)
        unlike.append(replace(row, label=str(PurePath(*end)) if end else row.label))
    labels = [row.label for row in unlike]
    numbers = [labels[: at + 1].count(label) for at, label in enumerate(labels)]
    return [
        row if labels.count(row.label) == 1 else replace(row, label=f"{row.label} ({number})")
        for row, number in zip(unlike, numbers, strict=True)
    ]
