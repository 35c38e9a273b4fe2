"""Pictures that show nearly the same thing and lie on both sides of a split, where they flatter the model.

A picture is compared by a thumbnail from which light and shade are taken (a high-pass filter), as it may have been
taken again under another exposure. Two are near-duplicate if their thumbnails correlate by `SAME_PICTURE`, or if they
still do by `SAME_THING` once the mean of all thumbnails is taken off: a fixed camera sees every part at one place and
in one light, and what all pictures share says nothing of two of them.

Both were chosen on real pictures, by file, with the known groups as truth (recall: pictures with a group of two or more
of which a fellow was found; false: pairs found across groups, out of all such pairs):

==================  ======  ==========================================================================================
HRIPCB, 25          1.00    no false pair; six boards, each one photograph with defects drawn in
magnetic tile,      0.76    95 of 632,278 false, in 77 pictures; many show one tile that has two names. Exposures that
1,128                       cut the tile elsewhere are what is missed
DeepPCB, 1,275      0.03    none of 712,253 false; a group is a board, and its pictures show different parts of it
KolektorSDD, 56     0.00    2 of 1,525 false, and these are the same photographs under two names (kos38 and kos39); the
                            parts of an item differ
BSData, 242         0.68    899 of 27,773 false, in 160 pictures: places on one spindle look alike in small
==================  ======  ==========================================================================================

So a warning is a reason to look, and no warning is no proof.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.util.text import format_count

THUMBNAIL_PX = 32
HIGH_PASS_SIGMA_PX = 4.0
SAME_PICTURE = 0.995
SAME_THING = 0.9
_BLOCK = 1024  # pictures compared with all others at a time: 40 MB of correlations for 10,000


@dataclass(frozen=True)
class Pair:
    """A picture, and the one in another part that is most like it."""

    part: str
    number: int
    """In its part."""
    other_part: str
    other_number: int
    likeness: float
    """Correlation of their filtered thumbnails, at most 1."""


def thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey uint8 [32, 32], each px the mean of its area, of a picture [H, W, 3]."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA), np.uint8)


def near_duplicates_across(thumbnails: Mapping[str, NDArray[np.uint8]]) -> list[Pair]:
    """For each picture, the one most like it in an earlier part, if they are near-duplicate; the most alike first.

    Args:
        thumbnails: of each part, uint8 [n, 32, 32], as `thumbnail` makes them; e.g. of train, val and test.
    """
    names = list(thumbnails)
    sizes = [len(thumbnails[name]) for name in names]
    part = np.repeat(np.arange(len(names)), sizes)
    number = np.concatenate([np.arange(size) for size in sizes]) if sizes else part
    if len(part) < 2:
        return []
    pairs = []
    for rows, likeness, same in _alike(np.concatenate([thumbnails[name] for name in names])):
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


def near_duplicates_pairs(thumbnails: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """All pairs of near-duplicate pictures, the lower number first.

    Args:
        thumbnails: uint8 [n, 32, 32], as `thumbnail` makes them.
    """
    if len(thumbnails) < 2:
        return []
    return [
        (other, rows.start + row)
        for rows, _, same in _alike(thumbnails)
        for row, other in np.argwhere(same).tolist()
        if other < rows.start + row
    ]


def describe_near_duplicates(count: int, picture: str, other: str, apart: str = "on another side of the split") -> str:
    """What to say of near-duplicate pictures.

    Args:
        count: how many pairs there are.
        picture, other: the most alike of them.
        apart: where the other one of each pair lies.
    """
    return (
        f"{format_count(count, 'picture')} {'looks' if count == 1 else 'look'} nearly identical to one {apart}, as do "
        f"{picture} and {other}; if they show the same "
        "thing, put them into one group"
    )


def _alike(thumbnails: NDArray[np.uint8]) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.bool_]]]:
    """Block by block: which rows, their likeness to all pictures [rows, n], and whether they are near-duplicate."""
    structure = _unit(_high_pass(thumbnails))
    blank = ~structure.any(axis=1, keepdims=True)
    own = _unit(np.where(blank, 0, structure - structure.mean(axis=0)))
    for start in range(0, len(thumbnails), _BLOCK):
        rows = slice(start, start + _BLOCK)
        likeness = structure[rows] @ structure.T
        yield rows, likeness, (likeness >= SAME_PICTURE) | (own[rows] @ own.T >= SAME_THING)


def _high_pass(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Thumbnails [n, 32, 32] less their blur, as rows [n, 1024]."""
    images = thumbnails.astype(np.float32)
    blurred = np.stack([cv2.GaussianBlur(image, (0, 0), HIGH_PASS_SIGMA_PX) for image in images])
    rows: NDArray[np.float32] = (images - blurred).reshape(len(images), -1)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; one without structure stays 0, so that it is like none."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-3)
    return unit
