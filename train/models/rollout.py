"""Attention rollout (Abnar & Zuidema 2020, eq. 1), with a fusion of heads and a discard ratio: pure functions.

Per layer: the heads' attention is fused to one matrix, its lowest entries are set to zero, the identity (the residual
path) is added and each row is divided by its sum. The rollout is the product of all layers, last layer first; only the
row of the class token is ever read. All of it happens within a tile, so a tile's rollout does not depend on its batch.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Fusion = Literal["min", "mean", "max"]


def fuse_heads(attention: Tensor, fusion: Fusion) -> Tensor:
    """One matrix [N, tokens, tokens] from the attention [N, heads, tokens, tokens] of a layer."""
    match fusion:
        case "min":
            return attention.amin(dim=1)
        case "mean":
            return attention.mean(dim=1)
        case "max":
            return attention.amax(dim=1)


def discard_lowest(fused: Tensor, discard_ratio: float) -> Tensor:
    """Set the lowest floor(discard_ratio * tokens * tokens) entries of each matrix [N, tokens, tokens] to zero.

    Where entries tie with the smallest one that is kept, all of them are kept: which of equals goes would be the
    engine's choice, and attention that is the same everywhere loses nothing.
    """
    entries = fused.shape[-2] * fused.shape[-1]
    discarded = math.floor(discard_ratio * entries)
    if discarded == 0:
        return fused
    flat = fused.flatten(1)
    if discarded < entries // 2:  # whichever end is nearer
        smallest_kept = flat.topk(discarded + 1, largest=False).values[:, -1]
    else:
        smallest_kept = flat.topk(entries - discarded).values[:, -1]
    return torch.where(fused >= smallest_kept[:, None, None], fused, 0.0)


def class_token_row(layers: Sequence[Tensor]) -> Tensor:
    """Row of the class token [N, tokens] in the rollout of fused attention [N, tokens, tokens], first layer first.

    The row times each layer in turn, last layer first, instead of a product of matrices: (A + I) with rows divided by
    their sums, from the left by `row`, is `share @ A + share`, where `share` is the row over those sums.
    """
    row = torch.zeros_like(layers[0][:, :1])  # (N, 1, tokens)
    row[:, :, 0] = 1
    for fused in reversed(layers):
        share = row / (1 + fused.sum(dim=-1)).unsqueeze(1)
        row = share @ fused + share
    return row[:, 0]


def relevance(row: Tensor, prefix_tokens: int) -> Tensor:
    """Entries of the patches [N, patches] with mean 1, from a row [N, tokens] that starts with the prefix tokens.

    Where nothing of any patch is left, after a high discard ratio, all patches count the same.
    """
    patches = row[:, prefix_tokens:] + 1e-30  # far below what a float32 softmax lets through
    return patches / patches.mean(dim=1, keepdim=True)
