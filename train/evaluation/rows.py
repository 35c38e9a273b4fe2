"""Rows of the report's tables: each is one model on one set of pictures, from one evaluation or from its folds.

Evaluations of one name, model and data with disjoint test groups are folds, such as a training per board left out.
Their figures are averaged with equal weights, and their counts added. If their groups overlap, they are different
models of one name, and their rows are labelled by their paths.

Figures are compared only over the same pictures. Two folds rest on the same pictures if they name the same groups and
the same number of pictures. Folds without groups must instead have the same name of their part."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from pathlib import Path
from statistics import mean
from typing import Literal

import msgspec

from heatline.edge.util.page import UNKNOWN, Cell, Column, Line, Table, count, number
from heatline.edge.util.text import format_count
from heatline.train.evaluation.result import (
    LOOSE,
    Evaluation,
    EvaluationSubject,
    TruthEvaluation,
    count_kinds,
)
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


FIGURES: dict[str, tuple[Literal["high", "low"] | None, str | tuple[str, str, str]]] = {
    "defective frames missed": ("low", ("escaped_frames", "defective_frames", "escape_rate")),
    "good frames rejected": ("low", ("rejected_frames", "good_frames", "false_reject_rate")),
    "defects hit by a peak": ("high", ("defects_hit", "defects", "hit_rate")),
    "false regions per frame": ("low", "frame.false_regions_per_frame"),
    "picture AUROC": ("high", "frame.auroc"),
    "picture AP": ("high", "frame.average_precision"),
    "tiles": (None, "tile.tiles"),
    "defective": (None, "tile.defective"),
    "tile AP": ("high", "tile.average_precision"),
    "tile AUROC": ("high", "tile.auroc"),
    "peak on the defect": ("high", "tile.pointing"),
    "peak within a cell of it": ("high", "tile.pointing_within_cell"),
    "evidence on the defect": ("high", "tile.weighting"),
    "pixel precision": ("high", "line.precision"),
    "pixel recall": ("high", "line.recall"),
    "pixel F1": ("high", "line.f1"),
}
"""Columns: which value is best, and the figure's dotted name; of a share, part, whole and rate in `FrameFigures`."""
OF_FRAMES, OF_TILES = list(FIGURES)[:6], list(FIGURES)[6:]
OF_FOLDS = ("defective frames missed", "good frames rejected", "defects hit by a peak", "tile AP", "pixel F1")


def frames_table(pictures: PictureSet, truth: str) -> Table:
    """Return the table of misses, false rejects and defects hit by a peak, at the calibrated thresholds."""
    rows = pictures.rows_with(truth)
    unplaced = max((row.count(truth, "frame.unplaced") or 0 for row in rows), default=0)
    notes = [f"Frames with a label only, without the place of the defect: {unplaced:,}."] if unplaced else []
    return _compared("Frames and defects", pictures, truth, OF_FRAMES, [*notes, *describe_intervals(rows, truth)])


def tiles_table(pictures: PictureSet, truth: str) -> Table:
    """Return the table of tiles and pixels: how well logits separate tiles, and how well heatmaps show the place."""
    return _compared("Tiles and pixels", pictures, truth, OF_TILES)


def _compared(title: str, pictures: PictureSet, truth: str, names: Sequence[str], notes: Sequence[str] = ()) -> Table:
    rows = pictures.rows_with(truth)
    columns = [Column("name", is_text=True), *(Column(name, FIGURES[name][0]) for name in names)]
    lines = [Line([Cell(row.label), *(_cell(row, truth, name) for name in names)]) for row in rows]
    return with_mismatch_warning(Table(title, columns, lines, notes), rows, truth).known()


def _cell(row: Row, truth: str, name: str) -> Cell:
    field = FIGURES[name][1]
    if isinstance(field, tuple):
        return _share_cell(row, truth, *field)
    if field in ("tile.tiles", "tile.defective"):
        return count(row.count(truth, field))
    return figure_cell(row, truth, field, 2 if field == "frame.false_regions_per_frame" else 4)


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
                Cell(format_percent(kind.missed / kind.pictures, None)),
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


