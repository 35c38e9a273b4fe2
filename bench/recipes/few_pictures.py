"""What few pictures give: figures of withheld folds against the number of pictures that trained. Needs no PyTorch."""

from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from heatline.bench.markdown import markdown_table
from heatline.bench.recipes.rows import FoldFigures, RecipeResult
from heatline.train.drawing import report_style

WANTED = (0.01, 0.05)
OPTION = "pictures="
TICKS = (10, 25, 50, 100, 250, 500, 1000, 2000)


class Counts(NamedTuple):
    """Verdicts on the withheld folds, at the line's own threshold for one share of `WANTED`."""

    found: int
    defective: int
    rejected: int
    good: int
    """Good pictures; of a set without any, pictures without their defective tiles."""
    lowest: float
    """The lowest share of a fold's defective pictures that is found."""
    highest: float

    @classmethod
    def of(cls, folds: Sequence[FoldFigures], wanted: float) -> "Counts":
        each = [verdicts for fold in folds for verdicts in fold.verdicts if verdicts.wanted == wanted]
        shares = [1 - one.escaped / max(1, one.defective) for one in each]
        defective, escaped, rejected, good = (
            sum(getattr(one, key) for one in each) for key in ("defective", "escaped", "rejected", "good")
        )
        return cls(defective - escaped, defective, rejected, good, min(shares), max(shares))

    @property
    def cell(self) -> str:
        low, high = 100 * self.lowest, 100 * self.highest
        return f"{100 * self.found / self.defective:.0f} % ({low:.0f} to {high:.0f}); " + (
            f"{100 * self.rejected / self.good:.1f} %" if self.good else "-"
        )


class Point(NamedTuple):
    """One number of pictures on one set."""

    set: str
    """With the other overrides."""
    number: str
    """As `--pictures` has it, or "all"."""
    good: float
    """Good pictures that trained, mean over seeds."""
    defective: float
    """Defective pictures, likewise."""
    counts: tuple[Counts, ...]
    """For each share of `WANTED`."""
    hit: float
    """Share of defects hit at 5 %, mean over seeds."""
    seeds: int

    @property
    def pictures(self) -> float:
        return self.good + self.defective

    @classmethod
    def of(cls, result: RecipeResult) -> "Point":
        (number,) = (item for item in result.overrides if item.startswith(OPTION))
        hits = [fold.hit for fold in result.folds if fold.hit is not None]
        return cls(
            " ".join([result.set, *(item for item in result.overrides if item != number)]),
            number.removeprefix(OPTION),
            sum(each.good or 0 for each in result.trainings) / len(result.trainings),
            sum(each.defective or 0 for each in result.trainings) / len(result.trainings),
            tuple(Counts.of(result.folds, wanted) for wanted in WANTED),
            sum(hits) / len(hits),
            len({fold.seed for fold in result.folds}),
        )


def points_of(results: Sequence[RecipeResult]) -> list[Point]:
    """Return the points of the results of `--pictures`, by set and number of pictures."""
    few = [one for one in results if one.folds and any(item.startswith(OPTION) for item in one.overrides)]
    return sorted((Point.of(one) for one in few), key=lambda one: (one.set, one.pictures))


def few_pictures_tables(points: Sequence[Point]) -> list[str]:
    """Return Markdown tables with a column per set and a row per number of pictures: for each share of `WANTED`, and
    of how many pictures trained."""
    sets = list(dict.fromkeys(one.set for one in points))
    at = {(one.number, one.set): one for one in points}
    numbers = sorted(dict.fromkeys(one.number for one in points), key=lambda one: int(one) if one.isdecimal() else inf)

    def table(first: str, cell: Callable[[Point], str]) -> str:
        rows = [
            [number, *(cell(at[number, name]) if (number, name) in at else "" for name in sets)] for number in numbers
        ]
        return markdown_table([[first, *sets], *rows]).rstrip("\n")

    return [
        table("found; good rejected, at 1 %", lambda one: one.counts[0].cell),
        table("at 5 %; defects hit", lambda one: f"{one.counts[1].cell}; {one.hit:.2f}"),
        table("good + defective, seeds", lambda one: f"{one.good:.0f} + {one.defective:.0f}, {one.seeds}"),
    ]


@report_style()
def draw_few_pictures(points: Sequence[Point], path: Path) -> None:
    """Draw found and rejected pictures against the number that trained, a line per set, into an SVG file."""
    figure = Figure((8.4, 4.2))
    panels = figure.subplots(1, 2)
    for axes, what in zip(panels, ("found", "rejected"), strict=True):
        for number, name in enumerate(dict.fromkeys(one.set for one in points)):
            mine = [one for one in points if one.set == name]
            for index, (wanted, line) in enumerate(zip(WANTED, ("-", ":"), strict=True)):
                of = "defective" if what == "found" else "good"
                shares = [getattr(one.counts[index], what) / max(1, getattr(one.counts[index], of)) for one in mine]
                axes.plot(
                    [one.pictures for one in mine],
                    shares,
                    line,
                    marker="o" if index == 0 else None,
                    color=f"C{number}",
                    label=name if index == 0 else f"_{wanted}",
                )
        axes.set_xscale("log")
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(0, 1.03 if what == "found" else None)
        axes.set_xlabel("pictures that trained")
    panels[0].set_title("defective pictures found")
    panels[1].set_title("good pictures rejected")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=5)
    figure.savefig(path, metadata={"Date": None})
