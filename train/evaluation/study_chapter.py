"""The optional last chapter of the report: the study's tables, with its published figures beside ours.

Ranks are as in the study's tables: per metric, and their mean. 1 is best, and for every metric more is better.
Equal values share the mean of their ranks. A missing value has no rank; it is not ranked last, as it is not known. Mean
ranks of all peers must rest on the same metrics, so they leave out a metric that any peer lacks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from heatline.edge.util.page import UNKNOWN, Block, Cell, Column, Line, Section, Table, number
from heatline.train.evaluation.published import PUBLISHED, STUDY_DATA
from heatline.train.evaluation.rows import (
    PictureSet,
    Row,
    compare_rows,
    describe_intervals,
    describe_mismatch,
    figure_cell,
    mean_if_known,
    with_mismatch_warning,
)
from heatline.train.evaluation.sweep import SHARES, SweepFigures

Values = Sequence[float | None]

RATIO_OF_TABLES = 0.0
"""Discard ratio of a ViT's three fusions in the table of maps; the study does not state its ratio."""
STUDY_METRICS = {
    "f1": "F1",
    "precision": "precision",
    "jaccard": "Jaccard",
    "accuracy": "accuracy",
    "recall": "recall",
    "pointing": "pointing",
}
"""The six figures by which the study ranks, in its order: fields of `RuleFigures` and of `SweepFigures`, with names."""
CLASSIFICATION = "classification_accuracy"
"""Equal for all fusions, as they share the classifier."""
MAP_METRICS = {**STUDY_METRICS, "pointing_gated": "pointing, gated", CLASSIFICATION: "classification"}
"""Columns of the table of maps."""
NOTES = (
    "The study's rule makes a mask of each tile by itself: the map is enlarged to the tile, stretched to 0..255 and "
    "thresholded at 127; at a probability of at most 0.5 the mask is empty. Pixels are pooled over all tiles.",
    "Pointing: share of defective tiles whose map has its peak on the truth. Pointing, gated: tiles that the rule "
    "classifies as good count as missed.",
    "Ranks are computed from unrounded values; equal values share the mean of their ranks. An unknown "
    "value has no rank.",
    f"Published figures: {PUBLISHED['source']}. They were measured on other pictures ("
    + "; ".join(f"{name}, {data['pictures']}" for name, data in PUBLISHED["data"].items())
    + f"; {PUBLISHED['training']}), and the study does not state that its split keeps pictures whole.",
)


def study_chapter(picture_sets: Sequence[PictureSet]) -> list[Section]:
    """Return all sections with content. Ranks need several rows."""
    each = [(pictures, truth) for pictures in picture_sets for truth in pictures.truths]
    several = [(pictures, truth) for pictures, truth in each if len(pictures.rows_with(truth)) > 1]
    ranked = [Block(f"{pictures.data}, {truth}", tables=[study_ranks(pictures, truth)]) for pictures, truth in several]
    if ranked:
        published = [published_ranks(data) for data in STUDY_DATA]
        ranked.append(Block("Published, and recomputed from the published values", tables=published))
    sections = [
        Section(
            "study-trainings",
            "Trainings, with the study's Tables 3.2 and 3.3",
            "Our trainings; below each, the best trials of the same model in the study.",
            [Block(pictures.data, tables=[trials(pictures)]) for pictures in picture_sets],
        ),
        Section(
            "study-maps",
            "Maps by the study's rule",
            "Our figures; below each, the study's figures of the same model on its own data.",
            [Block(f"{pictures.data}, {truth}", tables=[maps(pictures, truth)]) for pictures, truth in each],
        ),
        Section("study-ranks", "Ranks", "The lowest mean rank wins, as in the study.", ranked),
        Section(
            "sweeps",
            "Fusions and discard ratios",
            "Attention rollout for every fusion of heads and discard ratio, by the study's rule, as in its Fig. 3.10.",
            [
                Block(f"{row.label}, {pictures.data}, {truth}", tables=[sweep_table(sweep)])
                for pictures, truth in each
                for row in pictures.rows_with(truth)
                if (sweep := row.sweep(truth)) is not None
            ],
        ),
    ]
    return [section for section in sections if section.blocks]


# Our trainings and maps, each above the same model of the study.


