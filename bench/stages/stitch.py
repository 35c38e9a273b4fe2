"""Stitch: from the maps of a frame's tiles to its heatmap."""

import numpy as np
from numpy.typing import NDArray

from bench.stages.prepared import Prepared
from bench.stages.stage import Moved, Stage


class Stitch(Stage):
    """The maps that the network made of the frame."""

    name = "stitch"

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self.heatmap: NDArray[np.float32] | None = None

    def run(self) -> None:
        self.heatmap = self._prepared.stitcher.stitch(self._prepared.maps)

    def check(self) -> None:
        heatmap, self.heatmap = self.heatmap, None
        self.require(
            heatmap is not None and np.array_equal(heatmap, self._prepared.heatmap),
            "that the heatmap is that of the frame",
        )

    def moved(self) -> Moved:
        assert self.heatmap is not None
        return Moved(self._prepared.maps.nbytes, self.heatmap.nbytes)
