"""Charts of the report, by matplotlib, and the effect of each score threshold, which the page's slider shows."""

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

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


# Effect of each score threshold: defective frames missed and good frames rejected.
#
# Thresholds are positions of a slider, evenly spaced in logits. They include the calibrated threshold. The first
# rejects every frame, the last rejects none.

POSITIONS = 250
"""Highest number of steps between the lowest and the highest score."""


@dataclass(frozen=True)
class Explorer:
    """Counts at each position."""

    thresholds: NDArray[np.float64]
    """[positions], logits, ascending."""
    missed: NDArray[np.int64]
    """[positions], defective frames judged GOOD."""
    rejected: NDArray[np.int64]
    """[positions], good frames judged DEFECT."""
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


def explore(defective: NDArray[np.float64], good: NDArray[np.float64], calibrated: float) -> Explorer:
    """Count missed and rejected frames at each position.

    Args:
        defective, good: scores of the frames with that label, logits: the highest of each frame's tiles.
        calibrated: the calibrated score threshold, logits.
    """
    thresholds, start, digits = _positions(np.concatenate([defective, good]), calibrated)
    return Explorer(
        thresholds=thresholds,
        missed=np.searchsorted(np.sort(defective), thresholds),
        rejected=len(good) - np.searchsorted(np.sort(good), thresholds),
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
