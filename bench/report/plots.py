"""The report's plots. Each prints its values, and tells its parts by shape, place or words beside colour."""

from collections.abc import Sequence
from typing import NamedTuple

from bench.report.content import shown
from bench.svg import (
    CHARACTER_PX,
    COLOURS,
    DASHES,
    MARKS,
    Axis,
    bar,
    legend,
    line,
    mark,
    ruler_below,
    ruler_left,
    stairs,
    svg,
    text,
    whisker,
)

WIDTH, RIGHT = 760, 24
NARROW_PX = 6.7
"""About the width of a character of the names beside bars, which hold few wide ones."""
LONG = 4
"""How often the highest latency must hold the lowest for an axis of doublings."""
DARK = 105
"""Luma of 255, below which white is read better than black."""
QUIET, LOUD = COLOURS[0], COLOURS[5]


class Distribution(NamedTuple):
    """Of latencies."""

    name: str
    upper_ms: Sequence[float]
    """Upper edges of bins, ascending; or single latencies."""
    counts: Sequence[int]
    marked: Sequence[tuple[str, float, float]]
    """As ("p99", 0.99, 12.5): its name, which share of frames was no later, and ms."""


def distributions(each: Sequence[Distribution], title: str) -> str:
    """A panel for each, one below the other on one axis of milliseconds: the share of frames that were no later."""
    left, right, top, tall, gap = 60, WIDTH - 160, 48, 130, 92
    came = [[(upper, count) for upper, count in zip(one.upper_ms, one.counts, strict=True) if count] for one in each]
    low = min(bins[0][0] for bins in came)
    high = max(ms for one, bins in zip(each, came, strict=True) for ms in (bins[-1][0], *(ms for *_, ms in one.marked)))
    x = (Axis.logarithmic if high > LONG * low else Axis.linear)(low, high, left, right)
    parts: list[str] = []
    for place, (one, bins) in enumerate(zip(each, came, strict=True)):
        head = top + (tall + gap) * place
        foot = head + tall
        y = Axis.linear(0, 1, foot, head)
        parts.append(text(left, head - 28, one.name, "start", is_bold=True))
        parts += ruler_left(y, left, right, "share") + ruler_below(x, head, foot, "ms, at most")
        total, until, points = sum(count for _, count in bins), 0, [(x.at(bins[0][0]), y.at(0))]
        for upper, count in bins:
            until += count
            points.append((x.at(upper), y.at(until / total)))
        parts.append(line(stairs(points), QUIET))
        for number, (name, share, ms) in enumerate(one.marked):
            shape, words_y = MARKS[number % len(MARKS)], head + 16 + 26 * number
            parts.append(mark(shape, x.at(ms), y.at(share), LOUD))
            parts.append(mark(shape, right + 26, words_y - 4, LOUD))
            parts.append(text(right + 40, words_y, f"{name} {shown(ms)} ms", "start"))
    said = "; ".join(
        f"{one.name}: " + ", ".join(f"{name} {shown(ms)} ms" for name, _, ms in one.marked) for one in each
    )
    return svg(WIDTH, top + (tall + gap) * len(each) - 48, title, said, parts)


