"""Tables in the form of the study's, with its published figures below ours."""

from collections.abc import Sequence

from heatline.edge.util.page import UNKNOWN, Cell, Column, Line, Table, number
from heatline.train.evaluation.report import published
from heatline.train.evaluation.report.alike import describe_mismatch
from heatline.train.evaluation.report.line_tables import describe_intervals, figure_cell, with_mismatch_warning
from heatline.train.evaluation.report.metrics import (
    CLASSIFICATION,
    MAP_METRICS,
    RATIO_OF_TABLES,
    STUDY_METRICS,
    map_rows,
)
from heatline.train.evaluation.report.rows import PictureSet, mean_if_known


def trials(pictures: PictureSet) -> Table:
    """Return the table of trainings, with the best trials of the same model in the study's Tables 3.2 and 3.3."""
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
        subjects = [fold.subject for fold in row.folds]
        of_test = [figure_cell(row, truth, CLASSIFICATION.own_field) for truth in pictures.truths]
        ours = (
            Cell(row.subject.recipe),
            Cell(" to ".join(f"{lr:g}" for lr in _ends([subject.lr for subject in subjects])) or UNKNOWN.text),
            number(mean_if_known([subject.val_loss for subject in subjects]), 3),
            number(mean_if_known([subject.val_accuracy for subject in subjects])),
        )
        lines.append(Line((Cell(row.label), Cell("ours"), *ours, *of_test), starts_group=True))
        for data in order:
            trial = published.TRIALS[data].get(row.subject.model)
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
            lines.append(Line((Cell(row.subject.model), Cell(_study(data, order)), *theirs, *blank), is_published=True))
    absent = sorted({row.subject.model for row in pictures.rows} - set(published.TRIALS["PCB"]))
    tables = " and ".join(f"{number} ({data})" for data, number in published.TRIALS_TABLE.items())
    notes = (
        "Ours: the highest learning rate; loss and accuracy of the validation tiles at the best checkpoint; the test "
        "accuracy is the share of the evaluated tiles that are classified correctly at probability 0.5. Figures of "
        "folds are means. Losses of different recipes, labels and data are not comparable.",
        f"Published: {published.SOURCE}, Tables {tables}; {published.TRAINING_OF_STUDY}.",
        *((f"Not in the study: {', '.join(absent)}.",) if absent else ()),
    )
    mismatches = (describe_mismatch(pictures.rows_with(truth), truth) for truth in pictures.truths)
    warning = next(filter(None, mismatches), "")
    return Table("Trainings, with the study's Tables 3.2 and 3.3", columns, tuple(lines), notes, warning)


def maps(pictures: PictureSet, truth: str) -> Table:
    """Return the table of maps by the study's rule, with the same model of its Tables 3.4 and 3.6 below ours."""
    columns = (
        Column("name", is_text=True),
        Column("figures of", is_text=True),
        *(Column(metric.name, "high") for metric in MAP_METRICS),
    )
    order = published.closer_first(pictures.data)
    rows = map_rows(pictures.rows_with(truth), truth)
    lines = []
    absent: list[str] = []
    for mine in rows:
        figures = [
            figure_cell(mine.row, truth, metric.own_field)
            if mine.is_own or metric == CLASSIFICATION
            else number(mine.figures[metric.field])
            for metric in MAP_METRICS
        ]
        lines.append(Line((Cell(mine.label), Cell("ours"), *figures), starts_group=True))
        theirs = published.study_model(mine.row.subject.model, mine.fusion)
        if theirs is None:
            absent.append(mine.row.subject.model)
            lines.append(Line((Cell(""), Cell("not in the study"), *[Cell("")] * len(MAP_METRICS)), is_published=True))
            continue
        for data in order:
            printed = published.MAPS[data][theirs.name]
            cells = [number(getattr(printed, metric.field)) for metric in STUDY_METRICS]
            classification = number(published.MAP_CLASSIFICATION[data][theirs.ours])
            source = Cell(_study(data, order))
            lines.append(Line((Cell(theirs.name), source, *cells, UNKNOWN, classification), is_published=True))
    notes = [
        "The study's rule: each tile's map is stretched to 0..255 and thresholded at 127; the mask is empty at a "
        f"probability of at most 0.5. Published: {published.SOURCE}, Tables 3.4 (PCB) and 3.6 (GID); it does not state "
        "whether its pointing game is gated.",
        *describe_intervals(pictures, truth),
    ]
    if any(mine.fusion for mine in rows):
        notes.append(
            f"Rows fmin, fmean and fmax of a ViT with a sweep are at a discard ratio of {RATIO_OF_TABLES:g}: the study "
            "does not state the ratio of its tables."
        )
    if any(not mine.is_own for mine in rows):
        notes.append("Rows of fusions other than the model's own have an interval only for the classification.")
    if absent:
        notes.append(f"Not in the study: {', '.join(sorted(set(absent)))}.")
    return with_mismatch_warning(
        Table("Maps by the study's rule", columns, tuple(lines), tuple(notes)), pictures, truth
    )


def _study(data: published.StudyData, order: Sequence[published.StudyData]) -> str:
    return f"study, {data}" + (" (closer)" if data == order[0] else "")


def _ends(values: Sequence[float | None]) -> list[float]:
    """Return the lowest and the highest known value; one value if they are equal."""
    known = sorted({value for value in values if value is not None})
    return known if len(known) < 2 else [known[0], known[-1]]
