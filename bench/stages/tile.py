"""Tile: cut a frame into the engine's inputs."""

import os

import numpy as np

from bench.stages.prepared import Prepared
from bench.stages.stage import Moved, Stage
from edge.geometry.tiling import cut_tile

INPUTS = len(os.sched_getaffinity(0)) + 1
"""Of the engine: one more than it works on side by side."""
RGB = 3


class Tile(Stage):
    """Batch by batch into as many inputs as the engine has, over and over, as on the line."""

    name = "tile"

    def __init__(self, prepared: Prepared) -> None:
        self._picture, self._grid, self._batch = prepared.picture, prepared.grid, prepared.engine.batch
        side = self._grid.tile_px
        self.inputs = np.zeros((INPUTS, self._batch, side, side, RGB), np.uint8)
        self._starts = range(0, len(self._grid), self._batch)

    def run(self) -> None:
        grid, picture, inputs, batch = self._grid, self._picture, self.inputs, self._batch
        tiles, count = len(grid), len(inputs)
        for number, first in enumerate(self._starts):
            grid.cut(picture, inputs[number % count, : min(batch, tiles - first)], first)

    def check(self) -> None:
        count, tile = len(self.inputs), np.empty(self.inputs.shape[2:], np.uint8)
        for number, first in list(enumerate(self._starts))[-count:]:
            for place, (y, x) in enumerate(self._grid.origins_yx[first : first + self._batch]):
                cut_tile(self._picture, y, x, tile)
                self.require(np.array_equal(self.inputs[number % count, place], tile), "that all tiles were cut")
        self.inputs[:] = 0  # the next run has to write them anew

    def moved(self) -> Moved:
        (height, width), side, tiles = self._grid.frame_hw, self._grid.tile_px, len(self._grid)
        # Of a frame that is lower or narrower than a tile, there is no more to read.
        return Moved(tiles * min(side, height) * min(side, width) * RGB, tiles * side * side * RGB)
