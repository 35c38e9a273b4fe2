"""Drawings of our own, for no library: axes, marks and words of an SVG, in the colour of the text around them.

A line PC has no library that draws, and what a bench shows is few kinds of plots. A drawing says in its title what it
shows, prints its values, and needs no script; it stands on a light page, on a dark one, and on paper.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#b5a000")
"""Okabe and Ito's hues, which colour-blind eyes tell apart, without black and with a yellow that is seen on white."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Of lines, so that they are told apart without colours, too."""
INK = "#333"
"""Of a drawing that stands alone, on white."""
CHARACTER_PX = 7.2
"""About the width of one, at the size of most words."""

Anchor = Literal["start", "middle", "end"]
Mark = Literal["circle", "square", "triangle", "diamond"]
MARKS: tuple[Mark, ...] = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Axis:
    """Which pixel a value is at. `linear` and `logarithmic` make one that begins and ends at a tick."""

    low: float
    high: float
    from_px: float
    to_px: float
    ticks: tuple[float, ...]
    is_log: bool = False

    @classmethod
    def linear(cls, low: float, high: float, from_px: float, to_px: float, about: int = 4) -> "Axis":
        """An even one over these values, with about so many ticks."""
        # Values that are all but equal lie in the middle of a short one.
        step = nice_step(max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-9) / about)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        ticks = tuple(step * number for number in range(first, last + 1))
        return cls(ticks[0], ticks[-1], from_px, to_px, ticks)

    @classmethod
    def logarithmic(cls, low: float, high: float, from_px: float, to_px: float) -> "Axis":
        """Over positive values: ticks are 1, 2 and 5 times powers of ten, of which few are left where it is long."""
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
        marks = [mark * 10.0**power for power in range(first - 1, last + 1) for mark in every]
        end = next(mark for mark in marks if mark >= high * (1 - 1e-9))
        begin = max(mark for mark in marks if mark <= low * (1 + 1e-9) and mark < end)
        return cls(begin, end, from_px, to_px, tuple(one for one in marks if begin <= one <= end), True)

    def at(self, value: float) -> float:
        """Its pixel; values beyond an end are beyond it."""
        if self.is_log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.from_px + (self.to_px - self.from_px) * share


def svg(width: float, height: float, title: str, said: str, parts: Sequence[str], *, is_alone: bool = False) -> str:
    """The whole drawing.

    Args:
        title: what it shows.
        said: the same in words, for who cannot see it.
        is_alone: a file of its own, on white and in its own ink; else it is part of a page.
    """
    own = f' color="{INK}" xmlns="http://www.w3.org/2000/svg"' if is_alone else ""
    paper = '<rect width="100%" height="100%" fill="white"/>' if is_alone else ""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"{own} '
        f'font-family="{"sans-serif" if is_alone else "inherit"}" font-size="12" fill="currentColor">'
        f"<title>{escape(title)}</title><desc>{escape(said)}</desc>{paper}{''.join(parts)}</svg>"
    )


def text(
    x: float,
    y: float,
    words: str,
    anchor: Anchor = "middle",
    *,
    fill: str = "currentColor",
    size: int = 12,
    is_bold: bool = False,
    kind: str = "",
) -> str:
    """Words with their foot at y.

    Args:
        kind: `tick` for what an axis says, which is no value of anything.
    """
    more = (' font-weight="600"' if is_bold else "") + (f" class={quoteattr(kind)}" if kind else "")
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}"{more}>'
        f"{escape(words)}</text>"
    )


def ruler_left(axis: Axis, left: float, right: float, name: str) -> list[str]:
    """Its ticks with a thin line each to the right edge, and above them what it measures."""
    parts = [text(left - 8, min(axis.from_px, axis.to_px) - 12, name, "end")]
    for tick in axis.ticks:
        y = axis.at(tick)
        parts.append(f'<path d="M{left:.1f},{y:.1f}H{right:.1f}" stroke="currentColor" stroke-opacity="0.16"/>')
        parts.append(text(left - 8, y + 4, told(tick), "end", kind="tick"))
    return parts


def ruler_below(axis: Axis, top: float, bottom: float, name: str) -> list[str]:
    """Its ticks with a thin line each to the top, and below them what it measures."""
    parts = [text((axis.from_px + axis.to_px) / 2, bottom + 36, name)] if name else []
    for tick in axis.ticks:
        x = axis.at(tick)
        parts.append(f'<path d="M{x:.1f},{bottom:.1f}V{top:.1f}" stroke="currentColor" stroke-opacity="0.16"/>')
        parts.append(text(x, bottom + 18, told(tick), kind="tick"))
    return parts


def line(points: Sequence[tuple[float, float]], colour: str, dash: str = "", width: float = 2) -> str:
    """Through pixels."""
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}" fill="none" stroke="{colour}" '
        f'stroke-width="{width:g}" stroke-linejoin="round"{dashes}/>'
    )


def stairs(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The corners of a step curve through pixels: first across, then up."""
    corners = [points[0]]
    for (_, before), (x, y) in pairwise(points):
        corners += [(x, before), (x, y)]
    return corners


def bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    """From its upper left corner."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.2f}" height="{height:.1f}" fill="{colour}"/>'


def whisker(low_px: float, high_px: float, y: float) -> str:
    """From the lowest to the highest value, across a bar that lies."""
    return (
        f'<path d="M{low_px:.1f},{y - 4:.1f}v8M{low_px:.1f},{y:.1f}H{high_px:.1f}M{high_px:.1f},{y - 4:.1f}v8" '
        f'fill="none" stroke="currentColor" stroke-width="1.2"/>'
    )


def mark(shape: Mark, x: float, y: float, colour: str, size: float = 5) -> str:
    """A value's place; shapes are told apart without colours."""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}" fill="{colour}" stroke="currentColor"/>'
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0.0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        "diamond": ((0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)),
    }[shape]
    points = " ".join(f"{x + size * right:.1f},{y + size * down:.1f}" for right, down in corners)
    return f'<polygon points="{points}" fill="{colour}" stroke="currentColor"/>'


def legend(x: float, y: float, entries: Sequence[tuple[str, str]], right: float) -> tuple[list[str], float]:
    """Colours and what they stand for, in lines up to the right edge; and the foot of the last line."""
    parts, start = [], x
    for colour, name in entries:
        width = 19 + CHARACTER_PX * len(name) + 18
        if x > start and x + width > right:
            x, y = start, y + 20
        parts += [
            f'<rect x="{x:.1f}" y="{y - 11:.1f}" width="13" height="13" fill="{colour}"/>',
            text(x + 19, y, name, "start"),
        ]
        x += width
    return parts, y


def nice_step(least: float) -> float:
    """From tick to tick, no less than this: 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-9)))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= least * (1 - 1e-9))


def told(tick: float) -> str:
    """A tick's value: short, without a power of ten."""
    return f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:.6f}".rstrip("0").rstrip(".")
