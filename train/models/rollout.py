"""Attention rollout (Abnar & Zuidema 2020, eq. 1, https://arxiv.org/abs/2005.00928) as pure functions.

Per layer l, with the heads' attention A_l [tokens, tokens] fused to one matrix and its lowest entries set to zero:

    B_l = rows of (A_l + I), each divided by its sum
    rollout = B_L @ ... @ B_2 @ B_1

The identity I stands for the residual path. Fusion and discard ratio are additions to the paper, which uses the mean of
the heads. Only the rollout's row of the class token is read. Tiles are independent, so a tile's rollout does not depend
on its batch.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Fusion = Literal["min", "mean", "max"]


def method_of(fusion: Fusion, discard_ratio: float) -> str:
    """Return the map's method as the manifest names it: `rollout-max`, `rollout-max-discard-0.9`."""
    return f"rollout-{fusion}" + (f"-discard-{discard_ratio:g}" if discard_ratio else "")


def fuse_heads(attention: Tensor, fusion: Fusion) -> Tensor:
    """Fuse a layer's attention [N, heads, tokens, tokens] over its heads to [N, tokens, tokens]."""
    match fusion:
        case "min":
            return attention.amin(dim=1)
        case "mean":
            return attention.mean(dim=1)
        case "max":
            return attention.amax(dim=1)


def discard_lowest(fused: Tensor, discard_ratio: float) -> Tensor:
    """Set the lowest floor(discard_ratio * tokens * tokens) entries of each matrix [N, tokens, tokens] to zero.

    Of equal entries, the first in row order are discarded.
    """
    entries = fused.shape[-2] * fused.shape[-1]
    count = discarded(entries, discard_ratio)
    if count == 0:
        return fused
    flat = fused.flatten(1)
    if count < entries // 2:  # search from the nearer end
        smallest = flat.topk(count + 1, largest=False).values[:, -1]
    else:
        smallest = flat.topk(entries - count).values[:, -1]
    return _zero_below(fused, smallest, count)


def smallest_kept(fused: Tensor, discard_ratios: Sequence[float]) -> Tensor:
    """Return the smallest entry that `discard_lowest` keeps, [ratios, N], of each matrix [N, tokens, tokens].

    One sort per matrix serves all ratios.
    """
    flat = fused.flatten(1)
    ranks = [discarded(flat.shape[1], ratio) for ratio in discard_ratios]
    if flat.is_cpu:  # numpy sorts several times as fast: torch also returns the indices
        return torch.from_numpy(np.sort(flat.numpy(), axis=1)[:, ranks].T)
    return flat.sort(dim=1).values[:, ranks].T


def discarded(entries: int, discard_ratio: float) -> int:
    """Return how many of a matrix's entries are discarded."""
    return math.floor(discard_ratio * entries)


def _zero_below(fused: Tensor, smallest: Tensor, count: int) -> Tensor:
    """Set `count` entries of each matrix [N, tokens, tokens] to zero.

    These are all entries below the smallest one to keep, `smallest` [N], and then the first of those that equal it.
    """
    flat, least = fused.flatten(1), smallest[:, None]
    equal = flat == least
    equal_to_discard = count - (flat < least).sum(dim=1, keepdim=True)
    kept = (flat > least) | (equal & (equal.cumsum(dim=1) > equal_to_discard))
    return torch.where(kept, flat, 0.0).view_as(fused)


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


def class_token_rows(layers: Sequence[Tensor], discard_ratios: Sequence[float]) -> Tensor:
    """Return the rollout's rows of the class token for each discard ratio, [ratios, N, tokens], of N >= 1 tiles.

    Each row equals `class_token_row` after `discard_lowest`, with one sort per matrix instead of one per ratio. Tiles
    are processed one by one: a tile's matrices fit into the CPU's cache, which makes a batch several times as fast.

    Args:
        layers: fused attention [N, tokens, tokens] before the discard, first layer first; without gradient.
        discard_ratios: at least one.
    """
    smallest = [smallest_kept(fused, discard_ratios) for fused in layers]

    def row(ratio: int, tile: slice) -> Tensor:
        count = discarded(layers[0][0].numel(), discard_ratios[ratio])
        kept = [
            _zero_below(fused[tile], least[ratio, tile], count) for fused, least in zip(layers, smallest, strict=True)
        ]
        return class_token_row(kept)

    tiles = [slice(tile, tile + 1) for tile in range(len(layers[0]))]
    return torch.stack([torch.cat([row(ratio, tile) for tile in tiles]) for ratio in range(len(discard_ratios))])


def relevance(row: Tensor, prefix_tokens: int) -> Tensor:
    """Scale the patches' entries of a row [N, tokens] to mean 1: [N, patches].

    If a high discard ratio leaves 0 for every patch, all patches get the same value.

    Args:
        row: starts with `prefix_tokens` entries of class and register tokens.
    """
    patches = row[:, prefix_tokens:] + 1e-30  # far below the smallest output of a float32 softmax
    return patches / patches.mean(dim=1, keepdim=True)
