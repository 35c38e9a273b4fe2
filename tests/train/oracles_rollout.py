"""What attention rollout is, written down slowly with whole matrices in float64; and what a well-known script does."""

import math

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def fused(attention: Matrix, fusion: str) -> Matrix:
    """[tokens, tokens] from the attention [heads, tokens, tokens] of one tile in one layer."""
    heads, tokens, _ = attention.shape
    result = np.empty((tokens, tokens))
    for row in range(tokens):
        for column in range(tokens):
            values = [float(attention[head, row, column]) for head in range(heads)]
            result[row, column] = {"min": min(values), "mean": sum(values) / heads, "max": max(values)}[fusion]
    return result


def without_lowest(matrix: Matrix, discard_ratio: float) -> Matrix:
    """The floor(ratio * entries) lowest entries are zero; of equal ones the first go."""
    places = sorted(np.ndindex(*matrix.shape), key=lambda place: (matrix[place], place))
    result = matrix.copy()
    for place in places[: math.floor(discard_ratio * len(places))]:
        result[place] = 0
    return result


def rollout(layers: list[Matrix], fusion: str, discard_ratio: float) -> Matrix:
    """The whole product [tokens, tokens] of the attention [heads, tokens, tokens] of one tile, first layer first."""
    tokens = layers[0].shape[-1]
    product = np.eye(tokens)
    for attention in layers:
        mixed = without_lowest(fused(attention, fusion), discard_ratio) + np.eye(tokens)
        for row in range(tokens):
            mixed[row] /= mixed[row].sum()
        product = mixed @ product
    return product


def scripts_discard(batch: Matrix, discard_ratio: float) -> Matrix:
    """How vit-explain discards from a batch of fused attention [N, tokens, tokens].

    It finds the lowest entries of each tile, forgets which tile they are of, spares the very first entry, and then
    sets all of them to zero in the first tile, and none in another.
    """
    tiles, tokens, _ = batch.shape
    lowest: set[int] = set()
    for tile in batch.reshape(tiles, -1):
        lowest |= set(np.argsort(tile, kind="stable")[: int(tokens * tokens * discard_ratio)].tolist())
    result = batch.copy()
    for place in lowest - {0}:
        result[0].flat[place] = 0
    return result


def scripts_normalisation(fused_attention: Matrix) -> Matrix:
    """How it adds the identity and normalises [tokens, tokens]: *columns* are divided by the sums of the rows."""
    mixed = (fused_attention + np.eye(len(fused_attention))) / 2
    sums = mixed.sum(axis=1)
    for column in range(len(mixed)):
        mixed[:, column] /= sums[column]
    return mixed


def scripts_rollout(layers: list[Matrix], fusion: str, discard_ratio: float) -> Matrix:
    """Its mask of one tile alone, [patches], of the attention [heads, tokens, tokens] per layer; its peak is 1."""
    product = np.eye(layers[0].shape[-1])
    for attention in layers:
        discarded = scripts_discard(fused(attention, fusion)[None], discard_ratio)[0]
        product = scripts_normalisation(discarded) @ product
    return product[0, 1:] / product[0, 1:].max()
