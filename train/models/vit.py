"""Plain ViTs whose map is attention rollout (Abnar & Zuidema 2020, eq. 1, https://arxiv.org/abs/2005.00928)."""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from heatline.edge.errors import ConfigError
from heatline.train.config import Provenance, VitConfig
from heatline.train.models.explained import ExplainedClassifier, in_float32
from heatline.train.models.weights import create_network, load_pretrained

# Attention rollout (Abnar & Zuidema 2020, eq. 1, https://arxiv.org/abs/2005.00928) as pure functions.
#
# Per layer l, with the heads' attention A_l [tokens, tokens] fused to one matrix and its lowest entries set to zero:
#
#     B_l = rows of (A_l + I), each divided by its sum
#     rollout = B_L @ ... @ B_2 @ B_1
#
# The identity I stands for the residual path. Fusion and discard ratio are additions to the paper, which uses the mean
# of the heads. Only the rollout's row of the class token is read. Tiles are independent, so a tile's rollout does not
# depend on its batch.

Fusion = Literal["min", "mean", "max"]
FUSIONS: tuple[Fusion, ...] = ("min", "mean", "max")


def method_of(fusion: Fusion, discard_ratio: float) -> str:
    """Return the map's method as the manifest names it: `rollout-max`, `rollout-max-discard-0.9`."""
    return f"rollout-{fusion}" + (f"-discard-{discard_ratio:g}" if discard_ratio else "")


def fuse_heads(attention: Tensor, fusion: Fusion) -> Tensor:
    """Fuse a layer's attention [N, heads, tokens, tokens] over its heads to [N, tokens, tokens]."""
    if fusion == "mean":
        return attention.mean(dim=1)
    return attention.amin(dim=1) if fusion == "min" else attention.amax(dim=1)


def discard_lowest(fused: Tensor, discard_ratio: float) -> Tensor:
    """Set the lowest floor(discard_ratio * tokens * tokens) entries of each matrix [N, tokens, tokens] to zero.

    Of equal entries, the first in row order are discarded.
    """
    flat = fused.flatten(1)
    count = discarded(flat.shape[1], discard_ratio)
    if count == 0:
        return fused
    if flat.is_cpu:  # numpy sorts several times as fast: torch also returns the indices
        least = torch.from_numpy(np.sort(flat.detach().numpy(), axis=1)[:, count, None])
    else:
        least = flat.sort(dim=1).values[:, count, None]
    equal = flat == least
    equal_to_discard = count - (flat < least).sum(dim=1, keepdim=True)
    kept = (flat > least) | (equal & (equal.cumsum(dim=1) > equal_to_discard))
    return torch.where(kept, flat, 0.0).view_as(fused)


def discarded(entries: int, discard_ratio: float) -> int:
    """Return how many of a matrix's entries are discarded."""
    return math.floor(discard_ratio * entries)


def class_token_row(layers: Sequence[Tensor]) -> Tensor:
    """Return the rollout's row of the class token, [N, tokens].

    The row is multiplied by each layer in turn, last layer first, which avoids products of matrices: for B = (A + I)
    with rows divided by their sums, `row @ B` is `share @ A + share`, where `share` is `row` divided by those sums.

    Args:
        layers: fused attention [N, tokens, tokens], first layer first.
    """
    row = torch.zeros_like(layers[0][:, :1])  # (N, 1, tokens)
    row[:, :, 0] = 1
    for fused in reversed(layers):
        share = row / (1 + fused.sum(dim=-1)).unsqueeze(1)
        row = share @ fused + share
    return row[:, 0]


Reduced = TypeVar("Reduced")

ROUNDING = 4
"""Factor on the error of float32 attention against float64: the error that another engine's attention may have."""
ROUNDING_DRAWS = 8
"""How often attention is drawn within that error; no case that was tried needed 16."""


