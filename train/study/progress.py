"""How far each run of a study is, and what remains: read from its folder, nothing else is kept."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Literal

import msgspec

from edge.errors import HeatlineError
from train.callbacks import read_metrics
from train.compose import read_config
from train.evaluation.result import FILE, SCHEMA
from train.locks import is_locked
from train.run import RunFolder, RunSummary
from train.study.plan import Run

State = Literal["to do", "half done", "done", "evaluated", "unlike the plan"]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Of one run."""

    run: str
    """Its folder in that of the study: data/fold/model."""
    model: str
    state: State
    """"done" is trained, and not evaluated, or not since."""
    steps: int = 0
    """Trained so far; what a kill left may be a validation less."""
    of_steps: int
    seconds: float | None = None
    """Of training, once it is done."""
    weights: str | None = None
    """Where the first weights came from, once it was begun."""
    at_work: bool = False
    """A process is working on it."""
    why: str | None = None
    """In words, what is unlike the plan."""

    @property
    def trained(self) -> bool:
        return self.state in ("done", "evaluated")


class Remaining(msgspec.Struct, frozen=True, kw_only=True):
    """What is left to do."""

    train: int
    """Runs."""
    evaluate: int
    """Runs: those to train, and those that are trained."""
    seconds: float | None
    """Of training, by the mean of the trained runs of the same model; None where none of the models left has any."""
    not_known: list[str]
    """Models to train of which no run is done, so that their time is not in `seconds`."""

    unlike: int
    """Runs that are in the way: not as the plan says, and left as they are."""

    def in_words(self) -> str:
        parts = []
        if self.train:
            known = "time not known" if self.seconds is None else f"about {duration(self.seconds)}"
            but = f", and for {', '.join(self.not_known)} not known" if self.seconds and self.not_known else ""
            parts.append(f"{self.train} to train ({known}{but})")
        if self.evaluate:
            parts.append(f"{self.evaluate} to evaluate")
        if self.unlike:
            parts.append(f"{self.unlike} unlike the plan")
        return ", ".join(parts) or "nothing"


def lock_of(run: Run, out: Path) -> Path:
    """The lock of whoever works on a run."""
    return out / "locks" / f"{run.name}.lock"


def evaluation_of(run: Run, out: Path) -> Path:
    """The folder of a run's evaluation."""
    return out / run.name / "evaluation"


def look(run: Run, out: Path) -> Progress:
    """How far a run is; what is there in its place and is no such run is `unlike the plan`."""
    folder = RunFolder(out / run.name)
    told = Progress(
        run=run.name, model=run.model.name, state="to do", of_steps=run.steps, at_work=is_locked(lock_of(run, out))
    )
    if not folder.config.exists():
        return told
    try:
        difference = run.difference(read_config(folder.config))
        summary = folder.read_summary() if folder.summary.exists() else None
    except HeatlineError as error:
        return msgspec.structs.replace(told, state="unlike the plan", why=str(error))
    if summary is not None:
        told = msgspec.structs.replace(told, weights=summary.weights.source)
    if difference is not None:
        return msgspec.structs.replace(told, state="unlike the plan", why=difference)
    if summary is None or not summary.finished:
        return msgspec.structs.replace(told, state="half done", steps=_steps_kept(folder, summary))
    evaluated = _is_evaluated(evaluation_of(run, out) / FILE, folder.summary)
    return msgspec.structs.replace(
        told, state="evaluated" if evaluated else "done", steps=summary.steps, seconds=summary.seconds
    )


def remaining(runs: Iterable[Progress], done: Sequence[Progress] = ()) -> Remaining:
    """What is left of some runs.

    Args:
        done: whose times are known: usually all runs of the study.
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


def duration(seconds: float) -> str:
    """To the minute, as people say it."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _steps_kept(folder: RunFolder, summary: RunSummary | None) -> int:
    """Of a training that is not finished: that of a killed one tells no steps, but there is a row per validation."""
    if not folder.last.exists():
        return 0
    validated = [int(row["step"]) for row in read_metrics(folder.metrics)]
    return max([0 if summary is None else summary.steps, *validated])


class _Schema(msgspec.Struct):
    schema: int = 0


def _is_evaluated(evaluation: Path, summary: Path) -> bool:
    """Whether the evaluation is of the run as it is, and can be read by this heatline."""
    try:
        if evaluation.stat().st_mtime_ns < summary.stat().st_mtime_ns:
            return False
        return msgspec.json.decode(evaluation.read_bytes(), type=_Schema).schema == SCHEMA
    except (OSError, msgspec.MsgspecError):
        return False
