"""Progress of each run of a study, and an estimate of the remaining work, read from the folders of the runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Literal

import msgspec

from heatline.edge.errors import HeatlineError
from heatline.train.callbacks import read_metrics
from heatline.train.compose import read_config
from heatline.train.evaluation.result import FILE, SCHEMA
from heatline.train.locks import is_locked
from heatline.train.run import RunFolder, RunSummary
from heatline.train.study.plan import Run

State = Literal["to do", "half done", "done", "evaluated", "unlike the plan"]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of one run."""

    run: str
    """Its folder below the folder of the study: data/fold/model."""
    model: str
    state: State
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

    @property
    def trained(self) -> bool:
        return self.state in ("done", "evaluated")


class Remaining(msgspec.Struct, frozen=True, kw_only=True):
    """Remaining work."""

    train: int
    """Number of runs to train."""
    evaluate: int
    """Number of runs to evaluate, including those to train."""
    seconds: float | None
    """Estimated time to train, by the mean of the trained runs of each model; None if no model has trained runs."""
    not_known: list[str]
    """Models without trained runs, whose time is not in `seconds`."""
    unlike: int
    """Number of runs that were trained with other settings than the plan's; the study does not change them."""

    def describe(self) -> str:
        """Return the text that the command prints."""
        parts = []
        if self.train:
            known = "time not known" if self.seconds is None else f"about {format_duration(self.seconds)}"
            unknown = f", and for {', '.join(self.not_known)} not known" if self.seconds and self.not_known else ""
            parts.append(f"{self.train} to train ({known}{unknown})")
        if self.evaluate:
            parts.append(f"{self.evaluate} to evaluate")
        if self.unlike:
            parts.append(f"{self.unlike} unlike the plan")
        return ", ".join(parts) or "nothing"


def lock_path(run: Run, out: Path) -> Path:
    """Return the lock file of the process that works on a run."""
    return out / "locks" / f"{run.name}.lock"


def evaluation_folder(run: Run, out: Path) -> Path:
    """Return the folder of a run's evaluation."""
    return out / run.name / "evaluation"


def read_progress(run: Run, out: Path) -> Progress:
    """Read the progress of a run. Another run in its folder is `unlike the plan`."""
    folder = RunFolder(out / run.name)
    progress = Progress(
        run=run.name, model=run.model.name, state="to do", of_steps=run.steps, at_work=is_locked(lock_path(run, out))
    )
    if not folder.config.exists():
        return progress
    try:
        difference = run.describe_difference(read_config(folder.config))
        summary = folder.read_summary() if folder.summary.exists() else None
    except HeatlineError as error:
        return msgspec.structs.replace(progress, state="unlike the plan", why=str(error))
    if summary is not None:
        progress = msgspec.structs.replace(progress, weights=summary.weights.source)
    if difference is not None:
        return msgspec.structs.replace(progress, state="unlike the plan", why=difference)
    if summary is None or not summary.finished:
        return msgspec.structs.replace(progress, state="half done", steps=_count_stored_steps(folder, summary))
    evaluated = _is_evaluated(evaluation_folder(run, out) / FILE, folder.summary)
    return msgspec.structs.replace(
        progress, state="evaluated" if evaluated else "done", steps=summary.steps, seconds=summary.seconds
    )


def estimate_remaining(runs: Iterable[Progress], done: Sequence[Progress] = ()) -> Remaining:
    """Estimate the remaining work of some runs.

    Args:
        done: further runs whose times are known, usually all runs of the study.
    """
    runs = list(runs)
    times: dict[str, list[float]] = {}
    for run in {each.run: each for each in [*runs, *done]}.values():
        if run.seconds is not None and run.trained:
            times.setdefault(run.model, []).append(run.seconds)
    to_train = [run for run in runs if run.state in ("to do", "half done")]
    known = [mean(times[run.model]) * (1 - run.steps / run.of_steps) for run in to_train if run.model in times]
    return Remaining(
        train=len(to_train),
        evaluate=len(to_train) + sum(run.state == "done" for run in runs),
        seconds=sum(known) if known or not to_train else None,
        not_known=sorted({run.model for run in to_train} - times.keys()),
        unlike=sum(run.state == "unlike the plan" for run in runs),
    )


def format_duration(seconds: float) -> str:
    """Format a duration, rounded to minutes, as `2 h 05 min`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _count_stored_steps(folder: RunFolder, summary: RunSummary | None) -> int:
    """Return the steps of an unfinished training; after a kill, those of the last row of its metrics."""
    if not folder.last.exists():
        return 0
    validated = [int(row["step"]) for row in read_metrics(folder.metrics)]
    return max([0 if summary is None else summary.steps, *validated])


class _Schema(msgspec.Struct):
    schema: int = 0


def _is_evaluated(evaluation: Path, summary: Path) -> bool:
    """Whether the evaluation is newer than the run, and has the schema of this version."""
    try:
        if evaluation.stat().st_mtime_ns < summary.stat().st_mtime_ns:
            return False
        return msgspec.json.decode(evaluation.read_bytes(), type=_Schema).schema == SCHEMA
    except (OSError, msgspec.MsgspecError):
        return False
