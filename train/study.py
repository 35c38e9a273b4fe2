"""The study: every model of a plan on every fold of its data sets, trained, evaluated and reported; it continues."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from itertools import zip_longest
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heatline.edge.errors import ConfigError, HeatlineError, InputError, Interrupted, WeightsError
from heatline.edge.util.text import encode_json
from heatline.train.compose import compose, read_config
from heatline.train.config import TrainConfig
from heatline.train.evaluation.result import FILE, SCHEMA, read_evaluation
from heatline.train.files import is_locked, lock_file, make_folder, write_atomically
from heatline.train.fit import fit
from heatline.train.progress import tracked
from heatline.train.run import RunFolder
from heatline.train.whole_network import read_metrics

DEFAULT_PLAN = Path(__file__).parent / "configs" / "study.yaml"
AUTO = "auto"
WHOLE_NETWORK = ("finetune", "study")
"""Recipes that train the whole network: they have a batch size and validate during the training."""
SPLIT = "split"
"""Name of the only fold of a data set that is split by fractions."""
RESERVED = ("locks", "report")
"""Folders of the study that are not data sets."""

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""A name that can be a folder on any file system."""
Positive = Annotated[int, Meta(ge=1)]


class _PlanStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Budget(_PlanStruct, frozen=True, kw_only=True):
    """Budget of every training."""

    steps: Positive
    batch: Annotated[int, Meta(ge=2)]
    """Tiles per step."""
    validate_every: Positive
    """Steps between validations."""


class StudyModel(_PlanStruct, frozen=True, kw_only=True):
    """A model, by its name in `heatline train`."""

    name: Name
    weights: str = AUTO
    """A value of `model.weights`, or "auto": ImageNet weights if they can be downloaded, else a random start."""


class StudyData(_PlanStruct, frozen=True, kw_only=True):
    """A data set, and its split."""

    name: Name
    folder: str
    """Folder below the folder of all data sets."""
    truth: Literal["masks", "derived_masks", "polygons", "coco", "yolo", "boxes", "labels"] | None = None
    """Truth of the training; None: the first that the folder has."""
    group: str | None = None
    """Column of `labels.csv` that names groups; None: "group"."""
    pattern: str | None = None
    """Instead, a regular expression on file names; its first parenthesis is the group."""
    leave_one_out: Annotated[list[Name], Meta(min_length=3)] | None = None
    """Groups that are tested one at a time, in this order; None: one split by fractions."""

    def __post_init__(self) -> None:
        if self.name in RESERVED:
            raise ValueError(f"a data set cannot be called {self.name}, as the study has a folder of that name")
        if self.group is not None and self.pattern is not None:
            raise ValueError(f"{self.name} has group and pattern; expected one of them")
        _check_unique(f"leave_one_out of {self.name}", self.leave_one_out or [])

    def folds(self) -> list[str]:
        """Return the names of the folds, in the order of work."""
        return self.leave_one_out or [SPLIT]

    def settings(self, fold: str) -> dict[str, Any]:
        """Return the keys of `heatline train` that split the data for a fold.

        The group after the tested one in sorted order, and the first after the last, chooses the best checkpoint. All
        other groups train.
        """
        keys = {"truth": self.truth, "split.group": self.group, "split.pattern": self.pattern}
        chosen = {key: value for key, value in keys.items() if value is not None}
        if self.leave_one_out is None:
            return chosen
        order = sorted(self.leave_one_out)
        validating = order[(order.index(fold) + 1) % len(order)]
        return chosen | {"split.val": [validating], "split.test": [fold]}


