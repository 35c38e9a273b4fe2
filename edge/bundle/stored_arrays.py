"""Reads an untrusted NumPy archive: the caller can check an array's shape and type before memory is allocated."""

import os
import zipfile
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

SLACK_BYTES = 2**20
"""How many bytes an archive may be larger than its arrays."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""The compression methods that NumPy writes; both can be unpacked as a stream."""


class StoredArrays:
    """An open `.npz` file. It never unpickles.

    Args:
        at_most: largest total size of the wanted arrays, bytes; a larger archive is refused.
    Raises:
        ValueError, zipfile.BadZipFile: the file is not such an archive.
    """

    def __init__(self, file: BinaryIO, *, at_most: int) -> None:
        size = os.fstat(file.fileno()).st_size
        if size > at_most + SLACK_BYTES:
            raise ValueError(f"it is {size:,} bytes large, expected at most {at_most + SLACK_BYTES:,}")
        self._archive = zipfile.ZipFile(file)
        self._headers: dict[str, tuple[tuple[int, ...], bool, np.dtype[Any]]] = {}

    def __enter__(self) -> "StoredArrays":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._archive.close()

    def __contains__(self, name: str) -> bool:
        return f"{name}.npy" in self._archive.namelist()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that an array claims to have."""
        return self._header(name)[0]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type that an array claims to have."""
        return self._header(name)[2]

    def read(self, name: str) -> NDArray[Any]:
        """Read an array, which must have exactly its claimed size.

        Raises:
            ValueError, zipfile.BadZipFile: the array is damaged.
        """
        shape, in_columns, dtype = self._header(name)
        with self._open(name) as stream:
            _read_header(stream)
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            data = stream.read(size)
            if len(data) != size or stream.read(1):  # reading to the end makes zipfile compare the checksum
                raise ValueError(f"{name} has not the {size:,} bytes that its header claims")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if in_columns else "C")

    def _header(self, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
        if name not in self._headers:
            with self._open(name) as stream:
                self._headers[name] = _read_header(stream)
        return self._headers[name]

    def _open(self, name: str) -> Any:
        member = self._archive.getinfo(f"{name}.npy")
        if member.compress_type not in METHODS:
            raise ValueError(f"{name} is packed by method {member.compress_type}, expected stored or deflated")
        return self._archive.open(member)


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):  # later versions may claim a header of gigabytes, and no plain array needs them
        raise ValueError(f"version {version[0]}.{version[1]} of the array format, expected 1.0")
    shape, in_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or any(side < 0 for side in shape):
        raise ValueError(f"an array of type {dtype} and shape {shape}")
    return shape, in_columns, dtype
