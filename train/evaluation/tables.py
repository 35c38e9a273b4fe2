"""Tables of the line's figures, a row per model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from heatline.edge.util.page import UNKNOWN, Cell, Column, Line, Table, count, number
from heatline.train.evaluation.result import LOOSE, count_kinds
from heatline.train.evaluation.rows import PictureSet, Row, describe_mismatch

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


def frames(pictures: PictureSet, truth: str) -> Table:
    """Return the table of misses, false rejects and defects hit by a peak, at the calibrated thresholds."""
    rows = pictures.rows_with(truth)
    unplaced = max((row.count(truth, "frame.unplaced") or 0 for row in rows), default=0)
    notes = [f"Frames with a label only, without the place of the defect: {unplaced:,}."] if unplaced else []
    return _compared("Frames and defects", pictures, truth, OF_FRAMES, [*notes, *describe_intervals(rows, truth)])


def tiles(pictures: PictureSet, truth: str) -> Table:
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


def kinds(row: Row) -> Table | None:
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


def folds(pictures: PictureSet, truth: str) -> Table | None:
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


def thresholds(pictures: PictureSet) -> Table:
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
