"""Counts what an evaluation's threshold misses and rejects."""

import msgspec

from heatline.train.evaluation.result import Evaluation


class Verdicts(msgspec.Struct, frozen=True):
    """Pictures at the score threshold of an evaluation."""

    missed: int
    """Defective pictures below the threshold."""
    defective: int
    rejected: int
    """Good pictures that reach the threshold."""
    good: int


def count_verdicts(evaluation: Evaluation) -> Verdicts:
    """Count the pictures that an evaluation's threshold judges wrongly."""
    threshold = evaluation.calibration.score_threshold
    defective = [frame.score for frame in evaluation.frames if frame.defective]
    good = [frame.score for frame in evaluation.frames if not frame.defective]
    return Verdicts(
        missed=sum(score < threshold for score in defective),
        defective=len(defective),
        rejected=sum(score >= threshold for score in good),
        good=len(good),
    )