class Plan(_PlanStruct, frozen=True, kw_only=True):
    """Plan of a study."""

    budget: Budget
    recipe: str = "finetune"
    seed: Annotated[int, Meta(ge=0)] = 0
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Shares of the groups for train, val and test, for data sets without `leave_one_out`."""
    models: Annotated[list[StudyModel], Meta(min_length=1)]
    data: Annotated[list[StudyData], Meta(min_length=1)]
    settings: dict[str, Any] = {}
    """Further keys of `heatline train` for all runs, such as `trainer.precision`."""

    def __post_init__(self) -> None:
        _check_unique("models", [model.name for model in self.models])
        _check_unique("data", [data.name for data in self.data])
        if self.recipe not in WHOLE_NETWORK:
            raise ValueError(f"recipe is {self.recipe}, and a study trains whole networks; choose finetune or study")
        own = {"data", "out", "resume", "model.weights", "recipe.epochs", *self._own_settings(self.models[0])}
        own |= {"truth", "split.group", "split.pattern", "split.val", "split.test"}
        if fixed := sorted(own & self.settings.keys()):
            raise ValueError(f"settings has {fixed[0]}, which the study sets itself; leave it out")

    def runs(self) -> list["Run"]:
        """Return all runs in the order of work: every model on the first fold of every data set, then further folds."""
        rounds = zip_longest(*([(data, fold) for fold in data.folds()] for data in self.data))
        return [
            Run(data, fold, model, self._own_settings(model) | data.settings(fold) | self.settings)
            for each in rounds
            for data, fold in filter(None, each)
            for model in self.models
        ]

    def _own_settings(self, model: StudyModel) -> dict[str, Any]:
        return {
            "model": model.name,
            "recipe": self.recipe,
            "seed": self.seed,
            "split.fractions": list(self.fractions),
            "recipe.steps": self.budget.steps,
            "recipe.batch": self.budget.batch,
            "recipe.validate_every": self.budget.validate_every,
        }


@dataclass(frozen=True)
class Run:
    """One training of the study, and its evaluation."""

    data: StudyData
    fold: str
    model: StudyModel
    settings: dict[str, Any]
    """Keys of `heatline train` that the plan sets, with their values."""

    @property
    def name(self) -> str:
        """Its folder below the folder of the study."""
        return f"{self.data.name}/{self.fold}/{self.model.name}"

    @property
    def steps(self) -> int:
        """Number of steps of its training."""
        return int(self.settings["recipe.steps"])

    def overrides(self, data: Path, out: Path, weights: str) -> list[str]:
        """Return the overrides for `heatline.train.compose.compose` that start the training.

        Args:
            data: folder of all data sets.
            out: folder of the study.
            weights: value of `model.weights`.
        """
        keys = {"data": str(data / self.data.folder), "out": str(out / self.name), "model.weights": weights}
        return [f"{key}={_format_override(value)}" for key, value in (keys | self.settings).items()]

    def describe_difference(self, config: TrainConfig) -> str | None:
        """Describe the first setting of the plan that a training did not have; None if it had all.

        Keys of `trainer` and `logger` may differ.
        """
        values = msgspec.to_builtins(config)
        planned = {key: value for key, value in self.settings.items() if key.split(".")[0] not in ("trainer", "logger")}
        if self.model.weights != AUTO:
            planned["model.weights"] = self.model.weights
        for key, wanted in planned.items():
            trained = values
            for part in key.split("."):
                trained = trained[part] if isinstance(trained, dict) and part in trained else None
            if key in ("model", "recipe") and isinstance(trained, dict):
                trained = trained["name"]
            if _comparable(trained) != _comparable(wanted):
                return f"{key} is {wanted} in the plan and was {trained} in the training"
        return None


def read_plan(file: Path) -> Plan:
    """Read the plan in a YAML file.

    Raises:
        ConfigError: the file cannot be read, or is not a plan.
    """
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=Plan)
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be read ({error.strerror}); name the plan of a study with --plan FILE"
        ) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file} is not a plan of a study: {reason}; docs/study.md describes its keys") from error


def _check_unique(where: str, names: Sequence[str]) -> None:
    """Raise a `ValueError` if a name occurs twice."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{where} has {repeated[0]} twice; each needs a unique name")


