"""Infer: the engine by itself, on tiles that lie in its inputs already."""

import os

import numpy as np
from numpy.typing import NDArray

from bench.stages.prepared import Prepared
from bench.stages.stage import Moved, Stage
from edge.errors import BenchError, EngineError

NEAR_ENOUGH = 1e-3
"""Of the largest logit: how far an answer may be from the one that the same tile had."""
BATCHES_TO_FILL = 4 * (len(os.sched_getaffinity(0)) + 2)
"""After so many, every input has had its turn; one that had not would be filled when it has."""
RGB = 3


class BareEngine:
    """Our engine with its inputs ready, which are tiles of a frame: neither pixels nor maps are copied."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._written: dict[int, int] = {}
        """How many tiles of the frame an input holds, by where it lies."""
        self._cut = 0
        """Tiles that were cut so far."""
        self.logits: list[float] = []
        """Of the last time, in any order."""
        self.moved = Moved(0, 0)
        """The last time: inputs and answers."""
        self._errors: list[Exception] = []

    def infer(self, tiles: int) -> None:
        """Infer so many tiles, in batches; returns when all are answered.

        Raises:
            EngineError: it failed on one.
        """
        self.logits, self.moved = [], Moved(0, 0)
        engine = self._prepared.engine
        batch = engine.batch
        for first in range(0, tiles, batch):
            engine.submit(min(batch, tiles - first), self._fill, self._take, self._errors.append)
        engine.drain()
        if self._errors:
            raise EngineError(f"the engine failed: {self._errors[0]}") from self._errors[0]

    def refill(self) -> None:
        """Write the inputs anew, where something else has been inferred with them since.

        Raises:
            EngineError: it failed on one.
        """
        self._written.clear()
        self.infer(BATCHES_TO_FILL * self._prepared.engine.batch)

    def _fill(self, inputs: NDArray[np.uint8]) -> None:
        place = inputs.__array_interface__["data"][0]
        if self._written.get(place, 0) < len(inputs):
            prepared = self._prepared
            for tile in inputs:
                prepared.grid.cut(prepared.picture, tile[None], self._cut % len(prepared.grid))
                self._cut += 1
            self._written[place] = len(inputs)
        self.moved = Moved(self.moved.read + inputs.nbytes, self.moved.written)

    def _take(
        self, logits: NDArray[np.float32], maps: NDArray[np.float32], features: NDArray[np.float32] | None = None, /
    ) -> None:
        self.logits += logits.tolist()
        written = logits.nbytes + maps.nbytes + (0 if features is None else features.nbytes)
        self.moved = Moved(self.moved.read, self.moved.written + written)


class Infer(Stage):
    """The engine on as many tiles as the frame has, which are tiles of the frame."""

    name = "infer"

    def __init__(self, prepared: Prepared) -> None:
        self._prepared, self._bare = prepared, BareEngine(prepared)

    def run(self) -> None:
        self._bare.infer(len(self._prepared.grid))

    def check(self) -> None:
        logits, self._bare.logits = self._bare.logits, []
        require_answers(logits, self._prepared)
        grid, (height, width) = self._prepared.grid, self._prepared.stitcher.map_hw
        tiles, number = len(grid), np.dtype(np.float32).itemsize
        by_sizes = Moved(tiles * grid.tile_px**2 * RGB, tiles * (1 + height * width) * number)
        self.require(self._bare.moved == by_sizes, "that it was given all tiles and gave all maps")

    def moved(self) -> Moved:
        return self._bare.moved


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
