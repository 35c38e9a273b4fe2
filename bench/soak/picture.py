"""The picture of a soak: by how much the processes grew over the frames. An SVG of our own, for no library."""

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.soak.run import SoakRun

WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM = 760, 260, 70, 24, 52, 46
"""Px; a panel per run."""
LINES = (("pss_bytes", "PSS", "#6c8ebf"), ("own_bytes", "of that its own", "#d98032"))
"""Two hues that are told apart by colour-blind eyes, and by their lightness."""
TICKS = 4


def draw(runs: Sequence[SoakRun], names: Sequence[str], most_bytes_per_frame: float) -> str:
    """An SVG: memory since the first sample, MB, over frames; what may be reached by each frame is dashed.

    Args:
        names: of the runs.
    """
    height = PANEL * len(runs)
    panels = "".join(
        f'<g transform="translate(0 {PANEL * place})">{_panel(run, name, most_bytes_per_frame)}</g>'
        for place, (run, name) in enumerate(zip(runs, names, strict=True))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="#333"><rect width="100%" height="100%" fill="white"/>'
        f"{panels}</svg>\n"
    )


def _panel(run: SoakRun, name: str, most_bytes_per_frame: float) -> str:
    frames = run.samples["frames"]
    grown = {of: [(held - run.samples[of][0]) / 1e6 for held in run.samples[of]] for of, _, _ in LINES}
    allowed = most_bytes_per_frame * frames[-1] / 1e6
    low, high = min(0.0, *map(min, grown.values())), max(allowed, *map(max, grown.values()))
    across, up = _step(frames[-1] / TICKS), _step((high - low) / TICKS)
    right, bottom = WIDTH - RIGHT, PANEL - BOTTOM
    first, last = math.floor(low / up), math.ceil(high / up)

    def x(frame: float) -> float:
        return LEFT + (right - LEFT) * frame / (TICKS * across)

    def y(megabytes: float) -> float:
        return bottom - (bottom - TOP) * (megabytes / up - first) / (last - first)

    parts = [_text(LEFT, 22, name, "start", size=14), _text((LEFT + right) / 2, bottom + 36, "frames")]
    parts.append(_text(LEFT - 8, TOP - 12, "MB more", "end"))
    for tick in range(first, last + 1):
        parts.append(f'<path d="M{LEFT},{y(tick * up):.1f}H{right}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y(tick * up) + 4, f"{tick * up:g}", "end"))
    parts += [_text(x(tick * across), bottom + 18, f"{tick * across:g}") for tick in range(TICKS + 1)]
    parts.append(
        f'<path d="M{x(0):.1f},{y(0):.1f}L{x(frames[-1]):.1f},{y(allowed):.1f}" stroke="#999" stroke-dasharray="6 4"/>'
    )
    for place, (of, title, colour) in enumerate(LINES):
        points = " ".join(f"{x(frame):.1f},{y(more):.1f}" for frame, more in zip(frames, grown[of], strict=True))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(right - 130 * (len(LINES) - 1 - place), 22, title, "end", colour))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str = "middle", fill: str = "#333", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">{escape(text)}</text>'
    )


def _step(least: float) -> float:
    """From tick to tick, no less than this: 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(least, 1e-9)))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= least * (1 - 1e-9))
