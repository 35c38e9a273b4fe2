"""Encodes a picture as the files of its entry."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.heatmap_picture import ColourScale, png
from heatline.edge.monitor.entry import EvidenceEntry, encode_entry, entry_of
from heatline.edge.monitor.picture import Picture
from heatline.edge.monitor.store import ENTRY, FRAME, HEATMAP, room_of

PNG_OPTIONS = (
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG),
)
"""The cheapest lossless PNG of OpenCV that is also small; docs/evidence.md has the figures."""


@dataclass(frozen=True)
class EncodedEntry:
    """An entry with the contents of its files."""

    entry: EvidenceEntry
    files: dict[str, bytes]
    """By ending. The JSON file is the last: an entry exists only with it."""

    @property
    def size_bytes(self) -> int:
        """Room of its files on the disk."""
        return sum(room_of(len(data)) for data in self.files.values())


def encode_picture(picture: Picture, line: str, stored_at_ns: int, *, is_chosen: bool = False) -> EncodedEntry:
    """Return the files of a picture's entry.

    Args:
        line: the line's name.
        stored_at_ns: UTC, ns since 1970.
        is_chosen: whether a person chose the picture.
    Raises:
        InputError: the picture's id cannot be a file name.
    """
    entry = entry_of(picture, line, stored_at_ns, is_chosen=is_chosen)
    files = {FRAME: encode_frame(picture.image)}
    if picture.evidence is not None:
        files[HEATMAP] = png(ColourScale(*picture.evidence.scale).grey(picture.evidence.heatmap))
    return EncodedEntry(entry, files | {ENTRY: encode_entry(entry)})


def encode_frame(image: NDArray[np.uint8]) -> bytes:
    """Encode a frame, grey [H, W] or RGB [H, W, 3], as PNG without loss."""
    data = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", data, PNG_OPTIONS)[1].tobytes()
