"""Infer: the engine by itself, on tiles that lie in its inputs already."""

import numpy as np
from numpy.typing import NDArray

from bench.stages.prepared import Prepared
from bench.stages.stage import Moved, Stage
from edge.errors import BenchError, EngineError

NEAR_ENOUGH = 1e-3
"""Of the largest logit: how far an answer may be from the one that the same tile had."""
RGB = 3


class BareEngine:
    """An engine at work on tiles of a frame that its inputs hold: neither pixels nor maps are copied."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._written: set[tuple[int, int]] = set()
        """Inputs that hold tiles of the frame: where they lie and how many tiles they take."""
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

    def _fill(self, inputs: NDArray[np.uint8]) -> None:
        place = inputs.__array_interface__["data"][0], len(inputs)
        if place not in self._written:
            prepared = self._prepared
            for number, tile in enumerate(inputs, len(self._written)):
                prepared.grid.cut(prepared.picture, tile[None], number % len(prepared.grid))
            self._written.add(place)
        self.moved = Moved(self.moved.read + inputs.nbytes, self.moved.written)

    def _take(self, logits: NDArray[np.float32], maps: NDArray[np.float32]) -> None:
        self.logits += logits.tolist()
        self.moved = Moved(self.moved.read, self.moved.written + logits.nbytes + maps.nbytes)


class Infer(Stage):
    """The bare engine on as many tiles as the frame has, which are tiles of the frame."""

    name = "infer"

    def __init__(self, prepared: Prepared) -> None:
        self._prepared, self._bare = prepared, BareEngine(prepared)

    def run(self) -> None:
        self._bare.infer(len(self._prepared.grid))

    def check(self) -> None:
        logits, self._bare.logits = self._bare.logits, []
        require_answers(logits, self._prepared)

    def moved_by_shape(self) -> Moved:
        grid, (height, width) = self._prepared.grid, self._prepared.stitcher.map_hw
        tiles, number = len(grid), np.dtype(np.float32).itemsize
        return Moved(tiles * grid.tile_px**2 * RGB, tiles * (1 + height * width) * number)

    def moved_by_array(self) -> Moved:
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
