"""Near-duplicate pictures, found by their thumbnails.

Thumbnails are compared after a high-pass filter, which removes differences of exposure. Two of them are
near-duplicates if they correlate by `SAME_PICTURE`, or by `SAME_THING` after the mean of all is subtracted: what all
pictures of a fixed camera share says nothing about a pair. Of five real sets, this finds all pictures of HRIPCB's
boards, 0.76 of magnetic tile's blocks and 0.68 of BSData's places with 3 % false pairs at most, and nearly none where
pictures of a group show different parts of it (DeepPCB, KolektorSDD): that none are found proves nothing.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_PX = 32
HIGH_PASS_SIGMA_PX = 4.0
SAME_PICTURE = 0.995
SAME_THING = 0.9
_BLOCK = 1024  # pictures compared with all others at a time: 40 MB of correlations for 10,000


def thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink a picture, RGB uint8 [H, W, 3], to grey uint8 [32, 32]; each px is the mean of its area."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA), np.uint8)


def near_duplicate_chains(thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For each picture, return the lowest index of a picture that a chain of near-duplicates connects it to.

    Args:
        thumbnails: uint8 [n, 32, 32], made by `thumbnail`.
    """
    lowest = np.arange(len(thumbnails), dtype=np.int64)
    for rows, _, same in compare_blocks(thumbnails) if len(thumbnails) else ():
        for row, alike in enumerate(same, start=rows.start):
            alike[row] = True
            joined = np.zeros(len(lowest), np.bool_)
            joined[lowest[alike]] = True
            if np.count_nonzero(joined) > 1:
                lowest[joined[lowest]] = joined.argmax()
    return lowest


def compare_blocks(thumbnails: NDArray[np.uint8]) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.bool_]]]:
    """Yield block by block: rows, their correlation with all pictures [rows, n], and where they are near-duplicates."""
    structure = _unit(_high_pass(thumbnails))
    blank = ~structure.any(axis=1, keepdims=True)
    own = _unit(np.where(blank, 0, structure - structure.mean(axis=0)))
    for start in range(0, len(thumbnails), _BLOCK):
        rows = slice(start, start + _BLOCK)
        likeness = structure[rows] @ structure.T
        yield rows, likeness, (likeness >= SAME_PICTURE) | (own[rows] @ own.T >= SAME_THING)


def _high_pass(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Subtract the blur from thumbnails [n, 32, 32]; return zero-mean rows [n, 1024]."""
    images = thumbnails.astype(np.float32)
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), HIGH_PASS_SIGMA_PX) for image in images])
    rows = (images - blurred).reshape(len(images), -1)
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1; a row without structure stays 0 and so resembles no other."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-3))
