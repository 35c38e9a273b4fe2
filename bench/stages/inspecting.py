"""The stages that need nothing but this process: from a frame in memory to the parts of its message."""

import os

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.stages.prepared import Prepared
from bench.stages.stage import Stage, require
from edge.delivery.to_wire import region_to_wire
from edge.errors import BenchError, EngineError
from edge.geometry import Stitcher
from edge.geometry.tiling import cut_tile
from edge.inspection.verdict import Judgement, judge
from edge.service.events import verdict_message
from edge.wire.events import VerdictEvent, from_frames, to_frames

CORES = len(os.sched_getaffinity(0))
INPUTS = CORES + 1
"""Of the engine: one more than it works on side by side."""
BATCHES_TO_FILL = 4 * (CORES + 2)
"""After so many, every input has had its turn; one that had not would be filled when it has."""
NEAR_ENOUGH = 1e-3
"""Of the largest logit: how far an answer may be from the one that the same tile had."""
RGB = 3


def tile(prepared: Prepared) -> Stage:
    """Cut a frame, batch by batch, into as many inputs as the engine has, over and over, as on the line."""
    picture, grid, batch = prepared.picture, prepared.grid, prepared.engine.batch
    side, tiles = grid.tile_px, len(grid)
    inputs = np.zeros((INPUTS, batch, side, side, RGB), np.uint8)
    starts = range(0, tiles, batch)

    def run() -> NDArray[np.uint8]:
        for number, first in enumerate(starts):
            grid.cut(picture, inputs[number % INPUTS, : min(batch, tiles - first)], first)
        return inputs

    def check(cut: NDArray[np.uint8]) -> None:
        expected = np.empty((side, side, RGB), np.uint8)
        for number, first in list(enumerate(starts))[-INPUTS:]:
            for place, (y, x) in enumerate(grid.origins_yx[first : first + batch]):
                cut_tile(picture, y, x, expected)
                require(np.array_equal(cut[number % INPUTS, place], expected), "that all tiles were cut")
        cut[:] = 0  # the next run has to write them anew

    return Stage("tile", run, check)


class ReadyInputs:
    """Our engine with its inputs ready, which are tiles of a frame: neither pixels nor maps are copied."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._written: dict[int, int] = {}
        """How many tiles of the frame an input holds, by where it lies."""
        self._cut = 0
        """Tiles that were cut so far."""
        self._logits: list[float] = []
        self._errors: list[Exception] = []

    def infer(self, tiles: int) -> list[float]:
        """Infer so many tiles, in batches; returns their logits, in any order, when all are answered.

        Raises:
            EngineError: it failed on one.
        """
        self._logits = []
        engine = self._prepared.engine
        for first in range(0, tiles, engine.batch):
            engine.submit(min(engine.batch, tiles - first), self._fill, self._take, self._errors.append)
        engine.drain()
        if self._errors:
            raise EngineError(f"the engine failed: {self._errors[0]}") from self._errors[0]
        return self._logits

    def refill(self) -> None:
        """Write the inputs anew, where something else has been inferred with them since."""
        self._written.clear()
        self.infer(BATCHES_TO_FILL * self._prepared.engine.batch)

    def _fill(self, inputs: NDArray[np.uint8]) -> None:
        place, prepared = inputs.__array_interface__["data"][0], self._prepared
        if self._written.get(place, 0) < len(inputs):
            for one in inputs:
                prepared.grid.cut(prepared.picture, one[None], self._cut % len(prepared.grid))
                self._cut += 1
            self._written[place] = len(inputs)

    def _take(
        self, logits: NDArray[np.float32], maps: NDArray[np.float32], features: NDArray[np.float32] | None = None, /
    ) -> None:
        self._logits += logits.tolist()


def infer(prepared: Prepared) -> Stage:
    """The engine by itself on as many tiles as the frame has, which are tiles of the frame."""
    ready, tiles = ReadyInputs(prepared), len(prepared.grid)
    return Stage(
        "infer",
        run=lambda: ready.infer(tiles),
        check=lambda logits: require_answers(logits, prepared),
    )


def require_answers(logits: list[float], prepared: Prepared, frames: int = 1) -> None:
    """See that there is one answer for each tile of a frame, and that each is one that a tile of it has.

    Args:
        frames: that were inferred.
    Raises:
        BenchError: there is not.
    """
    expected = frames * len(prepared.grid)
    if len(logits) != expected:
        raise BenchError(f"the engine answered {len(logits)} tiles of {expected}, so its time says nothing")
    nearest = np.abs(np.asarray(logits)[:, None] - prepared.logits[None, :]).min(axis=1)
    if not (nearest <= NEAR_ENOUGH * np.abs(prepared.logits).max()).all():
        raise BenchError("the engine answered otherwise than it had for the same tiles, so its time says nothing")


def stitch(prepared: Prepared) -> Stage:
    """From the maps of a frame's tiles to its heatmap."""
    return Stage(
        "stitch",
        run=lambda: prepared.stitcher.stitch(prepared.maps),
        check=lambda found: require(np.array_equal(found, prepared.heatmap), "that the heatmap is that of the frame"),
    )


