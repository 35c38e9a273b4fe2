"""Results of `heatline bench recipes`, and their tables. Needs no PyTorch."""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np

from heatline.bench.markdown import markdown_table

FIGURES = {
    "tile_ap": "tile AP, all",
    "tile_ap_clear": "tile AP",
    "picture_auroc": "picture AUROC",
    "pixel_ap": "pixel AP",
    "study_f1": "F1, study's rule",
    "pointing": "pointing",
    "pointing_near": "within 16 px",
    "hit": "defects hit",
    "false_regions": "false regions per defective frame",
    "rejected": "good frames rejected",
}
"""Names of figures and of their columns; docs/recipes.md defines them."""

CHANGE_FOLDS = ("truth=", "annotated=", "pictures=", "tiles.", "split.", "recipe.folds=", "recipe.synthetic=")
"""Beginnings of overrides that may change which groups make a fold."""


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """Verdicts by the line's own score threshold on a fold that did not set it."""

    wanted: float
    """Wanted share of rejected good frames."""
    bound: float
    """Upper bound of that share in the long run, by the calibration, with 95 % confidence."""
    good: int
    rejected: int
    defective: int
    escaped: int
    escaped_oracle: int | None
    """By the threshold that the fold's own good frames set; None: it has no good frame."""
    limit: int | None = None
    """The most of the fold's good frames that are rejected, with 95 % confidence: all if there are too few groups. None
    in older results."""
    groups: int | None = None
    """Groups of the good frames or their stand-ins; None in older results."""
    groups_reaching: int = 0
    """Groups with such a frame that is rejected."""
    groups_at_most: float = 0.0
    """The highest expected number of groups with a rejected frame, if they are like those that set the threshold."""


class FoldFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one model on one fold that it was not trained on; None: the fold lacks the needed frames."""

    seed: int
    fold: int
    tile_ap: float | None
    tile_ap_clear: float | None
    picture_auroc: float | None
    pixel_ap: float | None
    study_f1: float | None
    pointing: float | None
    pointing_near: float | None
    hit: float | None
    rejected: float | None
    frames: int
    good_frames: int
    """Good frames of the fold; if the set has too few, frames without their defective tiles."""
    score_threshold: float
    evidence_threshold: float
    hit_by_class: dict[str, tuple[int, int]]
    """Defects hit, and defects, of each class."""
    verdicts: list[Verdicts] = []
    """For each share of `judge.WANTED`; empty in older results."""
    false_regions: float | None = None
    """Regions far from all defects, per defective frame; None also in older results."""


class Training(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of a training."""

    seed: int
    fold: int | None
    """None: all folds at once."""
    seconds: float
    tiles_per_s: float | None
    """Rate of feature extraction, or of training the whole network; None: all features were in the cache."""
    epochs: int | None = None
    """For anomalib's models."""
    graph_mb: float | None = None
    """Size of the exported graph; None: it was not exported."""
    speed: float | None = None
    """Tiles per second of the exported graph in OpenVINO over those of `heatline`'s; None: it was not timed."""
    good: int | None = None
    """Good pictures that trained, if few were drawn; None: all of the other folds."""
    defective: int | None = None
    """Defective pictures, likewise."""
    machine: dict[str, Any] = {}
    """Machine and commit that trained and evaluated; fields of `heatline.bench.machine.Machine`, without `flags`.
    Empty in older results."""


