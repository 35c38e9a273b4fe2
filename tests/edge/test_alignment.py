"""Where a frame shows what its reference shows: known motions, and frames that show something else."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.reference.alignment import Aligner, Pose
from heatline.edge.reference.difference import GreyRange, differences

Picture = NDArray[np.uint8]


def board(height: int, width: int, seed: int = 0, parts: int | None = None) -> Picture:
    rng = np.random.default_rng(seed)
    picture = np.full((height, width), 60, np.uint8)
    for _ in range(height * width // 3000 if parts is None else parts):
        x, y, w, h = (int(n) for n in rng.uniform((0, 0, 5, 5), (width, height, 40, 40)))
        cv2.rectangle(picture, (x, y), (x + w, y + h), int(rng.integers(90, 220)), -1)
    return picture


def moved(picture: Picture, x: float, y: float, degrees: float) -> Picture:
    """OpenCV's rotation is the oracle; its positive angles are counter-clockwise."""
    height, width = picture.shape
    motion = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1)
    motion[:, 2] += x, y
    return cv2.warpAffine(picture, motion, (width, height), borderValue=128)


BOARD = board(500, 623)
ALIGNER = Aligner(BOARD)


@settings(max_examples=30)
@given(
    x=st.floats(-40, 40),
    y=st.floats(-40, 40),
    degrees=st.floats(-1.4, 1.4),
    gain=st.floats(0.8, 1.2),
    blur_px=st.sampled_from([0.01, 1.5]),
    defect_yx=st.tuples(st.integers(0, 340), st.integers(0, 420)),
)
def test_a_known_motion_is_found_despite_brightness_noise_blur_and_a_defect(
    x: float, y: float, degrees: float, gain: float, blur_px: float, defect_yx: tuple[int, int]
) -> None:
    frame = cv2.GaussianBlur(moved(BOARD, x, y, degrees), (0, 0), blur_px) * gain
    top, left = defect_yx
    frame[top : top + 160, left : left + 200] = 30  # a tenth of the frame
    frame += np.random.default_rng(0).normal(0, 5, frame.shape)
    pose = ALIGNER.find(np.clip(frame, 0, 255).astype(np.uint8))
    assert ALIGNER.reject_reason(pose) is None
    assert (pose.x_px, pose.y_px) == pytest.approx((x, y), abs=0.5)
    assert pose.degrees == pytest.approx(degrees, abs=0.1)


@pytest.mark.parametrize(
    ("height", "width", "parts", "motion"),
    [
        pytest.param(224, 224, None, (15, -9, 1), id="one tile"),
        pytest.param(1000, 97, None, (4, 30, 0.3), id="narrow"),
        pytest.param(640, 640, 8, (-20, 20, -1), id="nearly blank"),
        pytest.param(2048, 2448, None, (97, -60, 1.4), id="5 MP"),
        pytest.param(3648, 5472, None, (-200, 150, -1), id="20 MP"),
    ],
)
def test_frames_of_any_size_are_aligned(
    height: int, width: int, parts: int | None, motion: tuple[float, float, float]
) -> None:
    reference = board(height, width, parts=parts)
    aligner = Aligner(reference)
    pose = aligner.find(moved(reference, *motion))
    assert aligner.reject_reason(pose) is None
    assert (pose.x_px, pose.y_px, pose.degrees) == pytest.approx(motion, abs=0.6)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(board(500, 623, seed=1), id="another board"),
        pytest.param(np.full((500, 623), 128, np.uint8), id="blank"),
        pytest.param(np.random.default_rng(0).integers(0, 256, (500, 623), np.uint8), id="noise"),
        pytest.param(np.ascontiguousarray(BOARD[::-1, ::-1]), id="turned by 180 degrees"),
        pytest.param(cv2.resize(np.rot90(BOARD).copy(), (623, 500)), id="turned by 90 degrees"),
        pytest.param(np.ascontiguousarray(BOARD[:, ::-1]), id="mirrored"),
        pytest.param(moved(BOARD, 150, 0, 0), id="shift out of range"),
        pytest.param(moved(BOARD, 0, 0, 10), id="turn out of range"),
    ],
)
def test_what_does_not_show_the_reference_is_refused(frame: Picture) -> None:
    reason = ALIGNER.reject_reason(ALIGNER.find(frame))
    assert reason is not None
    assert "confidence" in reason
    assert "px" in reason


