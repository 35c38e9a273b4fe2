"""Grouped cross-validation of each recipe on a data set: train, evaluate, and write each result at once."""

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.bench.machine import machine, without_flags
from heatline.bench.recipes.anomalib_models import MODELS, AnomalibModel, Peers, train_anomalib
from heatline.bench.recipes.bank import cross_validate_bank
from heatline.bench.recipes.difference import difference_answers
from heatline.bench.recipes.judge import Answers, judge_fold
from heatline.bench.recipes.one_fold import Fold, ReportLine, place, train_few, train_good_only, train_whole_network
from heatline.bench.recipes.rows import FoldFigures, RecipeResult, Training
from heatline.bench.recipes.sets import DataSet, that_change_figures, unless_set
from heatline.bench.recipes.truth import Truth
from heatline.bench.result_file import RESULTS, keep, new_report, read_result
from heatline.edge.errors import BenchError
from heatline.train.compose import compose
from heatline.train.config import DenseRecipeConfig, TrainConfig
from heatline.train.dense.cross_validation import divide_groups
from heatline.train.dense.out_of_fold import OutOfFold
from heatline.train.dense.train import train_dense
from heatline.train.run import RunFolder

Recipe = Literal["heatline", "good-only", "finetune", "study", "bank", "difference"] | AnomalibModel
OF_ALL_FOLDS = ("heatline", "bank", "difference")
"""Recipes that answer all folds of a seed at once."""
TRAINED_AS_HEATLINE = (*OF_ALL_FOLDS, "good-only", *MODELS)
"""Recipes that use the configuration of the recipe `heatline`."""
LONGEST_NAME = 200
"""Characters; file systems take 255, with suffixes."""


