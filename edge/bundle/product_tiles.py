"""The file of the features of the product's tiles, see `edge.bundle.plausibility`."""

import io
from pathlib import Path

import numpy as np

from edge.bundle.plausibility import ProductTiles
from edge.bundle.stored_arrays import StoredArrays
from edge.errors import BundleError
from edge.util.plain_file import open_plain


def product_tiles_bytes(tiles: ProductTiles) -> bytes:
    """The contents of the file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, mean=tiles.mean, whitening=tiles.whitening)
    return buffer.getvalue()


def read_product_tiles(path: Path, channels: int) -> ProductTiles:
    """The features in a file. What they claim to be is looked at before memory is taken for them.

    Raises:
        BundleError: they are none, or of another number of channels.
    """
    expected = {"mean": (channels,), "whitening": (channels, channels)}
    try:
        with open_plain(path) as file, StoredArrays(file, at_most=4 * channels * (channels + 1)) as stored:
            for name, shape in expected.items():
                if stored.shape(name) != shape or stored.dtype(name) != np.float32:
                    raise ValueError(f"{name} of shape {stored.shape(name)}, expected float32 of shape {shape}")
            found = ProductTiles(**{name: stored.read(name) for name in expected})
    except Exception as error:  # zip, zlib, npy headers, memory: what a damaged file raises has no common base
        raise BundleError(f"{path} holds no features of tiles ({error}); export the bundle again") from error
    if not (np.isfinite(found.mean).all() and np.isfinite(found.whitening).all()):
        raise BundleError(f"{path} holds numbers that are not finite; export the bundle again")
    return found
