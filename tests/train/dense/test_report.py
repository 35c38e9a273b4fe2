"""The warning of a run's report about its threshold."""

import numpy as np
import pytest

from heatline.edge.calibration import GoodFrame, calibrate
from heatline.train.dense.report import _describe_threshold


@pytest.mark.parametrize(("frames", "reach", "bound"), [(20, 0, 0.139), (600, 6, 0.0196)])
def test_the_report_warns_that_its_good_frames_set_the_threshold(frames: int, reach: int, bound: float) -> None:
    """The bounds are those of Clopper and Pearson, from tables; 0 of n: 1 - 0.05 ** (1 / n)."""
    heatmap = np.zeros((4, 4), np.float32)
    good = [GoodFrame.of(np.array([number], np.float32), heatmap) for number in range(frames)]
    warning = _describe_threshold(calibrate(good, 0.01, "good frames that were drawn"))
    assert f"set by the {frames} good frames that were drawn, so that {reach} of them reach it" in warning
    assert f"expect up to {100 * bound:.1f} % of new good frames" in warning