def trials(pictures: PictureSet) -> Table:
    """Return the table of trainings, with the best trials of the same model in the study's Tables 3.2 and 3.3."""
    columns = [
        *(Column(name, is_text=True) for name in ("name", "figures of", "recipe")),
        *(Column(name) for name in ("learning rate", "validation loss", "validation accuracy")),
        *(Column(f"test accuracy, {truth}") for truth in pictures.truths),
    ]
    lines = []
    for row in pictures.rows:
        subjects = [fold.subject for fold in row.folds]
        rates = sorted({subject.lr for subject in subjects if subject.lr is not None})
        ends = list(dict.fromkeys([*rates[:1], *rates[-1:]]))
        ours = (
            Cell(row.label),
            Cell("ours"),
            Cell(row.subject.recipe),
            Cell(" to ".join(f"{lr:g}" for lr in ends) or UNKNOWN.text),
            number(mean_if_known([subject.val_loss for subject in subjects]), 3),
            number(mean_if_known([subject.val_accuracy for subject in subjects])),
            *(figure_cell(row, truth, f"study.{CLASSIFICATION}") for truth in pictures.truths),
        )
        lines.append(Line(ours, starts_group=True))
        for name, data in _closer_first(pictures.data):
            if (trial := data["trials"].get(row.subject.model)) is None:
                continue
            theirs = (
                Cell(row.subject.model),
                Cell(name),
                Cell(f"best of ten trials, batch {trial['batch']}"),
                Cell(f"{trial['lr']:.5f}".rstrip("0")),
                number(trial["loss"], 3),
                number(trial["validation_accuracy"] / 100),
                number(trial["test_accuracy"] / 100),
                *[Cell("")] * (len(pictures.truths) - 1),
            )
            lines.append(Line(theirs, is_published=True))
    absent = sorted({row.subject.model for row in pictures.rows} - PUBLISHED["data"]["PCB"]["trials"].keys())
    notes = [
        "Ours: the highest learning rate; loss and accuracy of the validation tiles at the best checkpoint; the test "
        "accuracy is the share of the evaluated tiles that are classified correctly at probability 0.5. Figures of "
        "folds are means. Losses of different recipes, labels and data are not comparable.",
        f"Published: {PUBLISHED['source']}, Tables {_numbers_of('trials')}; {PUBLISHED['training']}.",
        *([f"Not in the study: {', '.join(absent)}."] if absent else []),
    ]
    mismatches = (describe_mismatch(pictures.rows_with(truth), truth) for truth in pictures.truths)
    warning = next(filter(None, mismatches), "")
    return Table("Trainings, with the study's Tables 3.2 and 3.3", columns, lines, notes, warning)


@dataclass(frozen=True)
class MapRow:
    """A row of the table of maps: a model, or one fusion of it."""

    label: str
    row: Row
    fusion: str | None
    """None for a CNN."""
    figures: dict[str, float | None]
    """By `MAP_METRICS`."""
    is_own: bool = True
    """Whether this is the model's own map; else it is a map of its sweep."""


def map_rows(rows: Sequence[Row], truth: str) -> list[MapRow]:
    """Return a row per model. A ViT with a sweep has a row per fusion, and one for its own map if it discards."""
    found: list[MapRow] = []
    for row in rows:
        method, _, discarded = row.subject.method.partition("-discard-")
        own_fusion, ratio = method.removeprefix("rollout-") if method != "cam" else None, float(discarded or 0)
        own = {field: row.figure(truth, _own_field(field)) for field in MAP_METRICS}
        sweep = row.sweep(truth)
        swept: list[str] = []
        if sweep is not None and RATIO_OF_TABLES in sweep.ratios:
            swept, column = sweep.fusions, sweep.ratios.index(RATIO_OF_TABLES)
            fields = [field for field in MAP_METRICS if field != CLASSIFICATION]
            for line, fusion in enumerate(swept):
                is_own = (fusion, RATIO_OF_TABLES) == (own_fusion, ratio)
                of_fusion = {} if is_own else {field: getattr(sweep, field)[line][column] for field in fields}
                found.append(MapRow(f"{row.label} f{fusion}", row, fusion, own | of_fusion, is_own))
        if own_fusion not in swept or ratio != RATIO_OF_TABLES:
            label = row.label if own_fusion is None else f"{row.label} f{own_fusion}"
            label += f", discard {ratio:g}" if ratio else ""
            found.append(MapRow(label, row, own_fusion, own))
    return found


