"""Tables of the line's figures, a row per model."""

from collections.abc import Sequence
from dataclasses import replace

from heatline.edge.util.page import UNKNOWN, Cell, Column, Line, Table, count, number
from heatline.train.evaluation.report.alike import describe_mismatch
from heatline.train.evaluation.report.rows import PictureSet, Row
from heatline.train.evaluation.result import LOOSE
from heatline.train.evaluation.verdicts import count_kinds


def frames(pictures: PictureSet, truth: str) -> Table:
    """Return the table of misses, false rejects and defects hit by a peak, at the calibrated thresholds."""
    columns = (
        Column("name", is_text=True),
        Column("defective frames missed", "low"),
        Column("good frames rejected", "low"),
        Column("defects hit by a peak", "high"),
        Column("false regions per frame", "low"),
        Column("picture AUROC", "high"),
        Column("picture AP", "high"),
    )
    lines = [
        Line(
            (
                Cell(row.label),
                share_cell(row, truth, "escaped_frames", "defective_frames", "escape_rate"),
                share_cell(row, truth, "rejected_frames", "good_frames", "false_reject_rate"),
                share_cell(row, truth, "defects_hit", "defects", "hit_rate"),
                figure_cell(row, truth, "frame.false_regions_per_frame", 2),
                figure_cell(row, truth, "frame.auroc"),
                figure_cell(row, truth, "frame.average_precision"),
            )
        )
        for row in pictures.rows_with(truth)
    ]
    unplaced = max((row.count(truth, "frame.unplaced") or 0 for row in pictures.rows_with(truth)), default=0)
    notes = (
        *((f"Frames with a label only, without the place of the defect: {unplaced:,}.",) * bool(unplaced)),
        *describe_intervals(pictures, truth),
    )
    return with_mismatch_warning(Table("Frames and defects", columns, lines, notes), pictures, truth).known()


def kinds(row: Row) -> Table | None:
    """Return the table of the pictures missed by class and by size of their defects; None if neither is known."""
    counted = count_kinds(fold.evaluation for fold in row.folds)
    columns = (
        Column("defects", is_text=True),
        Column("pictures"),
        Column("missed"),
        Column("share missed"),
        Column(f"missed at {100 * LOOSE:g} % false rejects"),
    )
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
    title = f"Missed by class and by size, {row.label}"
    return Table(title, columns, lines, (note,)).known() if lines else None


def tiles(pictures: PictureSet, truth: str) -> Table:
    """Return the table of tiles and pixels: how well logits separate tiles, and how well heatmaps show the place."""
    figures = (
        ("tile AP", "tile.average_precision"),
        ("tile AUROC", "tile.auroc"),
        ("peak on the defect", "tile.pointing"),
        ("peak within a cell of it", "tile.pointing_within_cell"),
        ("evidence on the defect", "tile.weighting"),
        ("pixel precision", "line.precision"),
        ("pixel recall", "line.recall"),
        ("pixel F1", "line.f1"),
    )
    columns = (
        Column("name", is_text=True),
        Column("tiles"),
        Column("defective"),
        *(Column(name, "high") for name, _ in figures),
    )
    lines = [
        Line(
            (
                Cell(row.label),
                count(row.count(truth, "tile.tiles")),
                count(row.count(truth, "tile.defective")),
                *(figure_cell(row, truth, field) for _, field in figures),
            )
        )
        for row in pictures.rows_with(truth)
    ]
    return with_mismatch_warning(Table("Tiles and pixels", columns, lines), pictures, truth).known()


def folds(pictures: PictureSet, truth: str) -> Table | None:
    """Return the table of the folds of rows that are means; None if no row is a mean."""
    columns = (
        Column("name", is_text=True),
        Column("groups left out", is_text=True),
        Column("frames"),
        Column("defective frames missed"),
        Column("good frames rejected"),
        Column("defects hit by a peak"),
        Column("tile AP"),
        Column("pixel F1"),
    )
    lines = []
    for row in pictures.rows_with(truth):
        for at, fold in enumerate(row.folds if len(row.folds) > 1 else ()):
            single = Row(row.label, (fold,))
            cells = (
                Cell(row.label),
                Cell(", ".join(fold.subject.groups)),
                count(fold.subject.pictures),
                share_cell(single, truth, "escaped_frames", "defective_frames", "escape_rate"),
                share_cell(single, truth, "rejected_frames", "good_frames", "false_reject_rate"),
                share_cell(single, truth, "defects_hit", "defects", "hit_rate"),
                figure_cell(single, truth, "tile.average_precision"),
                figure_cell(single, truth, "line.f1"),
            )
            lines.append(Line(cells, starts_group=at == 0))
    if not lines:
        return None
    note = "A row of the other tables is the mean over its folds, with equal weights; its counts are their sums."
    return Table("Folds", columns, tuple(lines), (note,))


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
    return Table("Models and thresholds, in logits", columns, tuple(lines))


def share_cell(row: Row, truth: str, part: str, whole: str, rate: str) -> Cell:
    """Return a cell as `3 of 40` with share and interval; the names are fields of `FrameFigures`.

    Without share if a fold has such frames, but does not know the rate.
    """
    some, total = (row.count(truth, f"frame.{name}") for name in (part, whole))
    if some is None or not total:
        return UNKNOWN
    of_folds = [result.figures.frame for result in row.by_truth(truth)]
    if any(getattr(frame, whole) and getattr(frame, rate) is None for frame in of_folds):
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


def with_mismatch_warning(table: Table, pictures: PictureSet, truth: str) -> Table:
    """Return the table, with a warning and without best values if its rows rest on different pictures."""
    warning = describe_mismatch(pictures.rows_with(truth), truth)
    return replace(table, warning=warning, is_compared=not warning)


def describe_intervals(pictures: PictureSet, truth: str) -> Sequence[str]:
    """Describe the basis of the intervals, or why there are none; each sentence once."""
    rows = pictures.rows_with(truth)
    single = [result.intervals_are for row in rows if len(row.folds) == 1 for result in row.by_truth(truth)]
    of_folds = any(len(row.folds) > 1 for row in rows)
    return (
        *(f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}." for sentence in dict.fromkeys(single)),
        *(("A mean over folds has no interval; the table of folds shows their spread.",) if of_folds else ()),
    )
