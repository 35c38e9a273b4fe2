"""Rows of the report's tables: each is one model on one set of pictures, from one evaluation or from its folds.

Evaluations of one name, model, data and truth with disjoint test groups are folds; others are rows of their own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from pathlib import Path
from statistics import mean
from typing import Literal, NamedTuple

from heatline.edge.util.page import UNKNOWN, Cell, Column, Line, Table, count, number
from heatline.train.evaluation.result import LOOSE, Evaluation, EvaluationSubject, count_kinds


class StoredEvaluation(NamedTuple):
    """An evaluation, and the folder with its pictures."""

    evaluation: Evaluation
    folder: Path

    @property
    def subject(self) -> EvaluationSubject:
        return self.evaluation.subject


@dataclass(frozen=True)
class Row:
    """One model on one set of pictures."""

    label: str
    folds: tuple[StoredEvaluation, ...]
    """At least one, in the order of their groups."""

    @property
    def subject(self) -> EvaluationSubject:
        """Of the first fold, for the fields that all folds share."""
        return self.folds[0].subject

    @property
    def pictures(self) -> frozenset[tuple[frozenset[str], str, int]]:
        """The pictures of each fold: its groups, without groups the name of its part, and their number."""
        subjects = [fold.subject for fold in self.folds]
        return frozenset((frozenset(of.groups), "" if of.groups else of.part, of.pictures) for of in subjects)

    def values(self, name: str) -> list[float | None]:
        """Return a figure of each fold; None for a fold that does not know it."""
        return [fold.evaluation.figures.get(name) for fold in self.folds]

    def figure(self, name: str) -> float | None:
        """Return the mean of a figure over the folds; None unless all know it: else it would be of other pictures."""
        return mean_if_known(self.values(name))

    def count(self, name: str) -> int | None:
        """Return the sum of a count over the folds; None unless all folds know it."""
        mean_of_folds = self.figure(name)
        return None if mean_of_folds is None else round(mean_of_folds * len(self.folds))

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a figure of a single evaluation; a mean over folds has none."""
        return self.folds[0].evaluation.intervals.get(name) if len(self.folds) == 1 else None


class PictureSet(NamedTuple):
    """All rows on one set of pictures, by one truth."""

    data: str
    truth: str
    rows: Sequence[Row]

    @property
    def title(self) -> str:
        return f"{self.data}, by {self.truth}"

    @property
    def mismatch(self) -> str:
        """A warning if rows rest on different folds; empty if all rest on the same."""
        if len({row.pictures for row in self.rows}) <= 1:
            return ""
        return "Rows rest on different pictures and do not compare: evaluate all on the same groups."


