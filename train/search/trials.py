"""Share the trials of a study among workers: never too many, and none lost if a worker dies.

Optuna numbers trials in the order in which they begin. A trial has a *place* if fewer than `trials` trials with lower
numbers have not failed. Numbers never change and a failed trial stays failed, so a trial never loses its place; and of
any `trials` + 1 trials that have not failed, the last has none. So no race can finish more than `trials` trials,
without a lock between machines. (`MaxTrialsCallback` counts finished trials, so each worker may begin one too many.)
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from heatline.train.search.worker import Worker


class _NoPlaceError(Exception):
    """Other workers took all places."""


def run_trials(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    trials: int,
    worker: Worker,
    *,
    is_own_storage: bool,
    after_each: Callable[[], None] = lambda: None,
) -> None:
    """Run trials until all are finished or run by other workers.

    Args:
        objective: runs a trial and returns its value.
        trials: number of trials of all workers; pruned trials count, failed ones do not.
        worker: this process.
        is_own_storage: whether only workers of this folder can use the storage.
        after_each: called after each trial.
    Raises:
        Exception: any exception of `objective` except `optuna.TrialPruned`; the trial has then failed.
    """
    while True:
        fail_stale_trials(study)  # trials of other machines without a heartbeat
        _fail_abandoned(study, worker, is_own_storage)
        if len(_not_failed(study)) >= trials:
            return
        placed = _PlacedObjective(study, objective, trials, worker)
        try:
            # One trial per call, so that its heartbeat runs only meanwhile and its garbage is collected afterwards.
            study.optimize(placed, n_trials=1, catch=(_NoPlaceError,), gc_after_trial=True)
        except (UpdateFinishedTrialError, ValueError):
            if not placed.ended:
                raise
            # Another machine failed this trial, as this one was suspended or disconnected for too long.
        after_each()


class _PlacedObjective:
    """An objective that rejects trials without a place."""

    def __init__(
        self, study: optuna.Study, objective: Callable[[optuna.Trial], float], trials: int, worker: Worker
    ) -> None:
        self._study, self._objective, self._trials, self._worker = study, objective, trials, worker
        self.ended = False
        """Whether the objective returned or pruned; a later exception comes from reporting that to the storage."""

    def __call__(self, trial: optuna.Trial) -> float:
        self._worker.claim(trial.number)
        if sum(other.number < trial.number for other in _not_failed(self._study)) >= self._trials:
            raise _NoPlaceError
        try:
            value = self._objective(trial)
        except (optuna.TrialPruned, UpdateFinishedTrialError):
            self.ended = True
            raise
        self.ended = True
        return value


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """Return the completed trial with the highest value, the first of equal ones; None if there is none."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def _not_failed(study: optuna.Study) -> list[FrozenTrial]:
    """Return all trials that have not failed."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def _fail_abandoned(study: optuna.Study, worker: Worker, is_own_storage: bool) -> None:
    """Fail the trials of dead workers of this folder."""
    running = {trial.number for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])}
    # A worker may die before it claims its trial; this shows when no other worker is left. The workers are checked
    # after the trials were read, so that a worker that starts meanwhile has none of these trials.
    dead = running if is_own_storage and worker.is_alone() else running & worker.abandoned_trials()
    for number in sorted(dead):
        with suppress(UpdateFinishedTrialError):  # another worker saw it too
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
