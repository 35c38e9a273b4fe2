"""A trained model behind the line's own engine interface, so that a run is judged the way a bundle is."""

import numpy as np
import torch

from edge.inference.engine import Done, Engine, Failed, Fill
from train.models.explained import ExplainedClassifier

BATCH = 16


class TorchEngine(Engine):
    """PyTorch in float32, on the processor or where the model lies; answers before `submit` returns."""

    name = "torch"

    def __init__(self, model: ExplainedClassifier, tile_px: int, batch: int = BATCH) -> None:
        self.batch = batch
        self._model = model
        self._tiles = np.zeros((batch, tile_px, tile_px, 3), np.uint8)

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        try:
            fill(self._tiles[:count])
            device = next(self._model.parameters()).device
            with torch.inference_mode():
                logits, maps = self._model(torch.from_numpy(self._tiles[:count]).to(device))
            done(logits.cpu().numpy(), maps.cpu().numpy())
        except Exception as error:  # as every engine: whatever it was, it is told of these tiles
            failed(error)