def mean_if_known(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if a value is not known, or if there are no values."""
    known = [value for value in values if value is not None]
    return mean(map(float, known)) if known and len(known) == len(values) else None


def make_rows(evaluations: Iterable[StoredEvaluation]) -> list[PictureSet]:
    """Group evaluations into rows by data and truth, sorted by family, model and name."""

    def key(stored: StoredEvaluation) -> tuple[str, str, str, str, str]:
        of = stored.subject
        return of.data, stored.evaluation.truth, of.family, of.model, of.name

    rows: dict[tuple[str, str], list[Row]] = {}
    for (data, truth, _, _, name), same in groupby(sorted(evaluations, key=key), key=key):
        members = sorted(same, key=lambda stored: (stored.subject.groups, stored.subject.path))
        groups = [set(stored.subject.groups) for stored in members]
        are_folds = all(groups) and all(first.isdisjoint(second) for first, second in combinations(groups, 2))
        rows.setdefault((data, truth), []).extend(
            [Row(name, tuple(members))] if are_folds else [Row(name, (stored,)) for stored in members]
        )
    picture_sets = []
    for (data, truth), found in rows.items():
        names = [row.label for row in found]
        labelled = [row if names.count(row.label) == 1 else replace(row, label=row.subject.path) for row in found]
        picture_sets.append(PictureSet(data, truth, labelled))
    return picture_sets


FIGURES: dict[str, tuple[Literal["high", "low"] | None, str | tuple[str, str, str]]] = {
    "defective frames missed": ("low", ("frame.escaped_frames", "frame.defective_frames", "frame.escape_rate")),
    "good frames rejected": ("low", ("frame.rejected_frames", "frame.good_frames", "frame.false_reject_rate")),
    "defects hit by a peak": ("high", ("frame.defects_hit", "frame.defects", "frame.hit_rate")),
    "false regions per frame": ("low", "frame.false_regions_per_frame"),
    "picture AUROC": ("high", "frame.auroc"),
    "picture AP": ("high", "frame.average_precision"),
    "tiles": (None, "tile.tiles"),
    "defective": (None, "tile.defective"),
    "tile AP": ("high", "tile.average_precision"),
    "tile AUROC": ("high", "tile.auroc"),
    "peak on the defect": ("high", "study.pointing"),
    "pixel precision": ("high", "line.precision"),
    "pixel recall": ("high", "line.recall"),
    "pixel F1": ("high", "line.f1"),
}
"""Columns: which value is best, and the figure's name; of a share, those of part, whole and rate."""
OF_FRAMES, OF_TILES = list(FIGURES)[:6], list(FIGURES)[6:]
OF_COMMAND = (*OF_FRAMES[:3], "picture AUROC", "tile AP", "pixel F1")
OF_FOLDS = ("defective frames missed", "good frames rejected", "defects hit by a peak", "tile AP", "pixel F1")


def figure_tables(pictures: PictureSet) -> list[Table]:
    """Return the tables of frames, tiles, and folds, as far as something is known."""
    unplaced = max(row.count("frame.unplaced") or 0 for row in pictures.rows)
    notes = [f"Frames with a label only, without the place of the defect: {unplaced:,}."] if unplaced else []
    tables = [_compared("Frames and defects", pictures, OF_FRAMES, [*notes, *describe_intervals(pictures.rows)])]
    if any(row.count("tile.tiles") for row in pictures.rows):
        tables.append(_compared("Tiles and pixels", pictures, OF_TILES))
    columns = [Column("name", is_text=True), Column("groups left out", is_text=True), Column("frames")]
    folds = [
        Line(
            [
                Cell(row.label),
                Cell(", ".join(fold.subject.groups)),
                count(fold.subject.pictures),
                *(_cell(Row(row.label, (fold,)), name) for name in OF_FOLDS),
            ],
            starts_group=fold is row.folds[0],
        )
        for row in pictures.rows
        if len(row.folds) > 1
        for fold in row.folds
    ]
    return tables + [Table("Folds", [*columns, *map(Column, OF_FOLDS)], folds)] * bool(folds)


def _compared(title: str, pictures: PictureSet, names: Sequence[str], notes: Sequence[str] = ()) -> Table:
    columns = [Column("name", is_text=True), *(Column(name, FIGURES[name][0]) for name in names)]
    lines = [Line([Cell(row.label), *(_cell(row, name) for name in names)]) for row in pictures.rows]
    return Table(title, columns, lines, notes, pictures.mismatch).known()


def _cell(row: Row, column: str) -> Cell:
    """Return a cell with a figure, or as `3 of 40` with share and interval."""
    field = FIGURES[column][1]
    if isinstance(field, str):
        if FIGURES[column][0] is None:
            return count(row.count(field))
        return figure_cell(row, field, 2 if field == "frame.false_regions_per_frame" else 4)
    part, whole, rate = field
    some, total = row.count(part), row.count(whole)
    if some is None or not total:
        return UNKNOWN
    of_folds = zip(row.values(whole), row.values(rate), strict=True)
    if any(frames and share is None for frames, share in of_folds):
        return Cell(f"{some:,} of {total:,}", None, "not a rate")
    return Cell(f"{some:,} of {total:,}", some / total, format_percent(some / total, row.interval(rate)))


def describe_row(row: Row) -> dict[str, str]:
    """Return the figures that decide whether the model can be used, by name."""
    cells = {name: _cell(row, name) for name in OF_COMMAND}
    return {
        name: "not known" if cell is UNKNOWN else f"{cell.text} {cell.interval}".strip() for name, cell in cells.items()
    }


def kinds_table(row: Row) -> Table | None:
    """Return the table of the pictures missed by class and by size of their defects; None if neither is known."""
    counted = count_kinds(fold.evaluation for fold in row.folds)
    names = "pictures", "missed", "share missed", f"missed at {100 * LOOSE:g} % false rejects"
    lines = [
        Line(
            (
                Cell(kind.name),
                count(kind.pictures),
                count(kind.missed),
                Cell(format_percent(kind.missed / kind.pictures)),
                count(kind.loose_missed),
            ),
            starts_group=at > 0 and counted[at - 1].by != kind.by,
        )
        for at, kind in enumerate(counted)
    ]
    note = (
        "Smallest first. A picture with defects of several classes, or sizes, counts for each, and is missed if no "
        "tile that shows one reaches the threshold."
    )
    columns = [Column("defects", is_text=True), *map(Column, names)]
    return Table(f"Missed by class and by size, {row.label}", columns, lines, [note]).known() if lines else None


def thresholds_table(rows: Sequence[Row]) -> Table:
    """Return the table of the line's thresholds and their calibration."""
    names = "score threshold", "evidence threshold", "wanted false reject per frame", "frames"
    texts = "name", "model", "calibrated on", "evaluated"
    columns = [Column(name, is_text=True) for name in texts] + [Column(name) for name in names]
    lines = []
    for row in rows:
        for fold in row.folds:
            calibration, subject = fold.evaluation.calibration, fold.subject
            fold_of = f" ({', '.join(subject.groups)})" if len(row.folds) > 1 else ""
            cells = (
                Cell(row.label + fold_of),
                Cell(f"{subject.model}, {subject.method}, {'x'.join(map(str, subject.map_hw))}"),
                Cell(calibration.frames_are),
                Cell(f"{subject.kind}, {subject.engine}"),
                number(calibration.score_threshold, 2),
                number(calibration.evidence_threshold, 2),
                number(calibration.false_reject_per_frame, 2),
                count(calibration.frames),
            )
            lines.append(Line(cells))
    return Table("Models and thresholds, in logits", columns, lines)


def format_percent(share: float, interval: tuple[float, float] | None = None) -> str:
    """Format a share as `7.5 %`, or as `7.5 % [2.1, 15.0]` with its interval."""
    ends = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * share:.1f} %{ends}"


def figure_cell(row: Row, name: str, digits: int = 4) -> Cell:
    """Return a cell with a figure; the wider its interval, the fewer digits it has."""
    interval = row.interval(name)
    if interval is not None:
        width = interval[1] - interval[0]
        digits = 2 if width >= 0.05 or not width else 3 if width >= 0.005 else 4
    return number(row.figure(name), digits, interval)


def describe_intervals(rows: Sequence[Row]) -> list[str]:
    """Describe the basis of the intervals, or why there are none; each sentence once."""
    single = [row.folds[0].evaluation.intervals_are for row in rows if len(row.folds) == 1]
    sentences = [f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}." for sentence in dict.fromkeys(single)]
    if any(len(row.folds) > 1 for row in rows):
        sentences.append("A mean over folds has no interval; the table of folds shows their spread.")
    return sentences
