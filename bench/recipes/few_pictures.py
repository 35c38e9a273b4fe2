"""What few pictures give: figures of withheld folds against the number of pictures that trained. Needs no PyTorch."""

from collections.abc import Callable, Sequence
from math import inf, nan
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from heatline.bench.markdown import markdown_table
from heatline.bench.recipes.rows import FoldFigures, RecipeResult
from heatline.train.drawing import report_style

WANTED = (0.01, 0.05)
OPTION, ALL = "pictures=", "all"
TICKS = (10, 25, 50, 100, 250, 500, 1000, 2000)


class Counts(NamedTuple):
    """Verdicts on the withheld folds, at the line's own threshold for one share of `WANTED`."""

    found: int
    defective: int
    rejected: int
    good: int
    """Good pictures; 0: the set has none, and pictures without their defective tiles set the threshold."""
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
    def found_share(self) -> float | None:
        return self.found / self.defective if self.defective else None

    @property
    def rejected_share(self) -> float | None:
        return self.rejected / self.good if self.good else None

    @property
    def cell(self) -> str:
        spread = "" if self.lowest == self.highest else f" ({100 * self.lowest:.0f} to {100 * self.highest:.0f})"
        rejected = "-" if self.rejected_share is None else f"{100 * self.rejected_share:.1f} %"
        return f"{100 * (self.found_share or 0):.0f} %{spread}; {rejected}"


class Point(NamedTuple):
    """One number of pictures on one set."""

    set: str
    number: str
    """As `--pictures` has it, or `ALL`."""
    good: float
    """Good pictures that trained, mean over seeds."""
    defective: float
    """Defective pictures, likewise."""
    counts: tuple[Counts, ...]
    """For each share of `WANTED`."""
    hit: float | None
    """Share of defects hit at 5 %, mean over seeds."""
    auroc: float | None
    """Of pictures, mean over seeds; None: the set has no good ones."""
    seeds: int

    @property
    def pictures(self) -> float:
        return self.good + self.defective

    @classmethod
    def of(cls, result: RecipeResult, number: str, trained: Sequence[tuple[int, int]]) -> "Point":
        """Args:
        number: of pictures, or `ALL`.
        trained: good and defective pictures, by training.
        """
        found = result.mean_and_spread("hit"), result.mean_and_spread("picture_auroc")
        hit, auroc = (None if each is None else each[0] for each in found)
        good, defective = (sum(each) / len(trained) for each in zip(*trained, strict=True))
        counts = tuple(Counts.of(result.folds, wanted) for wanted in WANTED)
        if not good:
            counts = tuple(each._replace(rejected=0, good=0) for each in counts)
        return cls(result.set, number, good, defective, counts, hit, auroc, len({fold.seed for fold in result.folds}))


def points_of(results: Sequence[RecipeResult]) -> list[Point]:
    """Return the points of the results of `--pictures`, by set and number of pictures.

    All points of a set are of the folds that all its numbers have. The last is the recipe's cross-validation, which
    trains on all pictures of the other folds.
    """
    points = []
    for name in dict.fromkeys(one.set for one in results):
        mine = {one.name: one for one in results if one.set == name}
        few = {int(one.pictures): one for one in mine.values() if one.pictures is not None}
        if not few:
            continue
        folds = set.intersection(*({(fold.seed, fold.fold) for fold in one.folds} for one in few.values()))
        for number, one in sorted(few.items()):
            trained = [
                (each.good or 0, each.defective or 0) for each in one.trainings if (each.seed, each.fold) in folds
            ]
            points.append(Point.of(one.only(folds), str(number), trained))
        if "heatline" in mine:
            whole = mine["heatline"].only(folds)
            points.append(Point.of(whole, ALL, [_others(mine["heatline"], fold) for fold in whole.folds]))
    return points


def _others(result: RecipeResult, tested: FoldFigures) -> tuple[int, int]:
    """Return the number of good and defective pictures in the other folds of a fold."""
    others = [fold for fold in result.folds if fold.seed == tested.seed and fold.fold != tested.fold]
    defective = sum(fold.verdicts[0].defective for fold in others)
    return sum(fold.frames for fold in others) - defective, defective


def few_pictures_tables(points: Sequence[Point]) -> list[str]:
    """Return Markdown tables with a column per set and a row per number of pictures: for each share of `WANTED`, and
    of how many pictures trained."""
    sets = list(dict.fromkeys(one.set for one in points))
    at = {(one.number, one.set): one for one in points}
    numbers = sorted({one.number for one in points}, key=lambda number: inf if number == ALL else int(number))

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    def table(first: str, cell: Callable[[Point], str]) -> str:
        rows = [
            [number, *(cell(at[number, name]) if (number, name) in at else "" for name in sets)] for number in numbers
        ]
        return markdown_table([[first, *sets], *rows]).rstrip("\n")

    return [
        table("found; good rejected, at 1 %", lambda one: one.counts[0].cell),
        table("at 5 %; defects hit", lambda one: f"{one.counts[1].cell}; {shown(one.hit)}"),
        table(
            "good + defective, seeds; AUROC",
            lambda one: f"{one.good:.0f} + {one.defective:.0f}, {one.seeds}; {shown(one.auroc)}",
        ),
    ]


@report_style()
def draw_few_pictures(points: Sequence[Point], path: Path) -> None:
    """Draw found and rejected pictures against the number that trained, a line per set, into an SVG file."""
    figure = Figure((8.4, 4.2))
    panels = figure.subplots(1, 2)
    for axes, what in zip(panels, ("found_share", "rejected_share"), strict=True):
        for number, name in enumerate(dict.fromkeys(one.set for one in points)):
            mine = [one for one in points if one.set == name]
            for index, line in enumerate(("o-", ":")):
                shares = [getattr(one.counts[index], what) for one in mine]
                heights = [nan if share is None else share for share in shares]
                label = name if index == 0 else f"_{index}"
                axes.plot([one.pictures for one in mine], heights, line, color=f"C{number}", label=label)
        axes.set_xscale("log")
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(8, 2500)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(0, 1.03 if what == "found_share" else None)
        axes.set_xlabel("pictures that trained")
    panels[0].set_title("defective pictures found, at 1 % (dotted: 5 %)")
    panels[1].set_title("good pictures rejected")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=5)
    figure.savefig(path, metadata={"Date": None})
