"""Attention rollout (Abnar & Zuidema 2020, eq. 1), with a fusion of heads and a discard ratio: pure functions.

Per layer: the heads' attention is fused to one matrix, its lowest entries are set to zero, the identity (the residual
path) is added and each row is divided by its sum. The rollout is the product of all layers, last layer first; only the
row of the class token is ever read. All of it happens within a tile, so a tile's rollout does not depend on its batch.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Fusion = Literal["min", "mean", "max"]


def method_of(fusion: Fusion, discard_ratio: float) -> str:
    """What a manifest calls such a map: `rollout-max`, `rollout-max-discard-0.9`."""
    return f"rollout-{fusion}" + (f"-discard-{discard_ratio:g}" if discard_ratio else "")


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

    Of equal entries the first go, row by row.
    """
    entries = fused.shape[-2] * fused.shape[-1]
    gone = discarded(entries, discard_ratio)
    if gone == 0:
        return fused
    flat = fused.flatten(1)
    if gone < entries // 2:  # whichever end is nearer
        smallest = flat.topk(gone + 1, largest=False).values[:, -1]
    else:
        smallest = flat.topk(entries - gone).values[:, -1]
    return _kept_from(fused, smallest, gone)


def smallest_kept(fused: Tensor, discard_ratios: Sequence[float]) -> Tensor:
    """Smallest entry that `discard_lowest` keeps of each matrix [N, tokens, tokens], [ratios, N]: one sort for all."""
    flat = fused.flatten(1)
    places = [discarded(flat.shape[1], ratio) for ratio in discard_ratios]
    if flat.is_cpu:  # numpy sorts several times as fast: torch also keeps where each entry came from
        return torch.from_numpy(np.sort(flat.numpy(), axis=1)[:, places].T)
    return flat.sort(dim=1).values[:, places].T


def discarded(entries: int, discard_ratio: float) -> int:
    """How many of a matrix's entries go."""
    return math.floor(discard_ratio * entries)


def _kept_from(fused: Tensor, smallest: Tensor, gone: int) -> Tensor:
    """Matrices [N, tokens, tokens] with zeros for `gone` entries: all below the smallest one [N] to keep, and the
    first of those that equal it.
    """
    flat, least = fused.flatten(1), smallest[:, None]
    equal = flat == least
    to_go = gone - (flat < least).sum(dim=1, keepdim=True)
    kept = (flat > least) | (equal & (equal.cumsum(dim=1) > to_go))
    return torch.where(kept, flat, 0.0).view_as(fused)


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


def class_token_rows(layers: Sequence[Tensor], discard_ratios: Sequence[float]) -> Tensor:
    """Rows of the class token [ratios, N, tokens] after each discard ratio, of N >= 1 tiles.

    Each is the `class_token_row` of what `discard_lowest` leaves, with one sort per matrix instead of one per ratio.
    Tile by tile: one tile's matrices fit into the processor's cache, which makes a batch several times as fast.

    Args:
        layers: fused attention [N, tokens, tokens] of which nothing is discarded yet, first layer first; no gradient.
        discard_ratios: at least one.
    """
    smallest = [smallest_kept(fused, discard_ratios) for fused in layers]

    def row(ratio: int, tile: slice) -> Tensor:
        gone = discarded(layers[0][0].numel(), discard_ratios[ratio])
        kept = [
            _kept_from(fused[tile], least[ratio, tile], gone) for fused, least in zip(layers, smallest, strict=True)
        ]
        return class_token_row(kept)

    tiles = [slice(tile, tile + 1) for tile in range(len(layers[0]))]
    return torch.stack([torch.cat([row(ratio, tile) for tile in tiles]) for ratio in range(len(discard_ratios))])


def relevance(row: Tensor, prefix_tokens: int) -> Tensor:
    """Entries of the patches [N, patches] with mean 1, from a row [N, tokens] that starts with the prefix tokens.

    Where nothing of any patch is left, after a high discard ratio, all patches count the same.
    """
    patches = row[:, prefix_tokens:] + 1e-30  # far below what a float32 softmax lets through
    return patches / patches.mean(dim=1, keepdim=True)
