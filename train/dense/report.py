"""The report of a cross-validated run: what the line would have missed and rejected, by held-out predictions."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from heatline.edge.cli.bundle_formatting import describe_bound
from heatline.train.adequacy import describe_threshold_transfer
from heatline.train.dense.out_of_fold import OutOfFold
from heatline.train.dense.reference_section import reference_section
from heatline.train.evaluation.evaluate import CROSS_VALIDATION, EvaluationOptions, evaluate_pictures, select_pictures
from heatline.train.evaluation.evaluated import prepare_run
from heatline.train.evaluation.figures import auroc
from heatline.train.evaluation.report import write_report
from heatline.train.evaluation.result import FrameAnswer, write_evaluation
from heatline.train.progress import tracked
from heatline.train.run import RunFolder, TrainedRun

FALSE_REJECT = 0.01
"""Share of good frames that the report's first thresholds reject; the default of `heatline export`."""
DISAGREE = 0.15
"""The report warns if the folds' AUROC over pictures differs by more."""
OFF_SCALE = 0.05
"""It also warns if the AUROC over all pictures is lower than that of every fold by more."""


def write_run_report(run: TrainedRun) -> Path:
    """Write `report/report.html` of a cross-validated run; return its path.

    Raises:
        InputError: its pictures have changed.
        TrainingError: the folder cannot be written.
    """
    folder = RunFolder(run.folder).report
    model = prepare_run(run, FALSE_REJECT, tracked("thresholds of the report"), cross_validated=True)
    selection = select_pictures(model, EvaluationOptions(truths=(run.data.truth,), part="train"))
    selection = replace(selection, part=CROSS_VALIDATION, trained_on=0)
    evaluation = evaluate_pictures(model, selection, folder, tracked("pictures of the report"))
    folds = run.summary.folds
    evaluation = msgspec.structs.replace(
        evaluation,
        rests_on=f"{folds}-fold cross-validation over {len(run.split.train)} groups: every frame is answered by a "
        "model that was not trained on its fold, and judged by thresholds from the other folds: equal scores of two "
        "folds may be judged differently",
        warnings=[
            *evaluation.warnings,
            f"Rejected good frames: {describe_bound(evaluation.calibration)}.",
            *describe_threshold_transfer(
                *_good_scores(evaluation.frames), FALSE_REJECT, evaluation.calibration.coldest_defect
            ),
            *_describe_disagreement(OutOfFold.read(RunFolder(run.folder).out_of_fold), evaluation.frames),
        ],
    )
    write_evaluation(evaluation, folder)
    section = reference_section(run)
    page, _ = write_report(
        [folder], folder, title=f"{run.data.name}: cross-validation", sections=[] if section is None else [section]
    )
    return page


def _good_scores(frames: list[FrameAnswer]) -> tuple[list[float], list[str | None]]:
    """Return scores and groups of the good frames."""
    good = [frame for frame in frames if not frame.defective]
    return [frame.score for frame in good], [frame.group for frame in good]


def _describe_disagreement(out_of_fold: OutOfFold, frames: list[FrameAnswer]) -> list[str]:
    """Describe folds that differ in how well they separate pictures, or in their scale; empty if they agree."""
    score = np.array([frame.score for frame in frames])
    defective = np.array([frame.defective for frame in frames])
    fold_of = dict(zip(out_of_fold.frames.tolist(), out_of_fold.fold.tolist(), strict=True))
    fold_of_frame = np.array([fold_of.get(frame.image, -1) for frame in frames])  # only frames with a verdict
    values = [
        value
        for fold in np.unique(out_of_fold.fold)
        if (value := auroc(score, defective, (fold_of_frame == fold).astype(np.float64))) is not None
    ]
    if len(values) < 2:
        return []
    low, high, pooled = min(values), max(values), auroc(score, defective, np.ones(len(score))) or 0.0
    if high - low <= DISAGREE and low - pooled <= OFF_SCALE:
        return []
    why = (
        f", and {pooled:.2f} over all pictures: the model of each fold has a scale of its own, on which the same score "
        "means another risk"
        if pooled < low
        else ""
    )
    return [
        f"The folds disagree: the picture AUROC is {low:.2f} in one and {high:.2f} in another{why}. The result depends "
        "on which groups are trained on; add pictures of more groups."
    ]
