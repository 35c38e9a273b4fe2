"""The report's charts: SVG of our own, in the colour of the text around them, for a light and a dark page.

Each says in its title what it shows, prints its values, and needs no script.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from train.evaluation.explorer import Explorer
from train.search.parallel_coordinates import VIRIDIS

FULL, CUT = "#6c8ebf", "#d98032"
"""Two hues that are told apart by colour-blind eyes, and by their lightness."""


class Bars(NamedTuple):
    """A group of two bars."""

    name: str
    full: float | None
    cut: float | None


def bars(groups: Sequence[Bars], title: str, names: tuple[str, str]) -> str:
    """Grouped bars, 0 to 1, values above them.

    Args:
        groups: a group per metric.
        names: of the two models, in the legend.
    """
    left, top, height, group_width = 44, 56, 200, 86
    width = left + group_width * len(groups) + 16
    parts = [_legend(left, 26, ((FULL, names[0]), (CUT, names[1])))]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + height * (1 - tick)
        parts.append(f'<path d="M{left},{y:g}H{width - 16}" stroke="currentColor" stroke-opacity="0.15"/>')
        parts.append(_text(left - 8, y + 4, f"{tick:g}", "end"))
    for at, group in enumerate(groups):
        middle = left + group_width * (at + 0.5)
        parts.append(_text(middle, top + height + 20, group.name))
        for value, x, colour in ((group.full, middle - 39, FULL), (group.cut, middle + 1, CUT)):
            if value is None:
                parts.append(_text(x + 19, top + height - 6, "-"))
                continue
            tall = height * min(max(value, 0.0), 1.0)
            y = top + height - tall
            parts.append(f'<rect x="{x:g}" y="{y:.1f}" width="38" height="{tall:.1f}" rx="2" fill="{colour}"/>')
            parts.append(_text(x + 19, y - 5, f"{value:.3f}"))
    said = "; ".join(f"{group.name} {_said(group.full)} against {_said(group.cut)}" for group in groups)
    return _svg(width, top + height + 36, title, f"{names[0]} against {names[1]}: {said}", parts)


def heatmap(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], title: str) -> str:
    """A cell per value, its value in it, colours from the lowest to the highest value there is.

    Args:
        values: [rows][columns].
    """
    left, top, cell_width, cell_height = 46, 54, 45, 34
    width, bottom = left + cell_width * len(columns) + 12, top + cell_height * len(rows)
    flat = [value for line in values for value in line]
    low, high = min(flat), max(flat)
    parts = [_text(left, 20, title, "start", "bold"), _text(width - 12, 20, "discard ratio", "end")]
    parts += [_text(left + cell_width * (at + 0.5), top - 6, name) for at, name in enumerate(columns)]
    for y, (name, line) in enumerate(zip(rows, values, strict=True)):
        parts.append(_text(left - 8, top + cell_height * (y + 0.5) + 4, name, "end"))
        for x, value in enumerate(line):
            share = (value - low) / (high - low) if high > low else 0.5
            is_best = value == high > low
            ring = ' stroke="currentColor" stroke-width="2.5"' if is_best else ""
            at = f'x="{left + cell_width * x + 1}" y="{top + cell_height * y + 1}"'
            size = f'width="{cell_width - 2}" height="{cell_height - 2}"'
            parts.append(f'<rect {at} {size} rx="3" fill="{_mixed(share)}"{ring}/>')
            ink = "#fff" if share < 0.6 else "#111"
            middle = left + cell_width * (x + 0.5), top + cell_height * (y + 0.5) + 4
            parts.append(_text(*middle, f"{value:.3f}", "middle", "bold" if is_best else "normal", ink))
    if high > low:
        parts += _scale(left, bottom, max(60, min(200, cell_width * len(columns) - 120)), low, high)
    else:
        parts.append(_text(left, bottom + 23, "all are equal", "start"))
    said = "; ".join(
        f"{name}: " + ", ".join(f"{value:.3f} at {column}" for value, column in zip(line, columns, strict=True))
        for name, line in zip(rows, values, strict=True)
    )
    return _svg(width, bottom + 36, title, f"By fusion and discard ratio. {said}", parts)


PLOT_LEFT, PLOT_TOP, PLOT_SIDE = 62, 14, 236
"""Of the threshold explorer, px; the page's script needs them too."""


