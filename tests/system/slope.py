"""Growth of a quantity per frame with an upper bound: a slope from correlated samples.

The memory of a process wanders: a sample depends on the one before. Residuals about a straight line are therefore no
measure of the error, and the usual bound, which assumes independent residuals, would be far too low. So the samples are
cut into consecutive blocks, each block has a slope of its own, and the bound is Student's t of these slopes:
R. Ibragimov and U. K. Mueller, t-Statistic Based Correlation and Heterogeneity Robust Inference, Journal of Business &
Economic Statistics 28 (2010). It holds if blocks are long compared with the correlation of the noise, and for a random
walk; in between it is too wide.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

BLOCKS = 8
T_95 = 1.894578605061305
"""One-sided 95 % point of Student's t with BLOCKS - 1 degrees of freedom."""
LEAST_PER_BLOCK = 3


class Slope(msgspec.Struct, frozen=True, kw_only=True):
    """Slope of a quantity over frames."""

    per_frame: float
    """The mean of the blocks' slopes."""
    upper_95: float
    """Upper bound of the growth per frame, with a confidence of 95 %."""
    of_blocks: list[float]


def slope(frames: Sequence[float], values: Sequence[float]) -> Slope | None:
    """Return the slope of a quantity over frames; None: too few samples.

    Args:
        frames: numbers of frames at the samples, ascending.
        values: one for each sample.
    """
    if len(frames) < BLOCKS * LEAST_PER_BLOCK:
        return None
    x, y = np.asarray(frames, np.float64), np.asarray(values, np.float64)
    blocks = zip(np.array_split(x, BLOCKS), np.array_split(y, BLOCKS), strict=True)
    slopes = np.array([_least_squares(*block) for block in blocks])
    if not np.isfinite(slopes).all():
        return None  # no frame came within a block
    mean, error = slopes.mean(), slopes.std(ddof=1) / np.sqrt(BLOCKS)
    return Slope(per_frame=float(mean), upper_95=float(mean + T_95 * error), of_blocks=slopes.tolist())


def _least_squares(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    apart = x - x.mean()
    spread = float(apart @ apart)
    return float(apart @ y) / spread if spread else float("nan")
