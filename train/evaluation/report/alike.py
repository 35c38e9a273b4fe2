"""Compare the pictures that rows rest on: figures are compared only over the same pictures.

Two folds rest on the same pictures if they name the same groups and the same number of pictures. Folds without groups
must instead have the same name of their part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from heatline.edge.util.text import format_count
from heatline.train.evaluation.report.rows import Row, StoredEvaluation

NAMED = 6
"""Lists of at most so many groups or folds are printed whole; longer ones are shortened."""


class FoldPictures(NamedTuple):
    """The pictures of a fold."""

    groups: tuple[str, ...]
    part: str
    """Empty if there are groups, which identify the pictures better."""
    pictures: int

    @staticmethod
    def of(fold: StoredEvaluation) -> "FoldPictures":
        subject = fold.subject
        return FoldPictures(tuple(sorted(subject.groups)), "" if subject.groups else subject.part, subject.pictures)

    def __str__(self) -> str:
        if not self.groups:
            return f"{self.part} ({format_count(self.pictures, 'picture', ',')}, without groups)"
        word = "group" if len(self.groups) == 1 else "groups"
        return f"{word} {_join(self.groups)} ({format_count(self.pictures, 'picture', ',')})"


@dataclass(frozen=True)
class Comparison:
    """Rows over their common folds."""

    rows: list[Row]
    """Each with the folds that all rows have, or with its own folds if there are no common ones."""
    is_possible: bool
    """Whether there is a common fold."""
    warning: str
    """Empty if all rows have the same folds."""


def compare_rows(rows: Sequence[Row], truth: str) -> Comparison:
    """Return the rows by one truth, each with the folds that all of them have."""
    if not describe_mismatch(rows, truth):
        return Comparison(list(rows), True, "")
    shared = set.intersection(*(set(_fold_pictures(row, truth)) for row in rows))
    if not shared:
        warning = (
            f"Not compared: no fold is common to all rows. {_describe_rows(rows, truth)}. Evaluate all on the same "
            "groups."
        )
        return Comparison(list(rows), False, warning)
    common = [
        replace(
            row, folds=tuple(fold for fold in row.folds if fold.by_truth(truth) and FoldPictures.of(fold) in shared)
        )
        for row in rows
    ]
    warning = f"Rows rest on different pictures. Compared here over the common ones: {_describe_pictures(shared)}."
    return Comparison(common, True, warning)


def describe_mismatch(rows: Sequence[Row], truth: str) -> str:
    """Return a warning if rows rest on different folds, and an empty text if all rest on the same.

    Folds that were not evaluated by the truth do not count.
    """
    if len({frozenset(_fold_pictures(row, truth)) for row in rows}) <= 1:
        return ""
    return f"Rows rest on different pictures and do not compare. {_describe_rows(rows, truth)}."


def _fold_pictures(row: Row, truth: str) -> list[FoldPictures]:
    return [FoldPictures.of(fold) for fold in row.folds if fold.by_truth(truth)]


def _describe_rows(rows: Sequence[Row], truth: str) -> str:
    """Describe the pictures of each row; rows of the same pictures are named together."""
    names: dict[tuple[FoldPictures, ...], list[str]] = {}
    for row in rows:
        names.setdefault(tuple(sorted(_fold_pictures(row, truth))), []).append(row.label)
    return "; ".join(f"{', '.join(labels)}: {_describe_pictures(pictures)}" for pictures, labels in names.items())


def _describe_pictures(pictures: Iterable[FoldPictures]) -> str:
    return _join([str(each) for each in sorted(pictures)], " and ")


def _join(names: Sequence[str], separator: str = ", ") -> str:
    """Join a short list whole; of a long one, the first names, the last, and their number."""
    if len(names) <= NAMED:
        return separator.join(names)
    return f"{separator.join(names[:3])} ... {names[-1]}, {len(names):,} in all"
