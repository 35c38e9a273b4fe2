"""The warning of a run's report about its folds."""

import numpy as np
import pytest

from heatline.train.dense.tiles import OutOfFold
from heatline.train.evaluation.result import FrameAnswer
from heatline.train.evaluation.run_report import _describe_disagreement


@pytest.mark.parametrize(
    ("scores", "sentence"),
    [
        ([[0.0, 1.0, 2.0, 3.0]] * 2, None),
        (
            [[0.0, 1.0, 2.0, 3.0], [2.0, 5.0, 3.0, 9.0]],
            "the picture AUROC is 0.75 in one and 1.00 in another. The result",
        ),
        (
            [[0.0, 1.0, 2.0, 3.0], [10.0, 11.0, 12.0, 13.0]],
            "is 1.00 in one and 1.00 in another, and 0.75 over all pictures: the model of each fold has a scale of its",
        ),
    ],
)
def test_folds_that_disagree_or_have_scales_of_their_own_are_explained(
    scores: list[list[float]], sentence: str | None
) -> None:
    """Of each fold the first two pictures are good."""
    names = [str(at) for at in range(8)]
    answers = [(at > 1, score) for fold in scores for at, score in enumerate(fold)]
    frames = [FrameAnswer(name, None, *answer) for name, answer in zip(names, answers, strict=True)]
    fold = np.repeat([0, 1], 4)
    found = _describe_disagreement(OutOfFold(np.array(names), fold, np.zeros(0), np.zeros(0)), frames)  # type: ignore[arg-type]
    assert found == [] if sentence is None else sentence in found[0]
