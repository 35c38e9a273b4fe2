"""The report of a cross-validated run: what the line would have missed and rejected, by answers out of fold."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from edge.bundle import Calibration
from train.adequacy import describe_carrying
from train.dense.out_of_fold import OutOfFold
from train.evaluation.evaluate import EvaluationOptions, evaluate_pictures, select_pictures
from train.evaluation.evaluated import prepare_run
from train.evaluation.ordering import auroc
from train.evaluation.report.write import write_report
from train.evaluation.result import FrameAnswer, write_evaluation
from train.run import RunFolder, TrainedRun
from train.validation_frames import validation_frames

FALSE_REJECT = 0.01
"""Of the thresholds that the report opens with: as `heatline export` sets them."""
DISAGREE = 0.15
"""Folds whose AUROC over pictures differ by more are told of."""


def write_run_report(run: TrainedRun) -> Path:
    """Write `report/report.html` of a run that was cross-validated; returns where it is.

    Raises:
        InputError: its pictures have changed.
        TrainingError: the folder cannot be written.
    """
    folder = RunFolder(run.folder).report
    model = prepare_run(run, FALSE_REJECT)
    recorded = validation_frames(run).recorded
    assert recorded is not None, "the run was cross-validated"
    model = replace(model, engine=recorded, engine_description="answers out of fold")
    selection = select_pictures(model, EvaluationOptions(truths=(run.data.truth,), part="train"))
    selection = replace(selection, part="cross-validation", trained_on=0)
    evaluation = evaluate_pictures(model, selection, folder)
    folds = run.summary.folds
    evaluation = msgspec.structs.replace(
        evaluation,
        rests_on=f"{folds}-fold cross-validation over {len(run.split.train)} groups: every frame is answered by a "
        "model that was not trained on its group",
        warnings=[
            *evaluation.warnings,
            _set_by_these(evaluation.calibration),
            *describe_carrying(*_good(evaluation.frames), FALSE_REJECT, evaluation.calibration.coldest_defect),
            *_disagreement(OutOfFold.read(RunFolder(run.folder).out_of_fold), evaluation.frames),
        ],
    )
    write_evaluation(evaluation, folder)
    page, _ = write_report([folder], folder, title=f"{run.data.name}: cross-validation")
    return page


def _set_by_these(calibration: Calibration) -> str:
    """The false rejects of the report are counted on the frames that set its threshold."""
    at_most = calibration.false_reject_at_most
    assert at_most is not None, "the run's thresholds come from frames"
    return (
        f"The threshold was set by the {calibration.frames} {calibration.frames_are}, so that {calibration.rejected} "
        "of them reach it: their false rejects do not measure those of new parts. With 95 % confidence, expect up to "
        f"{100 * at_most:.1f} % of new good frames to reach it."
    )


def _good(frames: list[FrameAnswer]) -> tuple[list[float], list[str | None]]:
    """Scores and groups of the good ones."""
    good = [frame for frame in frames if not frame.defective]
    return [frame.score for frame in good], [frame.group for frame in good]


def _disagreement(answers: OutOfFold, frames: list[FrameAnswer]) -> list[str]:
    """What to say of folds that tell pictures apart well and badly."""
    score = np.array([frame.score for frame in frames])
    defective = np.array([frame.defective for frame in frames])
    known = [
        value
        for fold in np.unique(answers.fold)
        if (value := auroc(score, defective, (answers.fold == fold).astype(np.float64))) is not None
    ]
    if len(known) > 1 and max(known) - min(known) > DISAGREE:
        return [
            f"The folds disagree: the AUROC over pictures is {min(known):.2f} in one and {max(known):.2f} in another. "
            "What is found depends on which groups are trained on; add pictures of more groups."
        ]
    return []
