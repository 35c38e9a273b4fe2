"""Grouped cross-validation of each recipe on a data set: train, evaluate, write each result at once, and tables."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import msgspec
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from heatline.bench.machine import machine
from heatline.bench.recipes.anomalib_models import MODELS, AnomalibModel, train_anomalib
from heatline.bench.recipes.folds import (
    Answers,
    Fold,
    ReportLine,
    Training,
    Truth,
    answers_of,
    train_good_only,
    train_whole_network,
)
from heatline.bench.recipes.judge import FoldFigures, judge_fold
from heatline.bench.recipes.sets import DataSet, that_change_figures
from heatline.bench.report import STYLE, WIDTH_IN
from heatline.bench.result_file import keep, new_report, read_result
from heatline.edge.errors import BenchError
from heatline.edge.util.page import markdown_table, plain
from heatline.train.compose import compose
from heatline.train.config import DenseRecipeConfig, TrainConfig
from heatline.train.dense.cross_validation import divide_groups
from heatline.train.dense.tiles import OutOfFold
from heatline.train.dense.train import train_dense
from heatline.train.references import GAINS
from heatline.train.run import RunFolder

Recipe = Literal["heatline", "finetune", "study"] | AnomalibModel
GOOD_ONLY = "truth=good"
"""The override by which the recipe `heatline` is trained on good pictures only; others refuse this truth."""
LONGEST = 160
"""Letters of the name of a result: a file's name has 255 at most, with endings."""
TABLES, MINUTES = "tables.md", "minutes.svg"
FIGURES = {
    "tile_ap_clear": "tile AP",
    "picture_auroc": "picture AUROC",
    "pixel_ap": "pixel AP",
    "study_f1": "F1, study's rule",
    "pointing_near": "within 16 px",
    "hit": "defects hit",
    "false_regions": "false regions per defective frame",
    "rejected": "good frames rejected",
}
"""Names of figures and of their columns; docs/recipes-log.md defines them."""


