"""Fine-tunes a model in rounds while the user gives time, and keeps what cross-validation finds better."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from threading import Lock

import msgspec
import torch

from heatline.edge.errors import DivergedError, TrainingError
from heatline.train.dense.cross_validation import CrossValidation
from heatline.train.dense.tiles import OutOfFold
from heatline.train.files import write_atomically
from heatline.train.references import GAINS
from heatline.train.run import Round

FIRST_STEPS, FEWEST_STEPS = 100, 40
"""Of the first round, at least; each further one has twice as many, or what there is time for; fewer gain nothing."""
PATIENCE = 2
"""Rounds in a row that gain nothing and end the training early."""
TILES_PER_STEP = 20
"""Tiles that are predicted in about the time of a step of one network: a guess, until both are measured. The first
round takes at least as long as its predictions."""
TRIAL_STEPS = 6
"""Steps that show how long one takes, before the first round."""
LATE = 1.25
"""A round that needs so many times the time that is left is given up: the machine is slower than before."""
Figures = dict[str, float]


class _OutOfTime(Exception):
    pass


def merit(figures: Figures) -> float:
    """Return what the rounds improve: the mean of those of `GAINS` that are known."""
    return fmean([figures[name] for name in GAINS if name in figures] or [0.0])


def plan_steps(wanted: int, affordable: int) -> int:
    """Return the steps of the next round: all that there is time for if no further round would follow; 0: too few.

    >>> [plan_steps(100, 1000), plan_steps(200, 900), plan_steps(400, 700), plan_steps(800, 60), plan_steps(200, 30)]
    [100, 200, 700, 60, 0]
    """
    if affordable < FEWEST_STEPS:
        return 0
    return wanted if affordable >= 2 * wanted else affordable


class Improvement:
    """The rounds of a training.

    Args:
        file: the rounds and the networks of the last one, from which a training is resumed.
        began: time of the training's start, by the monotonic clock.
        minutes: that it may take.
    """

    def __init__(
        self, validation: CrossValidation, file: Path, began: float, minutes: float, report_line: Callable[[str], None]
    ) -> None:
        self.validation, self._file, self._report_line = validation, file, report_line
        self._began, self._minutes = began, minutes
        self.rounds: list[Round] = []
        """The first is the result that the others improve."""

    @property
    def steps(self) -> int:
        """Steps of fine-tuning."""
        return sum(each.steps for each in self.rounds[1:])

    def restore(self) -> None:
        """Take the networks of the last round, in place of training; a TrainingError if the file is damaged."""
        try:
            state = torch.load(self._file, map_location="cpu", weights_only=True)
            self.validation.restore(state["networks"])
            self.rounds = msgspec.convert(state["rounds"], list[Round])
            self._began -= max(0.0, self.rounds[-1].seconds - (time.monotonic() - self._began))
        except Exception as error:  # a damaged file may raise anything
            raise TrainingError(
                f"{self._file} cannot be read ({error}); delete it, then resume the training"
            ) from error

    def run(
        self,
        first: Round,
        measure: Callable[[OutOfFold], Figures],
        keep: Callable[[OutOfFold, Figures], object],
        show: Callable[[int, int], object],
    ) -> None:
        """Fine-tune until the time is over, or until `PATIENCE` rounds gained nothing.

        Args:
            first: the result before all rounds.
            keep: gets the predictions and figures of each round that is better than all before.
            show: gets the steps that are done and planned in a round, of all networks together.
        """
        self.rounds = self.rounds or [first]
        best = max(merit(each.figures) for each in self.rounds if each.kept)
        while any(each.kept for each in self.rounds[-PATIENCE:]):
            try:
                if not (steps := self._plan()):
                    raise _OutOfTime
                step_s = self._fine_tune(steps, show)
            except _OutOfTime:
                self._report_line(f"no time is left for another round of fine-tuning in {self._minutes:g} minutes")
                return
            except DivergedError as error:
                self._report_line(f"fine-tuning ends, and the best result so far stays: {error}")
                return
            began = time.monotonic()
            found = self.validation.predict()
            assert found is not None, "the caller has figures of a cross-validation"
            figures, now = measure(found), time.monotonic()
            reached = merit(figures)
            done = Round(
                steps=steps,
                seconds=now - self._began,
                step_s=step_s,
                predict_s=now - began,
                figures=figures,
                kept=reached > best,
            )
            self.rounds.append(done)
            named = ", ".join(f"{name} {figures[key]:.3f}" for key, name in GAINS.items() if key in figures)
            self._report_line(
                f"minute {done.seconds / 60:.1f} of {self._minutes:g}, step {self.steps}: {best:.4f} -> "
                f"{reached:.4f}, {'kept' if done.kept else 'not kept'} ({named})"
            )
            if done.kept:
                best = reached
                keep(found, figures)
            state = {"networks": self.validation.state(), "rounds": msgspec.to_builtins(self.rounds)}
            write_atomically(self._file, partial(torch.save, state))
        self._report_line(f"{PATIENCE} rounds gained nothing, so the training ends before {self._minutes:g} minutes")

    def _plan(self) -> int:
        if self.rounds[1:]:
            wanted, step_s = 2 * self.rounds[-1].steps, self.rounds[-1].step_s
        else:
            step_s = self._fine_tune(TRIAL_STEPS, lambda *_: None)
            wanted = max(FIRST_STEPS, round(self._predict_s(step_s) / step_s))
        left_s = self._began + 60 * self._minutes - time.monotonic()
        return plan_steps(wanted, int((left_s - self._predict_s(step_s)) / step_s))

    def _predict_s(self, step_s: float) -> float:
        """Return the seconds that predictions take: measured, or before the first round a guess."""
        if self.rounds[1:]:
            return self.rounds[-1].predict_s
        return self.validation.tiles / TILES_PER_STEP / self.validation.networks * step_s

    def _fine_tune(self, steps: int, show: Callable[[int, int], object]) -> float:
        """Return seconds per step of all networks together."""
        networks = self.validation.networks
        total, done, lock = steps * networks, 0, Lock()
        began = time.monotonic()
        left_s = self._began + 60 * self._minutes - began

        def on_step() -> None:
            nonlocal done
            with lock:
                done += 1
                show(done, total)
                step_s = (time.monotonic() - began) * networks / done
                needed_s = step_s * steps + self._predict_s(step_s)
                if done > 3 * networks and needed_s > LATE * left_s:
                    raise _OutOfTime

        self.validation.fine_tune(steps, self.steps, on_step)
        return (time.monotonic() - began) / steps
