"""Converts any camera format to the RGB uint8 that tiles are cut from, in training and on the line.

`COLOUR` names this conversion in every bundle's manifest; a bundle with another conversion is refused.
"""

from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError

Colour = Literal["rgb8-1"]
COLOUR: Colour = "rgb8-1"

PixelFormat = Literal[
    "Mono8", "Mono10", "Mono12", "Mono16", "RGB8", "BGR8", "BGRA8", "BGR16",
    "BayerRG8", "BayerGR8", "BayerGB8", "BayerBG8",
]  # fmt: skip
PIXEL_FORMATS: tuple[PixelFormat, ...] = get_args(PixelFormat)

# GenICam names a Bayer pattern by its first row, OpenCV by its second row and column: GenICam's RG is OpenCV's BG.
_BAYER: dict[PixelFormat, int] = {
    "BayerRG8": cv2.COLOR_BayerBG2RGB,
    "BayerGR8": cv2.COLOR_BayerGB2RGB,
    "BayerGB8": cv2.COLOR_BayerGR2RGB,
    "BayerBG8": cv2.COLOR_BayerRG2RGB,
}
_TO_RGB: dict[PixelFormat, int] = {
    **_BAYER,
    "BGR8": cv2.COLOR_BGR2RGB,
    "BGR16": cv2.COLOR_BGR2RGB,
    "BGRA8": cv2.COLOR_BGRA2RGB,
}
_SHIFT_TO_8_BITS = {"Mono10": 2, "Mono12": 4, "Mono16": 8}


def to_rgb(
    image: NDArray[np.uint8] | NDArray[np.uint16], pixel_format: PixelFormat, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Convert a camera image to RGB uint8 [H, W, 3].

    Deeper formats keep their highest 8 bits; Bayer is demosaiced bilinearly; alpha is dropped.

    Args:
        image: [H, W] for Mono and Bayer, [H, W, 3 or 4] for colour; uint16 for formats deeper than 8 bits, else uint8.
        pixel_format: GenICam name of the image's format.
        out: [H, W, 3], the array to write to, so that pixels are written once. Default: a new array, or the image
            itself if it is RGB8.
    Raises:
        InputError: the array does not fit the format.
    """
    channels = {"RGB8": 3, "BGR8": 3, "BGR16": 3, "BGRA8": 4}.get(pixel_format, 1)
    depth = np.uint16 if pixel_format in _SHIFT_TO_8_BITS or pixel_format == "BGR16" else np.uint8
    image_channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or image_channels != channels or image.dtype != depth or image.size == 0:
        raise InputError(
            f"an array of shape {image.shape} and type {image.dtype} does not fit {pixel_format}: expected "
            f"{channels} channel(s) of {np.dtype(depth).name}; set pixel_format to the format of the pixels"
        )
    if pixel_format in _BAYER and min(image.shape[:2]) < 3:
        raise InputError(
            f"a {pixel_format} image of shape {image.shape} is too small to demosaic; expected at least 3x3 px"
        )
    if pixel_format == "RGB8":
        if out is None:
            return image  # type: ignore[return-value]
        out[:] = image
        return out
    if pixel_format == "BGR16":
        image = (image >> 8).astype(np.uint8)
    elif pixel_format in _SHIFT_TO_8_BITS:
        image = np.minimum(image >> _SHIFT_TO_8_BITS[pixel_format], 255).astype(np.uint8)
    # OpenCV's stubs are too general: the result is a uint8 array, and `out` itself if that fits.
    return np.asarray(cv2.cvtColor(image, _TO_RGB.get(pixel_format, cv2.COLOR_GRAY2RGB), dst=out), dtype=np.uint8)
