"""One trial: a training with the batch size and learning rate that the sampler draws."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import optuna
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from edge.errors import ConfigError, DivergedError
from train.config import TrainConfig
from train.fit import fit
from train.search.config import SearchConfig
from train.search.study import PER_MILLE
from train.search.worker import Worker

METRICS = {"accuracy": "val_accuracy", "average_precision": "val_ap"}
"""Columns of a run's metrics, by objective."""


def trial_folder(out: Path, number: int) -> Path:
    """Where a trial's run lies in the search's folder."""
    return out / "trials" / f"{number:04d}"


class Objective:
    """Trains, and returns the best of the run's validations.

    Args:
        config: of the training; batch size and learning rate are replaced.
        search: what is searched.
        lr: the interval of learning rates.
        worker: this process; runs are left in its folder.
        say: takes lines for people.
    """

    def __init__(
        self,
        config: TrainConfig,
        search: SearchConfig,
        lr: tuple[float, float],
        worker: Worker,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._search, self._lr, self._worker, self._say = config, search, lr, worker, say
        self._say_of_data = say

    def __call__(self, trial: optuna.Trial) -> float:
        """Errors as `fit`, and:

        Raises:
            optuna.TrialPruned: it is below the median, or this batch size and learning rate cannot be trained.
            ConfigError: its folder is another search's.
        """
        # A seed of the trial's own: workers, and sittings of one worker, do not draw the same trial twice.
        seed = int(np.random.SeedSequence((self._config.seed, trial.number)).generate_state(1)[0])
        trial.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=self._search.startup, seed=seed, constant_liar=True
        )
        batch = int(trial.suggest_categorical("batch", sorted(set(self._search.batches))))
        lr = trial.suggest_float("lr", *self._lr, log=True)
        folder = trial_folder(self._worker.folder, trial.number)
        if folder.exists():
            raise ConfigError(f"{folder} is of another search, which this one does not know; choose another out=")
        trial.set_user_attr("run", str(folder))
        self._say(f"trial {trial.number}: lr {lr:.2e}, batch {batch}")
        reports = _Reports(trial, METRICS[self._search.objective])
        recipe = msgspec.structs.replace(self._config.finetune, batch=batch, lr=lr, select=self._search.objective)
        config = msgspec.structs.replace(self._config, recipe=recipe, out=str(folder))
        try:
            fit(config, report_line=self._say_of_data, callbacks=[reports], cache=self._worker.cache)
        except (DivergedError, torch.OutOfMemoryError) as error:  # another learning rate or batch size may do
            raise _hopeless(trial, str(error).splitlines()[0]) from error
        self._say_of_data = _say_nothing  # all trials have the same
        assert reports.best is not None, "a training that ends was validated"
        return reports.best


class _Reports(Callback):
    """Tells the study of each validation, and ends a training that the pruner gives up."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self._trial, self._metric = trial, metric
        self.best: float | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = float(trainer.callback_metrics[self._metric])
        if self.best is None or value > self.best:
            self.best = value
            self._trial.set_user_attr("step", trainer.global_step)
        self._trial.report(value, round(PER_MILLE * trainer.global_step / trainer.max_steps))
        is_last = trainer.global_step >= trainer.max_steps  # nothing is saved by pruning what is trained
        if not is_last and self._trial.should_prune():
            self._trial.set_user_attr("reason", f"below the median at step {trainer.global_step}")
            raise optuna.TrialPruned


def _hopeless(trial: optuna.Trial, reason: str) -> optuna.TrialPruned:
    """Pruned, not failed: it counts, so that a search among hopeless ones ends, and TPE learns to keep away."""
    trial.set_user_attr("reason", reason)
    return optuna.TrialPruned(reason)


def _say_nothing(line: str) -> None:
    pass
