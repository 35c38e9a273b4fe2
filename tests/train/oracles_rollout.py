"""A slow reference implementation of attention rollout, with full matrices in float64."""

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
    """The floor(ratio * entries) lowest entries are zero; of equal entries, the first are discarded."""
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