def _format_override(value: Any) -> str:
    """Format a value for `heatline.train.compose.compose`, which quotes texts."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_format_override, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def _comparable(value: Any) -> Any:
    """Return a value for comparison; groups on a command line may have been read as numbers."""
    return [str(item) for item in value] if isinstance(value, list | tuple) else value


# Train, evaluate and report the runs of a plan; an interrupted study continues.
#
# Progress is read from the folders of the runs, so a kill loses only the steps since the last checkpoint. Several
# processes may work in one folder; a lock gives each run to one process at a time.

logger = logging.getLogger(__name__)

Evaluate = Callable[[Path, Path, Path], object]
"""Takes a run's folder, its folder of pictures, and the folder for `evaluation.json`."""
WriteReport = Callable[[Sequence[Path], Path, str], object]
"""Takes the folders of evaluations, the folder of the report, and its title."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of one run."""

    run: str
    """Its folder below the folder of the study: data/fold/model."""
    model: str
    state: Literal["to do", "half done", "done", "evaluated", "unlike the plan"]
    """"done": trained, and not evaluated since."""
    steps: int = 0
    """Steps trained so far; after a kill, those up to the last validation."""
    of_steps: int
    """Steps of the whole training."""
    seconds: float | None = None
    """Duration of the training, once it is done."""
    weights: str | None = None
    """Source of the initial weights, once the training has begun."""
    at_work: bool = False
    """Whether a process works on it."""
    why: str | None = None
    """What differs from the plan."""


class StudyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """State of the selected runs."""

    out: str
    runs: list[Progress]
    missing: list[str]
    """Data sets of the plan that do not exist; their runs are not counted."""
    remaining: str
    """What is left to do, as the command prints it."""
    failed: dict[str, str] = {}
    """Runs that failed in this call, with the reason."""
    report: str | None = None
    """Folder of the report, if it was written."""


def evaluate_test_part(run: Path, data: Path, folder: Path) -> None:
    """Evaluate a run on its test groups by all truths; errors as for `evaluate_model`."""
    from heatline.train.evaluation.evaluate import EvaluationOptions, evaluate_model

    evaluate_model(run, EvaluationOptions(data=data, part="test"), folder, tracked("evaluating"))


def write_study_report(folders: Sequence[Path], out: Path, title: str) -> None:
    """Write the report of a study; errors as for `write_report`."""
    from heatline.train.evaluation.report import write_report

    write_report(folders, out, title, study=True)


