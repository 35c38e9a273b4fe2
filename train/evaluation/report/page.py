"""The report as one HTML page that needs no other file and asks nothing of any network."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from train.evaluation.report import charts
from train.evaluation.report.line import LineView
from train.evaluation.report.sections import Section


def page(
    title: str,
    intro: str,
    views: Sequence[LineView],
    figures: Section,
    study: Sequence[Section],
    notes: Sequence[str],
) -> str:
    """The page's text.

    Args:
        intro: what was evaluated, in a line.
        views: one per model; with several, `figures` stands first, to compare them.
        figures: the line's figures.
        study: the study's chapter; empty where it was not asked for.
        notes: paragraphs that say how the figures are measured.
    """
    environment = Environment(
        loader=PackageLoader("train.evaluation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        title=title,
        intro=intro,
        views=views,
        figures=figures,
        study=study,
        notes=notes,
        plot={"left": charts.PLOT_LEFT, "top": charts.PLOT_TOP, "side": charts.PLOT_SIDE, "width": charts.WIDTH},
    )
