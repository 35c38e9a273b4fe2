"""References: known motions are found, differences equal a slow version, and what cannot be compared is never GOOD."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.errors import BundleError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest, TileGrid
from heatline.edge.inference import Engine, open_engine
from heatline.edge.inference.engine import ONNX_GRAPH, ReducingEngine
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.inspection.screening import ScreeningStage
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.reference.alignment import Aligner
from heatline.edge.reference.difference import (
    CELL_PX,
    CHANNELS,
    TOLERANCES_PX,
    GreyRange,
    differences,
    reduce_difference,
    to_grey,
)
from heatline.edge.reference.reference import Reference
from tests.edge.boards import THRESHOLDS, moved
from tests.edge.boards import board as colour_board
from tests.edge.test_screening import stated
from tests.small_bundle import TILE, answer, dark_square, graph

Picture = NDArray[np.uint8]


def board(height: int, width: int, seed: int = 0, parts: int | None = None) -> Picture:
    rng = np.random.default_rng(seed)
    picture = np.full((height, width), 60, np.uint8)
    for _ in range(height * width // 3000 if parts is None else parts):
        x, y, w, h = (int(n) for n in rng.uniform((0, 0, 5, 5), (width, height, 40, 40)))
        cv2.rectangle(picture, (x, y), (x + w, y + h), int(rng.integers(90, 220)), -1)
    return picture


GREY = board(500, 623)
ALIGNER = Aligner(GREY)


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
    frame = cv2.GaussianBlur(moved(GREY, x, y, degrees), (0, 0), blur_px) * gain
    top, left = defect_yx
    frame[top : top + 160, left : left + 200] = 30  # a tenth of the frame
    frame += np.random.default_rng(0).normal(0, 5, frame.shape)
    pose = ALIGNER.find(np.clip(frame, 0, 255).astype(np.uint8))
    assert ALIGNER.reject_reason(pose) is None
    assert (pose.x_px, pose.y_px) == pytest.approx((x, y), abs=0.5)
    assert pose.degrees == pytest.approx(degrees, abs=0.1)


def test_frames_of_any_size_are_aligned() -> None:
    nearly_blank = 8
    for height, width, parts, motion in (
        (1000, 97, None, (4, 30, 0.3)),
        (640, 640, nearly_blank, (-20, 20, -1)),
        (1824, 2736, None, (-100, 75, -1)),
    ):
        reference = board(height, width, parts=parts)
        aligner = Aligner(reference)
        pose = aligner.find(moved(reference, *motion))
        assert aligner.reject_reason(pose) is None
        assert (pose.x_px, pose.y_px, pose.degrees) == pytest.approx(motion, abs=0.6)


def test_what_does_not_show_the_reference_is_refused() -> None:
    for frame in (
        board(500, 623, seed=1),
        np.full((500, 623), 128, np.uint8),
        np.random.default_rng(0).integers(0, 256, (500, 623), np.uint8),
        np.ascontiguousarray(GREY[::-1, ::-1]),
        np.ascontiguousarray(GREY[:, ::-1]),
        moved(GREY, 150, 0, 0),
        moved(GREY, 0, 0, 10),
    ):
        reason = str(ALIGNER.reject_reason(ALIGNER.find(frame)))
        assert "confidence" in reason
        assert "larger" not in reason
        assert "smaller" not in reason


@settings(max_examples=30)
@given(x=st.floats(-30, 30), y=st.floats(-30, 30), degrees=st.floats(-1.2, 1.2), share=st.floats(-2, 2))
def test_a_magnification_is_measured_and_beyond_what_fits_it_is_the_reason(
    x: float, y: float, degrees: float, share: float
) -> None:
    percent = share * ALIGNER.farthest[2]
    pose = ALIGNER.find(moved(GREY, x, y, degrees, percent))
    assert 100 * (pose.magnification - 1) == pytest.approx(percent, abs=0.15)
    reason = ALIGNER.reject_reason(pose)
    assert reason is None or f" % {'larger' if share > 0 else 'smaller'} than in the reference" in reason
    assert 1 < abs(share) < 1.5 or (reason is None) == (abs(share) < 1.25)


def test_a_reference_that_fits_itself_in_several_places_or_nowhere_aligns_no_frame() -> None:
    for reference in (
        np.full((500, 623), 128, np.uint8),
        np.full((20, 30), 128, np.uint8),  # smaller than a window
        np.tile(board(70, 70, parts=12), (9, 9)),  # the same every 70 px
    ):
        aligner = Aligner(reference)
        assert aligner.reject_reason(aligner.find(moved(reference, 8, 5, 0))) is not None


def test_no_cell_of_a_good_frame_differs_up_to_the_farthest_turn_and_farther_turns_are_refused() -> None:
    picture = np.asarray(cv2.GaussianBlur(board(900, 900), (0, 0), 1), np.uint8)
    aligner, origins = Aligner(picture), [(y, x) for y in (200, 338, 476) for x in (200, 338, 476)]
    for degrees in (aligner.farthest[1] - 0.05, -aligner.farthest[1] + 0.05):
        frame = moved(picture, 0, 0, degrees)
        pose = aligner.find(frame)
        assert aligner.reject_reason(pose) is None
        corners = pose.corners(np.array(origins), 224, picture.shape)
        assert differences(frame, GreyRange(picture), origins, corners, 224)[..., 5::2].max() < 48
    for change, reason in (((9, 5, -2), "turned by -2.00 degrees"), ((9, 5, 0, -3), "shown 3.0 % smaller")):
        assert reason in str(aligner.reject_reason(aligner.find(moved(picture, *change))))


def test_a_part_displaced_over_a_still_fixture_has_no_pose_between_them() -> None:
    for seed in (1, 6, 11):
        rng = np.random.default_rng(seed)
        reference = np.full((600, 800), 60, np.uint8)
        for x, strip, depth, grey in rng.integers((0, 0, 0, 90), (780, 2, 110, 220), (80, 4)):
            reference[(0, 480)[strip] + depth :][:12, x : x + 15] = grey
        frame = reference.copy()
        for x, y, grey in rng.integers((200, 150, 90), (600, 430, 220), (25, 3)):
            reference[y : y + 25, x : x + 20], frame[y : y + 25, x + 10 : x + 30] = grey, grey
        aligner = Aligner(reference)
        pose = aligner.find(frame)
        assert aligner.reject_reason(pose) is not None or min(abs(pose.x_px), abs(pose.x_px - 10)) < 1, seed


SIDE = 64
CELLS = SIDE // CELL_PX


def textured(seed: int, height: int = 150, width: int = 170) -> Picture:
    rng = np.random.default_rng(seed)
    return np.asarray(cv2.GaussianBlur(rng.integers(0, 256, (height, width), np.uint8), (0, 0), 2) * 2, np.uint8)


def slow_difference(tile: Picture, grey: Picture, y: int, x: int) -> NDArray[np.float64]:
    """Pixel by pixel in float64: the excess of the matched tile over the range of the reference's window."""
    height, width = grey.shape
    known = [(row, col) for row, col in np.ndindex(SIDE, SIDE) if 0 <= y + row < height and 0 <= x + col < width]
    own = np.array([float(tile[place]) for place in known])
    theirs = np.array([float(grey[y + row, x + column]) for row, column in known])
    gain = float(np.clip(theirs.std() / max(own.std(), 1), 1 / 1.43, 1.43)) if theirs.std() > 8 else 1.0
    out = np.zeros((CELLS, CELLS, CHANNELS))
    for number, px in enumerate(TOLERANCES_PX):
        excess = np.zeros((2, SIDE, SIDE))
        for row, column in known:
            value = float(np.clip(np.rint((tile[row, column] - own.mean()) * gain + theirs.mean()), 0, 255))
            at_y, at_x = y + row, x + column
            window = grey[max(at_y - px, 0) : at_y + px + 1, max(at_x - px, 0) : at_x + px + 1]
            excess[:, row, column] = max(0, value - window.max()), max(0, window.min() - value)
        cells = excess.reshape(2, CELLS, CELL_PX, CELLS, CELL_PX)
        out[..., 4 * number : 4 * number + 4 : 2] = cells.mean(axis=(2, 4)).transpose(1, 2, 0)
        out[..., 4 * number + 1 : 4 * number + 4 : 2] = cells.max(axis=(2, 4)).transpose(1, 2, 0)
    return out