class Study:
    """Runs of a plan in a folder.

    Args:
        data: folder of all data sets.
        out: folder of the study.
        only: shell patterns of `data/fold/model`; empty: all runs.
    Raises:
        InputError: `data` does not exist, or has none of the data sets.
        ConfigError: no run matches `only`.
    """

    def __init__(self, plan: Plan, data: Path, out: Path, only: Sequence[str] = ()) -> None:
        if not data.is_dir():
            raise InputError(f"{data} is not a folder; name the folder of the data sets, or set HEATLINE_DATA")
        self._all, self._data, self._out = plan.runs(), data.resolve(), out.resolve()
        selected = [run for run in self._all if not only or any(fnmatch(run.name, pattern) for pattern in only)]
        if not selected:
            example = self._all[0].name
            raise ConfigError(f"no run of the plan matches --only {' '.join(only)}; runs have names such as {example}")
        wanted = {run.data.name: data / run.data.folder for run in selected}
        self.missing = [name for name, folder in wanted.items() if not folder.is_dir()]
        self.runs = [run for run in selected if run.data.name not in self.missing]
        if not self.runs:
            folders = ", ".join(folder.name for folder in wanted.values())
            raise InputError(f"{data} has none of the plan's data sets ({folders}); name the folder of the data sets")

    def status(self) -> StudyStatus:
        """Return the state of the selected runs."""
        progress = {run.name: read_progress(run, self._out) for run in self._all}
        runs = [progress[run.name] for run in self.runs]
        remaining = describe_remaining(runs, progress.values())
        return StudyStatus(out=str(self._out), runs=runs, missing=self.missing, remaining=remaining)

    def work(
        self,
        results: Path | None = None,
        report_line: Callable[[str], None] = logger.info,
        evaluate: Evaluate = evaluate_test_part,
        report: WriteReport = write_study_report,
    ) -> StudyStatus:
        """Train and evaluate the runs that are not done, and report on all that are; return the new state.

        If a run fails, the failure is reported and the others continue. A run that another process works on is left to
        it. `work` returns when only runs of other processes are left.

        Args:
            results: folder for copies of the figures.
            report_line: gets lines for people.
        Raises:
            TrainingError: the folder cannot be written.
            Interrupted: Ctrl-C or SIGTERM; the same command continues.
        """
        failed: dict[str, str] = {}
        try:
            waiting = self.runs
            while waiting:
                locked = [run for run in waiting if not self._advance(run, report_line, evaluate, failed)]
                if len(locked) == len(waiting):
                    break
                waiting = locked
            folder = self._report(results, report)
        except (Interrupted, KeyboardInterrupt) as error:
            runs = self.status().runs
            done = sum(run.state == "evaluated" for run in runs)
            raise Interrupted(
                f"stopped with {done} of {len(runs)} runs evaluated; continue with the same command"
            ) from error
        return msgspec.structs.replace(self.status(), failed=failed, report=folder and str(folder))

    def _advance(
        self, run: Run, report_line: Callable[[str], None], evaluate: Evaluate, failed: dict[str, str]
    ) -> bool:
        """Train and evaluate a run as far as it needs; false if another process works on it."""
        from torch import OutOfMemoryError

        with lock_file(lock_path(run, self._out)) as ours:
            if not ours:
                return False
            before, out = read_progress(run, self._out), self._out / run.name
            try:
                if before.state == "unlike the plan":
                    raise ConfigError(f"{before.why}; delete {out}, or choose another --out")
                if before.state in ("to do", "half done"):
                    report_line(f"{run.name}: {'continuing' if before.state == 'half done' else 'training'}")
                    self._train(run, before, report_line)
                if before.state != "evaluated":
                    report_line(f"{run.name}: evaluating")
                    shutil.rmtree(out / "evaluation", ignore_errors=True)  # else old pictures would remain
                    evaluate(out, self._data / run.data.folder, make_folder(out / "evaluation", "--out"))
            except Interrupted:
                raise
            except (HeatlineError, OutOfMemoryError) as error:
                failed[run.name] = str(error).splitlines()[0]
                report_line(f"{run.name}: failed: {failed[run.name]}")
        return True

    def _train(self, run: Run, before: Progress, report_line: Callable[[str], None]) -> None:
        if before.state == "half done":
            data, out = self._data / run.data.folder, self._out / run.name
            fit(compose([f"data={data}", f"out={out}", "resume=true"]), report_line)
            return
        weights = run.model.weights if run.model.weights != AUTO else self._shared_weights(run)
        try:
            fit(compose(run.overrides(self._data, self._out, weights or "imagenet")), report_line)
        except WeightsError as error:  # raised before anything is written
            if weights is not None:
                raise
            report_line(f"{run.name}: RANDOM START, as will be all runs of {run.model.name}: {error}")
            fit(compose(run.overrides(self._data, self._out, "none")), report_line)

    def _shared_weights(self, run: Run) -> str | None:
        """Return the initial weights of the model's other runs, so that all start alike; None if there are none."""
        others = (read_progress(other, self._out) for other in self._all if other.model == run.model)
        source = next((other.weights for other in others if other.weights is not None), None)
        return None if source is None else "none" if source == "random" else "imagenet"

    def _report(self, results: Path | None, report: WriteReport) -> Path | None:
        """Report on all evaluated runs of the plan, including those that are not selected."""
        folder = self._out / "report"
        with lock_file(self._out / "locks" / "report.lock", wait=True):
            done = [run.name for run in self._all if read_progress(run, self._out).state == "evaluated"]
            if not done:
                return None
            evaluations = {name: self._out / name / "evaluation" for name in done}
            report(list(evaluations.values()), folder, f"heatline study: {len(done)} of {len(self._all)} planned runs")
            if results is not None:
                _copy_figures(evaluations, folder / "tables.md", results)
        return folder


