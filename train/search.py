"""Searches for the batch size and learning rate of a recipe, over as many processes as take part.

Optuna shares the trials among workers: its storage holds them, its heartbeat tells which worker died, and its callbacks
try that trial again and end the search.
"""

import shlex
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import optuna
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from msgspec import Meta
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import MaxTrialsCallback, Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import NullPool
from sqlalchemy.exc import SQLAlchemyError

from heatline.edge.errors import ConfigError, DivergedError, HeatlineError, Interrupted, TrainingError
from heatline.edge.util.text import format_count
from heatline.edge.util.validation import describe_misfit
from heatline.train.compose import compose
from heatline.train.config import TrainConfig
from heatline.train.files import lock_file
from heatline.train.fit import fit

PREFIX = "search."
_TEXTS = ("storage", "name")
"""Keys whose values are texts; all other values are YAML."""
_CHOSEN = {
    "recipe.lr": "the search chooses it; set its interval with search.lr=[1e-4,1e-2]",
    "recipe.batch": "the search chooses it; set the batch sizes with search.batches=[32,64]",
    "recipe.select": "a trial stores the checkpoint that is best by search.objective",
    "resume": "the same command, given again, continues the search",
}
METRICS = {"accuracy": "val_accuracy", "average_precision": "val_ap"}
"""Column of a run's metrics, by objective."""
PER_MILLE = 1000
"""Validations are reported at their share of the training, as steps per epoch depend on the batch size."""
STARTUP = 4
"""Number of trials that are drawn at random before TPE starts, and completed before any is pruned."""
WARM_UP = 300
"""Per mille of a trial before which it is never pruned."""
HEARTBEAT_S = 60
GRACE_S = 180
"""A trial that sends no heartbeat for this time has failed, and is tried once more."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

Rate = Annotated[float, Meta(gt=0)]
ReportLine = Callable[[str], None]


class SearchConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of the search for a recipe's batch size and learning rate."""

    trials: Annotated[int, Meta(ge=1)] = 10
    """Number of trials of all workers; pruned trials count."""
    objective: Literal["accuracy", "average_precision"] = "accuracy"
    """Metric of the validation groups; a trial's value is the best of its validations."""
    batches: Annotated[list[Annotated[int, Meta(ge=2)]], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [32, 64]
    )
    """Batch sizes to choose among."""
    lr: tuple[Rate, Rate] | None = None
    """Lowest and highest learning rate, drawn log-uniformly; None: the recipe's interval for the model's family."""
    storage: str | None = None
    """URL of a database for Optuna; None: a SQLite file in the search's folder."""
    name: str | None = None
    """Name of the study in the storage; None: the model's name."""


class _Overrides(msgspec.Struct):
    """The outer level of the keys, so that messages name keys as users write them."""

    search: SearchConfig


class TrialRow(msgspec.Struct, frozen=True, kw_only=True):
    """A trial that was begun."""

    trial: int
    state: str
    """"complete", "pruned", "failed" or "running"."""
    lr: float | None
    batch: int | None
    value: float | None
    """Best of its validations; None before the first validation."""
    step: int | None
    """Step of that validation."""
    seconds: float | None
    reason: str | None
    """Why it was pruned."""
    run: str | None
    """Folder of its run, on the machine that trained it."""


