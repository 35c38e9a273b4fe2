"""From a plan to trained, evaluated and reported runs, however often it is ended on the way.

What is done is read from the folders of the runs each time; so a kill loses the steps since the last checkpoint and
nothing else. Several processes may work in one folder: each run is one process's at a time.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

import msgspec
import torch

from edge.errors import ConfigError, HeatlineError, InputError, Interrupted, TrainingError, WeightsError
from train.compose import compose
from train.fit import fit
from train.locks import lock_file
from train.study.outcome import Evaluate, WriteReport, evaluate_test_part, keep_figures, write_study_report
from train.study.plan import AUTO, Plan, Run
from train.study.progress import Progress, Remaining, evaluation_of, lock_of, look, remaining

logger = logging.getLogger(__name__)


class StudyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """All runs that were asked for, as they are now."""

    out: str
    runs: list[Progress]
    missing: list[str]
    """Data sets of the plan that are not there, and whose runs are therefore not counted."""
    remaining: Remaining
    failed: dict[str, str] = {}
    """Runs that failed in this sitting, and why."""
    report: str | None = None
    """Its folder, if it was written."""


class Study:
    """A plan at work in a folder.

    Args:
        plan: what is asked for.
        data: the folder of all data sets.
        out: the study's folder.
        only: patterns as a shell's, of `data/fold/model`; none: all runs.
    Raises:
        InputError: no such folder, or none of the data sets is in it.
        ConfigError: no run fits `only`.
    """

    def __init__(self, plan: Plan, data: Path, out: Path, only: Sequence[str] = ()) -> None:
        if not data.is_dir():
            raise InputError(f"{data} is no folder; name the one that holds the data sets, or set HEATLINE_DATA")
        names = [run.name for run in plan.runs()]
        asked = [run for run in plan.runs() if not only or any(fnmatch(run.name, pattern) for pattern in only)]
        if not asked:
            raise ConfigError(f"no run of the plan fits --only {' '.join(only)}; runs are called like {names[0]}")
        wanted = {run.data.name: data / run.data.folder for run in asked}
        self.missing = [name for name, folder in wanted.items() if not folder.is_dir()]
        self.runs = [run for run in asked if run.data.name not in self.missing]
        if not self.runs:
            folders = ", ".join(folder.name for folder in wanted.values())
            raise InputError(f"{data} has none of the plan's data sets ({folders}); name the folder that holds them")
        self._all, self._data, self._out = plan.runs(), data.resolve(), out.resolve()

    def status(self) -> StudyStatus:
        """How far all is."""
        everything = {run.name: look(run, self._out) for run in self._all}
        runs = [everything[run.name] for run in self.runs]
        left = remaining(runs, list(everything.values()))
        return StudyStatus(out=str(self._out), runs=runs, missing=self.missing, remaining=left)

    def work(
        self,
        results: Path | None = None,
        say: Callable[[str], None] = logger.info,
        evaluate: Evaluate = evaluate_test_part,
        report: WriteReport = write_study_report,
    ) -> StudyStatus:
        """Train and evaluate what is not done, report on all that is, and tell what remains.

        A run that fails is told and the others go on. One that another process works on is left to it; when all that is
        left is others', it ends.

        Args:
            results: where figures are copied to.
            say: takes lines for people.
        Raises:
            TrainingError: the folder cannot be written.
            Interrupted: Ctrl-C; the same command goes on.
        """
        failed: dict[str, str] = {}
        try:
            waiting = self.runs
            while waiting:
                others = [run for run in waiting if not self._advance(run, say, evaluate, failed)]
                if len(others) == len(waiting):
                    break
                waiting = others
            reported = self._report(results, report)
        except (Interrupted, KeyboardInterrupt) as error:
            runs = self.status().runs
            done = sum(run.state == "evaluated" for run in runs)
            raise Interrupted(
                f"stopped with {done} of {len(runs)} runs evaluated; go on with the same command"
            ) from error
        status = self.status()
        return msgspec.structs.replace(status, failed=failed, report=None if reported is None else str(reported))

    def _advance(self, run: Run, say: Callable[[str], None], evaluate: Evaluate, failed: dict[str, str]) -> bool:
        """Do what a run lacks; false if another process has it."""
        with lock_file(lock_of(run, self._out)) as ours:
            if not ours:
                return False
            before = look(run, self._out)
            try:
                if before.state == "unlike the plan":
                    raise ConfigError(f"{before.why}; delete {self._out / run.name}, or choose another --out")
                if not before.trained:
                    say(f"{run.name}: {'going on' if before.state == 'half done' else 'training'}")
                    self._train(run, before, say)
                if before.state != "evaluated":
                    say(f"{run.name}: evaluating")
                    self._evaluate(run, evaluate)
            except Interrupted:
                raise
            except (HeatlineError, torch.OutOfMemoryError) as error:
                failed[run.name] = str(error).splitlines()[0]
                say(f"{run.name}: failed: {failed[run.name]}")
        return True

    def _train(self, run: Run, before: Progress, say: Callable[[str], None]) -> None:
        data, out = self._data / run.data.folder, self._out / run.name
        if before.state == "half done":
            fit(compose([f"data={data}", f"out={out}", "resume=true"]), say)
            return
        weights = run.model.weights if run.model.weights != AUTO else self._weights_of_others(run)
        try:
            fit(compose(run.overrides(self._data, self._out, weights or "imagenet")), say)
        except WeightsError as error:  # told before anything is written
            if weights is not None:
                raise
            say(f"{run.name}: RANDOM START, and so will all runs of {run.model.name}: {error}")
            fit(compose(run.overrides(self._data, self._out, "none")), say)

    def _weights_of_others(self, run: Run) -> str | None:
        """What the other runs of the model in this folder started from, so that all start alike; None without any."""
        others = (look(other, self._out) for other in self._all if other.model == run.model)
        source = next((other.weights for other in others if other.weights is not None), None)
        return None if source is None else "none" if source == "random" else "imagenet"

    def _evaluate(self, run: Run, evaluate: Evaluate) -> None:
        folder = evaluation_of(run, self._out)
        shutil.rmtree(folder, ignore_errors=True)  # pictures of one before would stay
        try:
            folder.mkdir()
        except OSError as error:
            raise TrainingError(f"{folder} cannot be written ({error.strerror}); make room, then go on") from error
        evaluate(self._out / run.name, self._data / run.data.folder, folder)

    def _report(self, results: Path | None, report: WriteReport) -> Path | None:
        """Report on all evaluated runs of the plan, asked for or not."""
        folder = self._out / "report"
        with lock_file(self._out / "locks" / "report.lock", wait=True):
            done = [run for run in self._all if look(run, self._out).state == "evaluated"]
            evaluations = {run.name: evaluation_of(run, self._out) for run in done}
            if not evaluations:
                return None
            report(list(evaluations.values()), folder, f"heatline study: {len(done)} of {len(self._all)} planned runs")
            if results is not None:
                keep_figures(evaluations, folder, results)
        return folder