class _Stitched(Stitcher):
    """Has its heatmap already."""

    def __init__(self, prepared: Prepared) -> None:
        like, grid = prepared.stitcher, prepared.bundle.manifest.grid
        super().__init__(like.grid, like.map_hw, like.cell_px, grid.smoothing_px)
        self._heatmap = prepared.heatmap

    def stitch(self, maps: NDArray[np.float32], present: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        return self._heatmap


def judging(prepared: Prepared, *, defects: bool) -> Stage:
    """From logits and a heatmap that is ready to the verdict and its regions.

    Args:
        defects: whether a tenth of the tiles is defective, or none.
    """
    setup = prepared.defective if defects else prepared.good
    thresholds, expected, stitched = setup.inspector.thresholds, prepared.judgement(setup), _Stitched(prepared)

    def check(found: Judgement) -> None:
        require(same(found, expected), "that verdict and regions are those of the frame")
        require(bool(found.regions) == defects, "that a frame has regions if it has defects")

    return Stage(
        "judge",
        run=lambda: judge(prepared.logits, prepared.maps, stitched, thresholds),
        check=check,
        variant="defects" if defects else "good",
    )


def whole(prepared: Prepared, *, defects: bool) -> Stage:
    """A frame by itself, from `Inspector.start` to the end of `Inspector.finish`: tiled, inferred, stitched, judged.

    Args:
        defects: whether a tenth of the tiles is defective, or none.
    """
    setup = prepared.defective if defects else prepared.good
    expected = prepared.judgement(setup)
    return Stage(
        "whole",
        run=lambda: prepared.judgement(setup),
        check=lambda found: require(same(found, expected), "that the frame is judged as it was before"),
        variant="defects" if defects else "good",
    )


def same(one: Judgement, other: Judgement) -> bool:
    """Whether two judgements of one frame agree: its answers are the same to the last bit, as its tiles are."""
    return one.verdict == other.verdict and one.regions == other.regions


def encode(prepared: Prepared, *, heatmap: bool) -> Stage:
    """From the judgement of a frame with defects to the parts of its message.

    Args:
        heatmap: whether the event carries its heatmap.
    """
    outcome = prepared.outcome("always" if heatmap else "never")
    judgement = outcome.judgement
    assert judgement is not None
    regions = [region_to_wire(region) for region in judgement.regions]

    def run() -> list[bytes]:
        return to_frames(verdict_message("bench", outcome))

    def check(parts: list[bytes]) -> None:
        message = from_frames(parts)
        event = message.event
        require(
            isinstance(event, VerdictEvent) and event.regions == regions and event.verdict == "DEFECT",
            "that the event tells the frame's verdict and regions",
        )
        require((message.png is not None) == heatmap, "that it carries its heatmap if it is to")
        if message.png is not None:
            shown = cv2.imdecode(np.frombuffer(message.png, np.uint8), cv2.IMREAD_UNCHANGED)
            grey = prepared.defective.scale.grey(judgement.heatmap)
            require(shown is not None and np.array_equal(shown, grey), "that the PNG shows the heatmap")

    return Stage(
        "encode",
        run,
        check,
        variant="heatmap" if heatmap else "no heatmap",
    )