def _copy_figures(evaluations: dict[str, Path], tables: Path, results: Path) -> None:
    """Copy figures, without pictures and without paths of this machine, into a folder that can be published.

    Args:
        evaluations: folder of each evaluation, by the run's name.
        results: gets a file `<name>.json` per run, and the report's tables.
    Raises:
        InputError: an evaluation cannot be read.
        TrainingError: the folder cannot be written.
    """
    contents = {results / tables.name: tables.read_bytes()}
    for name, folder in evaluations.items():
        evaluation = read_evaluation(folder)
        plain = msgspec.structs.replace(
            evaluation,
            subject=msgspec.structs.replace(evaluation.subject, path=name),
            gallery=[],
        )
        contents[results / f"{name}.json"] = msgspec.json.format(encode_json(plain)) + b"\n"
    for file, content in contents.items():
        make_folder(file.parent, "--results")
        write_atomically(file, partial(Path.write_bytes, data=content))


# Progress, read from the folders of the runs.


def lock_path(run: Run, out: Path) -> Path:
    """Return the lock file of the process that works on a run."""
    return out / "locks" / f"{run.name}.lock"


def read_progress(run: Run, out: Path) -> Progress:
    """Read the progress of a run. Another run in its folder is `unlike the plan`."""
    folder = RunFolder(out / run.name)
    at_work = is_locked(lock_path(run, out))
    progress = Progress(run=run.name, model=run.model.name, state="to do", of_steps=run.steps, at_work=at_work)
    if not folder.config.exists():
        return progress
    try:
        why = run.describe_difference(read_config(folder.config))
        summary = folder.read_summary() if folder.summary.exists() else None
    except HeatlineError as error:
        why, summary = str(error), None
    if summary is not None:
        progress = msgspec.structs.replace(progress, weights=summary.weights.source)
    if why is not None:
        return msgspec.structs.replace(progress, state="unlike the plan", why=why)
    if summary is None or not summary.finished:
        # After a kill, the steps are those of the last row of the metrics.
        validated = [int(row["step"]) for row in read_metrics(folder.metrics)] if folder.last.exists() else []
        stored = [summary.steps] if summary is not None and folder.last.exists() else [0]
        return msgspec.structs.replace(progress, state="half done", steps=max([*stored, *validated]))
    state = "evaluated" if _is_evaluated(out / run.name / "evaluation" / FILE, folder.summary) else "done"
    return msgspec.structs.replace(progress, state=state, steps=summary.steps, seconds=summary.seconds)


class _Schema(msgspec.Struct):
    schema: int = 0


def _is_evaluated(evaluation: Path, summary: Path) -> bool:
    """Whether the evaluation is newer than the run, and has the schema of this version."""
    try:
        is_newer = evaluation.stat().st_mtime_ns >= summary.stat().st_mtime_ns
        return is_newer and msgspec.json.decode(evaluation.read_bytes(), type=_Schema).schema == SCHEMA
    except (OSError, msgspec.MsgspecError):
        return False


def describe_remaining(runs: Sequence[Progress], every: Iterable[Progress]) -> str:
    """Describe the remaining work of some runs.

    The time is estimated by the mean of the trained runs of each model, or of all.

    Args:
        every: all runs of the study.
    """
    times: dict[str, list[float]] = {}
    for run in every:
        if run.seconds is not None and run.state in ("done", "evaluated"):
            times.setdefault(run.model, []).append(run.seconds)
    of_all = [seconds for each in times.values() for seconds in each]
    to_train = [run for run in runs if run.state in ("to do", "half done")]
    left = [mean(times.get(run.model, of_all)) * (1 - run.steps / run.of_steps) for run in to_train if of_all]
    known = f"about {format_duration(sum(left))}" if left else "time not known"
    counts = {
        f"to train ({known})": len(to_train),
        "to evaluate": len(to_train) + sum(run.state == "done" for run in runs),
        "unlike the plan": sum(run.state == "unlike the plan" for run in runs),
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing"


def format_duration(seconds: float) -> str:
    """Format a duration, rounded to minutes, as `2 h 05 min`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
