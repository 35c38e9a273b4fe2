"""Stages in this process: from a frame in memory to the parts of its message."""

import os

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.bench.stages.prepared import Prepared
from heatline.bench.stages.stage import Stage, require
from heatline.edge.errors import BenchError, EngineError
from heatline.edge.geometry import Stitcher
from heatline.edge.geometry.tiling import cut_tile
from heatline.edge.inspection.verdict import Judgement, judge
from heatline.edge.service.events import verdict_message
from heatline.edge.wire.events import VerdictEvent, from_frames, to_frames

CORES = len(os.sched_getaffinity(0))
INPUTS = CORES + 1
"""Inputs of the engine: one more than it infers at once."""
BATCHES_TO_FILL = 4 * (CORES + 2)
"""After so many batches every input was used; one that was not is filled when it is used."""
NEAR_ENOUGH = 1e-3
"""Share of the largest logit: how far an answer may be from the one that the same tile had before."""
RGB = 3


def tile(prepared: Prepared) -> Stage:
    """Make the stage that cuts a frame, batch by batch, into the inputs of the engine in turn, as on the line."""
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
        cut[:] = 0  # the next run must write all of them

    return Stage("tile", run, check)


class ReadyInputs:
    """The line's engine, whose inputs hold tiles of a frame: neither pixels nor maps are copied."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._written: dict[int, int] = {}
        """Number of tiles that an input holds, by its address."""
        self._cut = 0
        """Number of tiles cut so far."""
        self._logits: list[float] = []
        self._errors: list[Exception] = []

    def infer(self, tiles: int) -> list[float]:
        """Infer a number of tiles in batches; return their logits, in any order, when all are answered.

        Raises:
            EngineError: the engine failed.
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
        """Write the inputs again after other tiles were inferred."""
        self._written.clear()
        self.infer(BATCHES_TO_FILL * self._prepared.engine.batch)

    def _fill(self, inputs: NDArray[np.uint8], difference: NDArray[np.uint8] | None = None, /) -> None:
        place, prepared = inputs.__array_interface__["data"][0], self._prepared
        if self._written.get(place, 0) < len(inputs):
            for one in inputs:
                prepared.grid.cut(prepared.picture, one[None], self._cut % len(prepared.grid))
                self._cut += 1
            if difference is not None:
                difference[:] = 0  # the frame is its own reference
            self._written[place] = len(inputs)

    def _take(
        self, logits: NDArray[np.float32], maps: NDArray[np.float32], features: NDArray[np.float32] | None = None, /
    ) -> None:
        self._logits += logits.tolist()


def infer(prepared: Prepared) -> Stage:
    """Make the stage of the engine alone, on as many tiles of the frame as it has."""
    ready, tiles = ReadyInputs(prepared), len(prepared.grid)
    return Stage(
        "infer",
        run=lambda: ready.infer(tiles),
        check=lambda logits: require_answers(logits, prepared),
    )


def require_answers(logits: list[float], prepared: Prepared, frames: int = 1) -> None:
    """Check that there is an answer for each tile, and that each answer is that of a tile of the frame.

    Args:
        frames: number of inferred frames.
    Raises:
        BenchError: an answer is missing or wrong.
    """
    expected = frames * len(prepared.grid)
    if len(logits) != expected:
        raise BenchError(f"the engine answered {len(logits)} tiles of {expected}, so its time counts for nothing")
    nearest = np.abs(np.asarray(logits)[:, None] - prepared.logits[None, :]).min(axis=1)
    if not (nearest <= NEAR_ENOUGH * np.abs(prepared.logits).max()).all():
        raise BenchError("the engine's answers for the same tiles changed, so its time counts for nothing")


def stitch(prepared: Prepared) -> Stage:
    """Make the stage from the maps of a frame's tiles to its heatmap."""
    return Stage(
        "stitch",
        run=lambda: prepared.stitcher.stitch(prepared.maps),
        check=lambda found: require(np.array_equal(found, prepared.heatmap), "that the heatmap is that of the frame"),
    )


class _Stitched(Stitcher):
    """Stitcher that returns a finished heatmap."""

    def __init__(self, prepared: Prepared) -> None:
        like, grid = prepared.stitcher, prepared.bundle.manifest.grid
        super().__init__(like.grid, like.map_hw, like.cell_px, grid.smoothing_px)
        self._heatmap = prepared.heatmap

    def stitch(self, maps: NDArray[np.float32], present: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        return self._heatmap


def judging(prepared: Prepared, *, defects: bool) -> Stage:
    """Make the stage from logits and a finished heatmap to the verdict and its regions.

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
    """Make the inspection of one frame, from `Inspector.start` to the end of `Inspector.finish`.

    Args:
        defects: whether a tenth of the tiles is defective, or none.
    """
    setup = prepared.defective if defects else prepared.good
    expected = prepared.judgement(setup)
    return Stage(
        "whole",
        run=lambda: prepared.judgement(setup),
        check=lambda found: require(same(found, expected), "that verdict and regions are the same as before"),
        variant="defects" if defects else "good",
    )


def same(one: Judgement, other: Judgement) -> bool:
    """Return whether two judgements of one frame agree: equal tiles have answers equal to the last bit."""
    return one.verdict == other.verdict and one.regions == other.regions


def encode(prepared: Prepared, *, heatmap: bool) -> Stage:
    """Make the stage from the judgement of a frame with defects to the parts of its message.

    Args:
        heatmap: whether the event carries its heatmap.
    """
    outcome = prepared.outcome("always" if heatmap else "never")
    judgement = outcome.judgement
    assert judgement is not None
    regions = judgement.regions

    def run() -> list[bytes]:
        return to_frames(verdict_message("bench", outcome))

    def check(parts: list[bytes]) -> None:
        message = from_frames(parts)
        event = message.event
        require(
            isinstance(event, VerdictEvent) and event.regions == regions and event.verdict == "DEFECT",
            "that the event has the frame's verdict and regions",
        )
        require((message.png is not None) == heatmap, "that it carries its heatmap only if wanted")
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
