"""Tables of ranks, ours and the study's, and whether the study's F1 predicts the line's figures."""

from collections.abc import Sequence

from heatline.edge.util.page import UNKNOWN, Cell, Column, Line, Table, count, number
from heatline.train.evaluation.report import published
from heatline.train.evaluation.report.alike import Comparison, compare_rows
from heatline.train.evaluation.report.metrics import STUDY_METRICS, Metric, map_rows
from heatline.train.evaluation.report.ranking import Values, mean_ranks, mean_ranks_within, ranks, spearman
from heatline.train.evaluation.report.rows import PictureSet, Row


def study_ranks(pictures: PictureSet, truth: str) -> Table:
    """Return the ranks by the study's six metrics, within families and across."""
    common = compare_rows(pictures.rows_with(truth), truth)
    rows = map_rows(common.rows, truth)
    return _rank_table(
        "Ranks by the study's metrics",
        common,
        [mine.label for mine in rows],
        [mine.row.subject.family for mine in rows],
        [metric.name for metric in STUDY_METRICS],
        [[mine.figures[metric.field] for mine in rows] for metric in STUDY_METRICS],
    )


def published_ranks(data: published.StudyData) -> Table:
    """Return the study's mean ranks as printed, with those computed from its published values."""
    names = list(published.MODELS)
    families = [published.MODELS[name].family for name in names]
    values: list[Values] = [
        [getattr(published.MAPS[data][name], metric.field) for name in names] for metric in STUDY_METRICS
    ]
    within, across = mean_ranks_within(values, families), mean_ranks(values)
    per_metric = [_ranks_within(column, families) for column in values]
    columns = (
        Column("model", is_text=True),
        *(Column(metric.name) for metric in STUDY_METRICS),
        Column("mean within family"),
        Column("as printed"),
        Column("agrees", is_text=True),
        Column("mean across"),
    )
    lines = []
    for at, name in enumerate(names):
        mean, printed = within[at], published.MEAN_RANKS[data][name]
        lines.append(
            Line(
                (
                    Cell(name),
                    *(_rank(column[at]) for column in per_metric),
                    number(mean, 2),
                    Cell(f"{printed:g}", printed),
                    Cell("yes" if mean is not None and abs(mean - printed) < 0.05 else "no"),
                    number(across[at], 2),
                ),
                is_published=True,
                starts_group=at > 0 and families[at] != families[at - 1],
            )
        )
    note = (
        f"{published.SOURCE}. Ranks per metric are within the family, computed here from Table "
        f"{published.MAPS_TABLE[data]}; as printed: Table {published.RANKS_TABLE[data]}."
    )
    return Table(f"Study, {data}: ranks", columns, tuple(lines), (note,))


def agreement(pictures: PictureSet, truth: str) -> Table:
    """Return the rank correlation between the study's F1 and the line's figures."""
    common = compare_rows(pictures.rows_with(truth), truth)
    rows = common.rows if common.is_possible else []
    metrics = (
        Metric("picture AP", "frame.average_precision"),
        Metric("picture AUROC", "frame.auroc"),
        Metric("defects hit by a peak, share", "frame.hit_rate"),
        Metric("false regions per frame, fewer", "frame.false_regions_per_frame"),
        Metric("frames caught (1 - escape)", "frame.escape_rate"),
        Metric("frames passed (1 - false reject)", "frame.false_reject_rate"),
        Metric("pixel F1", "line.f1"),
    )
    lines = []
    for metric in metrics:
        pairs = [(row.figure(truth, "study.f1"), _more_is_better(row, truth, metric.field)) for row in rows]
        known = [(f1, value) for f1, value in pairs if f1 is not None and value is not None]
        rho = spearman([f1 for f1, _ in known], [value for _, value in known]) if len(known) > 2 else None
        lines.append(Line((Cell(metric.name), number(rho, 2), count(len(known)))))
    columns = (Column("compared with", is_text=True), Column("Spearman's rho"), Column("models"))
    note = (
        "1: the F1 of tiles by the study's rule ranks the models as this figure does; 0: the ranks are independent; "
        "-1: the ranks are reversed. A dash: fewer than three models, or all are equal. With few models it is "
        "only a hint."
    )
    return Table("Does the study's F1 predict the line's figures?", columns, tuple(lines), (note,), common.warning)


def _rank_table(
    title: str,
    common: Comparison,
    labels: Sequence[str],
    families: Sequence[str],
    names: Sequence[str],
    values: Sequence[Values],
) -> Table:
    if not common.is_possible:
        values = [[None] * len(labels) for _ in values]
    columns = (
        Column("name", is_text=True),
        Column("family", is_text=True),
        *(Column(name, "low") for name in names),
        Column("mean across", "low"),
        Column("mean within family"),
    )
    each = [ranks(column) for column in values]
    across, within = mean_ranks(values), mean_ranks_within(values, families)
    lines = [
        Line(
            (
                Cell(label),
                Cell("CNN" if families[at] == "cnn" else "ViT"),
                *(_rank(column[at]) for column in each),
                number(across[at], 2),
                number(within[at], 2),
            ),
            starts_group=at > 0 and families[at] != families[at - 1],
        )
        for at, label in enumerate(labels)
    ]
    note = (
        "1 is best; equal values share the mean of their ranks. Ranks per metric are across families. An unknown value "
        "has no rank, and a mean leaves out a metric that is unknown for any of the compared rows."
    )
    return Table(title, columns, tuple(lines), (note,), common.warning)


def _ranks_within(values: Values, families: Sequence[str]) -> list[float | None]:
    return [
        ranks([value if family == mine else None for value, family in zip(values, families, strict=True)])[at]
        for at, mine in enumerate(families)
    ]


def _rank(place: float | None) -> Cell:
    return UNKNOWN if place is None else Cell(f"{place:g}", place)


def _more_is_better(row: Row, truth: str, field: str) -> float | None:
    """Return a figure for which more is better: mistakes are negative."""
    value = row.figure(truth, field)
    if value is None:
        return None
    return -value if field.endswith(("_per_frame", "escape_rate", "false_reject_rate")) else value