@pytest.mark.parametrize(
    ("corner", "gain", "offset"), [((40, 50), 1.0, 0), ((40, 50), 0.8, 10), ((-20, 3), 0.8, 10), ((120, 150), 1.0, 0)]
)
def test_a_difference_lies_beyond_the_range_of_the_reference(corner: tuple[int, int], gain: float, offset: int) -> None:
    grey, out = textured(0), np.empty((CELLS, CELLS, CHANNELS), np.uint8)
    tile = np.clip(textured(1)[:SIDE, :SIDE] * gain + offset, 0, 255).astype(np.uint8)
    GreyRange(grey).difference(tile, corner, out)
    assert np.abs(out - slow_difference(tile, grey, *corner)).max() <= 1.5  # means are rounded twice
    GreyRange(grey).difference(tile, (-70, 0), out)
    assert not out.any(), "nothing is known there"


def test_a_defect_differs_where_it_is_and_not_where_the_reference_is_unknown() -> None:
    grey, unknown = np.full((150, 170), 100, np.uint8), np.zeros((150, 170), np.bool_)
    frame = np.repeat(grey[..., None], 3, axis=2)
    frame[40:44, 80:84] = 130
    origins = [(0, 0), (0, 64), (86, 106)]
    places = origins, np.array(origins, np.int32), SIDE
    found = differences(to_grey(frame), GreyRange(grey), *places)
    assert not found[[0, 2]].any()
    assert np.argwhere(found[1, ..., 1]).tolist() == [[5, 2]]
    assert not found[1, ..., 2:4].any(), "nothing is darker"
    unknown[30:50, 70:90] = True
    assert not differences(to_grey(frame), GreyRange(grey, unknown), *places).any()
    for shift in (4, 7):  # a component that is all that its tile shows differs where it was and where it is
        good, shifted = np.full((2, 150, 170), 200, np.uint8)
        good[60:90, 60:80], shifted[60:90, 60 + shift : 80 + shift] = 40, 40
        found = differences(shifted, GreyRange(good), [(40, 50)], np.array([(40, 50)], np.int32), SIDE)[0]
        assert found[..., 5].any()
        assert found[..., 7].any()


