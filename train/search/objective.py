"""A trial: a training with the batch size and learning rate that the sampler draws."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import optuna
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from heatline.edge.errors import ConfigError, DivergedError
from heatline.train.config import TrainConfig
from heatline.train.fit import fit
from heatline.train.search.config import SearchConfig
from heatline.train.search.study import PER_MILLE
from heatline.train.search.worker import Worker

METRICS = {"accuracy": "val_accuracy", "average_precision": "val_ap"}
"""Column of a run's metrics, by objective."""


def trial_folder(out: Path, number: int) -> Path:
    """Return the folder of a trial's run, in the folder of the search."""
    return out / "trials" / f"{number:04d}"


class Objective:
    """Objective of the study: trains, and returns the best of the run's validations.

    Args:
        config: of the training; its batch size and learning rate are replaced.
        search: settings of the search.
        lr: interval of learning rates.
        worker: this process; runs are written into its folder.
        report_line: gets lines for people.
    """

    def __init__(
        self,
        config: TrainConfig,
        search: SearchConfig,
        lr: tuple[float, float],
        worker: Worker,
        report_line: Callable[[str], None],
    ) -> None:
        self._config, self._search, self._lr, self._worker = config, search, lr, worker
        self._report_line = self._report_data = report_line

    def __call__(self, trial: optuna.Trial) -> float:
        """Train a trial; errors as for `fit`, and:

        Raises:
            optuna.TrialPruned: the trial is below the median, or its batch size and learning rate cannot be trained.
            ConfigError: the folder of the trial belongs to another search.
        """
        # Each trial has its own seed, so that different workers, and a restarted one, do not draw the same values.
        seed = int(np.random.SeedSequence((self._config.seed, trial.number)).generate_state(1)[0])
        trial.study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=self._search.startup, seed=seed, constant_liar=True
        )
        batch = int(trial.suggest_categorical("batch", sorted(set(self._search.batches))))
        lr = trial.suggest_float("lr", *self._lr, log=True)
        folder = trial_folder(self._worker.folder, trial.number)
        if folder.exists():
            raise ConfigError(f"{folder} belongs to another search; choose another folder with out=")
        trial.set_user_attr("run", str(folder))
        self._report_line(f"trial {trial.number}: lr {lr:.2e}, batch {batch}")
        validations = _ValidationReporter(trial, METRICS[self._search.objective])
        recipe = msgspec.structs.replace(self._config.finetune, batch=batch, lr=lr, select=self._search.objective)
        config = msgspec.structs.replace(self._config, recipe=recipe, out=str(folder))
        try:
            fit(config, report_line=self._report_data, callbacks=[validations], cache=self._worker.cache)
        except (DivergedError, torch.OutOfMemoryError) as error:  # another learning rate or batch size may work
            raise _prune_untrainable(trial, str(error).splitlines()[0]) from error
        self._report_data = _ignore_line  # the data are the same for all trials
        assert validations.best is not None, "a finished training was validated"
        return validations.best


class _ValidationReporter(Callback):
    """Reports each validation to the study, and ends a training that the pruner stops."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self._trial, self._metric = trial, metric
        self.best: float | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = float(trainer.callback_metrics[self._metric])
        if self.best is None or value > self.best:
            self.best = value
            self._trial.set_user_attr("step", trainer.global_step)
        self._trial.report(value, round(PER_MILLE * trainer.global_step / trainer.max_steps))
        is_last = trainer.global_step >= trainer.max_steps  # pruning a finished training saves nothing
        if not is_last and self._trial.should_prune():
            self._trial.set_user_attr("reason", f"below the median at step {trainer.global_step}")
            raise optuna.TrialPruned


def _prune_untrainable(trial: optuna.Trial, reason: str) -> optuna.TrialPruned:
    """Return the exception that prunes a trial which cannot be trained.

    It is pruned, not failed, so that it counts and the search ends, and so that TPE avoids its values.
    """
    trial.set_user_attr("reason", reason)
    return optuna.TrialPruned(reason)


def _ignore_line(line: str) -> None:
    pass
