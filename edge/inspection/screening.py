"""The screening stage: a small graph sees every tile at a fraction of its scale and clears those that are surely good,
so that only doubtful tiles run in full. docs/screening.md says what it promises, and how the promise is watched.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.manifest import Screening
from heatline.edge.bundle.plausibility import Plausibility
from heatline.edge.inference import Engine

AUDITED_SHARE = 1 / 97
"""Share of the surely good tiles that run in full all the same."""
PAYS_BELOW = 0.8
"""A frame of which a larger share runs in full costs more with the stage than without."""
MEMORY = 0.25
"""Weight of a frame in the running mean of that share."""
TRIED_EVERY = 16
"""While the stage does not pay, so many frames pass until it is tried again."""


def expected_cleared(good: NDArray[np.bool_]) -> float:
    """Return the share of a frame's tiles that the stage is to clear if these [tiles] lie below its limit."""
    return min(int(good.sum()), len(good) - 1) / len(good) * (1 - AUDITED_SHARE)


def describe_unscreened(score: float, stated: Screening) -> str:
    """Describe why no tile is cleared with a score threshold below the lowest, in logits."""
    return (
        f"every tile runs in full: the score threshold is {score:.2f}, and the bundle's screening stage is shown to be "
        f"safe from {stated.score_threshold:.2f} on; export the run again with more --false-reject and --screen"
    )


@dataclass
class _Camera:
    share: float = 0.0
    """Running mean of the share of tiles that run in full."""
    unscreened: int = 0
    """Frames since the last one that was screened."""


class ScreeningStage:
    """Decides which tiles of a frame run in full. One thread at a time.

    Args:
        engine: of the small graph; it takes the same tiles as the whole one.
        plausibility: what frames must look like, by the features of the small graph; None: no check.
    """

    def __init__(self, stated: Screening, engine: Engine, plausibility: Plausibility | None) -> None:
        self.engine, self.plausibility, self.map_hw = engine, plausibility, stated.map_hw
        self._clear_below = stated.clear_below
        self._cameras: defaultdict[str, _Camera] = defaultdict(_Camera)
        self._random = np.random.default_rng()

    def pays(self, camera: str) -> bool:
        """Return whether the camera's next frame is to be screened: not while most tiles run in full all the same."""
        state = self._cameras[camera]
        state.unscreened += 1
        if state.share >= PAYS_BELOW and state.unscreened < TRIED_EVERY:
            return False
        state.unscreened = 0
        return True

    def find_good(self, maps: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return [tiles], the surely good ones, by the small graph's maps [tiles, h, w]; never all of them."""
        peaks = maps.max(axis=(1, 2))
        doubtful = ~np.isfinite(maps).all(axis=(1, 2))
        good: NDArray[np.bool_] = (peaks < self._clear_below) & ~doubtful
        good[np.argmax(np.where(doubtful, np.inf, peaks))] = False
        return good

    def choose_cleared(self, good: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return [tiles], the surely good ones that do not run in full; a few do, as an audit."""
        return good & (self._random.random(len(good)) >= AUDITED_SHARE)

    def note(self, camera: str, cleared: float) -> None:
        """Note the share of a screened frame's tiles that did not run in full."""
        state = self._cameras[camera]
        state.share += MEMORY * (1 - cleared - state.share)