class RecipeResult(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe on one data set."""

    set: str
    recipe: str
    overrides: list[str]
    """Keys of `heatline train` that change figures, and how many annotated pictures (`annotated=`) or pictures at all
    (`pictures=`) trained."""
    truth: str
    """Truth of the figures."""
    folds: list[FoldFigures]
    trainings: list[Training]

    @property
    def name(self) -> str:
        """The recipe with its overrides."""
        return " ".join([self.recipe, *self.overrides])

    @property
    def pictures(self) -> str | None:
        """The number of `--pictures`, if only that differs from the recipe `heatline`."""
        (item, *others) = self.overrides or [""]
        return item.removeprefix("pictures=") if item.startswith("pictures=") and not others else None

    @property
    def has_folds_of_truth(self) -> bool:
        """Whether its folds are those by the set's own truth."""
        return not any(item.startswith(CHANGE_FOLDS) for item in self.overrides)

    def only(self, folds: Collection[tuple[int, int]]) -> "RecipeResult":
        """Return the result with these seeds and folds only."""
        kept = [each for each in self.folds if (each.seed, each.fold) in folds]
        return msgspec.structs.replace(self, folds=kept)

    def mean_and_spread(self, figure: str) -> tuple[float, float] | None:
        """Return mean and standard deviation over folds and seeds; None if no fold has the figure."""
        values = [value for fold in self.folds if (value := getattr(fold, figure)) is not None]
        return (float(np.mean(values)), float(np.std(values))) if values else None

    def cell(self, figure: str) -> str:
        """Mean and deviation of a figure as a table shows them."""
        found = self.mean_and_spread(figure)
        return "-" if found is None else f"{found[0]:.3f} ± {found[1]:.2f}"

    def hit_by_class(self) -> dict[str, tuple[float, float]]:
        """Return the defects hit and the defects of each class: sums over folds, means over seeds."""
        seeds = len({fold.seed for fold in self.folds})
        total: dict[str, tuple[float, float]] = {}
        for fold in self.folds:
            for kind, (hit, count) in fold.hit_by_class.items():
                so_far = total.get(kind, (0.0, 0.0))
                total[kind] = so_far[0] + hit / seeds, so_far[1] + count / seeds
        return dict(sorted(total.items()))


def tables(results: Sequence[RecipeResult], targets: dict[str, dict[str, float]]) -> str:
    """Write all results as Markdown: a table per set, a row per recipe, and the targets.

    Args:
        targets: by set and figure.
    """
    parts = [
        "# Recipes",
        "By `heatline bench recipes`; docs/recipes.md defines the columns. Mean ± deviation over folds and seeds.",
    ]
    for name in dict.fromkeys(one.set for one in results):
        mine = sorted((one for one in results if one.set == name and not one.pictures), key=lambda one: one.name)
        goals = targets.get(name, {})
        rows = [
            ["recipe", *FIGURES.values(), "folds", "seeds", "s"],
            *(_row(one) for one in mine),
            ["*target*", *(f"*{goals[figure]:g}*" if figure in goals else "" for figure in FIGURES), *[""] * 3],
        ]
        parts += [f"## {name}", f"By {', '.join(sorted({one.truth for one in mine}))}.", _table(rows)]
        alike = [one for one in mine if one.has_folds_of_truth]
        if shared := shared_folds(alike):
            of_shared = [_row(one.only(shared)) for one in alike]
            named = ", ".join(f"seed {seed} fold {fold}" for seed, fold in sorted(shared))
            parts.append(f"Of the folds that all of these have: {named}.")
            parts.append(_table([rows[0], *of_shared]))
        if kinds := sorted({kind for one in mine for kind in one.hit_by_class()}):
            parts.append(_table([["defects hit", *kinds], *_by_class(mine, kinds)]))
        if verdicts := _verdicts(mine):
            parts.append(_table(verdicts))
        if graphs := _graphs(mine):
            parts.append(_table(graphs))
    return "\n\n".join(parts) + "\n"


def shared_folds(results: Sequence[RecipeResult]) -> set[tuple[int, int]]:
    """Return the seeds and folds that all results have; none if all have the same.

    Args:
        results: with equal folds, which results that are trained by other labels do not have.
    """
    of_each = [{(fold.seed, fold.fold) for fold in one.folds} for one in results]
    shared = set.intersection(*of_each) if of_each else set()
    return shared if any(each != shared for each in of_each) else set()


def _row(one: RecipeResult) -> list[str]:
    cells = [one.cell(figure) for figure in FIGURES]
    counts = [{getattr(fold, key) for fold in one.folds} for key in ("fold", "seed")]
    seconds = np.mean([each.seconds for each in one.trainings]) if one.trainings else 0
    return [one.name, *cells, *(str(len(each)) for each in counts), f"{seconds:.0f}"]


def _by_class(results: Sequence[RecipeResult], kinds: Sequence[str]) -> list[list[str]]:
    rows = []
    for one in results:
        found = one.hit_by_class()
        cells = [f"{found[kind][0]:.3g} of {found[kind][1]:.3g}" if kind in found else "-" for kind in kinds]
        rows.append([one.name, *cells])
    return rows


def _verdicts(results: Sequence[RecipeResult]) -> list[list[str]]:
    """Return rows of wanted and found false rejects and of escapes, summed over folds and seeds."""
    rows = []
    for one in results:
        for wanted in sorted({each.wanted for fold in one.folds for each in fold.verdicts}):
            folds = [each for fold in one.folds for each in fold.verdicts if each.wanted == wanted]
            of_good = [each for each in folds if each.good]
            good, rejected = sum(each.good for each in of_good), sum(each.rejected for each in of_good)
            within = sum(each.rejected <= each.bound * each.good for each in of_good)
            limits = [
                each.rejected <= each.limit for each in of_good if each.limit is not None and each.limit < each.good
            ]
            counted = [each for each in of_good if each.groups is not None]
            reaching, groups = (sum(getattr(each, key) for each in counted) for key in ("groups_reaching", "groups"))
            at_most = sum(each.groups_at_most for each in counted)
            both = [each for each in of_good if each.escaped_oracle is not None]
            defective = max(1, sum(each.defective for each in both))
            escaped, oracle = sum(each.escaped for each in both), sum(each.escaped_oracle or 0 for each in both)
            rows.append(
                [
                    one.name,
                    f"{100 * wanted:g} %",
                    f"{100 * rejected / max(1, good):.1f} % ({rejected} of {good})",
                    f"{within} of {len(of_good)}",
                    f"{sum(limits)} of {len(limits)}" if limits else "-",
                    f"{reaching} of {groups} ({at_most:.1f})" if counted else "-",
                    f"{100 * escaped / defective:.1f} %",
                    f"{100 * oracle / defective:.1f} %",
                ]
            )
    head = [
        "verdicts",
        "good frames to be rejected",
        "rejected",
        "folds within the bound",
        "folds within the limit, where there is one",
        "groups that reach the threshold (expected at most)",
        "escaped",
        "by an oracle",
    ]
    return [head, *rows] if rows else []


def _graphs(results: Sequence[RecipeResult]) -> list[list[str]]:
    """Return rows of the exported models of others."""
    rows = []
    for one in results:
        known = [each for each in one.trainings if each.graph_mb is not None]
        speeds = [each.speed for each in known if each.speed is not None]
        if known:
            size = np.mean([each.graph_mb for each in known if each.graph_mb is not None])
            epochs = sorted({each.epochs for each in known if each.epochs is not None})
            shown = f"{np.median(speeds):.2g}" if speeds else "-"
            rows.append([one.name, ", ".join(map(str, epochs)), f"{size:.3g}", shown])
    return [["graph", "epochs", "MB", "speed, heatline = 1"], *rows] if rows else []


def _table(rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(rows).rstrip("\n")
