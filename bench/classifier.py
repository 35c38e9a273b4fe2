"""A model's classifier in PyTorch as other projects build it, without a map: features, pooling and one Linear layer, or
timm's own ViT.

CNNs run channels last, as PyTorch's tuning guide advises for processors.
"""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from heatline.train.models.cnn import CamClassifier
from heatline.train.models.explained import ExplainedClassifier


class Classifier(nn.Module):
    """A classifier without a map: normalised images [N, 3, H, W] in, logits [N, 1] out.

    Args:
        model: its parts are copied, so that hooks in this one do not slow it.
    """

    features: Any
    """A CNN's features [N, channels, h, w], or timm's `VisionTransformer`."""
    linear: nn.Linear

    def __init__(self, model: ExplainedClassifier) -> None:
        super().__init__()
        self.is_cnn = isinstance(model, CamClassifier)
        self.memory_format = torch.channels_last if self.is_cnn else torch.contiguous_format
        self.features = copy.deepcopy(model.features if self.is_cnn else model.network)
        head = model.head
        assert isinstance(head, nn.Conv2d | nn.Linear), "a head of one layer"
        assert head.bias is not None
        self.linear = nn.Linear(head.weight.shape[1], 1)
        self.linear.weight = nn.Parameter(head.weight.detach().flatten(1).clone())
        self.linear.bias = nn.Parameter(head.bias.detach().clone())
        self._mean, self._std = model._mean, model._std
        self.eval()
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def images(self, tiles: NDArray[np.uint8]) -> Tensor:
        """Normalise tiles [N, H, W, 3] to images [N, 3, H, W], in the layout in which the network is fastest."""
        images = (torch.from_numpy(tiles).permute(0, 3, 1, 2).float() - self._mean) / self._std
        return images.contiguous(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> Tensor:
        if self.is_cnn:
            pooled = self.features(images).mean(dim=(2, 3))  # (N, channels)
        else:
            pooled = self.features.forward_head(self.features.forward_features(images), pre_logits=True)
        logits: Tensor = self.linear(pooled)
        return logits