class SearchReport(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    objective: str
    wanted: int
    """Number of trials that the search shall have."""
    finished: int
    """Number of completed and pruned trials of all workers."""
    running: int
    """Number of trials that other workers run."""
    trials: list[TrialRow]
    best: TrialRow | None
    command: str | None
    """Command that trains the best trial again."""


def search(overrides: Sequence[str], report_line: ReportLine = print) -> SearchReport:
    """Run trials of a search until enough of all workers are finished; return a report. Failed ones do not count.

    Args:
        overrides: `key=value`; keys with `search.` are those of the search, others those of
            `heatline.train.compose.compose`.
        report_line: gets lines for people.
    Raises:
        ConfigError: an override is wrong, or differs from the settings that the study was started with; the storage
            cannot be opened.
        InputError, WeightsError, TrainingError: as for `fit`; the storage does not answer; no trial was completed.
        Interrupted: Ctrl-C or SIGTERM; the same command continues.
    """
    options, training = parse(overrides)
    # The default recipe does not train the whole network, and has no batch size.
    if not any(item.startswith("recipe=") for item in training):
        training = ["recipe=finetune", *training]
    config = compose(training)
    if not any(item.startswith("out=") for item in training):
        config = msgspec.structs.replace(config, out=f"searches/{config.model.name}")
    out = Path(config.out).resolve()
    settings = _shared_settings(config, options)  # checks the recipe, before anything is written
    url = options.storage or f"sqlite:///{out / 'study.db'}"
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # `report_line` reports the trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        with lock_file(out / "search.lock", wait=True):  # Optuna's tables are made once
            study = open_study(url, options.name or config.model.name)
            _check_settings(study, settings)
        with using_storage(TrainingError):
            try:
                with tempfile.TemporaryDirectory(prefix="frames-", dir=out) as cache:
                    if len(study.get_trials(deepcopy=False, states=FINISHED)) < options.trials:
                        after_each = partial(_report_trial, report_line=report_line, out=out)
                        study.optimize(
                            lambda trial: _train_trial(trial, config, options, out, Path(cache), report_line),
                            callbacks=[after_each, MaxTrialsCallback(options.trials, FINISHED)],
                            gc_after_trial=True,
                        )
            except (Interrupted, KeyboardInterrupt) as error:
                raise Interrupted(
                    f"stopped with {len(study.get_trials(deepcopy=False, states=FINISHED))} of "
                    f"{format_count(options.trials, 'trial')} finished; continue with the same command"
                ) from error
            finally:
                _delete_checkpoints(study, out)
            report = _report(study, options, training, out)
    if report.best is None and not report.running:
        reason = next(row.reason for row in reversed(report.trials) if row.state == "pruned")
        raise TrainingError(
            f"none of {format_count(report.finished, 'trial')} was completed ({reason}); search lower rates with "
            "search.lr=[low,high] in another folder"
        )
    return report


def parse(overrides: Sequence[str]) -> tuple[SearchConfig, list[str]]:
    """Return the keys of the search, and the overrides that remain for `heatline.train.compose.compose`."""
    for item in overrides:
        if (key := item.partition("=")[0]) in _CHOSEN:
            raise ConfigError(f"{item} cannot be given to a search: {_CHOSEN[key]}")
    own = [item.removeprefix(PREFIX).partition("=") for item in overrides if item.startswith(PREFIX)]
    values: dict[str, Any] = {}
    try:
        values = {"search": {key: text if key in _TEXTS else msgspec.yaml.decode(text) for key, _, text in own}}
        read = msgspec.convert(values, _Overrides, strict=False)  # YAML reads 1e-4 as a text
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"the command line does not fit a search: {describe_misfit(error, values, _Overrides)}"
        ) from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"the keys of the search are not YAML: {' '.join(str(error).split())}") from error
    return read.search, [item for item in overrides if not item.startswith(PREFIX)]


def open_study(url: str, name: str) -> Study:
    """Open the study of this name in the database at a URL, or create it."""
    # SQLite allows one writer at a time; the others wait for up to so many seconds. Without a pool, each connection is
    # closed after its use.
    engine = {"connect_args": {"timeout": 60}, "poolclass": NullPool} if url.startswith("sqlite") else None
    with using_storage(ConfigError):
        return optuna.create_study(
            storage=RDBStorage(
                url,
                engine,
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=1),
            ),
            study_name=name,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=WARM_UP),
        )


@contextmanager
def using_storage(kind: type[HeatlineError]) -> Iterator[None]:
    """Translate the errors of a storage into one of this kind, without its URL, which may hold a password."""
    try:
        yield
    except (ImportError, SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise kind(
            f"the database of the search, search.storage, cannot be used: {reason}; name or restore one that can be "
            "reached, such as sqlite:////srv/searches.db, then give the same command again"
        ) from error


def _train_trial(
    trial: optuna.Trial, config: TrainConfig, search: SearchConfig, out: Path, cache: Path, report_line: ReportLine
) -> float:
    """Train with the batch size and learning rate that the sampler draws; return the best of the run's validations.

    Args:
        cache: folder for decoded frames of all trials.
    Raises:
        optuna.TrialPruned: the trial is below the median, or its batch size and learning rate cannot be trained.
    """
    # Each trial has its own seed, so that different workers, and a restarted one, do not draw the same values.
    seed = int(np.random.SeedSequence((config.seed, trial.number)).generate_state(1)[0])
    trial.study.sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed, constant_liar=True)
    batch = int(trial.suggest_categorical("batch", sorted(set(search.batches))))
    lr = trial.suggest_float("lr", *_interval(config, search), log=True)
    folder = out / "trials" / f"{trial.number:04d}"
    trial.set_user_attr("run", str(folder))
    report_line(f"trial {trial.number}: lr {lr:.2e}, batch {batch}")
    validations = _ValidationReporter(trial, METRICS[search.objective])
    recipe = msgspec.structs.replace(config.finetune, batch=batch, lr=lr, select=search.objective)
    config = msgspec.structs.replace(config, recipe=recipe, out=str(folder))
    try:  # the data are the same for all trials, so they are reported once
        fit(config, (lambda line: None) if trial.number else report_line, callbacks=[validations], cache=cache)
    except (DivergedError, torch.OutOfMemoryError) as error:  # another learning rate or batch size may work
        # Pruned, not failed, so that it counts and the search ends, and so that TPE avoids its values.
        reason = str(error).splitlines()[0]
        trial.set_user_attr("reason", reason)
        raise optuna.TrialPruned(reason) from error
    return validations.best


