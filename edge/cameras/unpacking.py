"""Packed pixel formats: 10 and 12 bit grey values that share bytes.

Each function converts uint8 [..., bytes] to uint16 [..., pixels], with values in the lowest bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unpack_mono10p(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Unpack PFNC Mono10p: four pixels in five bytes, lowest bits first."""
    a, b, c, d, e = _columns(data, 5)
    return _interleave(a | (b & 0x3) << 8, b >> 2 | (c & 0xF) << 6, c >> 4 | (d & 0x3F) << 4, d >> 6 | e << 2)


def unpack_mono12p(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Unpack PFNC Mono12p: two pixels in three bytes, lowest bits first."""
    first, middle, last = _columns(data, 3)
    return _interleave(first | (middle & 0xF) << 8, middle >> 4 | last << 4)


def unpack_mono10_packed(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Unpack GigE Vision Mono10Packed: the middle of three bytes has the lowest 2 bits of both, at bits 0 and 4."""
    first, middle, last = _columns(data, 3)
    return _interleave(first << 2 | middle & 0x3, last << 2 | middle >> 4 & 0x3)


def unpack_mono12_packed(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Unpack GigE Vision Mono12Packed: the middle byte of three has the lowest 4 bits of both pixels."""
    first, middle, last = _columns(data, 3)
    return _interleave(first << 4 | middle & 0xF, last << 4 | middle >> 4)


def _columns(data: NDArray[np.uint8], size: int) -> list[NDArray[np.uint16]]:
    """Return the first, second, ... byte of every group of `size` bytes."""
    return [data[..., index::size].astype(np.uint16) for index in range(size)]


def _interleave(*pixels: NDArray[np.integer[Any]]) -> NDArray[np.uint16]:
    """Interleave the first, second, ... pixel of every group into lines."""
    return np.stack(pixels, axis=-1).reshape(*pixels[0].shape[:-1], -1).astype(np.uint16, copy=False)
