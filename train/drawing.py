"""Matplotlib figures inside HTML pages, for the reports of training and of benches."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from cycler import cycler
from markupsafe import Markup, escape
from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#b5a000")
"""Okabe and Ito's colours, which colour-blind readers can distinguish, without black and with a yellow that is visible
on white."""
MARKERS = ("o", "s", "^", "D")
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
