"""How others get a map out of the same network: PyTorch alone, PyTorch with hooks, pytorch-grad-cam.

Each way takes what a line has, RGB tiles uint8 [N, H, W, 3] in numpy, and gives what a line needs, in numpy: logits and
maps. The network is the same one, as others have it: features, pooling and one Linear layer, or timm's own ViT. CNNs
run channels last, as PyTorch's tuning guide advises for processors, with a map and without.

Nothing here is timed. `unlike_ours` says whether a way's logits and maps are those that they should be.
"""

import copy
from importlib.util import find_spec
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.cli.extras import how_to_install
from train.models.cnn import CamClassifier
from train.models.explained import ExplainedClassifier
from train.models.rollout import discarded, fuse_heads
from train.models.vit import RolloutClassifier

Tiles = NDArray[np.uint8]
"""RGB, [N, H, W, 3]."""
Logits = NDArray[np.float32]
Maps = NDArray[np.float32]

CLOSE = 2e-3
"""How far maps may be apart when each goes from 0 to 1; float32 leaves 1e-5, where no discard hangs on last digits."""


class WayToMaps(Protocol):
    """Logits [N] of tiles, and maps [N, h, w] scaled as that way has them."""

    name: str

    def __call__(self, tiles: Tiles) -> tuple[Logits, Maps]: ...


class Classifier(nn.Module):
    """A classifier as others have it: normalised images [N, 3, H, W] in, logits [N, 1] out, no map.

    Args:
        model: its parts are copied, so that what one way hooks does not slow another.
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

    def images(self, tiles: Tiles) -> Tensor:
        """Normalised images [N, 3, H, W] in the layout that the network is fast in."""
        images = (torch.from_numpy(tiles).permute(0, 3, 1, 2).float() - self._mean) / self._std
        return images.contiguous(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> Tensor:
        if self.is_cnn:
            pooled = self.features(images).mean(dim=(2, 3))  # (N, channels)
        else:
            pooled = self.features.forward_head(self.features.forward_features(images), pre_logits=True)
        logits: Tensor = self.linear(pooled)
        return logits


class Eager:
    """Logits [N] of tiles, without any map."""

    name = "eager"

    def __init__(self, model: ExplainedClassifier) -> None:
        self._classifier = Classifier(model)

    @torch.inference_mode()
    def __call__(self, tiles: Tiles) -> Logits:
        return _numpy(self._classifier(self._classifier.images(tiles))[:, 0])


class HookedCam:
    """A CNN's class activation map (Zhou et al. 2016): the features that a hook kept, times the weights of its head."""

    name = "hooks"

    def __init__(self, model: CamClassifier) -> None:
        self._classifier = Classifier(model)
        self._seen: list[Tensor] = []
        self._classifier.features.register_forward_hook(lambda _module, _inputs, output: self._seen.append(output))

    @torch.inference_mode()
    def __call__(self, tiles: Tiles) -> tuple[Logits, Maps]:
        """Maps [N, h, w] in logits, without the bias."""
        self._seen.clear()
        logits = self._classifier(self._classifier.images(tiles))[:, 0]
        (features,) = self._seen
        maps = torch.einsum("nchw,c->nhw", features, self._classifier.linear.weight[0])
        return _numpy(logits), _numpy(maps)


class HookedRollout:
    """A ViT's rollout: the attention that hooks kept, fused, discarded and multiplied as matrices.

    In the manner of the script `vit_rollout.py` of vit-explain, by which it is commonly done. That one takes one tile
    at a time and divides by the wrong sums; here each tile of a batch is done right.
    """

    name = "hooks"

    def __init__(self, model: RolloutClassifier) -> None:
        self._classifier = Classifier(model)
        self._fusion, self._discard_ratio, self._map_hw = model.fusion, model.discard_ratio, model.map_hw
        self._attention: list[Tensor] = []
        for block in self._classifier.features.blocks:
            block.attn.fused_attn = False  # the fused kernel computes no attention that a hook could keep
            block.attn.attn_drop.register_forward_hook(
                lambda _module, _inputs, output: self._attention.append(output.detach())
            )

    @torch.inference_mode()
    def __call__(self, tiles: Tiles) -> tuple[Logits, Maps]:
        """Maps [N, h, w], divided by their maximum."""
        self._attention.clear()
        logits = self._classifier(self._classifier.images(tiles))[:, 0]
        tokens = self._attention[0].shape[-1]
        rollout = identity = torch.eye(tokens)
        for attention in self._attention:
            fused = self._without_lowest(fuse_heads(attention, self._fusion))
            mixed = fused + identity
            rollout = mixed / mixed.sum(dim=-1, keepdim=True) @ rollout  # (N, tokens, tokens)
        patches = rollout[:, 0, self._classifier.features.num_prefix_tokens :]
        maps = (patches / patches.amax(dim=1, keepdim=True)).reshape(-1, *self._map_hw)
        return _numpy(logits), _numpy(maps)

    def _without_lowest(self, fused: Tensor) -> Tensor:
        """[N, tokens, tokens] with zeros for the lowest entries of each matrix, which a TopK finds."""
        flat = fused.flatten(1)
        gone = discarded(flat.shape[1], self._discard_ratio)
        if gone:
            flat = flat.scatter(1, flat.topk(gone, largest=False).indices, 0.0)
        return flat.view_as(fused)


