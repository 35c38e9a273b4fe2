"""The screening stage: a small graph sees every tile at a fraction of its scale and clears those that are surely good,
so that only doubtful tiles run in full. docs/screening.md says what it promises, and how the promise is watched.
"""

import random
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle.manifest import Screening
from heatline.edge.bundle.plausibility import Plausibility
from heatline.edge.inference import Engine

AUDITED_EVERY = 97
"""Of so many frames that are screened, one runs whole. A prime: what a line repeats shall not come with it."""
OWN_COST = 0.03
"""What the stage costs of the time of a whole frame, beside the share of its pixels."""
MEMORY = 0.4
"""Weight of a frame in the running mean of the share of tiles that run in full."""
TRIED_EVERY = 17
"""While the stage does not pay, at least so many frames pass until it is tried again, if one was GOOD. A prime, too."""


def cost_of(seen_px: int, tile_px: int) -> float:
    """Return the share of a whole frame's time that it takes to see its tiles at `seen_px`."""
    return OWN_COST + (seen_px / tile_px) ** 2


def expected_cleared(good: NDArray[np.bool_]) -> float:
    """Return the share of a frame's tiles that the stage is to clear if these [tiles] lie below its limit."""
    return min(int(good.sum()), len(good) - 1) / len(good)


def describe_unscreened(score: float, stated: Screening) -> str:
    """Describe why no tile is cleared with a score threshold below the lowest, in logits."""
    return (
        f"every tile runs in full: the score threshold is {score:.7g}, and the bundle's screening stage is shown to be "
        f"safe from {stated.score_threshold:.7g} on; export the run again with more --false-reject and --screen"
    )


@dataclass
class _Camera:
    share: float = 0.0
    """Running mean of the share of tiles that run in full."""
    unscreened: int = 0
    """Frames since the last one that was screened."""
    good: bool = False
    """Whether one of these, or one in flight then, is GOOD: if all are DEFECT, and so run whole, no try pays."""
    screened: int = field(default_factory=lambda: random.randrange(AUDITED_EVERY))
    """Frames that were. It begins anywhere: lines that change their product often are audited, too."""


class ScreeningStage:
    """Decides which tiles of a frame run in full. One thread starts frames; another may call `note` and `note_good`.

    Args:
        engine: of the small graph; it takes the same tiles as the whole one.
        tile_px: their side.
        plausibility: what frames must look like, by the features of the small graph; None: no check.
    """

    failed = False
    """Whether the small graph is not used any more."""

    def __init__(
        self, stated: Screening, engine: Engine, tile_px: int, plausibility: Plausibility | None = None
    ) -> None:
        self.engine, self.plausibility, self.map_hw = engine, plausibility, stated.map_hw
        self._clear_below, self._pays_below = stated.clear_below, 1 - cost_of(stated.seen_px, tile_px)
        self._cameras: defaultdict[str, _Camera] = defaultdict(_Camera)

    def pays(self, camera: str) -> bool:
        """Return whether the camera's next frame is to be screened: not while most tiles run in full all the same."""
        state = self._cameras[camera]
        state.unscreened += 1
        tried = state.good and state.unscreened >= TRIED_EVERY
        if self.failed or (state.share >= self._pays_below and not tried):
            return False
        state.unscreened, state.good = 0, False
        return True

    def find_good(self, maps: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return [tiles], the surely good ones, by the small graph's maps [tiles, h, w]; never all of them."""
        peaks = maps.max(axis=(1, 2))
        doubtful = ~np.isfinite(maps).all(axis=(1, 2))
        good: NDArray[np.bool_] = (peaks < self._clear_below) & ~doubtful
        good[np.argmax(np.where(doubtful, np.inf, peaks))] = False
        return good

    def choose_cleared(self, camera: str, good: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return [tiles], the surely good ones that do not run in full: none of them, if the frame is an audit."""
        state = self._cameras[camera]
        state.screened += 1
        return good & (state.screened % AUDITED_EVERY > 0)

    def note(self, camera: str, cleared: float) -> None:
        """Note the share of a screened frame's tiles that did not run in full; not of an audit."""
        state = self._cameras[camera]
        state.share += MEMORY * (1 - cleared - state.share)

    def note_good(self, camera: str) -> None:
        """Note that a frame that was not screened is GOOD."""
        self._cameras[camera].good = True
