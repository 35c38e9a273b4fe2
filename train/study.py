"""The study: every model of a plan on every fold of its data sets, trained, evaluated and reported; it continues.

Progress is read from the folders of the runs, so a kill loses only the steps since the last checkpoint. Several
processes may work in one folder; a lock gives each run to one process at a time.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from heatline.edge.errors import ConfigError, HeatlineError, InputError, Interrupted
from heatline.train.compose import compose
from heatline.train.config import TrainConfig
from heatline.train.evaluation.evaluate import evaluate_model
from heatline.train.evaluation.report import write_report
from heatline.train.evaluation.result import FILE, has_evaluation, read_evaluation, write_evaluation
from heatline.train.files import lock_file, make_folder, write_atomically
from heatline.train.fit import fit
from heatline.train.progress import tracked
from heatline.train.run import RunFolder
from heatline.train.whole_network import read_metrics

DEFAULT_PLAN = Path(__file__).parent / "configs" / "study.yaml"
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""A name that can be a folder on any file system."""


class StudyModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Name
    """Value of `model` in `heatline train`."""
    settings: dict[str, Any] = {}
    """Further keys of its trainings, such as `model.weights`."""


class StudyData(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Name
    folder: str
    """Folder below the folder of all data sets."""
    settings: dict[str, Any] = {}
    """Keys of its trainings: `truth`, `split.group` and so on."""
    leave_one_out: Annotated[list[Name], Meta(min_length=3)] | None = None
    """Groups that are tested one at a time, in this order; None: one split by fractions."""

    def split(self, fold: str) -> dict[str, Any]:
        """Return the keys that split the data for a fold.

        The group after the tested one in sorted order, and the first after the last, chooses the best checkpoint. All
        other groups train.
        """
        if self.leave_one_out is None:
            return {}
        order = sorted(self.leave_one_out)
        return {"split.val": [order[(order.index(fold) + 1) % len(order)]], "split.test": [fold]}


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    settings: dict[str, Any]
    """Keys of `heatline train` for all runs, such as `recipe.steps`."""
    models: Annotated[list[StudyModel], Meta(min_length=1)]
    data: Annotated[list[StudyData], Meta(min_length=1)]

    def runs(self) -> list["Run"]:
        """Return all runs in the order of work: every model on the first fold of every data set, then further folds.

        The only fold of a data set that is split by fractions has the name `split`.
        """
        folds = [[(data, fold) for fold in data.leave_one_out or ["split"]] for data in self.data]
        common = {"recipe": "finetune"} | self.settings
        return [
            Run(
                data,
                f"{data.name}/{fold}/{model.name}",
                common | data.settings | data.split(fold) | {"model": model.name} | model.settings,
            )
            for each in zip_longest(*folds)
            for data, fold in filter(None, each)
            for model in self.models
        ]


@dataclass(frozen=True)
class Run:
    """One training of the study, and its evaluation."""

    data: StudyData
    name: str
    """Its folder below the folder of the study: data/fold/model."""
    settings: dict[str, Any]
    """Keys of `heatline train` that the plan sets, with their values."""

    def overrides(self, data: Path, out: Path) -> list[str]:
        """Return the overrides of its training, of the folders of all data sets and of the study."""
        keys = {"data": str(data / self.data.folder), "out": str(out / self.name), **self.settings}
        return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in keys.items()]


def read_plan(file: Path) -> Plan:
    """Read the plan in a YAML file."""
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=Plan)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} is not a plan: {' '.join(str(error).split())}; docs/study.md describes its keys"
        ) from error


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    run: str
    """Its folder below the folder of the study: data/fold/model."""
    state: Literal["to do", "half done", "done", "evaluated", "unlike the plan"]
    """"done": trained, and not evaluated since."""
    steps: int = 0
    """Steps trained so far; after a kill, those up to the last validation."""
    seconds: float | None = None
    """Duration of the training, once it is done."""
    weights: str | None = None
    """Source of the initial weights, once the training has begun."""
    why: str | None = None
    """What differs from the plan."""


class StudyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """State of the selected runs."""

    out: str
    runs: list[Progress]
    missing: list[str]
    """Data sets of the plan that do not exist; their runs are not counted."""
    failed: dict[str, str] = {}
    """Runs that failed in this call, with the reason."""
    report: str | None = None
    """Folder of the report, if it was written."""


