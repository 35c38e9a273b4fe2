"""The line's charts: SVG of our own, in the colour of the text around them, for a light and a dark page.

Each says in its title what it shows, and needs no script; the page's script moves the slider's mark along them.
"""

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from edge.text import format_count
from train.evaluation.explorer import Explorer

FIRST, SECOND = "#6c8ebf", "#d98032"
"""Two hues that colour-blind eyes tell apart, also by their lightness: good and defective, full and cut."""
BINS = 60
WIDTH, HALF = 1000, 60
"""Of the chart of scores: its width, and the height of each class, in units that the page stretches."""
PLOT_LEFT, PLOT_TOP, PLOT_SIDE = 62, 14, 236
"""Of the curve, px; the page's script needs them too."""


def scores(defective: NDArray[np.float64], good: NDArray[np.float64], explorer: Explorer, title: str) -> str:
    """How many frames score what: good ones above the axis, defective ones below it, along the slider.

    Heights grow with the square root of the count, so that a single frame is seen beside a thousand. The mark is the
    slider's position.
    """
    last = len(explorer.thresholds) - 1
    edges = np.linspace(explorer.thresholds[0], explorer.thresholds[-1], BINS + 1)
    counts = [np.histogram(each, edges)[0] for each in (good, defective)]
    most = max(1, *(int(each.max()) for each in counts))
    parts = []
    for each, colour, sign in zip(counts, (FIRST, SECOND), (-1, 1), strict=True):
        for at, count in enumerate(each.tolist()):
            if count:
                tall = max(3.0, (HALF - 4) * (count / most) ** 0.5)
                top = HALF if sign > 0 else HALF - tall
                x = WIDTH * at / BINS
                size = f'width="{WIDTH / BINS - 2:.1f}" height="{tall:.1f}"'
                parts.append(f'<rect x="{x + 1:.1f}" y="{top:.1f}" {size} fill="{colour}"/>')
    parts.append(
        f'<path d="M0,{HALF}H{WIDTH}" stroke="currentColor" stroke-opacity="0.4" vector-effect="non-scaling-stroke"/>'
    )
    x = WIDTH * explorer.start / last
    parts.append(
        f'<path class="mark" d="M0,0V{2 * HALF}" transform="translate({x:.1f} 0)" stroke="currentColor" '
        'stroke-width="2" vector-effect="non-scaling-stroke"/>'
    )
    above, below = format_count(len(good), "good frame", ","), format_count(len(defective), "defective frame", ",")
    described = f"{above} above the axis, {below} below it"
    return (
        f'<svg viewBox="0 0 {WIDTH} {2 * HALF}" preserveAspectRatio="none" role="img"><title>{escape(title)}</title>'
        f"<desc>{described}</desc>{''.join(parts)}</svg>"
    )


def curve(explorer: Explorer, title: str) -> str:
    """Misses against false rejects, a corner for each position of the slider; the calibrated threshold is a dot."""
    left, top, side = PLOT_LEFT, PLOT_TOP, PLOT_SIDE
    missed, rejected = explorer.missed / explorer.defective, explorer.rejected / explorer.good
    points = [(left + side * x, top + side * (1 - y)) for x, y in zip(rejected.tolist(), missed.tolist(), strict=True)]
    parts = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = left + side * tick, top + side * (1 - tick)
        parts.append(f'<path d="M{x:g},{top}V{top + side}" stroke="currentColor" stroke-opacity="0.13"/>')
        parts.append(f'<path d="M{left},{y:g}H{left + side}" stroke="currentColor" stroke-opacity="0.13"/>')
        parts.append(text(x, top + side + 18, f"{100 * tick:g} %" if tick else "0"))
        parts.append(text(left - 8, y + 4, f"{100 * tick:g} %" if tick else "0", "end"))
    parts.append(text(left + side / 2, top + side + 40, "good frames rejected"))
    turned = f'transform="rotate(-90 16 {top + side / 2:g})"'
    parts.append(f'<text x="16" y="{top + side / 2:g}" text-anchor="middle" {turned}>defective frames missed</text>')
    # Between two positions nothing is known: the line goes over the worse corner.
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}" + "".join(f"V{y:.1f}H{x:.1f}" for x, y in points[1:])
    parts.append(f'<path d="{path}" fill="none" stroke="{FIRST}" stroke-width="2.5" stroke-linejoin="round"/>')
    x, y = points[explorer.start]
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{SECOND}" stroke="currentColor"/>')
    parts.append(
        f'<circle class="hand" cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="currentColor" stroke-width="2"/>'
    )
    at = explorer.start
    described = (
        f"at the calibrated {explorer.thresholds[at]:.2f}: {explorer.missed[at]} of {explorer.defective} missed, "
        f"{explorer.rejected[at]} of {explorer.good} rejected"
    )
    return svg(left + side + 26, top + side + 54, title, described, parts)


def svg(width: float, height: float, title: str, description: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'font-family="inherit" font-size="12.5" fill="currentColor"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>" + "".join(parts) + "</svg>"
    )


def text(
    x: float, y: float, text: str, anchor: str = "middle", weight: str = "normal", fill: str = "currentColor"
) -> str:
    bold = ' font-weight="600"' if weight == "bold" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{bold}>{escape(text)}</text>'


def said(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
