"""Plain ViTs with attention rollout (Abnar & Zuidema 2020) as their map."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from timm.layers.attention import Attention
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from edge.errors import ConfigError
from train.config import VitConfig
from train.models.any_timm import create_network, is_plain_vit
from train.models.explained import ExplainedClassifier, in_float32
from train.models.rollout import (
    Fusion,
    class_token_row,
    class_token_rows,
    discard_lowest,
    fuse_heads,
    method_of,
    relevance,
)
from train.models.weights import load_pretrained
from train.provenance import Provenance

Seen = TypeVar("Seen")

ROUNDING = 4
"""Times what a float32 attention is off by from float64: how far another engine's may be from it."""
ROUNDED_ANEW = 8
"""Times that attention is drawn within that; 16 were not needed in any case that was tried."""


class RolloutClassifier(ExplainedClassifier):
    """A ViT with one Linear layer on its class token; the map is the logit, spread over the patches by the rollout.

    The rollout says where the class token looked, not for or against what, so it is scaled to mean 1 and multiplied by
    the logit. It explains the logit and does not teach it: no gradient flows through it.

    Args:
        network: timm's `VisionTransformer` for images of the wanted size, with a class token and without a head.
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
        """As of every family, by timm's own forward pass with its fused attention."""
        return self._logits_of(self.network.forward_features(self.normalised(tiles)))

    def evidence(self, images: Tensor) -> Tensor:
        def look(attention: Tensor) -> Tensor:
            return discard_lowest(fuse_heads(attention, self.fusion), self.discard_ratio)

        logits, layers = self._look(images, look)
        with in_float32(images.device):
            return self._map(class_token_row(layers), logits)

    def with_attention(self, tiles: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits [N] of RGB tiles uint8 [N, H, W, 3], and per layer the attention [N, heads, tokens, tokens]."""
        return self._look(self.normalised(tiles), lambda attention: attention)

    @torch.no_grad()
    def sweep(self, tiles: Tensor, fusions: Sequence[Fusion], discard_ratios: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Logits [N] and maps [N, fusions, ratios, h, w] of RGB tiles uint8 [N, H, W, 3], N >= 1: one forward pass.

        Float32. Each map is that of a classifier with this fusion and discard ratio; those of this one are not asked.
        It keeps layers * tokens * tokens floats per tile and fusion: 5.6 MB per tile for a ViT-tiny and three fusions.
        """

        def look(attention: Tensor) -> list[Tensor]:
            return [fuse_heads(attention, fusion) for fusion in fusions]

        logits, layers = self._look(self.normalised(tiles), look)
        with in_float32(tiles.device):
            rows = [class_token_rows(fused, discard_ratios) for fused in zip(*layers, strict=True)]
            maps = [torch.stack([self._map(row, logits) for row in of_fusion], dim=1) for of_fusion in rows]
            return logits, torch.stack(maps, dim=1)

    @torch.inference_mode()
    def map_rounding(self, tiles: Tensor) -> Tensor:
        """How far maps moved when attention was rounded anew, [N] logits, of RGB tiles uint8 [N, H, W, 3].

        Which of two nearly equal entries a discard ratio lets go hangs on their last digits, and each takes its weight
        out of another patch. How many digits are sure differs by tile and layer, so float64 is asked.
        """
        if not self.discard_ratio:
            return super().map_rounding(tiles)

        def fuse(attention: Tensor) -> Tensor:
            return fuse_heads(attention, self.fusion)

        images = self.normalised(tiles)
        logits, layers = self._look(images, fuse)
        _, exact = copy.deepcopy(self).double()._look(images.double(), fuse)
        unsure = [
            ROUNDING * ((fused - true).abs() / true.clamp_min(1e-30)).amax(dim=(1, 2), keepdim=True)
            for fused, true in zip(layers, exact, strict=True)
        ]
        digits = torch.Generator(images.device).manual_seed(0)

        def rounded(fused: Tensor, share: Tensor) -> Tensor:
            noise = 2 * torch.rand(fused.shape, generator=digits, device=fused.device) - 1
            return fused * (1 + share * noise)

        def maps(layers: Iterable[Tensor]) -> Tensor:
            return self._map(class_token_row([discard_lowest(fused, self.discard_ratio) for fused in layers]), logits)

        with in_float32(images.device):
            known = maps(layers)
            moved = [(maps(map(rounded, layers, unsure)) - known).abs() for _ in range(ROUNDED_ANEW)]
        return torch.stack(moved).amax(dim=(0, 2, 3))

    def _look(self, images: Tensor, look: Callable[[Tensor], Seen]) -> tuple[Tensor, list[Seen]]:
        """Logits float32 [N] of normalised images, and per layer what `look` makes of its attention.

        The attention is float32 [N, heads, tokens, tokens] and takes no gradient.
        """
        network, seen = self.network, []
        tokens = network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))
        for block in network.blocks:
            tokens, attention = attend(block, tokens)
            with in_float32(images.device):
                seen.append(look(attention.detach().float()))
        return self._logits_of(network.norm(tokens)), seen

    def _map(self, row: Tensor, logits: Tensor) -> Tensor:
        """The logits [N], spread over the map [N, h, w] by the row of the class token [N, tokens]."""
        scale = relevance(row, self.network.num_prefix_tokens)
        return (scale * logits[:, None]).reshape(-1, *self.map_hw)

    def _logits_of(self, features: Tensor) -> Tensor:
        """Logits float32 [N] of the normalised tokens [N, tokens, width]."""
        pooled = self.network.forward_head(features, pre_logits=True).float()  # (N, width), of the class token
        with in_float32(features.device):
            logits: Tensor = self.head(pooled)[:, 0]
        return logits


