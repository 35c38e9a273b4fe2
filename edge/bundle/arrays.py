"""Reads NumPy archives of a bundle, which may be damaged or made by others."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import BundleError
from heatline.edge.util.files import open_plain

SLACK_BYTES = 2**20
"""For the headers of an archive."""


class Arrays(dict[str, NDArray[Any]]):
    """The arrays of an `.npz` file, by name. Nothing is unpickled.

    Args:
        what: what the file holds, for errors.
        at_most: largest size of all arrays together, bytes.
    Raises:
        BundleError: the file is not such an archive, or is larger.
    """

    def __init__(self, path: Path, what: str, at_most: int) -> None:
        self.path = path
        try:
            with open_plain(path) as file, zipfile.ZipFile(file) as archive:
                size = sum(member.file_size for member in archive.infolist())
                if size > at_most + SLACK_BYTES:
                    raise ValueError(f"{size:,} bytes, expected at most {at_most + SLACK_BYTES:,}")
                file.seek(0)
                with np.load(file, allow_pickle=False) as stored:
                    super().__init__(stored)
        except Exception as error:  # zip, zlib, npy headers, memory: errors of a damaged file have no common base
            raise BundleError(f"{path} holds no {what} ({error}); export the bundle again") from error

    def take(self, name: str, shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> NDArray[Any]:
        """Return an array.

        Raises:
            BundleError: it has another shape or type, or numbers that are not finite.
        """
        found = self.get(name)
        if found is None or found.shape != shape or found.dtype != dtype or not np.isfinite(found).all():
            actual = "none" if found is None else f"{found.dtype} of shape {found.shape}"
            raise BundleError(
                f"{self.path} has {name}: {actual}, expected finite {dtype.__name__} of shape {shape}; export the "
                "bundle again"
            )
        return found
