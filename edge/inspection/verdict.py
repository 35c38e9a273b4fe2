"""The verdict rule (docs/bundle.md): from logits and heatmap to GOOD or DEFECT and the regions."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edge.geometry import Region, Stitcher, find_regions

Verdict = Literal["GOOD", "DEFECT", "NO_VERDICT"]


@dataclass(frozen=True)
class Thresholds:
    """Both in logits."""

    score: float
    evidence: float


@dataclass(frozen=True)
class Judgement:
    """What was found in one frame."""

    verdict: Verdict
    frame_hw: tuple[int, int]
    """Px."""
    score: float
    """The highest logit of the tiles that were looked at."""
    heatmap: NDArray[np.float32]
    """[H, W] cells, logits; NaN where no tile was looked at: such a cell is not cold, nobody knows."""
    regions: list[Region]
    implausible: str | None = None
    """Why the frame does not show the product, in words: nothing rests on the verdict then. None: it does, or nobody
    knows what it looks like."""


def judge(
    logits: NDArray[np.float32], maps: NDArray[np.float32], stitcher: Stitcher, thresholds: Thresholds
) -> Judgement:
    """Judge a frame: DEFECT if and only if the logit of a tile that was looked at reaches the score threshold.

    Args:
        logits: [len(stitcher.grid)].
        maps: [len(stitcher.grid), h, w].
    Raises:
        ValueError: the network answered something that is not a number, on which no verdict can rest.
    """
    if not (np.isfinite(logits).all() and np.isfinite(maps).all()):
        raise ValueError("the network answered with numbers that are not finite")
    heatmap = stitcher.stitch(maps)
    # In float64, as both are published: rounded to float32, a threshold could sink onto the logit it was set above.
    defective = logits.astype(np.float64) >= thresholds.score
    regions = find_regions(heatmap, stitcher, defective, thresholds.evidence)
    verdict: Verdict = "DEFECT" if defective.any() else "GOOD"
    return Judgement(verdict, stitcher.grid.frame_hw, float(logits.max()), heatmap, regions)
