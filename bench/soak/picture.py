"""The picture of a soak: by how much the processes grew over the frames."""

from collections.abc import Sequence

from bench.soak.run import SoakRun
from bench.svg import COLOURS, Axis, line, ruler_below, ruler_left, svg, text

WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM = 760, 260, 70, 24, 52, 46
"""Px; a panel per run."""
LINES = (("pss_bytes", "PSS", COLOURS[0]), ("own_bytes", "of that its own", COLOURS[5]))


def draw(runs: Sequence[SoakRun], names: Sequence[str], most_bytes_per_frame: float, *, is_alone: bool = True) -> str:
    """An SVG: memory since the first sample, MB, over frames; what may be reached by each frame is dashed.

    Args:
        names: of the runs.
        is_alone: a file of its own; else it is part of a page.
    """
    parts = [
        f'<g transform="translate(0 {PANEL * place})">{_panel(run, name, most_bytes_per_frame)}</g>'
        for place, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    said = f"Memory over frames: {', '.join(names)}. Dashed: {most_bytes_per_frame:g} bytes a frame."
    return svg(WIDTH, PANEL * len(runs), "Growth of the processes", said, parts, is_alone=is_alone) + "\n"


def _panel(run: SoakRun, name: str, most_bytes_per_frame: float) -> str:
    frames = run.samples["frames"]
    grown = {of: [(held - run.samples[of][0]) / 1e6 for held in run.samples[of]] for of, _, _ in LINES}
    allowed = most_bytes_per_frame * frames[-1] / 1e6
    low, high = min(0.0, *map(min, grown.values())), max(allowed, *map(max, grown.values()))
    right, bottom = WIDTH - RIGHT, PANEL - BOTTOM
    x, y = Axis.linear(0, frames[-1], LEFT, right), Axis.linear(low, high, bottom, TOP)
    parts = [text(LEFT, 22, name, "start", size=14)]
    parts += ruler_left(y, LEFT, right, "MB more") + ruler_below(x, bottom, bottom, "frames")
    dashed = f"M{x.at(0):.1f},{y.at(0):.1f}L{x.at(frames[-1]):.1f},{y.at(allowed):.1f}"
    parts.append(f'<path d="{dashed}" stroke="#8c8c8c" stroke-dasharray="6 4"/>')
    for place, (of, title, colour) in enumerate(LINES):
        points = [(x.at(frame), y.at(more)) for frame, more in zip(frames, grown[of], strict=True)]
        parts.append(line(points, colour))
        parts.append(text(right - 130 * (len(LINES) - 1 - place), 22, title, "end", fill=colour))
    return "".join(parts)
