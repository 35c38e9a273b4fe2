"""Reads pictures from disk, in the same way for training, `inspect` and the folder camera."""

from pathlib import Path

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray

from heatline.edge.colour import PixelFormat, to_rgb
from heatline.edge.errors import GeometryError, InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def list_images(folder: Path) -> list[Path]:
    """Return the pictures of a folder, sorted by name.

    Raises:
        InputError: the folder does not exist, cannot be read, or has no picture.
    """
    try:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; name a folder of pictures")
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise InputError(
            f"{folder} cannot be read ({error.strerror}); give the user who runs heatline the right to"
        ) from error
    if not files:
        raise InputError(f"{folder} holds no picture; expected files ending in {', '.join(sorted(SUFFIXES))}")
    return files


def digest_picture(path: Path) -> str:
    """Return the digest of a picture's file, by which training pictures are recognised wherever they lie.

    Raises:
        InputError: it cannot be read.
    """
    return xxhash.xxh3_64_hexdigest(_read(path))


def read_image(path: Path) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], PixelFormat]:
    """Return a picture's pixels and their format; palettes are resolved, rotation tags are not applied.

    Raises:
        InputError: the file is missing, no picture or cut off, or its depth or channel count is not supported;
            `GeometryError`: it is larger than OpenCV's limits in the environment.
    """
    return decode_image(str(path), _read(path))


def decode_image(name: str, data: bytes) -> tuple[NDArray[np.uint8] | NDArray[np.uint16], PixelFormat]:
    """Return the pixels and the format of a picture whose file's bytes were read.

    Args:
        name: of the file, for the message.
    Raises:
        InputError: as `read_image`.
    """
    # A decoder fills the missing end of a cut-off file with grey, without an error: check the end marker here.
    end = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND\xaeB`\x82"}.get(data[:2])
    if end is not None and end not in data[-64:]:
        raise InputError(f"{name} ends before its picture does ({len(data)} bytes); copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in error.err:  # the header told, and no pixel was decoded
            raise GeometryError(
                f"{name} is not decoded, as its header claims too many pixels; cut it, or set "
                "OPENCV_IO_MAX_IMAGE_PIXELS to more"
            ) from error
        raise InputError(
            f"{name} cannot be decoded ({error.err}); expected a whole PNG, JPEG, BMP, TIFF or WebP"
        ) from error
    if image is None:
        raise InputError(f"{name} is not a picture that can be decoded; expected a whole PNG, JPEG, BMP, TIFF or WebP")
    channels = image.shape[2] if image.ndim == 3 else 1
    formats: dict[tuple[str, int], PixelFormat] = {
        ("uint8", 1): "Mono8", ("uint8", 3): "BGR8", ("uint8", 4): "BGRA8", ("uint16", 1): "Mono16",
        ("uint16", 3): "BGR16",
    }  # fmt: skip
    pixel_format = formats.get((image.dtype.name, channels))
    if pixel_format is None:
        raise InputError(
            f"{name} has {channels} channel(s) of {image.dtype}; expected grey, BGR or BGRA of 8 or 16 bits "
            "(16 bits: grey or BGR); convert it"
        )
    return image, pixel_format  # type: ignore[return-value]


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return a picture as RGB uint8 [H, W, 3]; errors as of `read_image`."""
    return to_rgb(*read_image(path))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
