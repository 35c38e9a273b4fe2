"""Pictures embedded in a page, so that it needs no other file."""

import base64
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

JPEG_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """An embedded picture, or a place for one that is missing."""

    uri: str | None
    """None: the file is missing."""
    name: str
    """Name of the frame, or of the tile in its frame."""
    caption: str
    """Score of the frame or logit of the tile."""
    shows: str
    """Description of the content."""
    at: int | None = None
    """First position of the slider that judges it GOOD; None if it does not follow the slider."""


def jpeg_uri(bgr: NDArray[np.uint8]) -> str:
    """Encode a BGR picture [H, W, 3] as a data URI."""
    jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()