def _own_field(field: str) -> str:
    """Return the dotted name of a figure of the model's own map in an evaluation."""
    return "tile.pointing" if field == "pointing" else f"study.{field}"


def maps(pictures: PictureSet, truth: str) -> Table:
    """Return the table of maps by the study's rule, with the same model of its Tables 3.4 and 3.6 below ours."""
    columns = [
        Column("name", is_text=True),
        Column("figures of", is_text=True),
        *(Column(name, "high") for name in MAP_METRICS.values()),
    ]
    rows = map_rows(pictures.rows_with(truth), truth)
    lines = []
    absent = set()
    for mine in rows:
        figures = [
            figure_cell(mine.row, truth, _own_field(field))
            if mine.is_own or field == CLASSIFICATION
            else number(mine.figures[field])
            for field in MAP_METRICS
        ]
        lines.append(Line([Cell(mine.label), Cell("ours"), *figures], starts_group=True))
        model = {"ours": mine.row.subject.model, "fusion": mine.fusion}
        name = next((name for name, known in PUBLISHED["models"].items() if known == model), None)
        if name is None:
            absent.add(mine.row.subject.model)
            blank = [Cell("")] * len(MAP_METRICS)
            lines.append(Line([Cell(""), Cell("not in the study"), *blank], is_published=True))
            continue
        for study, data in _closer_first(pictures.data):
            printed = [number(data["maps"][name].get(field)) for field in MAP_METRICS]
            lines.append(Line([Cell(name), Cell(study), *printed], is_published=True))
    notes = [
        "The study's rule: each tile's map is stretched to 0..255 and thresholded at 127; the mask is empty at a "
        f"probability of at most 0.5. Published: {PUBLISHED['source']}, Tables {_numbers_of('maps')}; it does not "
        "state whether its pointing game is gated.",
        *describe_intervals(pictures.rows_with(truth), truth),
    ]
    if any(mine.fusion for mine in rows):
        notes.append(
            f"Rows fmin, fmean and fmax of a ViT with a sweep are at a discard ratio of {RATIO_OF_TABLES:g}: the study "
            "does not state the ratio of its tables."
        )
    if any(not mine.is_own for mine in rows):
        notes.append("Rows of fusions other than the model's own have an interval only for the classification.")
    if absent:
        notes.append(f"Not in the study: {', '.join(sorted(absent))}.")
    return with_mismatch_warning(
        Table("Maps by the study's rule", columns, lines, notes), pictures.rows_with(truth), truth
    )