def test_no_cell_of_a_good_frame_differs_up_to_the_farthest_turn_and_farther_turns_are_refused() -> None:
    picture = cv2.GaussianBlur(board(900, 900), (0, 0), 1)
    aligner, origins = Aligner(picture), [(y, x) for y in (200, 338, 476) for x in (200, 338, 476)]
    for degrees in (aligner.farthest[1] - 0.05, -aligner.farthest[1] + 0.05):
        frame = moved(picture, 0, 0, degrees)
        pose = aligner.find(frame)
        assert aligner.reject_reason(pose) is None
        corners = pose.corners(np.array(origins), 224, picture.shape)
        assert differences(frame, GreyRange(picture), origins, corners, 224)[..., 5::2].max() < 48
    far = aligner.find(moved(picture, 58, -9, 0))
    assert "at most" in str(aligner.reject_reason(far)) or far.confidence < 0.75
    assert "turned by -2.00 degrees" in str(aligner.reject_reason(aligner.find(moved(picture, 9, 5, -2))))


@pytest.mark.parametrize("seed", [1, 6, 11])
def test_a_part_displaced_over_a_still_fixture_has_no_pose_between_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = np.full((600, 800), 60, np.uint8)
    for x, strip, depth, grey in rng.integers((0, 0, 0, 90), (780, 2, 110, 220), (80, 4)):
        reference[(0, 480)[strip] + depth :][:12, x : x + 15] = grey
    frame = reference.copy()
    for x, y, grey in rng.integers((200, 150, 90), (600, 430, 220), (25, 3)):
        reference[y : y + 25, x : x + 20], frame[y : y + 25, x + 10 : x + 30] = grey, grey
    aligner = Aligner(reference)
    pose = aligner.find(frame)
    assert aligner.reject_reason(pose) is not None or min(abs(pose.x_px), abs(pose.x_px - 10)) < 1


@pytest.mark.parametrize(
    "reference",
    [
        pytest.param(np.full((500, 623), 128, np.uint8), id="blank"),
        pytest.param(np.full((20, 30), 128, np.uint8), id="smaller than a window"),
        pytest.param(np.tile(board(70, 70, parts=12), (9, 9)), id="the same every 70 px"),
        pytest.param(np.tile(np.repeat(np.uint8([40, 200]), 20), (500, 15)), id="stripes"),
    ],
)
def test_a_reference_that_fits_itself_in_several_places_or_nowhere_aligns_no_frame(reference: Picture) -> None:
    aligner = Aligner(reference)
    assert aligner.reject_reason(aligner.find(moved(reference, 8, 5, 0))) is not None


def test_lines_are_aligned_across_and_do_not_move_along_without_need() -> None:
    lines = np.full((500, 623), 60, np.uint8)
    lines[:, 200:290], lines[:, 420:450] = 200, 150
    aligner = Aligner(lines)
    pose = aligner.find(moved(lines, 12, 30, 1))
    assert aligner.reject_reason(pose) is None
    assert pose.degrees == pytest.approx(1, abs=0.1)
    assert pose.x_px == pytest.approx(12 + (30 - pose.y_px) * np.tan(np.radians(1)), abs=0.5)
    still = aligner.find(lines)
    assert (still.x_px, still.y_px, still.degrees) == pytest.approx((0, 0, 0), abs=0.1)


@given(x=st.floats(-40, 40), y=st.floats(-40, 40), degrees=st.floats(-2, 2), seed=st.integers(0, 100))
def test_corners_are_where_the_reference_shows_the_tiles(x: float, y: float, degrees: float, seed: int) -> None:
    origins = np.random.default_rng(seed).integers(0, 277, (5, 2))
    corners = Pose(x, y, degrees, 1.0, 0.0).corners(origins, 224, (500, 623))
    motion = cv2.getRotationMatrix2D((311, 249.5), -degrees, 1)
    motion[:, 2] += x, y
    seen = (corners[:, ::-1] + 111.5) @ motion[:, :2].T + motion[:, 2]  # where the frame shows their centres
    np.testing.assert_array_less(np.abs(seen - (origins[:, ::-1] + 111.5)), 0.75)
    assert corners.dtype == np.int32
