"""Judge: from logits and heatmap to the verdict and its regions."""

import numpy as np
from numpy.typing import NDArray

from bench.stages.prepared import Prepared
from bench.stages.stage import Moved, Stage
from edge.geometry import Stitcher
from edge.inspection.verdict import Judgement, judge


class Judge(Stage):
    """`judge` with a heatmap that is ready: all of it but the stitching.

    Args:
        defects: whether a tenth of the tiles is defective, or none.
    """

    name = "judge"

    def __init__(self, prepared: Prepared, *, defects: bool) -> None:
        self.variant = "defects" if defects else "good"
        self._prepared, self._defects = prepared, defects
        setup = prepared.defective if defects else prepared.good
        self._thresholds, self._expected = setup.inspector.thresholds, prepared.judgement(setup)
        self._stitched = _Stitched(prepared)
        self.judgement: Judgement | None = None

    def run(self) -> None:
        self.judgement = judge(self._prepared.logits, self._prepared.maps, self._stitched, self._thresholds)

    def check(self) -> None:
        found, expected, self.judgement = self.judgement, self._expected, None
        self.require(found is not None and found.verdict == expected.verdict, f"that the verdict is {expected.verdict}")
        assert found is not None
        self.require(found.regions == expected.regions, "that the regions are those of the frame")
        self.require(bool(found.regions) == self._defects, "that a frame has regions if it has defects")

    def moved(self) -> Moved:
        read = self._prepared.logits.nbytes + self._prepared.maps.nbytes
        return Moved(read + (self._prepared.heatmap.nbytes if self._defects else 0), 0)


class _Stitched(Stitcher):
    """Has its heatmap already."""

    def __init__(self, prepared: Prepared) -> None:
        like, grid = prepared.stitcher, prepared.bundle.manifest.grid
        super().__init__(like.grid, like.map_hw, like.cell_px, grid.smoothing_px)
        self._heatmap = prepared.heatmap

    def stitch(self, maps: NDArray[np.float32], present: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        return self._heatmap
