"""Pictures for cameras to show, made before anything is timed."""

from pathlib import Path

import cv2
import numpy as np

from bench.pictures import golden_mosaic
from edge.bundle import Bundle


def write_pictures(folder: Path, bundle: Bundle, hw: tuple[int, int], count: int) -> None:
    """Write frames of the bundle's golden tiles, from good ones to hot ones.

    Args:
        folder: to be made.
        hw: height and width of the frames, px.
    """
    folder.mkdir()
    tiles = len(bundle.golden().tiles)
    for number in range(count):
        frame = golden_mosaic(bundle, hw, seed=number, coldest=max(1, (number + 1) * tiles // count))
        moved = np.roll(frame, 8 * number, axis=1)  # the same picture twice would be told as a frozen camera
        cv2.imwrite(str(folder / f"{number:03}.bmp"), np.ascontiguousarray(moved[..., ::-1]))
