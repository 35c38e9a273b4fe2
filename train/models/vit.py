"""Plain ViTs whose map is attention rollout (Abnar & Zuidema 2020; see `rollout`)."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from timm.layers.attention import Attention
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from heatline.edge.errors import ConfigError
from heatline.train.config import VitConfig
from heatline.train.models.any_timm import create_network, is_plain_vit
from heatline.train.models.explained import ExplainedClassifier, in_float32
from heatline.train.models.rollout import (
    Fusion,
    class_token_row,
    class_token_rows,
    discard_lowest,
    fuse_heads,
    method_of,
    relevance,
)
from heatline.train.models.weights import load_pretrained
from heatline.train.provenance import Provenance

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
        fusion, discard_ratio: see `rollout`.
        mean, std: normalisation of RGB in 0..1.
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
        def fuse(attention: Tensor) -> Tensor:
            return discard_lowest(fuse_heads(attention, self.fusion), self.discard_ratio)

        logits, layers = self._attention_pass(images, fuse)
        with in_float32(images.device):
            return self._map(class_token_row(layers), logits)

    def with_attention(self, tiles: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits [N] of RGB tiles uint8 [N, H, W, 3], and per layer the attention [N, heads, tokens, tokens]."""
        return self._attention_pass(self.normalised(tiles), lambda attention: attention)

    @torch.no_grad()
    def sweep(self, tiles: Tensor, fusions: Sequence[Fusion], discard_ratios: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Return logits [N] and maps [N, fusions, ratios, h, w] of RGB tiles uint8 [N, H, W, 3], N >= 1, in one pass.

        Both are float32. Each map is that of a classifier with this fusion and discard ratio; the model's own settings
        have no effect. Memory: layers * tokens * tokens floats per tile and fusion, 5.6 MB per tile for a ViT-tiny and
        three fusions.
        """

        def fuse_all(attention: Tensor) -> list[Tensor]:
            return [fuse_heads(attention, fusion) for fusion in fusions]

        logits, layers = self._attention_pass(self.normalised(tiles), fuse_all)
        with in_float32(tiles.device):
            rows = [class_token_rows(fused, discard_ratios) for fused in zip(*layers, strict=True)]
            maps = [torch.stack([self._map(row, logits) for row in of_fusion], dim=1) for of_fusion in rows]
            return logits, torch.stack(maps, dim=1)

    @torch.inference_mode()
    def map_rounding(self, tiles: Tensor) -> Tensor:
        """Return how far the maps move when attention is rounded differently, [N] in logits.

        The last digits of two nearly equal entries decide which one a discard ratio drops, and each drop takes weight
        from another patch. How many digits are certain differs by tile and layer, so they are measured against float64.

        Args:
            tiles: RGB uint8 [N, H, W, 3].
        """
        if not self.discard_ratio:
            return super().map_rounding(tiles)

        def fuse(attention: Tensor) -> Tensor:
            return fuse_heads(attention, self.fusion)

        images = self.normalised(tiles)
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
        """Spread the logits [N] over the map [N, h, w] by the row of the class token [N, tokens]."""
        scale = relevance(row, self.network.num_prefix_tokens)
        return (scale * logits[:, None]).reshape(-1, *self.map_hw)

    def _logits_of(self, features: Tensor) -> Tensor:
        """Return logits float32 [N] of normalised tokens [N, tokens, width]."""
        pooled = self.network.forward_head(features, pre_logits=True).float()  # (N, width), of the class token
        with in_float32(features.device):
            logits: Tensor = self.head(pooled)[:, 0]
        return logits


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
        ConfigError: timm has no such model, the rollout cannot explain it, or tiles do not divide into patches.
        WeightsError: the configured weights are not available.
    """
    network = create_network(config.timm)
    check_rollout_support(network, config.timm)
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


def check_rollout_support(network: Any, name: str) -> None:
    """Check that a timm network classifies by its class token and mixes tokens only by self-attention with residuals.

    Register tokens are supported: the rollout treats them like other tokens, and they precede the patches.

    Raises:
        ConfigError: it does not.
    """
    if not is_plain_vit(network):
        reason = f"it is a {type(network).__name__}, not timm's VisionTransformer"
    elif type(network.patch_embed) is not PatchEmbed:
        reason = f"its tokens come from a {type(network.patch_embed).__name__}, not from patches of the tile"
    elif network.global_pool != "token":
        reason = f"it classifies by pooled patches (global_pool {network.global_pool!r}), not by a class token"
    elif other := {type(block) for block in network.blocks} - {Block}:
        reason = f"its blocks are {other.pop().__name__}, not one self-attention followed by one MLP"
    elif other := {type(block.attn) for block in network.blocks} - {Attention}:
        reason = f"its attention is {other.pop().__name__}, not plain self-attention"
    else:
        return
    raise ConfigError(f"attention rollout cannot explain {name}: {reason}; choose another ViT, or a CNN")
