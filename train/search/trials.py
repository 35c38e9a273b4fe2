"""The trials of a study, shared out among workers: never one too many, and none lost to a worker that died.

Optuna gives each trial a number of its own, in the order in which they are begun. A trial has a *place* if fewer than
`trials` trials with lower numbers have not failed. Numbers never change and a failed trial stays failed, so what has a
place keeps it; and of any `trials` + 1 that have not failed, the last has none. So no race can finish more than
`trials`, without a lock between machines. (`MaxTrialsCallback` counts what is finished, so each worker may begin one
too many.)
"""

from collections.abc import Callable, Sequence
from contextlib import suppress

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from train.search.worker import Worker


class _NoPlaceError(Exception):
    """Another worker was quicker."""


def run_trials(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    trials: int,
    worker: Worker,
    *,
    is_own_storage: bool,
    after_each: Callable[[], None] = lambda: None,
) -> None:
    """Run trials until all are finished or being run by others.

    Args:
        objective: runs one and returns its value.
        trials: how many the study is to have, all workers together; pruned ones count, failed ones do not.
        worker: this process.
        is_own_storage: whether no worker outside this worker's folder can take part.
        after_each: called after each trial.
    Raises:
        Exception: whatever `objective` raises but `optuna.TrialPruned`; that trial has failed.
    """
    while True:
        fail_stale_trials(study)  # those of other machines, by their heartbeat
        _fail_abandoned(study, worker, is_own_storage)
        if len(_standing(study)) >= trials:
            return
        placed = _Placed(study, objective, trials, worker)
        try:
            # One at a time: its heart beats within, and what it leaves is collected after.
            study.optimize(placed, n_trials=1, catch=(_NoPlaceError,), gc_after_trial=True)
        except (UpdateFinishedTrialError, ValueError):
            if not placed.ended:
                raise
            # Others gave it up, as this machine was asleep or cut off for longer than they wait. It counts as failed.
        after_each()


class _Placed:
    """An objective that turns back trials that have no place."""

    def __init__(
        self, study: optuna.Study, objective: Callable[[optuna.Trial], float], trials: int, worker: Worker
    ) -> None:
        self._study, self._objective, self._trials, self._worker = study, objective, trials, worker
        self.ended = False
        """Whether the objective did, in good order: what is raised after that is of telling the storage so."""

    def __call__(self, trial: optuna.Trial) -> float:
        self._worker.claim(trial.number)
        if sum(other.number < trial.number for other in _standing(self._study)) >= self._trials:
            raise _NoPlaceError
        try:
            value = self._objective(trial)
        except (optuna.TrialPruned, UpdateFinishedTrialError):
            self.ended = True
            raise
        self.ended = True
        return value


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The completed trial with the highest value; of equals, the first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def _standing(study: optuna.Study) -> list[FrozenTrial]:
    """All trials that have not failed."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]


def _fail_abandoned(study: optuna.Study, worker: Worker, is_own_storage: bool) -> None:
    """Fail the trials whose workers died here."""
    running = {trial.number for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING])}
    # A worker may die before it claims its trial: that is seen where nobody is left to run it. Asked after the trials,
    # as whoever comes now has none among them.
    dead = running if is_own_storage and worker.is_alone() else running & worker.abandoned()
    for number in sorted(dead):
        with suppress(UpdateFinishedTrialError):  # another worker saw it too
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
