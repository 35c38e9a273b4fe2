"""PyTorch with pytorch-grad-cam, on tiles of heatline's grid. Maps are joined by their mean where tiles overlap."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from heatline.bench.flops import Classifier
from heatline.train.models.cnn import CamClassifier
from heatline.train.models.explained import ExplainedClassifier

LIBRARIES = ["grad-cam", "torch", "timm", "numpy"]


def settings(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"batch": batch} for batch in job["batches"]]


class System:
    def __init__(self, job: dict[str, Any], one: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        self._batch, self._side, self._origins = one["batch"], job["tile_px"], job["origins_yx"]
        self._threshold = job["score_threshold"]
        self._grad_cam = GradCam(torch.load(job["graphs"]["torch"], weights_only=False))

    def __call__(self, frames: Any) -> list[tuple[Any, Any, bool]]:
        return [self._inspect(frame) for frame in frames]

    def _inspect(self, frame: NDArray[np.uint8]) -> tuple[Any, Any, bool]:
        side = self._side
        tiles = np.stack([frame[y : y + side, x : x + side] for y, x in self._origins])
        found = [self._grad_cam(tiles[first : first + self._batch]) for first in range(0, len(tiles), self._batch)]
        logits, maps = (np.concatenate(parts) for parts in zip(*found, strict=True))
        heatmap, votes = np.zeros(frame.shape[:2], np.float32), np.zeros(frame.shape[:2], np.float32)
        for (y, x), one in zip(self._origins, maps, strict=True):
            heatmap[y : y + side, x : x + side] += one
            votes[y : y + side, x : x + side] += 1
        heatmap /= votes
        return logits, heatmap, bool((logits >= self._threshold).any())


class GradCam:
    """`GradCAM` of pytorch-grad-cam as its README says: one object for all batches, logits from `cam.outputs`.

    Its target is the CNN's last stage, or a ViT's `blocks[-1].norm1` with a `reshape_transform`. It needs a forward
    and a backward pass of the whole network. Its map of a CNN with such a head equals heatline's, its map of a ViT not.
    """

    def __init__(self, model: ExplainedClassifier) -> None:
        self._classifier = Classifier(model)
        map_hw = model.map_hw
        if isinstance(model, CamClassifier):
            self._cam = GradCAM(model=self._classifier, target_layers=[self._classifier.features])
        else:
            network = self._classifier.features
            prefix: int = network.num_prefix_tokens

            def as_picture(tokens: Tensor) -> Tensor:
                """[N, tokens, width] as [N, width, h, w]."""
                return tokens[:, prefix:].reshape(len(tokens), *map_hw, -1).permute(0, 3, 1, 2)

            self._cam = GradCAM(
                model=self._classifier, target_layers=[network.blocks[-1].norm1], reshape_transform=as_picture
            )
        self._target = ClassifierOutputTarget(0)

    def __call__(self, tiles: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of tiles [N, H, W, 3] logits [N], and maps [N, H, W] from 0 to 1 without what speaks against a defect."""
        maps = self._cam(input_tensor=self._classifier.images(tiles), targets=[self._target] * len(tiles))
        logits: NDArray[np.float32] = self._cam.outputs[:, 0].detach().numpy()
        return logits, maps
