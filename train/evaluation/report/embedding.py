"""Pictures inside a page, so that it needs no other file."""

import base64
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

JPEG_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """A picture, or the words that it is not there."""

    uri: str | None
    """None: it was not kept."""
    name: str
    """Of the frame, or of the tile in its frame."""
    caption: str
    """Its score."""
    shows: str
    """What is to be seen."""
    at: int | None = None
    """The slider's first position that calls it GOOD; None where it does not follow the slider."""


def jpeg_uri(bgr: NDArray[np.uint8]) -> str:
    """Encode a picture [H, W, 3], blue first, as a data URI."""
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
