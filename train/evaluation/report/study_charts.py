"""The study's own charts: bars of a full model against its cut one, and figures over fusions and discard ratios."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from train.evaluation.report.charts import FIRST, SECOND, said, svg, text
from train.search.parallel_coordinates import VIRIDIS


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
    parts = [_legend(left, 26, ((FIRST, names[0]), (SECOND, names[1])))]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + height * (1 - tick)
        parts.append(f'<path d="M{left},{y:g}H{width - 16}" stroke="currentColor" stroke-opacity="0.15"/>')
        parts.append(text(left - 8, y + 4, f"{tick:g}", "end"))
    for at, group in enumerate(groups):
        middle = left + group_width * (at + 0.5)
        parts.append(text(middle, top + height + 20, group.name))
        for value, x, colour in ((group.full, middle - 39, FIRST), (group.cut, middle + 1, SECOND)):
            if value is None:
                parts.append(text(x + 19, top + height - 6, "-"))
                continue
            tall = height * min(max(value, 0.0), 1.0)
            y = top + height - tall
            parts.append(f'<rect x="{x:g}" y="{y:.1f}" width="38" height="{tall:.1f}" rx="2" fill="{colour}"/>')
            parts.append(text(x + 19, y - 5, f"{value:.3f}"))
    described = "; ".join(f"{group.name} {said(group.full)} against {said(group.cut)}" for group in groups)
    return svg(width, top + height + 36, title, f"{names[0]} against {names[1]}: {described}", parts)


def heatmap(values: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str], title: str) -> str:
    """A cell per value, its value in it, colours from the lowest to the highest value there is.

    Args:
        values: [rows][columns].
    """
    left, top, cell_width, cell_height = 46, 54, 45, 34
    width, bottom = left + cell_width * len(columns) + 12, top + cell_height * len(rows)
    flat = [value for line in values for value in line]
    low, high = min(flat), max(flat)
    parts = [text(left, 20, title, "start", "bold"), text(width - 12, 20, "discard ratio", "end")]
    parts += [text(left + cell_width * (at + 0.5), top - 6, name) for at, name in enumerate(columns)]
    for y, (name, line) in enumerate(zip(rows, values, strict=True)):
        parts.append(text(left - 8, top + cell_height * (y + 0.5) + 4, name, "end"))
        for x, value in enumerate(line):
            share = (value - low) / (high - low) if high > low else 0.5
            is_best = value == high > low
            ring = ' stroke="currentColor" stroke-width="2.5"' if is_best else ""
            at = f'x="{left + cell_width * x + 1}" y="{top + cell_height * y + 1}"'
            size = f'width="{cell_width - 2}" height="{cell_height - 2}"'
            parts.append(f'<rect {at} {size} rx="3" fill="{_mixed(share)}"{ring}/>')
            ink = "#fff" if share < 0.6 else "#111"
            middle = left + cell_width * (x + 0.5), top + cell_height * (y + 0.5) + 4
            parts.append(text(*middle, f"{value:.3f}", "middle", "bold" if is_best else "normal", ink))
    described = "; ".join(
        f"{name}: " + ", ".join(f"{value:.3f} at {column}" for value, column in zip(line, columns, strict=True))
        for name, line in zip(rows, values, strict=True)
    )
    return svg(width, bottom + 12, title, f"By fusion and discard ratio. {described}", parts)


def _legend(x: float, y: float, entries: Sequence[tuple[str, str]]) -> str:
    parts = []
    for colour, name in entries:
        parts.append(f'<rect x="{x:g}" y="{y - 11:g}" width="13" height="13" rx="2" fill="{colour}"/>')
        parts.append(text(x + 19, y, name, "start"))
        x += 19 + 7.2 * len(name) + 28
    return "".join(parts)


def _mixed(share: float) -> str:
    """Between the two nearest colours of viridis."""
    place = share * (len(VIRIDIS) - 1)
    lower = min(math.floor(place), len(VIRIDIS) - 2)
    pair = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in VIRIDIS[lower : lower + 2]]
    return "#" + "".join(f"{round(a + (b - a) * (place - lower)):02x}" for a, b in zip(*pair, strict=True))
