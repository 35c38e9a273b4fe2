"""Pictures for cameras to show, drawn before anything is timed; and what is to be said of each of them."""

from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle
from edge.errors import BenchError
from edge.frames import Frame, Stamp
from edge.images import list_images, read_image
from edge.inference import Engine
from edge.inspection.inspector import Inspector
from edge.inspection.verdict import Thresholds, Verdict

BOARD_PX = 1024
"""A larger frame shows several boards of up to this side: they are drawn in seconds."""
BOARDS = 4
SEED = 11


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a line must say of its pictures."""

    score_threshold: float
    tiles: int
    """Of a frame."""
    frame_hw: tuple[int, int]
    answers: dict[str, tuple[Verdict, float]]
    """Verdict and frame score, by the name of the picture."""


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


def expect(folder: Path, bundle: Bundle, engine: Engine, defective: float) -> Expected:
    """Inspect every picture once, in this process.

    Args:
        defective: share of the pictures that are to be judged DEFECT: the score threshold is set between their scores.
    Raises:
        BenchError: the pictures are not all of one size.
        InputError: one of them cannot be read, or there is none.
    """
    evidence = bundle.manifest.calibration.evidence_threshold
    inspector = Inspector(bundle.manifest, engine, thresholds=Thresholds(0.0, evidence))
    scores: dict[str, float] = {}
    sizes: set[tuple[int, int]] = set()
    for number, path in enumerate(list_images(folder)):
        image, pixel_format = read_image(path)
        sizes.add((image.shape[0], image.shape[1]))
        if len(sizes) > 1:
            raise BenchError(f"{folder} holds pictures of {len(sizes)} sizes; expected one size, as a camera has")
        pending = inspector.start(Frame(Stamp("expected", number), image, pixel_format))
        scores[path.name] = inspector.finish(pending).score
    (hw,) = sizes
    threshold = _threshold(sorted(scores.values()), defective)
    return Expected(
        score_threshold=threshold,
        tiles=len(inspector.stitcher(hw).grid),
        frame_hw=hw,
        answers={name: ("DEFECT" if score >= threshold else "GOOD", score) for name, score in scores.items()},
    )


def _threshold(scores: list[float], defective: float) -> float:
    """In the middle between two scores, so that no rounding changes a verdict.

    >>> _threshold([1.0, 2.0, 4.0, 8.0], 0.25)
    6.0
    """
    good = len(scores) - round(defective * len(scores))
    if good == len(scores):
        return scores[-1] + 1.0
    return scores[0] - 1.0 if good == 0 else (scores[good - 1] + scores[good]) / 2