def _closer_first(data: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the study's data with their titles, the more similar first, judged by the name of ours.

    PCB is closer to boards, GID to others.
    """
    boards = any(word in data.lower() for word in ("pcb", "board"))
    closer, other = STUDY_DATA if boards else STUDY_DATA[::-1]
    return [
        (f"study, {closer} (closer)", PUBLISHED["data"][closer]),
        (f"study, {other}", PUBLISHED["data"][other]),
    ]


def _numbers_of(table: str) -> str:
    return " and ".join(f"{data['tables'][table]} ({name})" for name, data in PUBLISHED["data"].items())


# Ranks.


def ranks(values: Values) -> list[float | None]:
    """Return the rank of each value among its peers, from 1; ties share a rank, a missing value has None.

    Args:
        values: unrounded, of one metric, one per peer; higher is better.
    """
    known = [value for value in values if value is not None]
    return [
        None if value is None else sum(other > value for other in known) + (known.count(value) + 1) / 2
        for value in values
    ]


def mean_ranks(table: Sequence[Values]) -> list[float | None]:
    """Return each peer's mean rank over metrics; None for all peers if no metric is known for all.

    Args:
        table: [metrics][peers], unrounded; higher is better.
    """
    unknown: list[Values] = [[None] * len(values) for values in table]
    complete: list[Values] = [ranks(values) for values in table if None not in values]
    return [mean_if_known(places) for places in zip(*(complete or unknown), strict=True)]


def mean_ranks_within(table: Sequence[Values], families: Sequence[str]) -> list[float | None]:
    """Return each peer's mean rank within its family.

    Args:
        table: as for `mean_ranks`.
        families: [peers], the family of each peer.
    """
    means: list[float | None] = [None] * len(families)
    for family in set(families):
        members = [peer for peer, its in enumerate(families) if its == family]
        for peer, place in zip(members, mean_ranks([[values[m] for m in members] for values in table]), strict=True):
            means[peer] = place
    return means


def study_ranks(pictures: PictureSet, truth: str) -> Table:
    """Return the ranks by the study's six metrics, within families and across."""
    every = pictures.rows_with(truth)
    common, warning = compare_rows(every, truth)
    rows = map_rows(common or every, truth)
    families = [mine.row.subject.family for mine in rows]
    values = [[mine.figures[field] if common else None for mine in rows] for field in STUDY_METRICS]
    of_metrics, across, within = list(map(ranks, values)), mean_ranks(values), mean_ranks_within(values, families)
    columns = [
        Column("name", is_text=True),
        Column("family", is_text=True),
        *(Column(name, "low") for name in (*STUDY_METRICS.values(), "mean across")),
        Column("mean within family"),
    ]
    lines = [
        Line(
            [
                Cell(mine.label),
                Cell("CNN" if families[at] == "cnn" else "ViT"),
                *(_rank(places[at]) for places in of_metrics),
                number(across[at], 2),
                number(within[at], 2),
            ],
            starts_group=at > 0 and families[at] != families[at - 1],
        )
        for at, mine in enumerate(rows)
    ]
    note = (
        "1 is best; equal values share the mean of their ranks. Ranks per metric are across families. An unknown value "
        "has no rank, and a mean leaves out a metric that is unknown for any of the compared rows."
    )
    return Table("Ranks by the study's metrics", columns, lines, [note], warning)


def published_ranks(data: str) -> Table:
    """Return the study's mean ranks as printed, with those computed from its published values."""
    printed = PUBLISHED["data"][data]["maps"]
    families = ["cnn" if PUBLISHED["models"][name]["fusion"] is None else "vit" for name in printed]
    values = [[figures[field] for figures in printed.values()] for field in STUDY_METRICS]
    of_metrics = [mean_ranks_within([column], families) for column in values]
    within, across = mean_ranks_within(values, families), mean_ranks(values)
    columns = [
        Column("model", is_text=True),
        *map(Column, STUDY_METRICS.values()),
        Column("mean within family"),
        Column("as printed"),
        Column("agrees", is_text=True),
        Column("mean across"),
    ]
    lines = [
        Line(
            [
                Cell(name),
                *(_rank(places[at]) for places in of_metrics),
                number(within[at], 2),
                Cell(f"{figures['mean_rank']:g}", figures["mean_rank"]),
                Cell("yes" if abs((within[at] or 0) - figures["mean_rank"]) < 0.05 else "no"),
                number(across[at], 2),
            ],
            is_published=True,
            starts_group=at > 0 and families[at] != families[at - 1],
        )
        for at, (name, figures) in enumerate(printed.items())
    ]
    tables = PUBLISHED["data"][data]["tables"]
    note = (
        f"{PUBLISHED['source']}. Ranks per metric are within the family, computed here from Table {tables['maps']}; as "
        f"printed: Table {tables['ranks']}."
    )
    return Table(f"Study, {data}: ranks", columns, lines, [note])


def _rank(place: float | None) -> Cell:
    return UNKNOWN if place is None else Cell(f"{place:g}", place)


def sweep_table(sweep: SweepFigures) -> Table:
    """Return the figures of every fusion and discard ratio."""
    lines = [
        Line(
            [
                Cell(fusion),
                Cell(f"{ratio:g}"),
                *(number(getattr(sweep, field)[row][column]) for field in SHARES),
            ],
            starts_group=column == 0,
        )
        for row, fusion in enumerate(sweep.fusions)
        for column, ratio in enumerate(sweep.ratios)
    ]
    figures = [Column(MAP_METRICS.get(field, field), "high") for field in SHARES]
    columns = [Column("fusion", is_text=True), Column("discard ratio"), *figures]
    return Table("Fusions and discard ratios", columns, lines)
