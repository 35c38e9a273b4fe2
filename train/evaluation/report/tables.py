"""The tables of the report, each from rows and what they were held against."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from edge.errors import HeatlineError
from edge.geometry.tiling import TILE_PX
from train.evaluation.report import published
from train.evaluation.report.alike import unlike
from train.evaluation.report.metrics import (
    CLASSIFICATION,
    MAP_METRICS,
    RATIO_OF_TABLES,
    STUDY_METRICS,
    Metric,
    map_rows,
)
from train.evaluation.report.rows import Pictures, Row, mean_if_known
from train.evaluation.report.table import UNKNOWN, Cell, Column, Line, Table, count, number
from train.evaluation.result import Told

NOT_TOLD = "not known"
"""What an evaluation says of a training that does not tell."""


# What was evaluated.


def summary(pictures: Pictures) -> Table:
    """What was evaluated, on what, and the first figures of each, against the first truth."""
    truth = pictures.truths[0] if pictures.truths else ""
    metrics = (
        ("tile AP", "tile.average_precision", "high"),
        ("study F1", "study.f1", "high"),
        ("line F1", "line.f1", "high"),
        ("escape", "frame.escape_rate", "low"),
        ("false reject", "frame.false_reject_rate", "low"),
    )
    columns = (
        Column("name", is_text=True),
        Column("model and map", is_text=True),
        Column("evaluated", is_text=True),
        Column("groups"),
        Column("pictures"),
        *(Column(name, "high" if better == "high" else "low") for name, _, better in metrics),
    )
    lines = []
    for row in pictures.rows:
        told = row.told
        size = "x".join(map(str, told.map_hw))
        folds = f", {len(row.folds)} folds" if len(row.folds) > 1 else ""
        cells = (
            Cell(row.label),
            Cell(f"{told.model}, {told.method}, {size}"),
            Cell(f"{told.part}{folds}; {told.kind}, {told.engine}"),
            count(len({group for fold in row.folds for group in fold.told.groups})),
            count(sum(fold.told.pictures for fold in row.folds)),
        )
        lines.append(Line((*cells, *(number(row.figure(truth, field)) for _, field, _ in metrics))))
    against = f"Against {truth}; all truths: {_listed(pictures.truths)}."
    return _held(Table("What was evaluated", columns, tuple(lines), (against, differences(pictures))), pictures, truth)


def differences(pictures: Pictures) -> str:
    """In what the data and trainings differ from the study's, in a line; of ours only what is told."""
    tolds = [fold.told for row in pictures.rows for fold in row.folds]
    most = max(sum(fold.told.pictures for fold in row.folds) for row in pictures.rows)
    groups = len({group for told in tolds for group in told.groups})
    ours = [f"{most:,} pictures" + (f" of {groups:,} groups, none of which the split divides" if groups else "")]
    taught, weights = (_listed(sorted(set(said) - {NOT_TOLD})) for said in zip(*map(_taught, tolds), strict=True))
    steps = sorted({told.steps for told in tolds if told.steps is not None})
    ours += [f"taught by {taught}"] if taught else []
    ours += [" to ".join(f"{one:,}" for one in _ends(steps)) + " steps of training"] if steps else []
    ours += [f"first weights: {weights}"] if weights else []
    theirs = "; ".join(f"{data}, {published.DATA_OF_STUDY[data]}" for data in published.closer_first(pictures.data))
    return (
        f"Beside the study: ours are {', '.join(ours)}; its own are {theirs}; taught for "
        f"{published.TRAINING_OF_STUDY}, it does not say that its split keeps pictures whole, and its figures are what "
        "its models reached on its data."
    )


def _taught(told: Told) -> tuple[str, str]:
    return told.taught_by, told.weights


def sizes(rows: Sequence[Row]) -> Table:
    """The study's Table 1.1 beside the models here."""
    columns = (
        Column("model", is_text=True),
        Column("parameters, M"),
        Column("GMACs"),
        Column("map, cells", is_text=True),
        Column("study: GFLOPs as printed"),
        Column("study: ImageNet top-1, %"),
    )
    lines = []
    for model in dict.fromkeys(row.told.model for row in rows):
        theirs = published.ARCHITECTURES.get(model)
        architecture = published.TABLE_1_1[theirs] if theirs else None
        size = _size(model)
        lines.append(
            Line(
                (
                    Cell(model),
                    *size,
                    number(None if architecture is None else architecture.gflops, 2),
                    number(None if architecture is None else architecture.top1, 2),
                )
            )
        )
    return Table(
        "Beside the study's Table 1.1",
        columns,
        tuple(lines),
        (
            f"Ours: for one tile of {TILE_PX} px, with the map, as heatline models counts. The study prints "
            "multiply-adds under the name GFLOPs, those of CNNs at native resolution (EfficientNetV2-S: 384 px). What "
            "ends at stride 16 (_d) and EfficientNet-lite0 are not in its Table 1.1. Table 1.1 also has "
            + ", ".join(
                f"{name} ({its.top1:.2f} %, {its.gflops:.2f})"
                for name, its in published.TABLE_1_1.items()
                if name not in published.ARCHITECTURES.values()
            )
            + ".",
        ),
    )