@dataclass(frozen=True)
class Measurement:
    """One recipe on one data set.

    Args:
        data: folder of all data sets.
        work: folder of decoded frames and runs.
        results: folder of results; stored results are not measured again.
        folds: to train and evaluate; empty: all.
        annotated: number of defective pictures that train by their annotation, the others by their label; None: all.
        pictures: number that train `heatline`, of the other folds of each fold; None: cross-validation.
        peers: settings for anomalib's models; None: they are not run.
    """

    of: DataSet
    recipe: Recipe
    overrides: Sequence[str]
    data: Path
    work: Path
    results: Path
    folds: Collection[int] = ()
    annotated: int | None = None
    pictures: int | None = None
    peers: Peers | None = None
    report_line: ReportLine = lambda line: None

    @property
    def changes(self) -> list[str]:
        """Options and overrides that change figures."""
        few = [] if self.annotated is None else [f"annotated={self.annotated}"]
        if self.pictures is not None:
            few.append(f"pictures={self.pictures}")
        if self.peers is not None and self.recipe == "supersimplenet":
            few.append(f"minutes={self.peers.minutes:g}")
        return sorted([*few, *that_change_figures(self.overrides)])

    @property
    def name(self) -> str:
        """Name of its file and folder, below that of the set; shortened if it is too long for a file system."""
        plain = ",".join([self.recipe, *self.changes])
        name = "".join(letter if letter.isalnum() or letter in "._=,-" else "_" for letter in plain)
        if len(name) <= LONGEST_NAME:
            return name
        return f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    @property
    def file(self) -> Path:
        return self.results / self.of.name / f"{self.name}.json"

    def measure(self, seeds: Sequence[int]) -> RecipeResult:
        """Train and evaluate what the file lacks, and write each part at once.

        Raises:
            BenchError: the file is another result, or cannot be written; or the set has no such fold.
            ConfigError, InputError, WeightsError, TrainingError, DivergedError: as training.
            Interrupted: Ctrl-C; the same call continues.
        """
        result = self._read()
        for seed in seeds:
            for training, figures in self._parts(seed, {one.fold for one in result.folds if one.seed == seed}):
                for one in figures:
                    self.report_line(f"{self.of.name} {result.name}: seed {seed}, fold {one.fold}: {_describe(one)}")
                training = msgspec.structs.replace(training, machine=without_flags(machine()))
                result = msgspec.structs.replace(
                    result, folds=[*result.folds, *figures], trainings=[*result.trainings, training]
                )
                self._write(result)
        return result

    def _parts(self, seed: int, done: set[int]) -> Iterator[tuple[Training, list[FoldFigures]]]:
        """Yield the missing parts of a seed: all folds at once, or one by one if the recipe trains them one by one."""
        config = self._config("heatline" if self.recipe in TRAINED_AS_HEATLINE else self.recipe, seed)
        fold_of = self._fold_of(config)
        if unknown := sorted(set(self.folds) - set(fold_of.tolist())):
            raise BenchError(f"{self.of.name} has no fold {unknown[0]}; name one of 0 to {fold_of.max()}")
        left = [each for each in sorted(set(fold_of.tolist()) - done) if not self.folds or each in self.folds]
        if not left:
            self.report_line(f"{self.of.name} {self.name}: seed {seed} is done")
        elif self.recipe in OF_ALL_FOLDS and self.pictures is None:
            self.report_line(f"{self.of.name} {self.name}: seed {seed}: training")
            out_of_fold, training = self._of_all_folds(config)
            answers = answers_of(out_of_fold, self.truth, seed, knows_defects=self.recipe == "heatline")
            yield training, [judge_fold(self.truth, one) for one in answers if one.fold in left]
        else:
            for fold in (Fold(seed, number, self.truth, fold_of) for number in left):
                of_part = f"{self.of.name} {self.name}: seed {seed}, fold {fold.number}"
                if (self.pictures or 0) > (others := int((~fold.tested).sum())):
                    self.report_line(f"{of_part}: left out, the other folds have {others} pictures")
                    continue
                self.report_line(f"{of_part}: training")
                one, training = self._fold(config, fold)
                yield training, [judge_fold(self.truth, one)]

    def _fold(self, config: TrainConfig, fold: Fold) -> tuple[Answers, Training]:
        if self.recipe in MODELS:
            assert self.peers is not None, "the caller says how anomalib's models are run"
            return train_anomalib(fold, config, self.recipe, self.work / self.of.name, self.peers, self.report_line)
        if self.pictures is not None:
            return train_few(fold, config, self.of, self.pictures, self.report_line)
        if self.recipe == "good-only":
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
        own = [f"recipe={recipe}", f"seed={seed}", *self.of.overrides(self.data, self.work)]
        if self.annotated is not None:
            images = self.truth.store.images
            own[2:] = [
                f"data={self.of.partly_annotated(images, self.annotated, seed, self.work)}",
                f"truth={self.of.truth}",
                "split.group=group",
            ]
        config = compose(unless_set(own, self.overrides))
        out = self.work / self.of.name / self.name / f"seed{seed}"
        return msgspec.structs.replace(config, out=str(out))

    def _of_all_folds(self, config: TrainConfig) -> tuple[OutOfFold, Training]:
        if self.recipe == "bank":
            return cross_validate_bank(config, self.truth, self.work, self.report_line)
        if self.recipe == "difference":
            return difference_answers(config, self.truth, self.report_line)
        run = RunFolder(Path(config.out))
        if not (run.summary.exists() and run.read_summary().finished):
            train_dense(config, run, self.report_line)
        summary = run.read_summary()
        if not run.out_of_fold.exists():
            raise BenchError(f"{self.of.name} was not cross-validated, as its groups make one fold; name another set")
        training = Training(seed=config.seed, fold=None, seconds=summary.seconds, tiles_per_s=summary.tiles_per_s)
        return OutOfFold.read(run.out_of_fold), training

    def _read(self) -> RecipeResult:
        empty = RecipeResult(
            set=self.of.name, recipe=self.recipe, overrides=self.changes, truth=self.of.truth, folds=[], trainings=[]
        )
        if not self.file.exists():
            return empty
        result = read_recipe(self.file)
        if msgspec.structs.replace(result, folds=[], trainings=[]) != empty:
            raise BenchError(
                f"{self.file} holds {result.name} by {result.truth}, not {empty.name} by {empty.truth}; move it away"
            )
        return result

    def _write(self, result: RecipeResult) -> None:
        with contextlib.suppress(OSError):  # `keep` raises it
            self.file.parent.mkdir(parents=True, exist_ok=True)
        keep(self.file, new_report("recipes", machine(), result), option=RESULTS)


def read_recipe(file: Path) -> RecipeResult:
    """Read a file of `Measurement.measure`.

    Raises:
        BenchError: it is not a result of this bench.
    """
    try:
        return msgspec.convert(read_result(file), RecipeResult)
    except msgspec.ValidationError as error:
        raise BenchError(f"{file} is not a result of heatline bench recipes ({error}); move it away") from error


def read_all(results: Path) -> list[RecipeResult]:
    """Read all results below a folder; errors as of `read_recipe`."""
    return [read_recipe(file) for file in sorted(results.glob("*/*.json"))]


def answers_of(found: OutOfFold, truth: Truth, seed: int, *, knows_defects: bool = True) -> Iterator[Answers]:
    """Yield the answers fold by fold, with thresholds from all other folds. Frames without an answer are in no fold.

    Raises:
        BenchError: the answers are of other pictures.
    """
    logit, maps, fold = place(found, truth)
    for number in np.unique(found.fold).tolist():
        others = (fold >= 0) & (fold != number)
        yield Answers(seed, number, logit, maps, fold == number, others, knows_defects=knows_defects)


def _describe(one: FoldFigures) -> str:
    named = {"tile AP": one.tile_ap_clear, "pixel AP": one.pixel_ap, "hit": one.hit, "rejected": one.rejected}
    return ", ".join(f"{name} {value:.2f}" for name, value in named.items() if value is not None)