class SumOfProducts(nn.Linear):
    """A Linear layer to one output, [N, width] to [N, 1], without a matrix product.

    What lies behind the last matrix product OpenVINO computes in float32 under bf16 too, and a logit needs its digits.
    """

    def forward(self, features: Tensor) -> Tensor:
        return (features * self.weight).sum(dim=1, keepdim=True) + self.bias


def attend(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What timm's `Block` makes of tokens [N, tokens, width], and its attention [N, heads, tokens, tokens].

    timm's own forward pass does not hand out its attention, and the fused kernel does not even compute it.
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
    """A plain ViT of timm, with its weights and where they come from.

    Weights are loaded strictly at the network's native size; then its position embedding is resampled for the tiles.

    Raises:
        ConfigError: timm has no such model, it cannot be explained by the rollout, or tiles do not divide into patches.
        WeightsError: the weights that were asked for cannot be had.
    """
    network = create_network(config.timm)
    refuse_what_rollout_does_not_explain(network, config.timm)
    patch_px = network.patch_embed.patch_size[0]
    if tile_px % patch_px:
        raise ConfigError(
            f"tiles.tile_px={tile_px} is no multiple of the patches of {config.timm}, {patch_px} px; choose one"
        )
    provenance = load_pretrained(network, config)
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    network.set_input_size(img_size=(tile_px, tile_px))
    network.reset_classifier(0)
    return RolloutClassifier(network, config.fusion, config.discard_ratio, mean, std), provenance


def refuse_what_rollout_does_not_explain(network: Any, name: str) -> None:
    """See that a timm network answers from its class token, and mixes tokens by self-attention with a residual path.

    Register tokens are sound: they are tokens like others in the rollout, and stand before the patches.

    Raises:
        ConfigError: it does not.
    """
    if not is_plain_vit(network):
        reason = f"it is a {type(network).__name__}, not timm's VisionTransformer"
    elif type(network.patch_embed) is not PatchEmbed:
        reason = f"its tokens come from a {type(network.patch_embed).__name__}, not from patches of the tile"
    elif network.global_pool != "token":
        reason = f"it answers from its pooled patches (global_pool {network.global_pool!r}), not from a class token"
    elif strange := {type(block) for block in network.blocks} - {Block}:
        reason = f"its blocks are {strange.pop().__name__}, not one self-attention and one MLP after the other"
    elif strange := {type(block.attn) for block in network.blocks} - {Attention}:
        reason = f"its attention is {strange.pop().__name__}, not plain self-attention"
    else:
        return
    raise ConfigError(f"attention rollout cannot explain {name}: {reason}; choose another ViT, or a CNN")