BOARD = colour_board()
REFERENCE = Reference(BOARD)


@pytest.fixture(scope="module")
def comparing(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("comparing")
    (folder / ONNX_GRAPH).write_bytes(graph(compares=True))
    return open_engine("onnxruntime", folder, TILE, threads=1, batch=4)


@pytest.fixture
def inspector(bundle: Bundle, comparing: Engine) -> Inspector:
    return Inspector(bundle.manifest, comparing, thresholds=THRESHOLDS, references={"": REFERENCE})


def inspect(inspector: Inspector, rgb: Picture, area: RegionOfInterest = WHOLE_FRAME, camera: str = "top") -> Judgement:
    return inspector.finish(inspector.start(Frame(Stamp(camera, 1), rgb, "RGB8"), area))


PART = RegionOfInterest.from_polygons([[(300, 250), (550, 250), (550, 440), (300, 440)]])


@pytest.mark.parametrize(("area", "right", "down"), [(WHOLE_FRAME, 0, 0), (WHOLE_FRAME, 17, -9), (PART, 17, -9)])
def test_each_tile_gets_the_difference_to_what_the_reference_shows_there(
    inspector: Inspector, area: RegionOfInterest, right: int, down: int
) -> None:
    frame = dark_square(moved(BOARD, right, down), 300, 400)
    judgement = inspect(inspector, frame, area)
    assert (judgement.pose.x_px, judgement.pose.y_px) == pytest.approx((right, down), abs=0.3)
    grid = TileGrid((446, 560), TILE, 2, area)
    corners = grid.origins - np.array([down, right], np.int32)
    expected = differences(to_grey(frame), REFERENCE.range, grid.origins_yx, corners, TILE)
    np.testing.assert_allclose(judgement.tiles.logits, answer(grid.tiles(frame), expected)[0], atol=1e-3)
    assert judgement.verdict == "DEFECT"
    assert judgement.regions[0].box_xyxy[0] <= 424 < judgement.regions[0].box_xyxy[2]


def test_a_screening_stage_gets_the_differences_of_all_tiles(bundle: Bundle, comparing: Engine, tmp_path: Path) -> None:
    (tmp_path / ONNX_GRAPH).write_bytes(graph(compares=True, tile_px=TILE // 2))
    small = ReducingEngine(open_engine("onnxruntime", tmp_path, TILE // 2, threads=1, batch=4), TILE)
    stage = ScreeningStage(stated(0.0), small, TILE)
    own = Inspector(bundle.manifest, comparing, thresholds=THRESHOLDS, references={"": REFERENCE}, screening=stage)
    frame = dark_square(BOARD, 300, 400)
    pending = own.start(Frame(Stamp("top", 1), frame, "RGB8"))
    assert pending.small is not None
    grid = TileGrid((446, 560), TILE, 2)
    found = REFERENCE.compare(frame, grid)
    assert found is not None
    halves = grid.tiles(frame).reshape(-1, TILE // 2, 2, TILE // 2, 2, 3).mean(axis=(2, 4))
    _, expected = answer(halves, found.reshape(-1, 14, 2, 14, 2, CHANNELS).max(axis=(2, 4)))
    np.testing.assert_allclose(pending.small.maps, expected, atol=1e-2)  # px are rounded
    assert own.finish(pending).verdict == "DEFECT"


@given(side=st.integers(1, 30), cells=st.integers(1, 12), seed=st.integers(0, 99))
def test_a_cell_of_a_reduced_difference_is_the_highest_of_those_that_it_overlaps(
    side: int, cells: int, seed: int
) -> None:
    difference = np.random.default_rng(seed).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    found = reduce_difference(difference, cells)
    assert found.shape == (2, cells, cells, 3)
    spans = [slice(at * side // cells, -((at + 1) * side // -cells)) for at in range(cells)]
    for (y, rows), (x, columns) in itertools.product(enumerate(spans), repeat=2):
        assert np.array_equal(found[:, y, x], difference[:, rows, columns].max(axis=(1, 2)))


def test_a_camera_has_its_own_reference_and_one_without_any_gets_no_verdict(bundle: Bundle, comparing: Engine) -> None:
    other = Reference(colour_board(seed=1))
    own = Inspector(bundle.manifest, comparing, thresholds=THRESHOLDS, references={"": REFERENCE, "side": other})
    assert inspect(own, BOARD, camera="top").reject_reason is None
    assert inspect(own, other.rgb, camera="side").reject_reason is None
    assert inspect(own, BOARD, camera="side").misaligned is not None
    only = Inspector(bundle.manifest, comparing, thresholds=THRESHOLDS, references={"side": other})
    assert "bundle set-reference" in str(inspect(only, BOARD, camera="top").reject_reason)


def test_a_reference_that_knows_little_of_the_part_is_refused(tmp_path: Path) -> None:
    picture = np.full((300, 400, 4), 120, np.uint8)
    for rows, name in ((20, "some.png"), (200, "little.png")):
        picture[:rows, :, 3] = 0
        cv2.imwrite(str(tmp_path / name), picture)
    assert Reference.load(tmp_path / "some.png", (300, 400)).unknown.sum() == 20 * 400
    with pytest.raises(BundleError, match="knows 33% of the part, expected at least 90%"):
        Reference.load(tmp_path / "little.png", (300, 400))