class Study:
    """Runs of a plan in a folder.

    Args:
        data: folder of all data sets.
        out: folder of the study.
        only: shell patterns of `data/fold/model`; empty: all runs.
    """

    def __init__(self, plan: Plan, data: Path, out: Path, only: Sequence[str] = ()) -> None:
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
        return StudyStatus(out=str(self._out), runs=[*map(self._progress, self.runs)], missing=self.missing)

    def work(self, results: Path | None, report_line: Callable[[str], None]) -> StudyStatus:
        """Train and evaluate the runs that are not done, and report on all that are; return the new state.

        If a run fails, the failure is reported and the others continue. A run that another process works on is left to
        it.

        Args:
            results: folder for copies of the figures.
            report_line: gets lines for people.
        Raises:
            TrainingError: the folder cannot be written.
            Interrupted: Ctrl-C or SIGTERM; the same command continues.
        """
        failed: dict[str, str] = {}
        try:
            for run in self.runs:
                with lock_file(self._out / "locks" / f"{run.name}.lock") as ours:
                    if ours:
                        self._advance(run, report_line, failed)
            folder = self._report(results)
        except (Interrupted, KeyboardInterrupt) as error:
            runs = self.status().runs
            done = sum(run.state == "evaluated" for run in runs)
            raise Interrupted(
                f"stopped with {done} of {len(runs)} runs evaluated; continue with the same command"
            ) from error
        return msgspec.structs.replace(self.status(), failed=failed, report=folder and str(folder))

    def _advance(self, run: Run, report_line: Callable[[str], None], failed: dict[str, str]) -> None:
        """Train and evaluate a run as far as it needs."""
        from torch import OutOfMemoryError

        before, out = self._progress(run), self._out / run.name
        try:
            if before.state == "unlike the plan":
                raise ConfigError(f"{before.why}; delete {out}, or choose another --out")
            if before.state in ("to do", "half done"):
                report_line(f"{run.name}: {'continuing' if before.state == 'half done' else 'training'}")
                fit(self._configure(run), report_line)
            if before.state != "evaluated":
                report_line(f"{run.name}: evaluating")
                shutil.rmtree(out / "evaluation", ignore_errors=True)  # else old pictures would remain
                folder, track = make_folder(out / "evaluation", "--out"), tracked("evaluating")
                evaluate_model(out, self._data / run.data.folder, part="test", folder=folder, track=track)
        except Interrupted:
            raise
        except (HeatlineError, OutOfMemoryError) as error:
            failed[run.name] = str(error).splitlines()[0]
            report_line(f"{run.name}: failed: {failed[run.name]}")

    def _configure(self, run: Run) -> TrainConfig:
        """Return the configuration of a run; if it has begun, to resume it with the same keys, else a `ConfigError`."""
        resume = ["resume=true"] if RunFolder(self._out / run.name).config.exists() else []
        return compose([*run.overrides(self._data, self._out), *resume])

    def _progress(self, run: Run) -> Progress:
        """Read the progress of a run from its folder."""
        folder = RunFolder(self._out / run.name)
        if not folder.config.exists():
            return Progress(run=run.name, state="to do")
        try:
            self._configure(run)
            summary = folder.read_summary() if folder.summary.exists() else None
        except HeatlineError as error:
            return Progress(run=run.name, state="unlike the plan", why=str(error))
        weights = None if summary is None else summary.weights.source
        if summary is None or not summary.finished:
            # After a kill, the steps are those of the last row of the metrics.
            validated = [int(row["step"]) for row in read_metrics(folder.metrics)] if folder.last.exists() else []
            return Progress(run=run.name, state="half done", steps=max(validated, default=0), weights=weights)
        return Progress(
            run=run.name,
            state="evaluated" if _is_evaluated(folder) else "done",
            steps=summary.steps,
            seconds=summary.seconds,
            weights=weights,
        )

    def _report(self, results: Path | None) -> Path | None:
        """Report on all evaluated runs of the plan, including those that are not selected."""
        folder = self._out / "report"
        with lock_file(self._out / "locks" / "report.lock", wait=True):
            done = [run.name for run in self._all if self._progress(run).state == "evaluated"]
            if not done:
                return None
            evaluations = {name: self._out / name / "evaluation" for name in done}
            title = f"heatline study: {len(done)} of {len(self._all)} planned runs"
            write_report(list(evaluations.values()), folder, title, study=True)
            if results is not None:
                _copy_figures(evaluations, folder / "tables.md", results)
        return folder


def _copy_figures(evaluations: dict[str, Path], tables: Path, results: Path) -> None:
    """Copy figures and tables, without pictures and paths of this machine, into a folder that can be published."""
    for name, folder in evaluations.items():
        evaluation = read_evaluation(folder)
        subject = msgspec.structs.replace(evaluation.subject, path=name)
        make_folder((results / name).parent, "--results")
        write_evaluation(msgspec.structs.replace(evaluation, subject=subject), results, f"{name}.json")
    write_atomically(results / tables.name, partial(shutil.copyfile, tables))


def _is_evaluated(run: RunFolder) -> bool:
    """Whether the evaluation is newer than the run, and of this version."""
    folder = run.folder / "evaluation"
    return has_evaluation(folder) and (folder / FILE).stat().st_mtime_ns >= run.summary.stat().st_mtime_ns
