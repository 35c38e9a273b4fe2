"""A frame of one size and the results of all stages, made once before any stage is timed."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from heatline.bench.pictures import golden_mosaic
from heatline.edge.bundle import Bundle, VerifiedEngine
from heatline.edge.errors import BenchError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inference import Engine
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.inspection.outcome import Outcome
from heatline.edge.inspection.setup import Heatmaps, Setup
from heatline.edge.inspection.verdict import Judgement, Thresholds
from heatline.edge.reference.reference import Reference
from heatline.edge.service.events import verdict_message
from heatline.edge.wire.events import Message

CAMERA = "bench"
DEFECTIVE_SHARE = 0.1
"""Share of the tiles: those with the highest logits."""
HIGH_SHARE = 0.1
"""Share of the cells of a defective tile that a defect covers."""


@dataclass(frozen=True)
class Prepared:
    """A picture, the network's answers, and two setups that judge it.

    The answers set the thresholds, so that a frame of any bundle has a share of defects, or none.
    """

    bundle: Bundle
    verified: VerifiedEngine
    picture: NDArray[np.uint8]
    """RGB [H, W, 3]."""
    stitcher: Stitcher
    logits: NDArray[np.float32]
    maps: NDArray[np.float32]
    heatmap: NDArray[np.float32]
    good: Setup
    defective: Setup

    @property
    def engine(self) -> Engine:
        return self.verified.engine

    @property
    def grid(self) -> TileGrid:
        return self.stitcher.grid

    @property
    def hw(self) -> tuple[int, int]:
        return self.grid.frame_hw

    @property
    def size(self) -> str:
        """Width and height, as `640x480`."""
        return size_of(self.hw)

    def frame(self) -> Frame:
        """Return a frame as the pipeline takes it from a frame queue."""
        return Frame(Stamp(CAMERA, 1, number=1), self.picture, "RGB8")

    def judgement(self, setup: Setup) -> Judgement:
        """Inspect the frame."""
        return setup.inspector.finish(setup.inspector.start(self.frame()))

    def outcome(self, heatmaps: Heatmaps) -> Outcome:
        """Return the outcome of a frame with defects."""
        setup = replace(self.defective, heatmaps=heatmaps)
        return Outcome(self.frame().stamp, judgement=self.judgement(setup), setup=setup)

    def message(self, heatmaps: Heatmaps) -> Message:
        """Return the event of a frame with defects."""
        return verdict_message("bench", self.outcome(heatmaps))


def prepare(bundle: Bundle, verified: VerifiedEngine, hw: tuple[int, int]) -> Prepared:
    """Make a frame of golden tiles and inspect it.

    Args:
        hw: its height and width, px.

    A graph that compares gets the frame itself as reference, as the bundle's has another size.

    Raises:
        EngineError: the engine failed.
        BenchError: the graph compares, and the frame cannot be aligned.
    """
    picture, manifest = golden_mosaic(bundle, hw, seed=0), bundle.manifest
    references = {"": Reference(picture)} if verified.engine.compares else {}

    def setup(thresholds: Thresholds) -> Setup:
        inspector = Inspector(manifest, verified.engine, thresholds=thresholds, references=references)
        return Setup(bundle, verified, inspector, acting=False)

    inspector = setup(Thresholds(np.inf, np.inf, None)).inspector
    pending = inspector.start(Frame(Stamp(CAMERA, 1, number=1), picture, "RGB8"))
    judgement = inspector.finish(pending)
    if judgement.misaligned is not None:
        raise BenchError(
            f"a frame of {size_of(hw)} px of golden tiles cannot be aligned even with itself: {judgement.misaligned}; "
            "choose a larger frame"
        )
    heatmap = judgement.heatmap
    score, evidence = _thresholds(pending.logits, heatmap, pending.stitcher)
    return Prepared(
        bundle,
        verified,
        picture,
        pending.stitcher,
        pending.logits,
        pending.maps,
        heatmap,
        good=setup(Thresholds.of(manifest.calibration, float(pending.logits.max()) + 1.0, evidence)),
        defective=setup(Thresholds.of(manifest.calibration, score, evidence)),
    )


def size_of(hw: tuple[int, int]) -> str:
    """Format a frame's height and width.

    >>> size_of((480, 640))
    '640x480'
    """
    return f"{hw[1]}x{hw[0]}"


def _thresholds(logits: NDArray[np.float32], heatmap: NDArray[np.float32], stitcher: Stitcher) -> tuple[float, float]:
    """Return the two thresholds: a tenth of the tiles (at least one) is defective in a tenth of its cells."""
    count = max(1, round(len(logits) * DEFECTIVE_SHARE))
    highest = np.argsort(logits)[-count:]
    cells = np.concatenate([heatmap[stitcher.tile_cells(int(tile))].ravel() for tile in highest])
    return float(logits[highest[0]]), float(np.quantile(cells, 1 - HIGH_SHARE))
