"""PyTorch with pytorch-grad-cam, on tiles of our grid. Its maps are put together by their mean where tiles overlap."""

from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.torch_ways import GradCam

LIBRARIES = ["grad-cam", "torch", "timm", "numpy"]


def settings(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"batch": batch} for batch in job["batches"]]


class System:
    def __init__(self, job: dict[str, Any], one: dict[str, Any]) -> None:
        self.laps: dict[str, float] = {}
        torch.set_num_threads(job["threads"])
        self._batch, self._side, self._origins = one["batch"], job["tile_px"], job["origins_yx"]
        self._threshold = job["score_threshold"]
        self._way = GradCam(torch.load(job["graphs"]["torch"], weights_only=False))

    def __call__(self, frames: Any) -> list[tuple[Any, Any, bool]]:
        return [self._inspect(frame) for frame in frames]

    def close(self) -> None:
        """Nothing but memory is held."""

    def _inspect(self, frame: NDArray[np.uint8]) -> tuple[Any, Any, bool]:
        began, side = perf_counter(), self._side
        tiles = np.stack([frame[y : y + side, x : x + side] for y, x in self._origins])
        began = self._lap("cut", began)
        found = [self._way(tiles[first : first + self._batch]) for first in range(0, len(tiles), self._batch)]
        logits, maps = (np.concatenate(parts) for parts in zip(*found, strict=True))
        began = self._lap("net and maps", began)
        heatmap, votes = np.zeros(frame.shape[:2], np.float32), np.zeros(frame.shape[:2], np.float32)
        for (y, x), one in zip(self._origins, maps, strict=True):
            heatmap[y : y + side, x : x + side] += one
            votes[y : y + side, x : x + side] += 1
        heatmap /= votes
        self._lap("stitch", began)
        return logits, heatmap, bool((logits >= self._threshold).any())

    def _lap(self, part: str, began: float) -> float:
        now = perf_counter()
        self.laps[part] = self.laps.get(part, 0.0) + now - began
        return now