class RecipeResult(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe on one data set."""

    set: str
    recipe: str
    overrides: list[str]
    """Keys of `heatline train` that change figures."""
    truth: str
    """Truth of the figures."""
    folds: list[FoldFigures] = []
    trainings: list[Training] = []

    @property
    def name(self) -> str:
        """The recipe with its overrides."""
        return " ".join([self.recipe, *self.overrides])

    def cell(self, figure: str) -> str:
        """Mean and standard deviation of a figure over folds and seeds, as a table shows them."""
        values = [value for fold in self.folds if (value := getattr(fold, figure)) is not None]
        return f"{np.mean(values):.3f} ± {np.std(values):.2f}" if values else "-"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One recipe on one data set.

    Args:
        data: folder of all data sets.
        work: folder of decoded frames and runs.
        results: folder of results; stored results are not measured again.
        folds: to train and evaluate; empty: all.
        peers_python: Python that has anomalib.
    """

    of: DataSet
    recipe: Recipe
    overrides: Sequence[str]
    data: Path
    work: Path
    results: Path
    folds: Collection[int] = ()
    peers_python: Path = Path()
    report_line: ReportLine = lambda line: None

    @property
    def name(self) -> str:
        """Name of its file and folder, below that of the set; a digest replaces the end of a long one."""
        name = ",".join([self.recipe, *that_change_figures(self.overrides)])
        plain = "".join(letter if letter.isalnum() or letter in "._=,-" else "_" for letter in name)
        return plain if len(plain) <= LONGEST else f"{plain[:LONGEST]}-{sha256(name.encode()).hexdigest()[:12]}"

    @property
    def file(self) -> Path:
        return self.results / self.of.name / f"{self.name}.json"

    def measure(self, seeds: Sequence[int]) -> RecipeResult:
        """Train and evaluate what the file lacks, and write each part at once.

        Raises:
            BenchError: the file is no result, or cannot be written; or the set has no such fold.
            ConfigError, InputError, WeightsError, TrainingError, DivergedError: as training.
            Interrupted: Ctrl-C; the same call continues.
        """
        overrides = that_change_figures(self.overrides)
        result = RecipeResult(set=self.of.name, recipe=self.recipe, overrides=overrides, truth=self.of.truth)
        if self.file.exists():
            result = read_recipe(self.file)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            for training, figures in self._parts(seed, {one.fold for one in result.folds if one.seed == seed}):
                for one in figures:
                    hit = "-" if one.hit is None else f"{one.hit:.2f} of the defects hit"
                    self.report_line(f"{self.of.name} {result.name}: seed {seed}, fold {one.fold}: {hit}")
                training = msgspec.structs.replace(training, machine=machine())
                result = msgspec.structs.replace(
                    result, folds=[*result.folds, *figures], trainings=[*result.trainings, training]
                )
                keep(self.file, new_report("recipes", machine(), result))
        return result

    def _parts(self, seed: int, done: set[int]) -> Iterator[tuple[Training, list[FoldFigures]]]:
        """Yield the missing parts of a seed: all folds at once of the recipe `heatline`, unless it is trained on good
        pictures only, one by one of others."""
        config = self._config("heatline" if self.recipe in MODELS else self.recipe, seed)
        fold_of = self._fold_of(config)
        if unknown := sorted(set(self.folds) - set(fold_of.tolist())):
            raise BenchError(f"{self.of.name} has no fold {unknown[0]}; name one of 0 to {fold_of.max()}")
        left = [each for each in sorted(set(fold_of.tolist()) - done) if not self.folds or each in self.folds]
        if not left:
            self.report_line(f"{self.of.name} {self.name}: seed {seed} is done")
        elif self.recipe == "heatline" and GOOD_ONLY not in self.overrides:
            self.report_line(f"{self.of.name} {self.name}: seed {seed}: training")
            out_of_fold, training = self._cross_validated(config)
            answers = answers_of(out_of_fold, self.truth, seed)
            yield training, [judge_fold(self.truth, one) for one in answers if one.fold in left]
        else:
            for number in left:
                self.report_line(f"{self.of.name} {self.name}: seed {seed}, fold {number}: training")
                one, training = self._trained(config, Fold(seed, number, self.truth, fold_of))
                yield training, [judge_fold(self.truth, one)]

    def _trained(self, config: TrainConfig, fold: Fold) -> tuple[Answers, Training]:
        if self.recipe in MODELS:
            work = self.work / self.of.name
            return train_anomalib(fold, self.recipe, work, self.peers_python, self.report_line)
        if self.recipe == "heatline":
            return train_good_only(fold, config, self.report_line)
        return train_whole_network(fold, config, self.report_line)

    @cached_property
    def truth(self) -> Truth:
        """Truth by which all recipes are evaluated, whatever they are trained by."""
        return Truth.of(self._own_config(), self.work / self.of.name / "frames")

    def _fold_of(self, config: TrainConfig) -> NDArray[np.int64]:
        """Return the fold of each group; whole networks have the folds of the recipe `heatline` by the set's truth."""
        recipe = config.recipe if isinstance(config.recipe, DenseRecipeConfig) else self._own_config().recipe
        assert isinstance(recipe, DenseRecipeConfig)
        return divide_groups(self.truth.tiles, recipe, config.seed)

    def _own_config(self) -> TrainConfig:
        """Return the configuration of the recipe `heatline` by the set's truth, with the same tiles."""
        tiles = [item for item in self.overrides if item.startswith("tiles.")]
        return compose([*self.of.overrides(self.data, self.work), "recipe=heatline", *tiles])

    def _config(self, recipe: str, seed: int) -> TrainConfig:
        overrides = [item for item in self.overrides if item != GOOD_ONLY or self.recipe != "heatline"]
        given = {item.partition("=")[0] for item in overrides}
        own = [f"recipe={recipe}", f"seed={seed}", *self.of.overrides(self.data, self.work)]
        config = compose([*(item for item in own if item.partition("=")[0] not in given), *overrides])
        return msgspec.structs.replace(config, out=str(self.work / self.of.name / self.name / f"seed{seed}"))

    def _cross_validated(self, config: TrainConfig) -> tuple[OutOfFold, Training]:
        run = RunFolder(Path(config.out))
        if not (run.summary.exists() and run.read_summary().finished):
            train_dense(config, run, self.report_line)
        if not run.out_of_fold.exists():
            raise BenchError(f"{self.of.name} was not cross-validated, as its groups make one fold; name another set")
        summary = run.read_summary()
        training = Training(seed=config.seed, fold=None, seconds=summary.seconds, rounds=summary.rounds)
        return OutOfFold.read(run.out_of_fold), training


def read_recipe(file: Path) -> RecipeResult:
    """Read a file of `Measurement.measure`; a BenchError if it is not a result of this bench."""
    try:
        return msgspec.convert(read_result(file), RecipeResult)
    except msgspec.ValidationError as error:
        raise BenchError(f"{file} is not a result of heatline bench recipes ({error}); move it away") from error


def write_tables(results: Path, targets: dict[str, dict[str, float]]) -> tuple[Path, list[RecipeResult]]:
    """Write tables and a picture of all results below a folder; return the tables' file, and the results.

    Args:
        targets: by set and figure.
    Raises:
        BenchError: as of `read_recipe`, or the file cannot be written.
    """
    found = [read_recipe(file) for file in sorted(results.glob("*/*.json"))]
    try:
        (results / TABLES).write_text(tables(found, targets))
        if any(training.rounds for one in found for training in one.trainings):
            _draw_rounds(found, results / MINUTES)
    except OSError as error:
        raise BenchError(f"{results / TABLES} cannot be written ({error.strerror})") from error
    return results / TABLES, found


def tables(results: Sequence[RecipeResult], targets: dict[str, dict[str, float]]) -> str:
    """Write all results as Markdown: per set a table of figures with its targets, and one of verdicts."""
    parts = ["# Recipes", "Mean ± deviation over folds and seeds; docs/recipes-log.md defines the columns."]
    for name in dict.fromkeys(one.set for one in results):
        mine, goals = [one for one in results if one.set == name], targets.get(name, {})
        rows = [["recipe", *FIGURES.values(), "folds", "seeds"], *(_row(one) for one in mine)]
        rows.append(["*target*", *(f"*{goals[key]:g}*" if key in goals else "" for key in FIGURES), "", ""])
        head = ["verdicts", "good frames to be rejected", "rejected", "escaped"]
        verdicts = [head, *(row for one in mine for row in _verdicts(one))]
        parts += [f"## {name}", markdown_table(rows), markdown_table(verdicts)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _draw_rounds(results: Sequence[RecipeResult], file: Path) -> None:
    """Draw the figures of the best result so far against the minute, a line per training."""
    sets = sorted({one.set for one in results})
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH_IN, 3.2))
        panels = figure.subplots(1, len(GAINS))
        for one in results:
            for rounds in (training.rounds for training in one.trainings if training.rounds):
                colour = f"C{sets.index(one.set)}"
                for panel, key in zip(panels, GAINS, strict=True):
                    if key in rounds[0].figures:
                        kept = [(each.seconds / 60, each.figures[key]) for each in rounds if each.kept]
                        end = rounds[-1].seconds / 60, kept[-1][1]
                        panel.step(*zip(*kept, end, strict=True), where="post", marker=".", color=colour, label=one.set)
        for panel, name in zip(panels, GAINS.values(), strict=True):
            panel.set_title(name)
            panel.set_xlabel("minute")
            panel.set_xlim(0)
        labels = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
        figure.legend(labels.values(), labels, loc="outside lower center", ncols=len(labels))
        figure.savefig(file, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))


def _row(one: RecipeResult) -> list[str]:
    counts = [{getattr(fold, key) for fold in one.folds} for key in ("fold", "seed")]
    return [plain(one.name), *(one.cell(figure) for figure in FIGURES), *(str(len(each)) for each in counts)]


def _verdicts(one: RecipeResult) -> Iterator[list[str]]:
    """Yield wanted and found false rejects and the escapes, summed over folds and seeds."""
    for wanted in sorted({each.wanted for fold in one.folds for each in fold.verdicts}):
        of = [each for fold in one.folds for each in fold.verdicts if each.wanted == wanted]
        cells = []
        for part, whole in (("rejected", "good"), ("escaped", "defective")):
            counts = [sum(getattr(each, key) for each in of) for key in (part, whole)]
            cells.append(f"{counts[0]} of {counts[1]}")
        yield [plain(one.name), f"{100 * wanted:g} %", *cells]