def steps(explorer: Explorer, title: str) -> str:
    """Escape against false reject per frame, as a step for each frame that changes; the chosen threshold is a dot."""
    left, top, side = PLOT_LEFT, PLOT_TOP, PLOT_SIDE
    points = [(_x(reject), _y(escape)) for reject, escape in zip(explorer.false_reject, explorer.escape, strict=True)]
    parts = []
    for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        x, y = _x(tick), _y(tick)
        parts.append(f'<path d="M{x:g},{top}V{top + side}" stroke="currentColor" stroke-opacity="0.13"/>')
        parts.append(f'<path d="M{left},{y:g}H{left + side}" stroke="currentColor" stroke-opacity="0.13"/>')
        parts.append(_text(x, top + side + 18, f"{tick:g}"))
        parts.append(_text(left - 8, y + 4, f"{tick:g}", "end"))
    parts.append(_text(left + side / 2, top + side + 40, "false reject, share of good frames"))
    turned = f'transform="rotate(-90 16 {top + side / 2:g})"'
    parts.append(
        f'<text x="16" y="{top + side / 2:g}" text-anchor="middle" {turned}>escape, share of defective frames</text>'
    )
    if points:
        # Between two thresholds nothing can be chosen: the line goes over the worse corner.
        path = f"M{points[0][0]:.1f},{points[0][1]:.1f}" + "".join(f"V{y:.1f}H{x:.1f}" for x, y in points[1:])
        parts.append(f'<path d="{path}" fill="none" stroke="{FULL}" stroke-width="2.5" stroke-linejoin="round"/>')
    chosen, escape_of, reject_of = explorer.chosen, explorer.chosen_escape, explorer.chosen_false_reject
    said = f"at the calibrated {chosen:.2f}: escape {_said(escape_of)}, false reject {_said(reject_of)}"
    if escape_of is not None and reject_of is not None:
        x, y = _x(reject_of), _y(escape_of)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{CUT}" stroke="currentColor"/>')
        # Short lines, towards the middle: at every place of the dot they stay within the drawing.
        is_left, is_high = x <= left + side / 2, y <= top + side / 2
        anchor = "start" if is_left else "end"
        label_x, label_y = x + (12 if is_left else -12), y + (22 if is_high else -39)
        parts.append(_text(label_x, label_y, f"threshold {chosen:.2f}", anchor, "bold"))
        parts.append(_text(label_x, label_y + 15, f"escape {escape_of:.3f}", anchor))
        parts.append(_text(label_x, label_y + 30, f"false reject {reject_of:.3f}", anchor))
    parts.append('<circle class="hand" r="5" fill="none" stroke="currentColor" stroke-width="2" visibility="hidden"/>')
    return _svg(left + side + 26, top + side + 54, title, said, parts)


def _x(reject: float) -> float:
    return PLOT_LEFT + PLOT_SIDE * reject


def _y(escape: float) -> float:
    return PLOT_TOP + PLOT_SIDE * (1 - escape)


def _svg(width: float, height: float, title: str, description: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'font-family="inherit" font-size="12.5" fill="currentColor"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>" + "".join(parts) + "</svg>"
    )


def _text(
    x: float, y: float, text: str, anchor: str = "middle", weight: str = "normal", fill: str = "currentColor"
) -> str:
    bold = ' font-weight="600"' if weight == "bold" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{bold}>{escape(text)}</text>'


def _legend(x: float, y: float, entries: Sequence[tuple[str, str]]) -> str:
    parts = []
    for colour, name in entries:
        parts.append(f'<rect x="{x:g}" y="{y - 11:g}" width="13" height="13" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 19, y, name, "start"))
        x += 19 + 7.2 * len(name) + 28
    return "".join(parts)


def _scale(left: float, bottom: float, width: float, low: float, high: float) -> list[str]:
    """The colours of a heatmap from its lowest to its highest value."""
    shades = 24
    parts = [
        f'<rect x="{left + 50 + width * step / shades:.1f}" y="{bottom + 14}" width="{width / shades + 0.5:.1f}" '
        f'height="10" fill="{_mixed(step / (shades - 1))}"/>'
        for step in range(shades)
    ]
    parts.append(_text(left + 44, bottom + 23, f"{low:.3f}", "end"))
    parts.append(_text(left + 56 + width, bottom + 23, f"{high:.3f}", "start"))
    return parts


def _mixed(share: float) -> str:
    """Between the two nearest colours of viridis."""
    place = share * (len(VIRIDIS) - 1)
    lower = min(math.floor(place), len(VIRIDIS) - 2)
    pair = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in VIRIDIS[lower : lower + 2]]
    return "#" + "".join(f"{round(a + (b - a) * (place - lower)):02x}" for a, b in zip(*pair, strict=True))


def _said(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"
