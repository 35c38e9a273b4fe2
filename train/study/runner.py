"""Train, evaluate and report the runs of a plan; an interrupted study continues.

Progress is read from the folders of the runs, so a kill loses only the steps since the last checkpoint. Several
processes may work in one folder; a lock gives each run to one process at a time.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

import msgspec
import torch

from heatline.edge.errors import ConfigError, HeatlineError, InputError, Interrupted, TrainingError, WeightsError
from heatline.train.compose import compose
from heatline.train.fit import fit
from heatline.train.locks import lock_file
from heatline.train.study.outcome import Evaluate, WriteReport, copy_figures, evaluate_test_part, write_study_report
from heatline.train.study.plan import AUTO, Plan, Run
from heatline.train.study.progress import (
    Progress,
    Remaining,
    estimate_remaining,
    evaluation_folder,
    lock_path,
    read_progress,
)

logger = logging.getLogger(__name__)


class StudyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """State of the selected runs."""

    out: str
    runs: list[Progress]
    missing: list[str]
    """Data sets of the plan that do not exist; their runs are not counted."""
    remaining: Remaining
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
    Raises:
        InputError: `data` does not exist, or has none of the data sets.
        ConfigError: no run matches `only`.
    """

    def __init__(self, plan: Plan, data: Path, out: Path, only: Sequence[str] = ()) -> None:
        if not data.is_dir():
            raise InputError(f"{data} is not a folder; name the folder of the data sets, or set HEATLINE_DATA")
        names = [run.name for run in plan.runs()]
        selected = [run for run in plan.runs() if not only or any(fnmatch(run.name, pattern) for pattern in only)]
        if not selected:
            raise ConfigError(f"no run of the plan matches --only {' '.join(only)}; runs have names such as {names[0]}")
        wanted = {run.data.name: data / run.data.folder for run in selected}
        self.missing = [name for name, folder in wanted.items() if not folder.is_dir()]
        self.runs = [run for run in selected if run.data.name not in self.missing]
        if not self.runs:
            folders = ", ".join(folder.name for folder in wanted.values())
            raise InputError(f"{data} has none of the plan's data sets ({folders}); name the folder of the data sets")
        self._all, self._data, self._out = plan.runs(), data.resolve(), out.resolve()

    def status(self) -> StudyStatus:
        """Return the state of the selected runs."""
        progress = {run.name: read_progress(run, self._out) for run in self._all}
        runs = [progress[run.name] for run in self.runs]
        remaining = estimate_remaining(runs, list(progress.values()))
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
        status = self.status()
        return msgspec.structs.replace(status, failed=failed, report=None if folder is None else str(folder))

    def _advance(
        self, run: Run, report_line: Callable[[str], None], evaluate: Evaluate, failed: dict[str, str]
    ) -> bool:
        """Train and evaluate a run as far as it needs; false if another process works on it."""
        with lock_file(lock_path(run, self._out)) as ours:
            if not ours:
                return False
            before = read_progress(run, self._out)
            try:
                if before.state == "unlike the plan":
                    raise ConfigError(f"{before.why}; delete {self._out / run.name}, or choose another --out")
                if not before.trained:
                    report_line(f"{run.name}: {'continuing' if before.state == 'half done' else 'training'}")
                    self._train(run, before, report_line)
                if before.state != "evaluated":
                    report_line(f"{run.name}: evaluating")
                    self._evaluate(run, evaluate)
            except Interrupted:
                raise
            except (HeatlineError, torch.OutOfMemoryError) as error:
                failed[run.name] = str(error).splitlines()[0]
                report_line(f"{run.name}: failed: {failed[run.name]}")
        return True

    def _train(self, run: Run, before: Progress, report_line: Callable[[str], None]) -> None:
        data, out = self._data / run.data.folder, self._out / run.name
        if before.state == "half done":
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

    def _evaluate(self, run: Run, evaluate: Evaluate) -> None:
        folder = evaluation_folder(run, self._out)
        shutil.rmtree(folder, ignore_errors=True)  # else old pictures would remain
        try:
            folder.mkdir()
        except OSError as error:
            raise TrainingError(
                f"{folder} cannot be written ({error.strerror}); free disk space, then continue"
            ) from error
        evaluate(self._out / run.name, self._data / run.data.folder, folder)

    def _report(self, results: Path | None, report: WriteReport) -> Path | None:
        """Report on all evaluated runs of the plan, including those that are not selected."""
        folder = self._out / "report"
        with lock_file(self._out / "locks" / "report.lock", wait=True):
            done = [run for run in self._all if read_progress(run, self._out).state == "evaluated"]
            evaluations = {run.name: evaluation_folder(run, self._out) for run in done}
            if not evaluations:
                return None
            report(list(evaluations.values()), folder, f"heatline study: {len(done)} of {len(self._all)} planned runs")
            if results is not None:
                copy_figures(evaluations, folder, results)
        return folder
