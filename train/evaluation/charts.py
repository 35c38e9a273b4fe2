"""Charts of the report, by matplotlib, and the effect of each score threshold, which the page's slider shows."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from heatline.edge.calibration.statistics import ENDS, FEWEST_GROUPS, FEWEST_KNOWN
from heatline.train.evaluation.figures import draw_groups

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#b5a000")
"""Okabe and Ito's colours, which colour-blind readers can distinguish, without black and with a yellow that is visible
on white."""
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be searched and copied
    "svg.hashsalt": "heatline",  # the same figure gives the same bytes
    "text.parse_math": False,  # names come from users' files
}
PX_PER_IN = 96


@contextmanager
def report_style() -> Iterator[None]:
    """Apply the reports' style; also usable as decorator `@report_style()` of a drawing function."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # The browser may have glyphs that the font here lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@report_style()
def to_svg(figure: Figure, label: str, *, is_stretched: bool = False) -> Markup:
    """Write a figure as one `<svg>` element for an HTML page, without links, scripts or external files.

    Args:
        label: text for screen readers.
        is_stretched: whether the page may change the proportions.
    """
    data = io.StringIO()
    figure.savefig(data, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    content = re.sub(r"^.*?<svg\b[^>]*>", "", data.getvalue(), count=1, flags=re.DOTALL)
    width_in, height_in = figure.get_size_inches()
    ratio = ' preserveAspectRatio="none"' if is_stretched else ""
    return Markup(
        f'<svg viewBox="0 0 {72 * width_in:g} {72 * height_in:g}" width="{PX_PER_IN * width_in:g}" '
        f'height="{PX_PER_IN * height_in:g}"{ratio} role="img" aria-label="{escape(label)}">'
        + content.replace("xlink:href=", "href=")  # SVG 2 needs no namespace
    )


# Effect of each score threshold: defective frames missed and good frames rejected, with 95 % intervals.
#
# Thresholds are positions of a slider, evenly spaced in logits. They include the calibrated threshold. The first
# rejects every frame, the last rejects none.

POSITIONS = 250
"""Highest number of steps between the lowest and the highest score."""

Interval = tuple[float, float] | None
"""95 % interval of a share; None if too few groups are known."""


@dataclass(frozen=True)
class Scores:
    """The scores of the frames of one class."""

    scores: NDArray[np.float64]
    """[N], logits: the highest of each frame's tiles."""
    groups: tuple[str, ...] = ()
    """[N], group of each frame; empty if the frames have no groups."""

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Explorer:
    """Counts and intervals at each position."""

    thresholds: NDArray[np.float64]
    """[positions], logits, ascending."""
    missed: NDArray[np.int64]
    """[positions], defective frames judged GOOD."""
    rejected: NDArray[np.int64]
    """[positions], good frames judged DEFECT."""
    missed_interval: list[Interval]
    """[positions], of the share of defective frames that are missed."""
    rejected_interval: list[Interval]
    """[positions], of the share of good frames that are rejected."""
    start: int
    """Position of the calibrated threshold."""
    defective: int
    """Number of defective frames."""
    good: int
    """Number of good frames."""
    digits: int
    """Decimals with which all positions are printed differently."""

    def at(self, score: float) -> int:
        """Return the first position that judges a frame of this score GOOD; before it, the verdict is DEFECT."""
        return int(np.searchsorted(self.thresholds, score, side="right"))


def explore(defective: Scores, good: Scores, calibrated: float) -> Explorer:
    """Count missed and rejected frames at each position.

    Args:
        defective, good: scores of the frames with that label.
        calibrated: the calibrated score threshold, logits.
    """
    thresholds, start, digits = _positions(np.concatenate([defective.scores, good.scores]), calibrated)
    names = sorted({*defective.groups, *good.groups})
    is_grouped = len(defective.groups) == len(defective) and len(good.groups) == len(good)
    resamples = draw_groups(len(names)).T if is_grouped and len(names) >= FEWEST_GROUPS else None
    missed, missed_interval = _below(thresholds, defective, names, resamples)
    passed, passed_interval = _below(thresholds, good, names, resamples)
    return Explorer(
        thresholds=thresholds,
        missed=missed,
        rejected=len(good) - passed,
        missed_interval=missed_interval,
        rejected_interval=[interval and (1 - interval[1], 1 - interval[0]) for interval in passed_interval],
        start=start,
        defective=len(defective),
        good=len(good),
        digits=digits,
    )


def _positions(scores: NDArray[np.float64], calibrated: float) -> tuple[NDArray[np.float64], int, int]:
    """Return the thresholds [positions], the position of the calibrated one, and the decimals to print."""
    low, high = min(scores.min(initial=calibrated), calibrated), max(scores.max(initial=calibrated), calibrated)
    step = _round_step((high - low) / POSITIONS)
    before, after = (math.ceil(reach / step) + 1 for reach in (calibrated - low, high - calibrated))
    return calibrated + step * np.arange(-before, after + 1), before, 2 if step >= 0.01 else 3


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2 or 5 times a power of ten that is not below `least`, and at least 0.001."""
    power = 10.0 ** math.floor(math.log10(max(least, 0.001)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _below(
    thresholds: NDArray[np.float64], frames: Scores, names: Sequence[str], resamples: NDArray[np.float64] | None
) -> tuple[NDArray[np.int64], list[Interval]]:
    """Return the number of frames below each threshold [positions], and intervals of their share."""
    first_below = np.searchsorted(thresholds, frames.scores, side="right")
    if resamples is None:
        counts = np.bincount(first_below, minlength=len(thresholds))
        return np.cumsum(counts[: len(thresholds)]), [None] * len(thresholds)
    number = {name: at for at, name in enumerate(names)}
    by_group = np.zeros((len(thresholds), len(names)), np.int64)
    np.add.at(by_group, (first_below, np.array([number[name] for name in frames.groups], np.intp)), 1)
    below = np.cumsum(by_group, axis=0)
    total = below[-1] @ resamples  # the last threshold lies above all scores
    known = total > 0
    shares = (below @ resamples)[:, known] / total[known]
    if known.sum() < FEWEST_KNOWN:
        return below.sum(axis=1), [None] * len(thresholds)
    ends = np.quantile(shares, ENDS, axis=1).T.tolist()
    return below.sum(axis=1), [(low, high) if low < high else None for low, high in ends]


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
