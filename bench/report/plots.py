"""Plots of the report, by matplotlib. Every plotted value is in a table too, as Markdown has no plots."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from heatline.bench.report.tables import shown
from heatline.train.drawing import COLOURS, report_style, to_svg

WIDTH_IN, BAR_IN, MARGIN_IN = 8.4, 0.32, 1.2
LONGEST_NAME = 60
"""Characters of a bar's name that are shown."""


@report_style()
def bars(each: Mapping[str, tuple[float, Any]], title: str, unit: str, reference: tuple[float, str]) -> Markup:
    """Draw a bar per name, with a whisker from the lowest to the highest value.

    Args:
        each: value and spread by name, as in a result file.
        reference: a value that is drawn across all bars, and its name.
    """
    figure = Figure((WIDTH_IN, MARGIN_IN + BAR_IN * len(each)))
    axes = figure.subplots()
    names = [_cut(name) for name in each]
    places = range(len(each))
    values = [float(value) for value, _ in each.values()]
    # The ratio of medians may differ a little from the median of ratios by rounds.
    ends = [
        (max(0.0, value - spread["lowest"]), max(0.0, spread["highest"] - value))
        for value, (_, spread) in zip(values, each.values(), strict=True)
    ]
    drawn = axes.barh(places, values, xerr=[list(side) for side in zip(*ends, strict=True)], capsize=3)
    axes.bar_label(drawn, [shown(value) for value in values], padding=4)
    axes.axvline(reference[0], color=COLOURS[5], linestyle="--", label=reference[1])
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.02)
    axes.set_xlabel(unit)
    axes.grid(visible=False, axis="y")
    return _captioned(figure, title)


@report_style()
def stacks(each: Mapping[str, Mapping[str, float]], title: str, unit: str, without: str | None = None) -> Markup:
    """Draw a bar of segments per name, with the sum after it.

    Args:
        without: a segment that is much longer than the others; a second panel is drawn without it.
    """
    panels = [each]
    if without is not None:
        panels.append({name: {part: one for part, one in of.items() if part != without} for name, of in each.items()})
    parts = list(dict.fromkeys(part for of in each.values() for part in of))
    figure = Figure((WIDTH_IN, MARGIN_IN + (0.7 + 0.5 * len(each)) * len(panels)))
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        sums = [0.0] * len(panel)
        for number, part in enumerate(parts):
            widths = [float(of.get(part, 0.0)) for of in panel.values()]
            drawn = axes.barh(list(panel), widths, left=sums, color=COLOURS[number % len(COLOURS)], label=part)
            sums = [so_far + width for so_far, width in zip(sums, widths, strict=True)]
        axes.bar_label(drawn, [shown(one) for one in sums], padding=4)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit if panel is each else f"{unit}, without {without}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return _captioned(figure, title)


def _captioned(figure: Figure, title: str) -> Markup:
    return Markup("<figure><figcaption>{}</figcaption>{}</figure>").format(title, to_svg(figure, title))


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
