"""A judged frame with its pixels, as sidecars of the line get it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from heatline.edge.inspection.verdict import TileScores
from heatline.edge.wire.events import HeatmapPng, VerdictEvent

__all__ = ["Evidence", "Picture", "TileScores"]


@dataclass(frozen=True)
class Evidence:
    """What the verdict of a frame rests on."""

    heatmap: NDArray[np.float32]
    """[H, W] cells, logits; NaN where no tile was inspected."""
    cell_px: int
    """Side of a cell, px of the frame."""
    scale: tuple[float, float]
    """Logits at the two ends of the bundle's colour scale; the evidence threshold lies in its middle."""
    tiles: TileScores

    @property
    def png_scale(self) -> HeatmapPng:
        """The scale of the heatmap as a grey PNG."""
        height, width = self.heatmap.shape
        low, high = self.scale
        return HeatmapPng(hw=(height, width), cell_px=self.cell_px, logit_at_0=low, logit_at_255=high)


@dataclass(frozen=True)
class Picture:
    """A frame with its verdict. The arrays are views of shared memory until `release` is called."""

    event: VerdictEvent
    """The frame's event as it is published, but not numbered: `seq` and `previous_seq` are 0, `journal_id` is None."""
    image: NDArray[np.uint8]
    """Grey [H, W], or RGB [H, W, 3]."""
    evidence: Evidence | None
    """None: the frame was not judged, e.g. because it does not show the product."""
    release: Callable[[], None] = field(default=lambda: None, compare=False)
    """Call this when the arrays are no longer used; the line can then send another picture."""
