"""Charts of the report, by matplotlib. The page's script moves marks over the first two with the slider."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from heatline.train.drawing import report_style
from heatline.train.evaluation.explorer import Explorer

FIRST, SECOND = "#6c8ebf", "#d98032"
"""Two hues that colour-blind readers can distinguish, also by lightness: good and defective, full and cut."""
BINS = 60
LEAST_HEIGHT = 0.05
"""Least height of a bar, so that a single frame is visible."""
CURVE_BOX = (0.22, 0.17, 0.72, 0.78)
"""Left, bottom, width and height of the curve's axes, as shares of its figure."""


@report_style()
def scores(defective: NDArray[np.float64], good: NDArray[np.float64], explorer: Explorer) -> Figure:
    """Draw the histogram of scores along the slider: good frames above the axis, defective frames below it.

    Heights are square roots of the counts, so that a single frame is visible beside a thousand.
    """
    edges, counts = count_scores(good, defective, explorer)
    most = max(1, *(int(each.max()) for each in counts))
    figure = Figure((10, 1.2))
    figure.set_layout_engine("none")
    figure.patch.set_visible(False)  # the page has a light and a dark background
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(explorer.thresholds[0], explorer.thresholds[-1])
    axes.set_ylim(-1, 1)
    for each, colour, sign in zip(counts, (FIRST, SECOND), (1, -1), strict=True):
        shown = each > 0
        heights = np.maximum(LEAST_HEIGHT, np.sqrt(each[shown] / most))
        axes.bar(edges[:-1][shown], sign * heights, 0.9 * (edges[1] - edges[0]), align="edge", color=colour)
    axes.axhline(0, color="#888", linewidth=1)
    return figure


def count_scores(
    good: NDArray[np.float64], defective: NDArray[np.float64], explorer: Explorer
) -> tuple[NDArray[np.float64], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the edges of the histogram's bars, and how many good and defective frames each has.

    One edge is the calibrated threshold, so that no bar lies on both sides of it.
    """
    low, calibrated, high = (float(explorer.thresholds[at]) for at in (0, explorer.start, -1))
    width = (high - low) / BINS
    before, after = math.ceil((calibrated - low) / width), math.ceil((high - calibrated) / width)
    edges = np.asarray(calibrated + width * np.arange(-before, after + 1), np.float64)
    return edges, (np.histogram(good, edges)[0], np.histogram(defective, edges)[0])


@report_style()
def curve(explorer: Explorer) -> Figure:
    """Draw misses against false rejects: a corner for each position of the slider, a dot for the calibrated one."""
    missed, rejected = explorer.missed / explorer.defective, explorer.rejected / explorer.good
    figure = Figure((3.6, 3.6))
    figure.set_layout_engine("none")
    axes = figure.add_axes(CURVE_BOX)
    # Between two positions nothing is known, so the line takes the worse corner.
    axes.step(rejected, missed, where="pre", color=FIRST, linewidth=2.5, clip_on=False)
    axes.plot(
        [rejected[explorer.start]], [missed[explorer.start]], "o", color=SECOND, markeredgecolor="#333", clip_on=False
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="good frames rejected", ylabel="defective frames missed")
    axes.xaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    return figure


@report_style()
def bars(models: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Draw grouped bars from 0 to 1, with their values above them.

    Args:
        models: values of two models by the names of their groups, by the models' names.
    """
    (first, full), (second, cut) = models.items()
    figure = Figure((1.2 + 0.95 * len(full), 3.0))
    axes = figure.subplots()
    for name, values, offset, colour in (first, full, -0.2, FIRST), (second, cut, 0.2, SECOND):
        heights = [value or 0.0 for value in values.values()]
        drawn = axes.bar(np.arange(len(full)) + offset, heights, 0.38, color=colour, label=name)
        axes.bar_label(drawn, ["-" if one is None else f"{one:.3f}" for one in values.values()], fontsize="small")
    axes.set_xticks(np.arange(len(full)), list(full))
    axes.set_ylim(0, 1.08)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    axes.grid(visible=False, axis="x")
    return figure


@report_style()
def heatmap(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Draw a cell per value with the value in it, coloured from the lowest to the highest; the best is ringed.

    Args:
        values: [rows][columns].
    """
    figure = Figure((1.0 + 0.55 * len(columns), 1.1 + 0.4 * len(rows)))
    axes = figure.subplots()
    cells = np.array(values)
    low, high = cells.min(), cells.max()
    axes.pcolormesh(cells, cmap="viridis", vmin=low, vmax=high if high > low else low + 1)
    for (y, x), value in np.ndenumerate(cells):
        is_best = value == high > low
        is_dark = high == low or value - low < 0.6 * (high - low)
        ink = "white" if is_dark else "black"
        axes.text(x + 0.5, y + 0.5, f"{value:.3f}", ha="center", va="center", size="small", color=ink)
        if is_best:
            axes.add_patch(Rectangle((x + 0.04, y + 0.04), 0.92, 0.92, fill=False, edgecolor="red", linewidth=2))
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.invert_yaxis()
    axes.set_xlabel("discard ratio")
    axes.set_title(title)
    axes.grid(visible=False)
    return figure