class GradCam:
    """`GradCAM` of pytorch-grad-cam as its README says: one object for all batches, logits from `cam.outputs`.

    Its target is the CNN's last stage, or a ViT's `blocks[-1].norm1` with a `reshape_transform`. It goes forward and
    back through the whole network. Of a CNN with such a head its map is ours, of a ViT it is another one.
    """

    name = "grad-cam"

    def __init__(self, model: ExplainedClassifier) -> None:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

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

    def __call__(self, tiles: Tiles) -> tuple[Logits, Maps]:
        """Maps [N, H, W] as large as the tile, from 0 to 1, without what speaks against a defect."""
        maps = self._cam(input_tensor=self._classifier.images(tiles), targets=[self._target] * len(tiles))
        return _numpy(self._cam.outputs[:, 0].detach()), maps


def hooked(model: ExplainedClassifier) -> WayToMaps:
    """The way with hooks of a model's family."""
    if isinstance(model, CamClassifier):
        return HookedCam(model)
    assert isinstance(model, RolloutClassifier)
    return HookedRollout(model)


def grad_cam_is_missing() -> str | None:
    """What to do about it, where pytorch-grad-cam is not installed."""
    if find_spec("pytorch_grad_cam") is None:
        return f"pytorch-grad-cam is not installed; {how_to_install('peers')}"
    return None


def unlike_ours(
    model: ExplainedClassifier,
    way: WayToMaps,
    tiles: Tiles,
    found: tuple[Logits, Maps] | None = None,
    alone: Logits | None = None,
) -> str | None:
    """What is wrong with a way's logits or maps of tiles, held to the model's own; None if they are as they should be.

    Scales differ, so maps are compared after ours was brought to that way's.

    Args:
        found: what the way gave for them; None: it is asked.
        alone: logits that were found without a map, and are held to the model's too.
    """
    with torch.inference_mode():
        our_logits, our_maps = (_numpy(one) for one in model.eval()(torch.from_numpy(tiles)))
    logits, maps = way(tiles) if found is None else found
    if alone is not None and (off := _off(alone, our_logits)) > CLOSE:
        return f"the logits without a map are off by {off:.1e} of the highest"
    if (off := _off(logits, our_logits)) > CLOSE:
        return f"its logits are off by {off:.1e} of the highest"
    if not np.isfinite(maps).all():
        return "its maps are no numbers"
    expected = _scaled_as(way, model, our_logits, our_maps, tiles.shape[1:3])
    if expected is None:  # another map, of which is known only that it must not be flat
        flat = int((np.ptp(maps, axis=(1, 2)) == 0).sum())
        return f"{flat} of its {len(maps)} maps are flat" if flat == len(maps) else None
    if maps.shape != expected.shape:
        return f"its maps are {list(maps.shape)}, expected {list(expected.shape)}"
    if (off := _off(maps, expected)) > CLOSE:
        return f"its maps are off by {off:.1e} of the highest"
    return None


def _scaled_as(
    way: WayToMaps, model: ExplainedClassifier, logits: Logits, maps: Maps, tile_hw: tuple[int, ...]
) -> Maps | None:
    """Our maps [N, h, w], scaled as that way scales its own; None if its maps are other ones."""
    if isinstance(way, HookedRollout):
        relevance = maps / logits[:, None, None]
        return _to_highest(relevance)
    if not isinstance(model, CamClassifier):
        return None
    assert model.head.bias is not None
    evidence = maps - np.float32(model.head.bias.item())
    if isinstance(way, HookedCam):
        return evidence
    tile_px = (tile_hw[1], tile_hw[0])
    large = [cv2.resize(one, tile_px) for one in _from_0_to_1(np.maximum(evidence, 0))]
    return _from_0_to_1(np.stack(large).astype(np.float32))


def _from_0_to_1(maps: Maps) -> Maps:
    return _to_highest(maps - maps.min(axis=(1, 2), keepdims=True))


def _to_highest(maps: Maps) -> Maps:
    """Each divided by its highest value."""
    scaled: Maps = maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    return scaled


def _off(values: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference, as a share of the largest expected one."""
    return float(np.abs(values - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.numpy()
