"""The study's tables, and its published figures beside ours."""

from collections.abc import Sequence

from train.evaluation.report import published
from train.evaluation.report.alike import unlike
from train.evaluation.report.line_tables import held, intervals_are, sure
from train.evaluation.report.metrics import CLASSIFICATION, MAP_METRICS, RATIO_OF_TABLES, STUDY_METRICS, map_rows
from train.evaluation.report.rows import Pictures, mean_if_known
from train.evaluation.report.table import UNKNOWN, Cell, Column, Line, Table, number


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
        of_test = [sure(row, truth, CLASSIFICATION.own) for truth in pictures.truths]
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
        "Ours: the highest learning rate; loss and accuracy of validation tiles at the best checkpoint; test "
        "accuracy is the share of the tiles evaluated whose class is as probability 0.5 says. Of folds, all are means. "
        "Losses of different recipes, labels and data do not compare.",
        f"Published: {published.SOURCE}, Tables {tables}; {published.TRAINING_OF_STUDY}.",
        *((f"Not in the study: {', '.join(absent)}.",) if absent else ()),
    )
    warning = next((said for truth in pictures.truths if (said := unlike(pictures.against(truth), truth))), "")
    return Table("Beside the study's Tables 3.2 and 3.3", columns, tuple(lines), notes, warning)


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
            sure(mine.row, truth, metric.own)
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
        "pointing game is gated.",
        *intervals_are(pictures, truth),
    ]
    if any(mine.fusion for mine in rows):
        notes.append(
            f"ViT rows fmin, fmean and fmax are at a discard ratio of {RATIO_OF_TABLES:g} where a sweep is there: the "
            "study does not state the ratio behind its tables."
        )
    if any(not mine.is_own for mine in rows):
        notes.append("Rows of swept fusions other than the model's own have no intervals, but of the classification.")
    if absent:
        notes.append(f"Not in the study: {', '.join(sorted(set(absent)))}.")
    return held(Table("Maps by the study's rule", columns, tuple(lines), tuple(notes)), pictures, truth)


def _study(data: published.StudyData, order: Sequence[published.StudyData]) -> str:
    return f"study, {data}" + (" (closer)" if data == order[0] else "")


def _ends(values: Sequence[float | None]) -> list[float]:
    """The lowest and the highest of what is known, once if they are equal."""
    known = sorted({value for value in values if value is not None})
    return known if len(known) < 2 else [known[0], known[-1]]