def folds_table(pictures: PictureSet, truth: str) -> Table | None:
    """Return the table of the folds of rows that are means; None if no row is a mean."""
    columns = [Column("name", is_text=True), Column("groups left out", is_text=True), Column("frames")]
    lines = [
        Line(
            [
                Cell(row.label),
                Cell(", ".join(fold.subject.groups)),
                count(fold.subject.pictures),
                *(_cell(Row(row.label, (fold,)), truth, name) for name in OF_FOLDS),
            ],
            starts_group=fold is row.folds[0],
        )
        for row in pictures.rows_with(truth)
        if len(row.folds) > 1
        for fold in row.folds
    ]
    note = "A row of the other tables is the mean over its folds, with equal weights; its counts are their sums."
    return Table("Folds", [*columns, *map(Column, OF_FOLDS)], lines, [note]) if lines else None


def thresholds_table(pictures: PictureSet) -> Table:
    """Return the table of the line's thresholds and their calibration."""
    columns = (
        Column("name", is_text=True),
        Column("model", is_text=True),
        Column("score threshold"),
        Column("evidence threshold"),
        Column("wanted false reject per frame"),
        Column("calibrated on", is_text=True),
        Column("frames"),
        Column("evaluated", is_text=True),
    )
    lines = []
    for row in pictures.rows:
        for fold in row.folds:
            calibration, subject = fold.evaluation.calibration, fold.subject
            fold_of = f" ({', '.join(subject.groups)})" if len(row.folds) > 1 else ""
            cells = (
                Cell(row.label + fold_of),
                Cell(f"{subject.model}, {subject.method}, {'x'.join(map(str, subject.map_hw))}"),
                number(calibration.score_threshold, 2),
                number(calibration.evidence_threshold, 2),
                number(calibration.false_reject_per_frame, 2),
                Cell(calibration.frames_are),
                count(calibration.frames),
                Cell(f"{subject.kind}, {subject.engine}"),
            )
            lines.append(Line(cells))
    return Table("Models and thresholds, in logits", columns, lines)


def _share_cell(row: Row, truth: str, part: str, whole: str, rate: str) -> Cell:
    """Return a cell as `3 of 40` with share and interval.

    Without share if a fold has such frames, but does not know the rate.
    """
    some, total = (row.count(truth, f"frame.{name}") for name in (part, whole))
    if some is None or not total:
        return UNKNOWN
    of_folds = zip(row.values(truth, f"frame.{whole}"), row.values(truth, f"frame.{rate}"), strict=True)
    if any(frames and share is None for frames, share in of_folds):
        return Cell(f"{some:,} of {total:,}", None, "not a rate")
    interval = row.interval(truth, f"frame.{rate}")
    return Cell(f"{some:,} of {total:,}", some / total, format_percent(some / total, interval))


def format_percent(share: float, interval: tuple[float, float] | None) -> str:
    """Format a share as `7.5 %`, or as `7.5 % [2.1, 15.0]` with its interval."""
    ends = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * share:.1f} %{ends}"


def figure_cell(row: Row, truth: str, field: str, digits: int = 4) -> Cell:
    """Return a cell with a figure; the wider its interval, the fewer digits it has."""
    interval = row.interval(truth, field)
    if interval is not None:
        width = interval[1] - interval[0]
        digits = 2 if width >= 0.05 or not width else 3 if width >= 0.005 else 4
    return number(row.figure(truth, field), digits, interval)


def with_mismatch_warning(table: Table, rows: Sequence[Row], truth: str) -> Table:
    """Return the table, with a warning and without best values if its rows rest on different pictures."""
    warning = describe_mismatch(rows, truth)
    return replace(table, warning=warning, is_compared=not warning)


def describe_intervals(rows: Sequence[Row], truth: str) -> list[str]:
    """Describe the basis of the intervals, or why there are none; each sentence once."""
    single = [result.intervals_are for row in rows if len(row.folds) == 1 for result in row.by_truth(truth)]
    sentences = [f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}." for sentence in dict.fromkeys(single)]
    if any(len(row.folds) > 1 for row in rows):
        sentences.append("A mean over folds has no interval; the table of folds shows their spread.")
    return sentences
