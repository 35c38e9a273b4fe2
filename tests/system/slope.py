"""By how much a quantity grows per frame, and at most: a slope from samples that hang together.

What a process holds in memory wanders: a sample says much about the next one. Residuals about a straight line are
therefore no measure of its error, and the usual bound, which takes them for independent, would promise far too much.
So the samples are cut into blocks one after the other, each block has a slope of its own, and these few slopes are
what Student's t is asked about: R. Ibragimov and U. K. Mueller, t-Statistic Based Correlation and Heterogeneity Robust
Inference, Journal of Business & Economic Statistics 28 (2010). It holds where blocks are long beside the memory of the
noise, however that one looks within them; it holds for a random walk too, and errs on the wide side in between.
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
    """Of a quantity over frames."""

    per_frame: float
    """The mean of the blocks' slopes."""
    upper_95: float
    """With a confidence of 95 %, it grows by no more than this per frame."""
    of_blocks: list[float]


def slope(frames: Sequence[float], values: Sequence[float]) -> Slope | None:
    """The slope of a quantity over frames; None: there are too few samples to say.

    Args:
        frames: at which the samples were taken, ascending.
        values: one for each.
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
