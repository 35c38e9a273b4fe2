"""Which pictures rows rest on: figures are held against each other only over the same ones.

Two folds rest on the same pictures where they name the same groups and as many pictures. Where no groups are told,
their parts of the data must be of one name instead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from edge.util.text import format_count
from train.evaluation.report.rows import Read, Row

NAMED = 6
"""Groups or folds that are all named; of more, some are, and how many there are."""


class Under(NamedTuple):
    """The pictures of a fold."""

    groups: tuple[str, ...]
    part: str
    """Empty where groups are told: they say more than a name."""
    pictures: int

    @staticmethod
    def of(fold: Read) -> "Under":
        told = fold.told
        return Under(tuple(sorted(told.groups)), "" if told.groups else told.part, told.pictures)

    def __str__(self) -> str:
        if not self.groups:
            return f"{self.part} ({format_count(self.pictures, 'picture', ',')}, no groups told)"
        word = "group" if len(self.groups) == 1 else "groups"
        return f"{word} {_listed(self.groups)} ({format_count(self.pictures, 'picture', ',')})"


@dataclass(frozen=True)
class Compared:
    """Rows that are held against each other."""

    rows: list[Row]
    """Each with the folds that all have; with its own where there are none."""
    is_possible: bool
    """Whether there is a fold that all have."""
    warning: str
    """Empty where all rows rest on the same folds from the start."""


def compared(rows: Sequence[Row], truth: str) -> Compared:
    """Rows with those of their folds that all of them have, held against one truth."""
    if not unlike(rows, truth):
        return Compared(list(rows), True, "")
    shared = set.intersection(*(set(_under(row, truth)) for row in rows))
    if not shared:
        warning = f"Not compared: no fold is common to all rows. {_said(rows, truth)}. Evaluate all on the same groups."
        return Compared(list(rows), False, warning)
    kept = [
        replace(row, folds=tuple(fold for fold in row.folds if fold.against(truth) and Under.of(fold) in shared))
        for row in rows
    ]
    warning = f"Rows rest on different pictures. Compared here over what all have: {_in_words(shared)}."
    return Compared(kept, True, warning)


def unlike(rows: Sequence[Row], truth: str) -> str:
    """A warning where rows rest on different folds; empty where all rest on the same.

    Folds of a row that were not held against the truth do not count.
    """
    if len({frozenset(_under(row, truth)) for row in rows}) <= 1:
        return ""
    return f"Rows rest on different pictures and do not compare. {_said(rows, truth)}."


def _under(row: Row, truth: str) -> list[Under]:
    return [Under.of(fold) for fold in row.folds if fold.against(truth)]


def _said(rows: Sequence[Row], truth: str) -> str:
    """Who rests on what, rows of the same pictures in one breath."""
    names: dict[tuple[Under, ...], list[str]] = {}
    for row in rows:
        names.setdefault(tuple(sorted(_under(row, truth))), []).append(row.label)
    return "; ".join(f"{', '.join(labels)}: {_in_words(unders)}" for unders, labels in names.items())


def _in_words(unders: Iterable[Under]) -> str:
    return _listed([str(one) for one in sorted(unders)], " and ")


def _listed(words: Sequence[str], between: str = ", ") -> str:
    """All of few; of many the first ones, the last, and how many there are."""
    if len(words) <= NAMED:
        return between.join(words)
    return f"{between.join(words[:3])} ... {words[-1]}, {len(words):,} in all"