@cache
def _size(model: str) -> tuple[Cell, Cell, Cell]:
    from train.config import read_model
    from train.models.size import size_of

    try:
        size = size_of(read_model(model), TILE_PX)
    except HeatlineError:  # a model of another heatline; the report is of its figures
        return UNKNOWN, UNKNOWN, UNKNOWN
    cells = "x".join(map(str, size.map_hw))
    return number(size.parameters / 1e6, 2), number(size.macs / 1e9, 3), Cell(cells)


def training(pictures: Pictures) -> Table:
    """From what each was taught."""
    columns = (
        Column("name", is_text=True),
        Column("model", is_text=True),
        Column("first weights", is_text=True),
        Column("taught by", is_text=True),
        Column("steps"),
        Column("hours"),
    )
    lines = []
    for row in pictures.rows:
        steps = mean_if_known([fold.told.steps for fold in row.folds])
        seconds = mean_if_known([fold.told.seconds for fold in row.folds])
        lines.append(
            Line(
                (
                    Cell(row.label),
                    Cell(row.told.model),
                    Cell(row.told.weights),
                    Cell(row.told.taught_by),
                    count(steps),
                    number(None if seconds is None else seconds / 3600, 2),
                )
            )
        )
    return Table("Trainings", columns, tuple(lines), ("Of folds, steps and hours are means.",))


def trials(pictures: Pictures) -> Table:
    """What each training reached, and below it the best trials of the same model in the study's Tables 3.2 and 3.3."""
    columns = (
        Column("name", is_text=True),
        Column("figures of", is_text=True),
        Column("recipe", is_text=True),
        Column("learning rate"),
        Column("validation loss"),
        Column("validation accuracy"),
        *(Column(f"test accuracy, {truth}") for truth in pictures.truths),
    )
    order = published.closer_first(pictures.data)
    lines = []
    for row in pictures.rows:
        tolds = [fold.told for fold in row.folds]
        of_test = [_sure(row, truth, CLASSIFICATION.own) for truth in pictures.truths]
        ours = (
            Cell(row.told.recipe),
            Cell(" to ".join(f"{lr:g}" for lr in _ends([told.lr for told in tolds])) or UNKNOWN.text),
            number(mean_if_known([told.val_loss for told in tolds]), 3),
            number(mean_if_known([told.val_accuracy for told in tolds])),
        )
        lines.append(Line((Cell(row.label), Cell("ours"), *ours, *of_test), starts_group=True))
        for data in order:
            trial = published.TRIALS[data].get(row.told.model)
            if trial is None:
                continue
            theirs = (
                Cell(f"best of ten trials, batch {trial.batch}"),
                Cell(f"{trial.lr:.5f}".rstrip("0")),
                number(trial.loss, 3),
                number(trial.validation_accuracy / 100),
                number(trial.test_accuracy / 100),
            )
            blank = [Cell("")] * (len(pictures.truths) - 1)
            lines.append(Line((Cell(row.told.model), Cell(_study(data, order)), *theirs, *blank), is_published=True))
    absent = sorted({row.told.model for row in pictures.rows} - set(published.TRIALS["PCB"]))
    tables = " and ".join(f"{number} ({data})" for data, number in published.TRIALS_TABLE.items())
    notes = (
        "Ours: the highest learning rate; loss and accuracy of validation tiles at the checkpoint that was kept; test "
        "accuracy is the share of the tiles evaluated whose class is as probability 0.5 says. Of folds, all are means. "
        "Losses of different recipes, labels and data do not compare.",
        f"Published: {published.SOURCE}, Tables {tables}; {published.TRAINING_OF_STUDY}.",
        *((f"Not in the study: {_listed(absent)}.",) if absent else ()),
    )
    warning = next((said for truth in pictures.truths if (said := unlike(pictures.against(truth), truth))), "")
    return Table("Beside the study's Tables 3.2 and 3.3", columns, tuple(lines), notes, warning)


