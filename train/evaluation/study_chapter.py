"""The optional last chapter of the report: the study's tables, with its published figures beside ours."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from heatline.edge.util.page import UNKNOWN, Block, Cell, Column, Line, Section, Table, number
from heatline.train.evaluation.published import PUBLISHED
from heatline.train.evaluation.rows import PictureSet, Row, describe_intervals, figure_cell, mean_if_known
from heatline.train.models.vit import FUSIONS

TRAININGS, MAPS = "Trainings, with the study's Tables 3.2 and 3.3", "Maps by the study's rule"
STUDY_METRICS = {
    "f1": "F1",
    "precision": "precision",
    "jaccard": "Jaccard",
    "accuracy": "accuracy",
    "recall": "recall",
    "pointing": "pointing",
}
"""The six figures of a map by which the study ranks, in its order."""
MAP_METRICS = {**STUDY_METRICS, "pointing_gated": "pointing, gated", "classification_accuracy": "classification"}
"""Columns of the table of maps. The last is equal for all fusions, as they share the classifier."""
NOTES = (
    "The study's rule makes a mask of each tile by itself: the map is enlarged to the tile, stretched to 0..255 and "
    "thresholded at 127; at a probability of at most 0.5 the mask is empty. Pixels are pooled over all tiles.",
    "Pointing: share of defective tiles whose map has its peak on the truth. Pointing, gated: tiles that the rule "
    "classifies as good count as missed.",
    "Ranks are computed from unrounded values; equal values share the mean of their ranks.",
    f"Published figures: {PUBLISHED['source']}. They were measured on other pictures ("
    + "; ".join(f"{name}, {data['pictures']}" for name, data in PUBLISHED["data"].items())
    + f"; {PUBLISHED['training']}), and the study does not state that its split keeps pictures whole.",
)


def study_chapter(picture_sets: Sequence[PictureSet]) -> list[Section]:
    """Return all sections with content. Ranks need several rows."""
    trained = [Block(pictures.title, tables=[trials(pictures)]) for pictures in picture_sets]
    mapped = [Block(pictures.title, tables=[maps(pictures)]) for pictures in picture_sets]
    ranked = [Block(pictures.title, tables=[study_ranks(pictures)]) for pictures in picture_sets if pictures.rows[1:]]
    of_trainings = "Our trainings; below each, the best trials of the same model in the study."
    of_maps = "Our figures; below each, the study's figures of the same model on its own data."
    sections = [
        Section("study-trainings", TRAININGS, of_trainings, trained),
        Section("study-maps", MAPS, of_maps, mapped),
        Section("study-ranks", "Ranks", "The lowest mean rank wins, as in the study.", ranked),
    ]
    return [section for section in sections if section.blocks]


def trials(pictures: PictureSet) -> Table:
    """Return the table of trainings, with the best trials of the same model in the study's Tables 3.2 and 3.3."""
    columns = [
        *(Column(name, is_text=True) for name in ("name", "figures of", "recipe")),
        *(Column(name) for name in ("learning rate", "validation loss", "validation accuracy", "test accuracy")),
    ]
    lines = []
    for row in pictures.rows:
        subjects = [fold.subject for fold in row.folds]
        rates = sorted({subject.lr for subject in subjects if subject.lr is not None})
        ends = dict.fromkeys([*rates[:1], *rates[-1:]])
        ours = (
            Cell(row.label),
            Cell("ours"),
            Cell(row.subject.recipe),
            Cell(" to ".join(f"{lr:g}" for lr in ends) or UNKNOWN.text),
            number(mean_if_known([subject.val_loss for subject in subjects]), 3),
            number(mean_if_known([subject.val_accuracy for subject in subjects])),
            figure_cell(row, "tile.accuracy"),
        )
        lines.append(Line(ours, starts_group=True))
        for name, data in _closer_first(pictures.data):
            if (trial := data["trials"].get(row.subject.model)) is not None:
                theirs = (
                    Cell(row.subject.model),
                    Cell(name),
                    Cell(f"best of ten trials, batch {trial['batch']}"),
                    Cell(f"{trial['lr']:.5f}".rstrip("0")),
                    number(trial["loss"], 3),
                    number(trial["validation_accuracy"] / 100),
                    number(trial["test_accuracy"] / 100),
                )
                lines.append(Line(theirs, is_published=True))
    notes = [
        "Ours: the highest learning rate; loss and accuracy of the validation tiles at the best checkpoint; the test "
        "accuracy is the share of the evaluated tiles that are classified correctly at probability 0.5. Figures of "
        "folds are means. Losses of different recipes, labels and data are not comparable.",
        f"Published: {PUBLISHED['source']}, Tables {_numbers_of('trials')}; {PUBLISHED['training']}. A model without "
        "such rows is not in the study.",
    ]
    return Table(TRAININGS, columns, lines, notes, pictures.mismatch)


class MapRow(NamedTuple):
    """A row of the table of maps: a model, or one fusion of a ViT's heads."""

    label: str
    row: Row
    fusion: str | None
    """None for a CNN."""
    map: str
    """The first part of its figures' names."""

    def field(self, metric: str) -> str:
        """Return the name of a figure of `MAP_METRICS`."""
        return "tile.accuracy" if metric == "classification_accuracy" else f"{self.map}.{metric}"