class RolloutClassifier(ExplainedClassifier):
    """A ViT with one Linear layer on its class token; the map spreads the logit over the patches by the rollout.

        map[patch] = logit * rollout[class token, patch] / mean over patches of rollout[class token, :]

    The rollout shows where the class token attends, not whether that speaks for or against a defect, so all cells have
    the logit's sign. The map explains the logit and is not trained: no gradient flows through the rollout.

    Args:
        network: timm's `VisionTransformer` for images of the tile's size, with a class token and without a head.
    """

    def __init__(
        self,
        network: Any,
        fusion: Fusion,
        discard_ratio: float,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__(mean, std)
        self.network = network
        self.head = SumOfProducts(network.embed_dim, 1)
        self.fusion, self.discard_ratio = fusion, discard_ratio
        self.map_hw = tuple(network.patch_embed.grid_size)
        self.method = method_of(fusion, discard_ratio)

    def logits(self, tiles: Tensor) -> Tensor:
        """Return the logits by timm's own forward pass, whose fused attention is faster."""
        return self._logits_of(self.network.forward_features(self.normalised(tiles)))

    def evidence(self, images: Tensor) -> Tensor:
        logits, layers = self._attention_pass(
            images, lambda attention: discard_lowest(fuse_heads(attention, self.fusion), self.discard_ratio)
        )
        with in_float32(images.device):
            return self._map(class_token_row(layers), logits)

    def with_attention(self, tiles: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits [N] of RGB tiles uint8 [N, H, W, 3], and per layer the attention [N, heads, tokens, tokens]."""
        return self._attention_pass(self.normalised(tiles), lambda attention: attention)

    @torch.no_grad()
    def all_fusions(self, tiles: Tensor) -> Tensor:
        """Return the maps float32 [N, fusions, h, w] of RGB tiles uint8 [N, H, W, 3] by each of `FUSIONS`.

        Nothing is discarded; the model's own settings have no effect.
        """

        logits, layers = self._attention_pass(
            self.normalised(tiles), lambda attention: [fuse_heads(attention, fusion) for fusion in FUSIONS]
        )
        with in_float32(tiles.device):
            return torch.stack([self._map(class_token_row(of), logits) for of in zip(*layers, strict=True)], dim=1)

    @torch.inference_mode()
    def map_rounding(self, tiles: Tensor) -> Tensor:
        """Return how far the maps move when attention is rounded differently, [N] in logits.

        The last digits of two nearly equal entries decide which one a discard ratio drops. How many digits are certain
        differs by tile and layer, so they are measured against float64.
        """
        if not self.discard_ratio:
            return super().map_rounding(tiles)
        images, fuse = self.normalised(tiles), partial(fuse_heads, fusion=self.fusion)
        logits, layers = self._attention_pass(images, fuse)
        _, exact = copy.deepcopy(self).double()._attention_pass(images.double(), fuse)
        uncertainty = [
            ROUNDING * ((fused - true).abs() / true.clamp_min(1e-30)).amax(dim=(1, 2), keepdim=True)
            for fused, true in zip(layers, exact, strict=True)
        ]
        generator = torch.Generator(images.device).manual_seed(0)

        def rounded(fused: Tensor, share: Tensor) -> Tensor:
            noise = 2 * torch.rand(fused.shape, generator=generator, device=fused.device) - 1
            return fused * (1 + share * noise)

        def maps(layers: Iterable[Tensor]) -> Tensor:
            return self._map(class_token_row([discard_lowest(fused, self.discard_ratio) for fused in layers]), logits)

        with in_float32(images.device):
            known = maps(layers)
            moved = [(maps(map(rounded, layers, uncertainty)) - known).abs() for _ in range(ROUNDING_DRAWS)]
        return torch.stack(moved).amax(dim=(0, 2, 3))

    def _attention_pass(self, images: Tensor, reduce: Callable[[Tensor], Reduced]) -> tuple[Tensor, list[Reduced]]:
        """Return logits float32 [N] of normalised images, and per layer the result of `reduce` on its attention.

        `reduce` gets float32 [N, heads, tokens, tokens] without gradient.
        """
        network, layers = self.network, []
        tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
        for block in network.blocks:
            tokens, attention = attend(block, tokens)
            with in_float32(images.device):
                layers.append(reduce(attention.detach().float()))
        return self._logits_of(network.norm(tokens)), layers

    def _map(self, row: Tensor, logits: Tensor) -> Tensor:
        """Spread the logits [N] over the map [N, h, w] by the row of the class token [N, tokens].

        If a high discard ratio leaves 0 for every patch, all patches get the same value.
        """
        patches = row[:, self.network.num_prefix_tokens :] + 1e-30  # far below the smallest of a float32 softmax
        scale = patches / patches.mean(dim=1, keepdim=True)
        return (scale * logits[:, None]).reshape(-1, *self.map_hw)

    def _logits_of(self, features: Tensor) -> Tensor:
        """Return logits float32 [N] of normalised tokens [N, tokens, width]."""
        pooled = self.network.forward_head(features, pre_logits=True).float()  # (N, width), of the class token
        with in_float32(features.device):
            return self.head(pooled)[:, 0]  # type: ignore[no-any-return]


class SumOfProducts(nn.Linear):
    """A Linear layer to one output, [N, width] to [N, 1], as a sum of products instead of a matrix product.

    OpenVINO computes what follows the last matrix product in float32 even in bf16, and a logit needs these digits.
    """

    def forward(self, features: Tensor) -> Tensor:
        return (features * self.weight).sum(dim=1, keepdim=True) + self.bias


def attend(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Run timm's `Block` on tokens [N, tokens, width]; return its output and its attention [N, heads, tokens, tokens].

    timm's own forward pass does not return the attention, and its fused kernel does not compute it.
    """
    attn: Any = block.attn
    entering = block.norm1(tokens)
    qkv = attn.qkv(entering).unflatten(2, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)  # each (N, heads, tokens, width of a head)
    query, key = attn.q_norm(query), attn.k_norm(key)
    attention = (query * attn.scale @ key.transpose(-2, -1)).softmax(dim=-1)
    mixed = attn.norm((attn.attn_drop(attention) @ value.to(attention.dtype)).transpose(1, 2).flatten(2))
    if attn.gate is not None:
        mixed = mixed * attn.gate(entering).sigmoid()
    update = attn.proj_drop(attn.proj(mixed))
    tokens = tokens + block.drop_path1(block.ls1(update))
    return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens)))), attention


def rollout_classifier(config: VitConfig, tile_px: int) -> tuple[RolloutClassifier, Provenance]:
    """Build a plain timm ViT; return it with the provenance of its weights.

    Weights are loaded strictly at the network's native size; then its position embedding is resampled for the tiles.

    Raises:
        ConfigError: timm has no such model, it is not a plain ViT, or tiles do not divide into patches.
        WeightsError: the configured weights are not available.
    """
    network = create_network(config.timm)
    is_plain = type(network) is VisionTransformer and network.global_pool == "token"
    if not is_plain:
        raise ConfigError(
            f"attention rollout cannot explain {config.timm}: it is not timm's VisionTransformer with a class token; "
            "choose a model of `heatline models`"
        )
    patch_px = network.patch_embed.patch_size[0]
    if tile_px % patch_px:
        raise ConfigError(
            f"tiles.tile_px={tile_px} is not a multiple of the patches of {config.timm}, {patch_px} px; choose one"
        )
    provenance = load_pretrained(network, config)
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    network.set_input_size(img_size=(tile_px, tile_px))
    network.reset_classifier(0)
    return RolloutClassifier(network, config.fusion, config.discard_ratio, mean, std), provenance