def folds(pictures: Pictures, truth: str) -> Table | None:
    """The folds of rows that are means of some; None where no row is."""
    metrics = (
        ("tile AP", "tile.average_precision"),
        ("study F1", "study.f1"),
        ("pointing", "tile.pointing"),
        ("line F1", "line.f1"),
        ("defects", "frame.defects"),
        ("defects hit, share", "frame.hit_rate"),
        ("escape", "frame.escape_rate"),
        ("false reject", "frame.false_reject_rate"),
    )
    lines = []
    for row in pictures.against(truth):
        for at, fold in enumerate(row.folds if len(row.folds) > 1 else ()):
            alone = Row(row.label, (fold,))
            cells = [
                count(alone.count(truth, field)) if field == "frame.defects" else _sure(alone, truth, field)
                for _, field in metrics
            ]
            groups = ", ".join(fold.told.groups)
            lines.append(Line((Cell(row.label), Cell(groups), count(fold.told.pictures), *cells), starts_group=at == 0))
    columns = (Column("name", is_text=True), Column("groups left out", is_text=True), Column("pictures"))
    if not lines:
        return None
    note = "A row of the other tables is the mean over its folds, each alike; its counts are their sums."
    return Table("Folds", (*columns, *(Column(name) for name, _ in metrics)), tuple(lines), (note,))


# Figures.


def maps(pictures: Pictures, truth: str) -> Table:
    """Maps by the study's rule, as in its Tables 3.4 and 3.6, and its figures of the same model below ours."""
    columns = (
        Column("name", is_text=True),
        Column("figures of", is_text=True),
        *(Column(metric.name, "high") for metric in MAP_METRICS),
    )
    order = published.closer_first(pictures.data)
    rows = map_rows(pictures.against(truth), truth)
    lines = []
    absent: list[str] = []
    for mine in rows:
        figures = [
            _sure(mine.row, truth, metric.own)
            if mine.is_own or metric == CLASSIFICATION
            else number(mine.figures[metric.field])
            for metric in MAP_METRICS
        ]
        lines.append(Line((Cell(mine.label), Cell("ours"), *figures), starts_group=True))
        theirs = published.study_model(mine.row.told.model, mine.fusion)
        if theirs is None:
            absent.append(mine.row.told.model)
            lines.append(Line((Cell(""), Cell("not in the study"), *[Cell("")] * len(MAP_METRICS)), is_published=True))
            continue
        for data in order:
            printed = published.MAPS[data][theirs.name]
            cells = [number(getattr(printed, metric.field)) for metric in STUDY_METRICS]
            classification = number(published.MAP_CLASSIFICATION[data][theirs.ours])
            said = Cell(_study(data, order))
            lines.append(Line((Cell(theirs.name), said, *cells, UNKNOWN, classification), is_published=True))
    notes = [
        "The study's rule: each tile's map is stretched to 0..255 and cut off at 127; it is empty at a probability of "
        f"at most 0.5. Published: {published.SOURCE}, Tables 3.4 (PCB) and 3.6 (GID); it does not say whether its "
        "pointing game is gated. In what ours differ from the study's is said below the summary.",
        *_intervals_are(pictures, truth),
    ]
    if any(mine.fusion for mine in rows):
        notes.append(
            f"ViT rows fmin, fmean and fmax are at a discard ratio of {RATIO_OF_TABLES:g} where a sweep is there: the "
            "study does not state the ratio behind its tables."
        )
    if any(not mine.is_own for mine in rows):
        notes.append("Rows of swept fusions other than the model's own have no intervals, but of the classification.")
    if absent:
        notes.append(f"Not in the study: {_listed(sorted(set(absent)))}.")
    return _held(Table("Maps by the study's rule", columns, tuple(lines), tuple(notes)), pictures, truth)


def tiles(pictures: Pictures, truth: str) -> Table:
    """Over all tiles."""
    columns = (
        Column("name", is_text=True),
        Column("tiles"),
        Column("defective"),
        Column("AP", "high"),
        Column("AUROC", "high"),
        Column("accuracy at 0.5", "high"),
        Column("majority share"),
        Column("pointing", "high"),
        Column("within a cell", "high"),
        Column("weighting", "high"),
    )
    fields = (
        "tile.average_precision",
        "tile.auroc",
        "study.classification_accuracy",
        "tile.majority_share",
        "tile.pointing",
        "tile.pointing_within_cell",
        "tile.weighting",
    )
    lines = [
        Line(
            (
                Cell(row.label),
                count(row.count(truth, "tile.tiles")),
                count(row.count(truth, "tile.defective")),
                *(_sure(row, truth, field) for field in fields),
            )
        )
        for row in pictures.against(truth)
    ]
    return _held(Table("Tiles", columns, tuple(lines), _intervals_are(pictures, truth)), pictures, truth)