class Bar(NamedTuple):
    """One that lies, with what it was at the least and at the most."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    is_ours: bool = True
    """Else of another colour, and its name says whose it is."""


def bars(each: Sequence[Bar], title: str, unit: str, reference: tuple[float, str] | None = None) -> str:
    """From zero to the right, values behind them.

    Args:
        reference: a value that is drawn across all of them, and what it is.
    """
    left = min(370, 24 + NARROW_PX * max(len(one.name) for one in each))
    right, top, tall = WIDTH - 150, 44, 24
    ends = [one.value if one.high is None else one.high for one in each]
    foot = top + tall * len(each) + 4
    x = Axis.linear(0, max(*ends, reference[0] if reference else 0.0, 1e-9), left, right)
    parts = ruler_below(x, top - 6, foot, unit)
    for place, one in enumerate(each):
        y = top + tall * place
        parts.append(text(left - 8, y + 14, _cut(one.name, left - 16), "end"))
        parts.append(bar(left, y + 2, x.at(one.value) - left, tall - 8, QUIET if one.is_ours else COLOURS[1]))
        end, words = x.at(one.value), shown(one.value)
        if one.low is not None and one.high is not None:
            parts.append(whisker(x.at(one.low), x.at(one.high), y + tall / 2 - 2))
            end, words = max(end, x.at(one.high)), f"{words} ({shown(one.low)} to {shown(one.high)})"
        parts.append(text(end + 8, y + 14, words, "start"))
    if reference is not None:
        at = x.at(reference[0])
        parts.append(
            f'<path d="M{at:.1f},{top - 8}V{foot}" stroke="{LOUD}" stroke-width="1.5" stroke-dasharray="6 4"/>'
        )
        parts.append(text(at, top - 16, reference[1], fill=LOUD))
    said = "; ".join(f"{one.name}: {shown(one.value)}" for one in each)
    return svg(WIDTH, foot + 48, title, said, parts)


class Stack(NamedTuple):
    """A bar of several segments."""

    name: str
    segments: Sequence[tuple[str, float]]


def stacks(each: Sequence[Stack], title: str, unit: str, names: Sequence[str]) -> str:
    """A bar per stack, with the sum behind it; a segment's value stands in it where there is room.

    Args:
        names: of all segments that there may be: one has the same colour in every plot of the same names.
    """
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    left = 16 + CHARACTER_PX * max(len(one.name) for one in each)
    right, tall = WIDTH - 90, 46
    drawn = {name for one in each for name, _ in one.segments}
    parts, below = legend(left, 22, [(colours[name], name) for name in names if name in drawn], WIDTH - RIGHT)
    top = below + 24
    foot = top + tall * len(each)
    x = Axis.linear(0, max(sum(value for _, value in one.segments) for one in each), left, right)
    parts += ruler_below(x, top - 6, foot, unit)
    for place, one in enumerate(each):
        y, until = top + tall * place, 0.0
        parts.append(text(left - 8, y + 21, one.name, "end"))
        for name, value in one.segments:
            begin, until = x.at(until), until + value
            # A px of the page between two segments tells them apart on paper, too.
            parts.append(bar(begin, y + 4, max(x.at(until) - begin - 1, 0.3), tall - 18, colours[name]))
            words = shown(value)
            if x.at(until) - begin > CHARACTER_PX * len(words) + 6:
                parts.append(text((begin + x.at(until)) / 2, y + 22, words, fill=_ink_on(colours[name])))
        parts.append(text(x.at(until) + 8, y + 21, shown(until), "start", is_bold=True, kind="sum"))
    said = "; ".join(
        f"{one.name}: " + ", ".join(f"{name} {shown(value)}" for name, value in one.segments) for one in each
    )
    return svg(WIDTH, foot + 48, title, said, parts)


class Series(NamedTuple):
    """Points that a line goes through."""

    name: str
    points: Sequence[tuple[float, float]]


def series(
    each: Sequence[Series], title: str, across: str, up: str, band: tuple[float, float, str] | None = None
) -> str:
    """Lines over an axis of doublings, from zero up, each value printed at its point.

    Args:
        band: from where to where values may lie, and what it is.
    """
    left, right, tall = 70, WIDTH - RIGHT - 20, 240
    entries = [(COLOURS[place % len(COLOURS)], one.name) for place, one in enumerate(each)]
    parts, below = legend(left, 22, [*entries, *([("#8c8c8c", band[2])] if band else [])], WIDTH - RIGHT)
    top = below + 40
    foot = top + tall
    xs, ys = ([point[at] for one in each for point in one.points] for at in (0, 1))
    x = Axis.logarithmic(min(xs), max(xs), left, right)
    y = Axis.linear(0, max(*ys, band[1] if band else 0.0), foot, top)
    if band is not None:
        low, high = y.at(band[0]), y.at(band[1])
        parts.append(
            f'<rect x="{left}" y="{high:.1f}" width="{right - left}" height="{low - high:.1f}" fill="#8c8c8c" '
            f'fill-opacity="0.25"/>'
        )
    parts += ruler_left(y, left, right, up) + ruler_below(x, top, foot, across)
    for place, one in enumerate(each):
        colour = COLOURS[place % len(COLOURS)]
        points = [(x.at(value_x), y.at(value_y)) for value_x, value_y in one.points]
        parts.append(line(points, colour, DASHES[place % len(DASHES)]))
        for (at_x, at_y), (_, value) in zip(points, one.points, strict=True):
            parts.append(mark(MARKS[place % len(MARKS)], at_x, at_y, colour, 4))
            parts.append(text(at_x, at_y + (-9 if place % 2 == 0 else 19), shown(value)))
    said = "; ".join(f"{one.name}: " + ", ".join(f"{shown(v)} at {shown(at)}" for at, v in one.points) for one in each)
    return svg(WIDTH, foot + 48, title, said, parts)


class Place(NamedTuple):
    """Of a system on a plane."""

    name: str
    x: float
    y: float
    group: int
    """Which shape and colour it has."""


def plane(each: Sequence[Place], groups: Sequence[str], title: str, across: str, up: str) -> str:
    """Names and values beside points; x by doublings, y from 0 to 1. Up and left is better.

    Args:
        groups: names by number.
    """
    left, right, top, tall = 70, WIDTH - RIGHT - 20, 74, 340
    foot = top + tall
    x = Axis.logarithmic(min(one.x for one in each), max(one.x for one in each), left, right)
    y = Axis.linear(0, 1, foot, top, about=5)
    parts = ruler_left(y, left, right, "") + ruler_below(x, top, foot, across)
    parts.append(text(left - 40, top - 18, up, "start"))
    at_x: float = left
    for number, name in enumerate(groups):
        parts.append(mark(MARKS[number % len(MARKS)], at_x + 6, 18, COLOURS[number % len(COLOURS)]))
        parts.append(text(at_x + 18, 22, name, "start"))
        at_x += 18 + CHARACTER_PX * len(name) + 22
    taken: list[tuple[float, float, float, float]] = []
    for one in sorted(each, key=lambda one: -one.y):
        px, py = x.at(one.x), y.at(one.y)
        parts.append(mark(MARKS[one.group % len(MARKS)], px, py, COLOURS[one.group % len(COLOURS)], 6))
        words = f"{one.name} {shown(one.y)}"
        width = CHARACTER_PX * len(words)
        is_left = px + 12 + width > WIDTH
        begin = px - 12 - width if is_left else px + 12
        words_y = next(
            words_y
            for words_y in (py + 4 + 15 * (step // 2 + step % 2) * (-1) ** (step % 2 + 1) for step in range(200))
            if not any(
                abs(words_y - other) < 14 and begin < end and begin + width > start for start, end, other, _ in taken
            )
        )
        taken.append((begin, begin + width, words_y, 0.0))
        parts.append(text(px - 12 if is_left else px + 12, words_y, words, "end" if is_left else "start"))
    said = "; ".join(f"{one.name}: {shown(one.y)} at {shown(one.x)}" for one in each)
    return svg(WIDTH, foot + 48, title, said, parts)


def _cut(name: str, px: float) -> str:
    """As much of a name as there is room for."""
    most = int(px / NARROW_PX)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _ink_on(colour: str) -> str:
    """What is read on it: black, but on a dark one white."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#fff" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < DARK else "#000"
