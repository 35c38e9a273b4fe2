"""The line's figures as tables: what matters on the line, a row per model."""

from collections.abc import Sequence
from dataclasses import replace

from edge.util.text import format_count
from train.evaluation.report.alike import unlike
from train.evaluation.report.rows import Pictures, Row
from train.evaluation.report.table import UNKNOWN, Cell, Column, Line, Table, count, known_columns, number


def frames(pictures: Pictures, truth: str) -> Table:
    """Misses, false rejects and defects hit, at the calibrated thresholds."""
    columns = (
        Column("name", is_text=True),
        Column("defective frames missed", "low"),
        Column("good frames rejected", "low"),
        Column("defects hit", "high"),
        Column("false regions per frame", "low"),
        Column("frame AUROC", "high"),
        Column("frame AP", "high"),
    )
    lines = [
        Line(
            (
                Cell(row.label),
                of(row, truth, "escaped_frames", "defective_frames", "escape_rate"),
                of(row, truth, "rejected_frames", "good_frames", "false_reject_rate"),
                of(row, truth, "defects_hit", "defects", "hit_rate"),
                sure(row, truth, "frame.false_regions_per_frame", 2),
                sure(row, truth, "frame.auroc"),
                sure(row, truth, "frame.average_precision"),
            )
        )
        for row in pictures.against(truth)
    ]
    unplaced = max((row.count(truth, "frame.unplaced") or 0 for row in pictures.against(truth)), default=0)
    notes = (
        *(
            (f"By the label only, as nothing says where the defect is: {format_count(unplaced, 'frame', ',')}.",)
            * bool(unplaced)
        ),
        *intervals_are(pictures, truth),
    )
    return known_columns(held(Table("Frames and defects", columns, tuple(lines), notes), pictures, truth))


def tiles(pictures: Pictures, truth: str) -> Table:
    """How well logits tell tiles apart, and how well heatmaps show the place."""
    figures = (
        ("tile AP", "tile.average_precision"),
        ("tile AUROC", "tile.auroc"),
        ("peak on the defect", "tile.pointing"),
        ("within a cell of it", "tile.pointing_within_cell"),
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
                *(sure(row, truth, field) for _, field in figures),
            )
        )
        for row in pictures.against(truth)
    ]
    return known_columns(held(Table("Tiles and pixels", columns, tuple(lines)), pictures, truth))


def folds(pictures: Pictures, truth: str) -> Table | None:
    """The folds of rows that are means of some; None where no row is."""
    columns = (
        Column("name", is_text=True),
        Column("groups left out", is_text=True),
        Column("frames"),
        Column("defective frames missed"),
        Column("good frames rejected"),
        Column("defects hit"),
        Column("tile AP"),
        Column("pixel F1"),
    )
    lines = []
    for row in pictures.against(truth):
        for at, fold in enumerate(row.folds if len(row.folds) > 1 else ()):
            one = Row(row.label, (fold,))
            cells = (
                Cell(row.label),
                Cell(", ".join(fold.told.groups)),
                count(fold.told.pictures),
                of(one, truth, "escaped_frames", "defective_frames", "escape_rate"),
                of(one, truth, "rejected_frames", "good_frames", "false_reject_rate"),
                of(one, truth, "defects_hit", "defects", "hit_rate"),
                sure(one, truth, "tile.average_precision"),
                sure(one, truth, "line.f1"),
            )
            lines.append(Line(cells, starts_group=at == 0))
    if not lines:
        return None
    note = "A row of the other tables is the mean over its folds, each alike; its counts are their sums."
    return Table("Folds", columns, tuple(lines), (note,))


def thresholds(pictures: Pictures) -> Table:
    """Where the line's thresholds are, and what they rest on."""
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
            calibration, told = fold.evaluation.calibration, fold.told
            fold_of = f" ({', '.join(told.groups)})" if len(row.folds) > 1 else ""
            cells = (
                Cell(row.label + fold_of),
                Cell(f"{told.model}, {told.method}, {'x'.join(map(str, told.map_hw))}"),
                number(calibration.score_threshold, 2),
                number(calibration.evidence_threshold, 2),
                number(calibration.false_reject_per_frame, 2),
                Cell(calibration.frames_are),
                count(calibration.frames),
                Cell(f"{told.kind}, {told.engine}"),
            )
            lines.append(Line(cells))
    return Table("Models and thresholds, in logits", columns, tuple(lines))


def of(row: Row, truth: str, part: str, whole: str, rate: str) -> Cell:
    """As `3 of 40`, its share and interval beside it; names are fields of the frames' figures."""
    some, total = (row.count(truth, f"frame.{name}") for name in (part, whole))
    if some is None or not total:
        return UNKNOWN
    interval = row.interval(truth, f"frame.{rate}")
    return Cell(f"{some:,} of {total:,}", some / total, percent(some / total, interval))


def percent(share: float, interval: tuple[float, float] | None) -> str:
    """As `7.5 %`, or `7.5 % [2.1, 15.0]` with its interval."""
    ends = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * share:.1f} %{ends}"


def sure(row: Row, truth: str, field: str, digits: int = 4) -> Cell:
    """A figure, shorter where the width of its interval says that further digits mean little."""
    interval = row.interval(truth, field)
    if interval is not None:
        width = interval[1] - interval[0]
        digits = 2 if width >= 0.05 or not width else 3 if width >= 0.005 else 4
    return number(row.figure(truth, field), digits, interval)


def held(table: Table, pictures: Pictures, truth: str) -> Table:
    """The table, with a warning and without a best value where its rows rest on different pictures."""
    warning = unlike(pictures.against(truth), truth)
    return replace(table, warning=warning, is_compared=not warning)


def intervals_are(pictures: Pictures, truth: str) -> Sequence[str]:
    """What intervals rest on, or why there are none; each sentence once."""
    rows = pictures.against(truth)
    single = [one.intervals_are for row in rows if len(row.folds) == 1 for one in row.against(truth)]
    of_folds = any(len(row.folds) > 1 for row in rows)
    return (
        *(f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}." for sentence in dict.fromkeys(single)),
        *(("A mean over folds has no interval; the table of folds shows how far they lie apart.",) if of_folds else ()),
    )
