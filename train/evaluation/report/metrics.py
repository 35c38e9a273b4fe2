"""The figures that reports compare models by, and a row per map: a ViT has one for each fusion of its sweep."""

from collections.abc import Sequence
from typing import NamedTuple

from train.evaluation.report.rows import Row
from train.evaluation.sweep import SweepFigures

RATIO_OF_TABLES = 0.0
"""Discard ratio at which a ViT's three fusions stand in the table of maps; the study does not state its own."""


class Metric(NamedTuple):
    """A figure, by its name in the report and its dotted name in an evaluation."""

    name: str
    field: str

    @property
    def own(self) -> str:
        """The dotted name, in an evaluation, of a field of the table of maps."""
        return "tile.pointing" if self.field == "pointing" else f"study.{self.field}"


STUDY_METRICS = (
    Metric("F1", "f1"),
    Metric("precision", "precision"),
    Metric("Jaccard", "jaccard"),
    Metric("accuracy", "accuracy"),
    Metric("recall", "recall"),
    Metric("pointing", "pointing"),
)
"""The six by which the study ranks, in its order; the fields are those of its rule, of a sweep and of `MapFigures`."""
POINTING_GATED = Metric("pointing, gated", "pointing_gated")
CLASSIFICATION = Metric("classification", "classification_accuracy")
"""The same of every fusion: the classifier is one."""
MAP_METRICS = (*STUDY_METRICS, POINTING_GATED, CLASSIFICATION)
"""Of the table of maps."""


class MapRow(NamedTuple):
    """A row of the table of maps: a model, or one fusion of it."""

    label: str
    row: Row
    fusion: str | None
    """None of CNNs."""
    figures: dict[str, float | None]
    """By the fields of `MAP_METRICS`."""
    is_own: bool = True
    """Whether this is the map that the model itself makes; else it is one of its sweep."""


def map_rows(rows: Sequence[Row], truth: str) -> list[MapRow]:
    """A row per model, of a ViT with a sweep one per fusion, and its own where it discards something."""
    found: list[MapRow] = []
    for row in rows:
        own = {metric.field: row.figure(truth, metric.own) for metric in MAP_METRICS}
        sweep = row.sweep(truth)
        swept = [] if sweep is None or RATIO_OF_TABLES not in sweep.ratios else sweep.fusions
        for fusion in swept:
            is_own = (fusion, RATIO_OF_TABLES) == (row.fusion, row.discard_ratio)
            figures = own if is_own or sweep is None else own | _swept(sweep, fusion)
            found.append(MapRow(f"{row.label} f{fusion}", row, fusion, figures, is_own))
        if row.fusion not in swept or row.discard_ratio != RATIO_OF_TABLES:
            label = row.label if row.fusion is None else f"{row.label} f{row.fusion}"
            label += f", discard {row.discard_ratio:g}" if row.discard_ratio else ""
            found.append(MapRow(label, row, row.fusion, own))
    return found


def _swept(sweep: SweepFigures, fusion: str) -> dict[str, float | None]:
    """A fusion's figures of the table of maps, but for the classification, which no sweep changes."""
    line, at = sweep.fusions.index(fusion), sweep.ratios.index(RATIO_OF_TABLES)
    fields = [metric.field for metric in MAP_METRICS if metric != CLASSIFICATION]
    return {field: getattr(sweep, field)[line][at] for field in fields}
