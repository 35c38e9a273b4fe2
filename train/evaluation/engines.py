"""Engines for evaluations of runs: a PyTorch model, or recorded answers, behind the engine interface of the line."""

import numpy as np
import torch
from numpy.typing import NDArray

from heatline.edge.errors import EngineError
from heatline.edge.inference.engine import Done, Engine, Failed, Fill
from heatline.edge.reference.difference import CHANNELS
from heatline.train.models.dense import DenseClassifier
from heatline.train.models.explained import ExplainedClassifier


class TorchEngine(Engine):
    """PyTorch in float32 on the model's device. Calls `done` before `submit` returns."""

    name = "torch"
    batch = 16

    def __init__(self, model: ExplainedClassifier, tile_px: int) -> None:
        self._model = model
        self._inputs = [np.zeros((self.batch, tile_px, tile_px, 3), np.uint8)]
        self.compares = isinstance(model, DenseClassifier) and model.compares
        if self.compares:
            self._inputs.append(np.zeros((self.batch, *model.map_hw, CHANNELS), np.uint8))

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        try:
            inputs = [each[:count] for each in self._inputs]
            fill(*inputs)
            device = next(self._model.parameters()).device
            with torch.inference_mode():
                logits, maps = self._model(*(torch.from_numpy(each).to(device) for each in inputs))
            done(logits.cpu().numpy(), maps.cpu().numpy())
        except Exception as error:  # as in every engine: any error is reported for these tiles
            failed(error)


class RecordedEngine(Engine):
    """Returns recorded answers in their order. It does not look at the tiles, so they must be those of the recording.

    Args:
        logits: [N], in the order in which tiles are submitted.
        maps: [N, h, w].
        compares: whether the recorded model compares tiles with a reference.
    """

    name = "recorded answers"
    batch = 64

    def __init__(self, logits: NDArray[np.float32], maps: NDArray[np.floating], *, compares: bool = False) -> None:
        self._logits, self._maps, self._next, self.compares = logits, maps, 0, compares

    def skip(self, count: int) -> None:
        """Leave out the answers of the next `count` tiles."""
        self._next += count

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        start, self._next = self._next, self._next + count
        if self._next > len(self._logits):
            failed(EngineError(f"{self._next} tiles were submitted, and {len(self._logits)} answers are recorded"))
            return
        done(self._logits[start : self._next], self._maps[start : self._next].astype(np.float32))
