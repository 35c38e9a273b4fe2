"""The report of a search, and the files that it writes beside its runs: a table, the best trial, a chart."""

import csv
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path

import msgspec
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from heatline.train.compose import encode_yaml
from heatline.train.files import write_atomically
from heatline.train.search.config import SearchConfig

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class TrialRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `trials.csv`."""

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


class BestTrial(TrialRow, frozen=True, kw_only=True):
    """Content of `best.yaml`."""

    objective: str
    command: str
    """Command that trains it again."""


class SearchReport(msgspec.Struct, frozen=True, kw_only=True):
    """State and results of a search."""

    name: str
    storage: str
    objective: str
    wanted: int
    """Number of trials that the search shall have."""
    finished: int
    """Number of completed and pruned trials of all workers."""
    running: int
    """Number of trials that other workers run."""
    trials: list[TrialRow]
    best: BestTrial | None
    files: list[str]


def make_report(study: Study, search: SearchConfig, storage: str, training: Sequence[str], out: Path) -> SearchReport:
    """Write `trials.csv`, and once a trial is complete `best.yaml` and `parallel_coordinates.svg`; return the report.

    Args:
        storage: URL of the storage, as it is printed.
        training: overrides of `heatline train` that the search was given.
        out: folder of the search.
    Raises:
        TrainingError: the disk is full, or cannot be written.
    """
    trials = study.get_trials(deepcopy=False)
    rows, best = trial_rows(trials), _best_trial(trials, search.objective, training, out)
    files = [out / "trials.csv"]
    write_atomically(files[0], lambda path: _write_table(path, rows))
    if best is not None:
        files += [out / "best.yaml", out / "parallel_coordinates.svg"]
        write_atomically(files[1], lambda path: path.write_bytes(encode_yaml(best)))
        write_atomically(files[2], lambda path: _draw(path, study, search.objective))
    states = [trial.state for trial in trials]
    return SearchReport(
        name=study.study_name,
        storage=storage,
        objective=search.objective,
        wanted=search.trials,
        finished=sum(state in FINISHED for state in states),
        running=states.count(TrialState.RUNNING),
        trials=rows,
        best=best,
        files=[str(file) for file in files],
    )


def trial_rows(trials: Sequence[FrozenTrial]) -> list[TrialRow]:
    """Return a row per trial that was begun."""
    return [
        TrialRow(
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
        for trial in trials
        if trial.state != TrialState.WAITING
    ]


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the completed trial with the highest value, the first of equal ones; None if there is none."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def _best_trial(trials: Sequence[FrozenTrial], objective: str, training: Sequence[str], out: Path) -> BestTrial | None:
    best = best_of(trials)
    if best is None:
        return None
    (row,) = trial_rows([best])
    overrides = [item for item in training if not item.startswith("out=")]
    overrides += [f"recipe.select={objective}", f"recipe.lr={row.lr!r}", f"recipe.batch={row.batch}"]
    command = shlex.join(["heatline", "train", *overrides, f"out={out / 'best'}"])
    return BestTrial(**msgspec.structs.asdict(row), objective=objective, command=command)


def _write_table(file: Path, rows: Sequence[TrialRow]) -> None:
    with file.open("w", newline="", errors="replace") as lines:
        table = csv.DictWriter(lines, TrialRow.__struct_fields__)
        table.writeheader()
        table.writerows(msgspec.structs.asdict(row) for row in rows)


def _draw(file: Path, study: Study, objective: str) -> None:
    """Draw a line per completed trial over learning rate and batch size, as in the study's Figs. 3.2 and 3.3."""
    import matplotlib as mpl
    from matplotlib import pyplot
    from optuna.visualization.matplotlib import plot_parallel_coordinate

    # Optuna sets its own style. The agg backend opens no window.
    with mpl.rc_context({"backend": "agg"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Matplotlib warns if all trials have the same value.
        warnings.filterwarnings("ignore", "Attempting to set identical", UserWarning)
        axes = plot_parallel_coordinate(study, params=["lr", "batch"], target_name=objective.replace("_", " "))
        axes.set_title(f"{study.study_name}: completed trials")
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.set_size_inches(10, 5)  # in a narrower chart, the colour bar covers the ticks beside it
        figure.savefig(file, format="svg", bbox_inches="tight")
        pyplot.close(figure)