class _ValidationReporter(Callback):
    """Reports each validation to the study, and ends a training that the pruner stops."""

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self._trial, self._metric = trial, metric
        self.best = -np.inf

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = float(trainer.callback_metrics[self._metric])
        if value > self.best:
            self.best = value
            self._trial.set_user_attr("step", trainer.global_step)
        self._trial.report(value, round(PER_MILLE * trainer.global_step / trainer.max_steps))
        is_last = trainer.global_step >= trainer.max_steps  # pruning a finished training saves nothing
        if not is_last and self._trial.should_prune():
            self._trial.set_user_attr("reason", f"below the median at step {trainer.global_step}")
            raise optuna.TrialPruned


def _interval(config: TrainConfig, search: SearchConfig) -> tuple[float, float]:
    key, lr = ("search.lr", search.lr) if search.lr else ("recipe.lr_interval", config.finetune.lr_interval)
    if lr[0] >= lr[1]:
        raise ConfigError(f"{key} is {list(lr)}; expected the lower rate first")
    return lr


def _shared_settings(config: TrainConfig, search: SearchConfig) -> dict[str, Any]:
    """Return the settings that must be equal for all workers of a study, by key; paths and devices may differ."""
    searched = (*_CHOSEN, "recipe.lr_interval")
    values = msgspec.to_builtins(config)
    flat = {
        "seed": config.seed,
        "truth": config.truth,
        "classes": config.classes,
        "search.objective": search.objective,
        "search.batches": sorted(set(search.batches)),
        "search.lr": _interval(config, search),
    }
    for part in ("split", "tiles", "model", "recipe"):
        keys = {f"{part}.{name}": value for name, value in values[part].items()}
        flat |= {key: value for key, value in keys.items() if key not in searched}
    return msgspec.json.decode(msgspec.json.encode(flat), type=dict[str, Any])  # as the storage returns it


def _check_settings(study: Study, settings: dict[str, Any]) -> None:
    """Record the settings of a new study, or compare them with those that an existing one was started with."""
    if "settings" not in study.user_attrs:
        study.set_user_attr("settings", settings)
    stored = study.user_attrs["settings"]
    for key in sorted(settings.keys() | stored.keys()):
        if settings.get(key) != stored.get(key):
            raise ConfigError(
                f"{key} is {settings.get(key)} and was {stored.get(key)} when the search {study.study_name!r} was "
                "started; continue with the old value, or start another search with out= and search.name="
            )


def _row(trial: FrozenTrial) -> TrialRow:
    return TrialRow(
        trial=trial.number,
        state={"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower()),
        lr=trial.params.get("lr"),
        batch=trial.params.get("batch"),
        value=max(trial.intermediate_values.values(), default=None),
        step=trial.user_attrs.get("step"),
        seconds=None if trial.duration is None else round(trial.duration.total_seconds(), 1),
        reason=trial.user_attrs.get("reason"),
        run=trial.user_attrs.get("run"),
    )


def _best(study: Study) -> FrozenTrial | None:
    """Return the completed trial with the highest value, the first of equal ones; None if there is none."""
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def _report_trial(study: Study, trial: FrozenTrial, report_line: ReportLine, out: Path) -> None:
    """Report a finished trial, and delete all checkpoints except those of the best."""
    best, row = _best(study), _row(trial)
    value = "no value" if row.value is None else f"best validation {row.value:.4f}"
    so_far = "" if best is None else f"; best so far {best.value:.4f}, trial {best.number}"
    report_line(f"trial {row.trial} {row.state}: {value}{so_far}")
    _delete_checkpoints(study, out)


def _delete_checkpoints(study: Study, out: Path) -> None:
    """Delete the checkpoints of all finished trials except the best."""
    best = _best(study)
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished() and (best is None or trial.number != best.number):
            shutil.rmtree(out / "trials" / f"{trial.number:04d}" / "checkpoints", ignore_errors=True)


def _report(study: Study, search: SearchConfig, training: Sequence[str], out: Path) -> SearchReport:
    trials, found = study.get_trials(deepcopy=False), _best(study)
    best = command = None
    if found is not None:
        best = _row(found)
        overrides = [item for item in training if not item.startswith("out=")]
        overrides += [f"recipe.select={search.objective}", f"recipe.lr={best.lr!r}", f"recipe.batch={best.batch}"]
        command = shlex.join(["heatline", "train", *overrides, f"out={out / 'best'}"])
    return SearchReport(
        name=study.study_name,
        objective=search.objective,
        wanted=search.trials,
        finished=sum(trial.state in FINISHED for trial in trials),
        running=sum(trial.state == TrialState.RUNNING for trial in trials),
        trials=[_row(trial) for trial in trials if trial.state != TrialState.WAITING],
        best=best,
        command=command,
    )