def map_rows(rows: Sequence[Row]) -> list[MapRow]:
    """Return a row per model; for a ViT's run one per fusion without discard, and its own map if that discards."""
    found = []
    for row in rows:
        method, _, discarded = row.subject.method.partition("-discard-")
        own = None if method == "cam" else method.removeprefix("rollout-")
        swept = [fusion for fusion in FUSIONS if row.figure(f"{fusion}.f1") is not None]
        found += [MapRow(f"{row.label} f{fusion}", row, fusion, fusion) for fusion in swept]
        if discarded or not swept:
            label = row.label if own is None else f"{row.label} f{own}"
            found.append(MapRow(label + (f", discard {discarded}" if discarded else ""), row, own, "study"))
    return found


def maps(pictures: PictureSet) -> Table:
    """Return the table of maps by the study's rule, with the same model of its Tables 3.4 and 3.6 below ours."""
    columns = [
        Column("name", is_text=True),
        Column("figures of", is_text=True),
        *(Column(name, "high") for name in MAP_METRICS.values()),
    ]
    lines = []
    for mine in map_rows(pictures.rows):
        figures = [figure_cell(mine.row, mine.field(metric)) for metric in MAP_METRICS]
        lines.append(Line([Cell(mine.label), Cell("ours"), *figures], starts_group=True))
        for name, study, theirs in _published(mine, pictures):
            printed = [number(theirs.get(metric)) for metric in MAP_METRICS]
            lines.append(Line([Cell(name), Cell(study), *printed], is_published=True))
    notes = [
        f"Published: {PUBLISHED['source']}, Tables {_numbers_of('maps')}; it does not state whether its pointing game "
        "is gated. A model without such rows is not in the study.",
        "Rows fmin, fmean and fmax of a ViT's run discard nothing: the study does not state the ratio of its tables.",
        *describe_intervals(pictures.rows),
    ]
    return Table(MAPS, columns, lines, notes, pictures.mismatch)


def _published(mine: MapRow, pictures: PictureSet) -> list[tuple[str, str, dict[str, float]]]:
    """Return the study's figures of the same model: its name there, the title of the study's data, and the figures."""
    model = {"ours": mine.row.subject.model, "fusion": mine.fusion}
    names = [name for name, known in PUBLISHED["models"].items() if known == model]
    return [(name, study, data["maps"][name]) for name in names for study, data in _closer_first(pictures.data)]


def _closer_first(data: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the study's data with their titles, the more similar first, judged by the name of ours."""
    boards = any(word in data.lower() for word in ("pcb", "board"))
    closer, other = ("PCB", "GID") if boards else ("GID", "PCB")
    return [
        (f"study, {closer} (closer)", PUBLISHED["data"][closer]),
        (f"study, {other}", PUBLISHED["data"][other]),
    ]


def _numbers_of(table: str) -> str:
    return " and ".join(f"{data['tables'][table]} ({name})" for name, data in PUBLISHED["data"].items())


def ranks(values: Sequence[float | None]) -> list[float | None]:
    """Return the rank of each unrounded value, from 1, the highest; ties share the mean rank, None has none."""
    known = [value for value in values if value is not None]
    return [
        None if value is None else sum(other > value for other in known) + (known.count(value) + 1) / 2
        for value in values
    ]


def mean_ranks(table: Sequence[Sequence[float | None]], families: Sequence[str]) -> list[float | None]:
    """Return each peer's mean rank within its family; None if no metric is known for all of the family.

    Args:
        table: [metrics][peers], unrounded; higher is better.
        families: [peers].
    """
    means: list[float | None] = [None] * len(families)
    for family in set(families):
        members = [peer for peer, its in enumerate(families) if its == family]
        of_family = [[values[member] for member in members] for values in table]
        known = [ranks(values) for values in of_family if None not in values]
        for at, member in enumerate(members):
            means[member] = mean_if_known([places[at] for places in known])
    return means


def study_ranks(pictures: PictureSet) -> Table:
    """Return the ranks by the study's six metrics, within families and across; none if pictures differ."""
    rows = map_rows(pictures.rows)
    families = [mine.row.subject.family for mine in rows]
    values = [
        [None if pictures.mismatch else mine.row.figure(mine.field(metric)) for mine in rows]
        for metric in STUDY_METRICS
    ]
    places = [*map(ranks, values), mean_ranks(values, [""] * len(rows)), mean_ranks(values, families)]
    columns = [
        Column("name", is_text=True),
        Column("ranks of", is_text=True),
        *(Column(name, "low") for name in (*STUDY_METRICS.values(), "mean across")),
        Column("mean within family"),
    ]
    lines = []
    for at, mine in enumerate(rows):
        ours = [UNKNOWN if of[at] is None else Cell(f"{of[at]:.3g}", of[at]) for of in places]
        family = "CNN" if families[at] == "cnn" else "ViT"
        lines.append(Line([Cell(mine.label), Cell(f"ours, {family}"), *ours], starts_group=True))
        for name, study, figures in _published(mine, pictures):
            blank = [Cell("")] * (len(columns) - 3)
            printed = Cell(f"{figures['mean_rank']:g}", figures["mean_rank"])
            lines.append(Line([Cell(name), Cell(study), *blank, printed], is_published=True))
    notes = [
        "1 is best. Ranks per metric are across families. A mean leaves out a metric that is unknown for any row.",
        f"Published: {PUBLISHED['source']}, Tables {_numbers_of('ranks')}, as printed. Six of these twenty means do "
        "not agree with the study's own figures.",
    ]
    return Table("Ranks by the study's metrics, with its Tables 3.5 and 3.7", columns, lines, notes, pictures.mismatch)
