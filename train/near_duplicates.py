"""Near-duplicate pictures: in different parts of a split they make a model's figures too good.

Pictures are compared by thumbnails after a high-pass filter, which removes differences of exposure. Two pictures are
near-duplicates if their thumbnails correlate by at least `SAME_PICTURE`, or by at least `SAME_THING` after the mean of
all thumbnails is subtracted: what all pictures of a fixed camera share says nothing about a pair.

Both thresholds were chosen on real pictures, with the known groups as truth (recall: share of the pictures in groups of
two or more for which another picture of the group was found; false: pairs found across groups, out of all such pairs):

==================  ======  ==========================================================================================
HRIPCB, 25          1.00    no false pair; six boards, each one photograph with defects drawn in
magnetic tile,      0.76    95 of 632,278 false, in 77 pictures; many show one tile that has two names. Exposures that
1,128                       crop the tile differently are missed
DeepPCB, 1,275      0.03    none of 712,253 false; a group is a board, and its pictures show different parts of it
KolektorSDD, 56     0.00    2 of 1,525 false, and these are the same photographs under two names (kos38 and kos39); the
                            parts of an item differ
BSData, 242         0.68    899 of 27,773 false, in 160 pictures: thumbnails of places on one spindle look alike
==================  ======  ==========================================================================================

A warning is therefore a reason to look at the pictures; the absence of a warning proves nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.util.text import format_count

THUMBNAIL_PX = 32
HIGH_PASS_SIGMA_PX = 4.0
SAME_PICTURE = 0.995
SAME_THING = 0.9
_BLOCK = 1024  # pictures compared with all others at a time: 40 MB of correlations for 10,000


@dataclass(frozen=True)
class Pair:
    """A picture and the most similar picture of an earlier part."""

    part: str
    number: int
    """Index within its part."""
    other_part: str
    other_number: int
    likeness: float
    """Correlation of their filtered thumbnails, at most 1."""


def thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink a picture, RGB uint8 [H, W, 3], to grey uint8 [32, 32]; each px is the mean of its area."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA), np.uint8)


def near_duplicates_across(thumbnails: Mapping[str, NDArray[np.uint8]]) -> list[Pair]:
    """Find each picture's most similar near-duplicate in an earlier part; return the pairs, the most similar first.

    Args:
        thumbnails: by part (train, val and test, for example), uint8 [n, 32, 32], made by `thumbnail`.
    """
    names = list(thumbnails)
    sizes = [len(thumbnails[name]) for name in names]
    part = np.repeat(np.arange(len(names)), sizes)
    number = np.concatenate([np.arange(size) for size in sizes]) if sizes else part
    if len(part) < 2:
        return []
    pairs = []
    for rows, likeness, same in _compare_blocks(np.concatenate([thumbnails[name] for name in names])):
        same &= part[None, :] < part[rows, None]
        likeness[~same] = -1
        best = likeness.argmax(axis=1)
        for row in np.flatnonzero(same.any(axis=1)):
            this, other = rows.start + row, best[row]
            pairs.append(
                Pair(
                    names[part[this]],
                    int(number[this]),
                    names[part[other]],
                    int(number[other]),
                    float(likeness[row, other]),
                )
            )
    return sorted(pairs, key=lambda pair: -pair.likeness)


def near_duplicate_chains(thumbnails: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For each picture, return the lowest index of a picture that a chain of near-duplicates connects it to.

    Args:
        thumbnails: uint8 [n, 32, 32], made by `thumbnail`.
    """
    lowest = np.arange(len(thumbnails), dtype=np.int64)
    for rows, _, same in _compare_blocks(thumbnails) if len(thumbnails) else ():
        for row, alike in enumerate(same, start=rows.start):
            alike[row] = True
            joined = np.zeros(len(lowest), np.bool_)
            joined[lowest[alike]] = True
            if np.count_nonzero(joined) > 1:
                lowest[joined[lowest]] = joined.argmax()
    return lowest


def describe_near_duplicates(count: int, picture: str, other: str, place: str = "in another part of the split") -> str:
    """Describe near-duplicate pictures in a sentence.

    Args:
        count: number of pairs.
        picture, other: the most similar pair.
        place: where the other picture of each pair lies.
    """
    return (
        f"{format_count(count, 'picture')} {'looks' if count == 1 else 'look'} nearly identical to one {place}, as do "
        f"{picture} and {other}; if they show the same "
        "thing, put them into one group"
    )


def _compare_blocks(thumbnails: NDArray[np.uint8]) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.bool_]]]:
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
    rows: NDArray[np.float32] = (images - blurred).reshape(len(images), -1)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows to length 1; a row without structure stays 0 and so resembles no other."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-3)
    return unit
