"""The pooling that derives a tile's logit from its map: the mean of all cells, or of the highest few (top-mean)."""

import re

import numpy as np
from numpy.typing import NDArray

IDENTITY = r"^(mean\(map\)|top-mean\(map, [1-9][0-9]{0,7}\)) == logit\Z"
"""Pattern of the identity in a manifest and in a graph's metadata."""


def pool(maps: NDArray[np.float32], top_cells: int | None) -> NDArray[np.float32]:
    """Return the logits [N] of maps [N, h, w]: the mean of the `top_cells` highest cells; None: of all. A NaN in a map
    gives a NaN.
    """
    cells = maps.reshape(len(maps), -1)
    if top_cells is not None:
        cells = np.partition(cells, -top_cells, axis=1)[:, -top_cells:]
    return np.asarray(cells.mean(axis=1))


def pooling_of(top_cells: int | None) -> str:
    """Return the name of the pooling in the identity.

    >>> pooling_of(None), pooling_of(16)
    ('mean(map)', 'top-mean(map, 16)')
    """
    return "mean(map)" if top_cells is None else f"top-mean(map, {top_cells})"


def identity_of(top_cells: int | None) -> str:
    """Return the identity between map and logit."""
    return f"{pooling_of(top_cells)} == logit"


def top_cells_of(identity: str) -> int | None:
    """Return the number of highest cells in an identity; None: all cells.

    >>> top_cells_of("top-mean(map, 16) == logit")
    16
    """
    found = re.search("[0-9]+", identity)
    return int(found[0]) if found else None
