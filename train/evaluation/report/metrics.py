"""Figures by which reports compare models, and a row per map: a ViT has a map per fusion of its sweep."""

from collections.abc import Sequence
from typing import NamedTuple

from heatline.train.evaluation.report.rows import Row
from heatline.train.evaluation.sweep import SweepFigures

RATIO_OF_TABLES = 0.0
"""Discard ratio of a ViT's three fusions in the table of maps; the study does not state its ratio."""


class Metric(NamedTuple):
    """A figure of the table of maps."""

    name: str
    """Name in the report."""
    field: str
    """Field of a sweep, or dotted name in an evaluation."""

    @property
    def own_field(self) -> str:
        """Dotted name of the same figure, of the model's own map, in an evaluation."""
        return "tile.pointing" if self.field == "pointing" else f"study.{self.field}"


STUDY_METRICS = (
    Metric("F1", "f1"),
    Metric("precision", "precision"),
    Metric("Jaccard", "jaccard"),
    Metric("accuracy", "accuracy"),
    Metric("recall", "recall"),
    Metric("pointing", "pointing"),
)
"""The six figures by which the study ranks, in its order; fields of `RuleFigures`, `SweepFigures` and `MapFigures`."""
POINTING_GATED = Metric("pointing, gated", "pointing_gated")
CLASSIFICATION = Metric("classification", "classification_accuracy")
"""Equal for all fusions, as they share the classifier."""
MAP_METRICS = (*STUDY_METRICS, POINTING_GATED, CLASSIFICATION)
"""Columns of the table of maps."""


class MapRow(NamedTuple):
    """A row of the table of maps: a model, or one fusion of it."""

    label: str
    row: Row
    fusion: str | None
    """None for a CNN."""
    figures: dict[str, float | None]
    """By the fields of `MAP_METRICS`."""
    is_own: bool = True
    """Whether this is the model's own map; else it is a map of its sweep."""


def map_rows(rows: Sequence[Row], truth: str) -> list[MapRow]:
    """Return a row per model. A ViT with a sweep has a row per fusion, and one for its own map if it discards."""
    found: list[MapRow] = []
    for row in rows:
        own = {metric.field: row.figure(truth, metric.own_field) for metric in MAP_METRICS}
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
    """Return the figures of a fusion, except the classification, which is the same for all fusions."""
    line, at = sweep.fusions.index(fusion), sweep.ratios.index(RATIO_OF_TABLES)
    fields = [metric.field for metric in MAP_METRICS if metric != CLASSIFICATION]
    return {field: getattr(sweep, field)[line][at] for field in fields}
