"""The picture of a search, as in the study's figures 3.2 and 3.3: a line per trial across an axis per quantity.

An SVG of our own: three axes, one of them logarithmic, one of names, and lines that end in colour, are fewer lines of
code than the options of a plotting library, and need none.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 90, 650, 80, 360
VIRIDIS = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")
"""Even steps of the colour map of that name (van der Walt & Smith 2015): orderly in grey and for colour-blind eyes."""


class Line(NamedTuple):
    """A trial."""

    trial: int
    lr: float
    batch: int
    value: float
    is_pruned: bool
    is_best: bool


def draw(trials: Sequence[Line], title: str, objective: str) -> str:
    """An SVG: learning rate (logarithmic), batch size, objective, which also is the colour; pruned trials are dashed.

    Args:
        trials: at least one.
    """
    lrs, values = [trial.lr for trial in trials], [trial.value for trial in trials]
    decades = _spread(math.log10(min(lrs)), math.log10(max(lrs)))
    batches = sorted({trial.batch for trial in trials})
    low, high = _spread(min(values), max(values))
    axes = [LEFT, (LEFT + RIGHT) / 2, RIGHT]

    def corners(trial: Line) -> list[tuple[float, float]]:
        heights = (_share(math.log10(trial.lr), *decades), _rank(trial.batch, batches), _share(trial.value, low, high))
        return [(x, _y(height)) for x, height in zip(axes, heights, strict=True)]

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#333">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="28" font-size="15">{escape(title)}</text>',
        '<defs><linearGradient id="colour" x1="0" y1="1" x2="0" y2="0">'
        + "".join(f'<stop offset="{n / (len(VIRIDIS) - 1)}" stop-color="{c}"/>' for n, c in enumerate(VIRIDIS))
        + "</linearGradient></defs>",
    ]
    for trial in sorted(trials, key=lambda one: (one.is_best, not one.is_pruned, one.value)):  # the best lies on top
        colour = _colour(_share(trial.value, low, high))
        look = ' stroke-dasharray="5 4" stroke-opacity="0.55"' if trial.is_pruned else ""
        name = f"trial {trial.trial}: lr {trial.lr:.3g}, batch {trial.batch}, {objective} {trial.value:.4f}"
        name += ", pruned" if trial.is_pruned else ", the best" if trial.is_best else ""
        curve = _curve(corners(trial))
        if trial.is_best:  # the brightest colour is hard to see on white
            parts.append(f'<path d="{curve}" fill="none" stroke="#333" stroke-width="6"/>')
        parts.append(
            f'<path class="trial" d="{curve}" fill="none" stroke="{colour}" '
            f'stroke-width="{4 if trial.is_best else 2}"{look}><title>{escape(name)}</title></path>'
        )
    for x, name in zip(axes, ("learning rate", "batch size", objective), strict=True):
        parts.append(f'<text x="{x}" y="{TOP - 16}" text-anchor="middle" font-weight="bold">{escape(name)}</text>')
        parts.append(f'<line x1="{x}" y1="{TOP}" x2="{x}" y2="{BOTTOM}" stroke="#333"/>')
    parts.append(f'<rect x="{RIGHT}" y="{TOP}" width="12" height="{BOTTOM - TOP}" fill="url(#colour)"/>')
    parts += [_tick(axes[0], _share(math.log10(lr), *decades), f"{lr:.2g}", -1) for lr in _log_ticks(*decades)]
    parts += [_plate(axes[1], _rank(batch, batches), str(batch)) for batch in batches]
    parts += [_tick(axes[2] + 12, n / 4, f"{low + (high - low) * n / 4:.4f}", 1) for n in range(5)]
    best = next((trial for trial in trials if trial.is_best), None)
    told = "" if best is None else f"best: trial {best.trial}, lr {best.lr:.3g}, batch {best.batch}, {best.value:.4f}"
    pruned = sum(trial.is_pruned for trial in trials)
    told += f"; dashed: {pruned} pruned, at their best validation" if pruned else ""
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 20}">{escape(told)}</text></svg>')
    return "\n".join(parts) + "\n"


def _spread(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis: no shorter than can be divided."""
    return (low, high) if high - low > 1e-9 else (low - 0.05, high + 0.05)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low)


def _rank(batch: int, batches: Sequence[int]) -> float:
    """Names stand at even distances, a single one in the middle."""
    return batches.index(batch) / (len(batches) - 1) if len(batches) > 1 else 0.5


def _y(share: float) -> float:
    return BOTTOM - share * (BOTTOM - TOP)


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """Through the points, level at each, so that lines which cross at a batch size can be told apart."""
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (x0 + x1) / 2
        path += f" C{middle:.1f},{y0:.1f} {middle:.1f},{y1:.1f} {x1:.1f},{y1:.1f}"
    return path


def _colour(share: float) -> str:
    """Between the two nearest colours, mixed per channel."""
    place = share * (len(VIRIDIS) - 1)
    lower = min(int(place), len(VIRIDIS) - 2)
    pair = [[int(colour[n : n + 2], 16) for n in (1, 3, 5)] for colour in VIRIDIS[lower : lower + 2]]
    return "#" + "".join(f"{round(a + (b - a) * (place - lower)):02x}" for a, b in zip(*pair, strict=True))


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade within, and the ends."""
    within = [digit * 10.0**ten for ten in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 2, 5)]
    room = (high - low) / 20
    ends = [10**low, 10**high]
    return ends + [lr for lr in within if low + room < math.log10(lr) < high - room]


def _tick(x: float, share: float, label: str, side: int) -> str:
    anchor = "end" if side < 0 else "start"
    y = _y(share)
    return (
        f'<line x1="{x}" y1="{y:.1f}" x2="{x + 5 * side}" y2="{y:.1f}" stroke="#333"/>'
        f'<text x="{x + 9 * side}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(label)}</text>'
    )


def _plate(x: float, share: float, label: str) -> str:
    """A label on the axis itself, where lines meet."""
    y, width = _y(share), 8 * len(label) + 8
    return (
        f'<rect x="{x - width / 2}" y="{y - 10:.1f}" width="{width}" height="20" rx="4" fill="white" stroke="#333"/>'
        f'<text x="{x}" y="{y + 4:.1f}" text-anchor="middle">{escape(label)}</text>'
    )
