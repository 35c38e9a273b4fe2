"""From the command line's words to a finished search: Optuna's TPE over batch size and learning rate, driven directly.

A sampler behind Hydra's multirun sees only what a job returns, so it can prune nothing; here each validation is
reported to the study as it happens.
"""

import logging
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from edge.errors import ConfigError, Interrupted, TrainingError
from edge.util.text import format_count
from train.compose import compose, with_recipe
from train.config import TrainConfig
from train.files import write_atomically
from train.run import RunFolder
from train.search.config import SearchConfig, parse
from train.search.objective import Objective, trial_folder
from train.search.report import SearchReport, best_trial, rows_of, write_report
from train.search.storage import hide_password, storage_at_work
from train.search.study import hold_to_settings, open_study, settings_of
from train.search.trials import best_of, run_trials
from train.search.worker import Worker
from train.yaml_text import decode_yaml, encode_yaml

logger = logging.getLogger(__name__)


def search(overrides: Sequence[str], say: Callable[[str], None] = logger.info) -> SearchReport:
    """Take part in a search until its trials are finished or being run by others, and report on it.

    Args:
        overrides: `key=value`; those of `search.` are the search's, all others those of `train.compose.compose`.
        say: takes lines for people.
    Raises:
        ConfigError: what was asked for cannot be, or is not what the study was started with.
        InputError, WeightsError, TrainingError: as `fit`; the storage does not answer; no trial was completed.
        Interrupted: Ctrl-C; the same command goes on.
    """
    asked, training = parse(overrides)
    training = with_recipe(training, "finetune")  # the default trains no whole network, and has no batch to choose
    config = compose(training)
    if not any(item.startswith("out=") for item in training):
        config = msgspec.structs.replace(config, out=f"searches/{config.model.name}")
    _see_to_one_device(config)
    lr = asked.lr or config.finetune.lr_interval
    if lr[0] >= lr[1]:
        raise ConfigError(f"recipe.lr_interval is {list(lr)}; expected the lower rate first")
    out = Path(config.out).resolve()
    name = asked.name or config.model.name
    url = asked.storage or f"sqlite:///{out / 'study.db'}"
    shown = hide_password(url)
    settings = settings_of(config, asked, lr)

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what happens is told here
    held = _Held(shown, name)
    _see_that_it_is_free(out, held)  # before anything is written there
    with Worker(out) as worker, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        with worker.writing():
            _see_that_it_is_free(out, held)  # before another folder's study is opened, or one is created by mistake
            study = open_study(url, name, asked)
            with storage_at_work(url):
                hold_to_settings(study, settings)
            _hold_folder(out, held)
        sitting = _Sitting(study, asked, shown, training, worker, say)
        try:
            with storage_at_work(url):
                run_trials(
                    study,
                    Objective(config, asked, lr, worker, say),
                    asked.trials,
                    worker,
                    is_own_storage=asked.storage is None,
                    after_each=sitting.after_trial,
                )
        except (Interrupted, KeyboardInterrupt) as error:
            with storage_at_work(url):
                report = sitting.report()
            raise Interrupted(
                f"stopped with {report.finished} of {format_count(asked.trials, 'trial')} finished; go on with the "
                "same command"
            ) from error
        with storage_at_work(url):
            report = sitting.report()
        if not report.running:
            worker.clear_caches()
    if report.best is None and not report.running:
        reason = next(row.reason for row in reversed(report.trials) if row.state == "pruned")
        raise TrainingError(
            f"none of {format_count(report.finished, 'trial')} was completed ({reason}); search lower rates, "
            f"search.lr=[low,high], in another folder; {out / 'trials.csv'} lists them"
        )
    return report


class _Sitting:
    """What one worker does beside training."""

    def __init__(
        self,
        study: optuna.Study,
        asked: SearchConfig,
        storage: str,
        training: Sequence[str],
        worker: Worker,
        say: Callable[[str], None],
    ) -> None:
        self._study, self._asked, self._storage, self._training = study, asked, storage, training
        self._worker, self._say = worker, say

    def after_trial(self) -> None:
        """Tell how it went, and keep only the checkpoints of the best."""
        trials = self._study.get_trials(deepcopy=False)
        best = best_of(trials)
        for row in rows_of([trial for trial in trials if trial.number == self._worker.claimed]):
            value = "no value" if row.value is None else f"{self._asked.objective} {row.value:.4f}"
            so_far = "" if best is None else f"; best so far {best.value:.4f}, trial {best.number}"
            self._say(f"trial {row.trial} {row.state}: {value}{so_far}")
        self._keep_best(trials)

    def report(self) -> SearchReport:
        """Of all workers; written into the folder, too."""
        with self._worker.writing():
            trials, out = self._study.get_trials(deepcopy=False), self._worker.folder
            self._keep_best(trials)
            states = [trial.state for trial in trials]
            report = SearchReport(
                name=self._study.study_name,
                storage=self._storage,
                objective=self._asked.objective,
                wanted=self._asked.trials,
                finished=states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED),
                running=states.count(TrialState.RUNNING),
                trials=rows_of(trials),
                best=best_trial(trials, self._asked.objective, self._training, out),
                files=[],
            )
            return msgspec.structs.replace(report, files=[str(file) for file in write_report(report, self._study, out)])

    def _keep_best(self, trials: Sequence[FrozenTrial]) -> None:
        """Delete the checkpoints of all trials that are done, but the best's."""
        best = best_of(trials)
        for trial in trials:
            if trial.state.is_finished() and trial is not best:
                shutil.rmtree(trial_folder(self._worker.folder, trial.number) / "checkpoints", ignore_errors=True)


def _see_to_one_device(config: TrainConfig) -> None:
    devices = config.trainer.devices
    if devices not in (1, "1") and not (isinstance(devices, list) and len(devices) == 1):
        raise ConfigError(
            f"trainer.devices is {devices}; a search trains each trial on one device: start a worker for each, with "
            "trainer.devices=[0], trainer.devices=[1], ... and the same out="
        )


class _Held(msgspec.Struct, frozen=True):
    """`search.yaml`: which study a folder is of."""

    storage: str
    name: str


def _held_file(out: Path) -> Path:
    return out / "search.yaml"


def _see_that_it_is_free(out: Path, asked: _Held) -> None:
    """A new folder is, and one of the same study.

    Raises:
        ConfigError: it is another study's, or something else.
    """
    file = _held_file(out)
    if not file.exists():
        if RunFolder(out).config.exists():
            raise ConfigError(f"{out} holds a run of `heatline train`; choose another folder with out=")
        return
    try:
        was = decode_yaml(file.read_bytes(), _Held)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); choose another folder with out=") from error
    if was != asked:
        raise ConfigError(
            f"{out} holds the search {was.name!r} in {was.storage}, not {asked.name!r} in {asked.storage}; go on with "
            "that one, or choose another folder with out="
        )


def _hold_folder(out: Path, asked: _Held) -> None:
    """Note in a new folder which study it is of.

    Raises:
        TrainingError: it cannot be written.
    """
    file = _held_file(out)
    if not file.exists():
        write_atomically(file, lambda path: path.write_bytes(encode_yaml(asked)))
