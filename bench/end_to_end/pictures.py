"""Pictures for cameras to show, drawn before anything is timed."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

BOARD_PX = 1024
"""A larger frame shows several boards of up to this side: they are drawn in seconds."""
BOARDS = 4
SEED = 11


def draw_pictures(folder: Path, hw: tuple[int, int], count: int, say: Callable[[str], None]) -> None:
    """Draw boards, every second one flawless, and lay them out on frames of one size; no two frames are the same.

    Args:
        folder: to be made.
        hw: height and width of the frames, px.
    """
    from train.boards import draw_board
    from train.boards.board import SMALLEST_SIDE_PX

    rows, columns = (-(-side // BOARD_PX) for side in hw)
    board_hw = max(-(-hw[0] // rows), SMALLEST_SIDE_PX), max(-(-hw[1] // columns), SMALLEST_SIDE_PX)
    boards: list[NDArray[np.uint8]] = []
    for number in range(BOARDS):
        say(f"drawing board {number + 1} of {BOARDS}")
        boards.append(draw_board((SEED, number), size_hw=board_hw, flawless=number % 2 == 0).image)
    folder.mkdir()
    random = np.random.default_rng(SEED)
    for number in range(count):
        laid = [np.hstack([boards[place] for place in random.integers(0, BOARDS, columns)]) for _ in range(rows)]
        frame = np.vstack(laid)[: hw[0], : hw[1]]
        # A picture that came twice would be told as a frozen camera.
        moved = np.roll(frame, 8 * number, axis=1)
        cv2.imwrite(str(folder / f"{number:03}.bmp"), np.ascontiguousarray(moved[..., ::-1]))
