"""Run a search from its overrides to its report: Optuna's TPE over batch size and learning rate.

Optuna is called directly and not through Hydra's multirun, whose sampler sees only the final value of a job and cannot
prune. Here each validation is reported to the study at once.
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

from heatline.edge.errors import ConfigError, Interrupted, TrainingError
from heatline.edge.util.text import format_count
from heatline.train.compose import compose, with_recipe
from heatline.train.config import TrainConfig
from heatline.train.files import write_atomically
from heatline.train.run import RunFolder
from heatline.train.search.config import SearchConfig, parse
from heatline.train.search.objective import Objective, trial_folder
from heatline.train.search.report import SearchReport, best_trial, trial_rows, write_report
from heatline.train.search.storage import hide_password, using_storage
from heatline.train.search.study import check_settings, open_study, shared_settings
from heatline.train.search.trials import best_of, run_trials
from heatline.train.search.worker import Worker
from heatline.train.yaml_text import decode_yaml, encode_yaml

logger = logging.getLogger(__name__)


def search(overrides: Sequence[str], report_line: Callable[[str], None] = logger.info) -> SearchReport:
    """Run trials of a search until all are finished or run by other workers; return a report.

    Args:
        overrides: `key=value`; keys with `search.` are those of the search, others those of
            `heatline.train.compose.compose`.
        report_line: gets lines for people.
    Raises:
        ConfigError: an override is wrong, or differs from the settings that the study was started with.
        InputError, WeightsError, TrainingError: as for `fit`; the storage does not answer; no trial was completed.
        Interrupted: Ctrl-C or SIGTERM; the same command continues.
    """
    options, training = parse(overrides)
    # The default recipe does not train the whole network, and has no batch size.
    training = with_recipe(training, "finetune")
    config = compose(training)
    if not any(item.startswith("out=") for item in training):
        config = msgspec.structs.replace(config, out=f"searches/{config.model.name}")
    _check_one_device(config)
    lr = options.lr or config.finetune.lr_interval
    if lr[0] >= lr[1]:
        raise ConfigError(f"recipe.lr_interval is {list(lr)}; expected the lower rate first")
    out = Path(config.out).resolve()
    name = options.name or config.model.name
    url = options.storage or f"sqlite:///{out / 'study.db'}"
    printed_url = hide_password(url)
    settings = shared_settings(config, options, lr)

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # `report_line` reports the trials
    reference = _StudyReference(printed_url, name)
    _check_folder(out, reference)  # before anything is written there
    with Worker(out) as worker, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        with worker.write_lock():
            _check_folder(out, reference)  # again, as another worker may have written it meanwhile
            study = open_study(url, name, options)
            with using_storage(url):
                check_settings(study, settings)
            _write_reference(out, reference)
        reporter = _Reporter(study, options, printed_url, training, worker, report_line)
        try:
            with using_storage(url):
                run_trials(
                    study,
                    Objective(config, options, lr, worker, report_line),
                    options.trials,
                    worker,
                    is_own_storage=options.storage is None,
                    after_each=reporter.after_trial,
                )
        except (Interrupted, KeyboardInterrupt) as error:
            with using_storage(url):
                report = reporter.report()
            raise Interrupted(
                f"stopped with {report.finished} of {format_count(options.trials, 'trial')} finished; continue with "
                "the same command"
            ) from error
        with using_storage(url):
            report = reporter.report()
        if not report.running:
            worker.clear_caches()
    if report.best is None and not report.running:
        reason = next(row.reason for row in reversed(report.trials) if row.state == "pruned")
        raise TrainingError(
            f"none of {format_count(report.finished, 'trial')} was completed ({reason}); search lower rates "
            f"with search.lr=[low,high] in another folder; {out / 'trials.csv'} lists the trials"
        )
    return report


class _Reporter:
    """Reports the trials of a worker, and deletes checkpoints that are not the best."""

    def __init__(
        self,
        study: optuna.Study,
        options: SearchConfig,
        storage: str,
        training: Sequence[str],
        worker: Worker,
        report_line: Callable[[str], None],
    ) -> None:
        self._study, self._options, self._storage, self._training = study, options, storage, training
        self._worker, self._report_line = worker, report_line

    def after_trial(self) -> None:
        """Report the last trial, and delete all checkpoints except those of the best trial."""
        trials = self._study.get_trials(deepcopy=False)
        best = best_of(trials)
        for row in trial_rows([trial for trial in trials if trial.number == self._worker.claimed]):
            value = "no value" if row.value is None else f"{self._options.objective} {row.value:.4f}"
            so_far = "" if best is None else f"; best so far {best.value:.4f}, trial {best.number}"
            self._report_line(f"trial {row.trial} {row.state}: {value}{so_far}")
        self._delete_checkpoints(trials)

    def report(self) -> SearchReport:
        """Return the report on the trials of all workers, and write its files."""
        with self._worker.write_lock():
            trials, out = self._study.get_trials(deepcopy=False), self._worker.folder
            self._delete_checkpoints(trials)
            states = [trial.state for trial in trials]
            report = SearchReport(
                name=self._study.study_name,
                storage=self._storage,
                objective=self._options.objective,
                wanted=self._options.trials,
                finished=states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED),
                running=states.count(TrialState.RUNNING),
                trials=trial_rows(trials),
                best=best_trial(trials, self._options.objective, self._training, out),
                files=[],
            )
            return msgspec.structs.replace(report, files=[str(file) for file in write_report(report, self._study, out)])

    def _delete_checkpoints(self, trials: Sequence[FrozenTrial]) -> None:
        """Delete the checkpoints of all finished trials except the best."""
        best = best_of(trials)
        for trial in trials:
            if trial.state.is_finished() and trial is not best:
                shutil.rmtree(trial_folder(self._worker.folder, trial.number) / "checkpoints", ignore_errors=True)


def _check_one_device(config: TrainConfig) -> None:
    devices = config.trainer.devices
    if devices not in (1, "1") and not (isinstance(devices, list) and len(devices) == 1):
        raise ConfigError(
            f"trainer.devices is {devices}; a search trains each trial on one device: start a worker per device, with "
            "trainer.devices=[0], trainer.devices=[1], ... and the same out="
        )


class _StudyReference(msgspec.Struct, frozen=True):
    """Content of `search.yaml`: the study that a folder belongs to."""

    storage: str
    name: str


def _reference_file(out: Path) -> Path:
    return out / "search.yaml"


def _check_folder(out: Path, reference: _StudyReference) -> None:
    """Check that a folder is new or belongs to the same study.

    Raises:
        ConfigError: it belongs to another study, or holds something else.
    """
    file = _reference_file(out)
    if not file.exists():
        if RunFolder(out).config.exists():
            raise ConfigError(f"{out} holds a run of `heatline train`; choose another folder with out=")
        return
    try:
        stored = decode_yaml(file.read_bytes(), _StudyReference)
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); choose another folder with out=") from error
    if stored != reference:
        raise ConfigError(
            f"{out} holds the search {stored.name!r} in {stored.storage}, not {reference.name!r} in "
            f"{reference.storage}; continue that search, or choose another folder with out="
        )


def _write_reference(out: Path, reference: _StudyReference) -> None:
    """Record in a new folder which study it belongs to.

    Raises:
        TrainingError: the file cannot be written.
    """
    file = _reference_file(out)
    if not file.exists():
        write_atomically(file, lambda path: path.write_bytes(encode_yaml(reference)))
