"""Reads the NumPy archives of a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import BundleError

Arrays = dict[str, NDArray[Any]]


def read_arrays(path: Path, what: str, shapes: Mapping[str, tuple[int | None, ...]]) -> Arrays:
    """Return the arrays of an `.npz` file, by name. Nothing is unpickled.

    Args:
        what: what the file holds, for errors.
        shapes: of the arrays that it must have; None: a side of any length.
    Raises:
        BundleError: the file is damaged, or lacks an array of that shape.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays: Arrays = dict(stored)
    except Exception as error:  # zip, zlib and npy headers: errors of a damaged file have no common base
        raise BundleError(f"{path} holds no {what} ({error}); export the bundle again") from error
    for name, shape in shapes.items():
        found = arrays[name].shape if name in arrays else ()
        if len(found) != len(shape) or any(
            side not in (None, actual) for side, actual in zip(shape, found, strict=True)
        ):
            raise BundleError(f"{path} has {name} of shape {found}, expected {shape}; export the bundle again")
    return arrays
