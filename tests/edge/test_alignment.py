"""Where a frame shows what its reference shows: known motions of drawn pictures, and frames that show something else."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.reference.alignment import Aligner, Pose


def textured(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    picture = np.full((height, width), 60, np.uint8)
    for _ in range(max(60, height * width // 2000)):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = (int(side) for side in rng.integers(4, 40, 2))
        cv2.rectangle(picture, (x, y), (x + w, y + h), int(rng.integers(20, 220)), -1)
    return picture


def moved(picture: NDArray[np.uint8], x: float, y: float, degrees: float) -> NDArray[np.uint8]:
    """OpenCV's own rotation is the oracle: its positive angles are counter-clockwise."""
    height, width = picture.shape
    motion = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1)
    motion[:, 2] += x, y
    return cv2.warpAffine(picture, motion, (width, height), borderValue=128)


BOARD = textured(500, 623)
ALIGNER = Aligner(BOARD)


@settings(max_examples=25)
@given(x=st.floats(-40, 40), y=st.floats(-40, 40), degrees=st.floats(-2, 2), gain=st.floats(0.8, 1.2))
def test_a_known_motion_is_found(x: float, y: float, degrees: float, gain: float) -> None:
    frame = np.clip(moved(BOARD, x, y, degrees) * gain, 0, 255).astype(np.uint8)
    pose = ALIGNER.find(frame)
    assert ALIGNER.reject_reason(pose) is None
    assert (pose.x_px, pose.y_px) == pytest.approx((x, y), abs=0.3)
    assert pose.degrees == pytest.approx(degrees, abs=0.05)


def test_corners_are_where_the_reference_shows_the_tiles() -> None:
    pose = Pose(x_px=5.0, y_px=-3.0, degrees=0.0, confidence=1.0, error_px=0.0)
    corners = pose.corners(np.array([[0, 0], [100, 200]]), 224, (500, 623))
    assert corners.dtype == np.int32
    np.testing.assert_array_equal(corners, [[3, -5], [103, 195]])