def line_rule(pictures: Pictures, truth: str) -> Table:
    """Pixels of the stitched heatmap above the evidence threshold."""
    metrics = (
        Metric("precision", "precision"),
        Metric("recall", "recall"),
        Metric("F1", "f1"),
        Metric("Jaccard", "jaccard"),
        Metric("accuracy", "accuracy"),
        Metric("pointing, gated", "pointing_gated"),
        Metric("classification", "classification_accuracy"),
    )
    columns = (Column("name", is_text=True), *(Column(metric.name, "high") for metric in metrics))
    lines = [
        Line((Cell(row.label), *(_sure(row, truth, f"line.{metric.field}") for metric in metrics)))
        for row in pictures.against(truth)
    ]
    table = Table("Maps by the line's rule", columns, tuple(lines), _intervals_are(pictures, truth))
    return _held(table, pictures, truth)


def frames(pictures: Pictures, truth: str) -> Table:
    """Over whole frames, as the line judges them."""
    columns = (
        Column("name", is_text=True),
        Column("frames"),
        Column("defects"),
        Column("hit"),
        Column("missed"),
        Column("hit, share", "high"),
        Column("false regions per frame", "low"),
        Column("escape", "low"),
        Column("false reject", "low"),
        Column("AP", "high"),
        Column("AUROC", "high"),
    )
    lines = []
    for row in pictures.against(truth):
        counts = [
            count(row.count(truth, f"frame.{name}")) for name in ("frames", "defects", "defects_hit", "defects_missed")
        ]
        hit = _sure(row, truth, "frame.hit_rate")
        false_regions = _sure(row, truth, "frame.false_regions_per_frame", 2)
        rates = [
            _sure(row, truth, f"frame.{name}")
            for name in ("escape_rate", "false_reject_rate", "average_precision", "auroc")
        ]
        lines.append(Line((Cell(row.label), *counts, hit, false_regions, *rates)))
    notes = (
        "Escape: share of defective frames judged GOOD. False reject: share of good frames judged DEFECT.",
        *_unplaced(pictures, truth),
        *_intervals_are(pictures, truth),
    )
    return _held(Table("Frames", columns, tuple(lines), notes), pictures, truth)


def thresholds(pictures: Pictures) -> Table:
    """Where the line's thresholds are, and what they rest on."""
    columns = (
        Column("name", is_text=True),
        Column("score threshold"),
        Column("evidence threshold"),
        Column("wanted false reject per frame"),
        Column("frames"),
        Column("calibrated on", is_text=True),
    )
    lines = []
    for row in pictures.rows:
        for fold in row.folds:
            calibration = fold.evaluation.calibration
            fold_of = f" ({', '.join(fold.told.groups)})" if len(row.folds) > 1 else ""
            lines.append(
                Line(
                    (
                        Cell(row.label + fold_of),
                        number(calibration.score_threshold, 2),
                        number(calibration.evidence_threshold, 2),
                        number(calibration.false_reject_per_frame, 2),
                        count(calibration.frames),
                        Cell(calibration.frames_are),
                    )
                )
            )
    return Table("Thresholds, in logits", columns, tuple(lines))


def _sure(row: Row, truth: str, field: str, digits: int = 4) -> Cell:
    """A figure, shorter where the width of its interval says that further digits mean little."""
    interval = row.interval(truth, field)
    if interval is not None:
        width = interval[1] - interval[0]
        digits = 2 if width >= 0.05 or not width else 3 if width >= 0.005 else 4
    return number(row.figure(truth, field), digits, interval)


def _held(table: Table, pictures: Pictures, truth: str) -> Table:
    """The table, with a warning and without a best value where its rows rest on different pictures."""
    warning = unlike(pictures.against(truth), truth)
    return replace(table, warning=warning, is_compared=not warning)


def _study(data: published.StudyData, order: Sequence[published.StudyData]) -> str:
    return f"study, {data}" + (" (closer)" if data == order[0] else "")


def _ends(values: Sequence[float | None]) -> list[float]:
    """The lowest and the highest of what is known, once if they are equal."""
    known = sorted({value for value in values if value is not None})
    return known if len(known) < 2 else [known[0], known[-1]]


def _intervals_are(pictures: Pictures, truth: str) -> tuple[str, ...]:
    """What intervals rest on, or why there are none; each sentence once."""
    rows = pictures.against(truth)
    alone = [one.intervals_are for row in rows if len(row.folds) == 1 for one in row.against(truth)]
    of_folds = any(len(row.folds) > 1 for row in rows)
    return (
        *(f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}." for sentence in dict.fromkeys(alone)),
        *(("A mean over folds has no interval; the table of folds shows how far they lie apart.",) if of_folds else ()),
    )


def _unplaced(pictures: Pictures, truth: str) -> tuple[str, ...]:
    """What frames count by their label alone."""
    most = max((row.count(truth, "frame.unplaced") or 0 for row in pictures.against(truth)), default=0)
    return (f"Up to {most:,} frames count by their label alone: nothing says where they are defective.",) * (most > 0)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)
