"""Tile, infer, stitch, judge: the same answer whatever the engine, the batch and the order of answers."""

from collections.abc import Callable

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.errors import EngineError, GeometryError, InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest
from heatline.edge.heatmap_picture import ColourScale, overlay, png
from heatline.edge.inference import Engine, EngineKind, infer, open_engine
from heatline.edge.inference.engine import Done, Failed, Fill
from heatline.edge.inspection.inspector import Inspector
from heatline.edge.inspection.verdict import Judgement, Thresholds
from tests.small_bundle import CELLS, TILE, answer, dark_square, white_frame


def frame_of(rgb: NDArray[np.uint8], number: int = 1) -> Frame:
    return Frame(Stamp("test", number), rgb, "RGB8")


def inspect(inspector: Inspector, rgb: NDArray[np.uint8], area: RegionOfInterest = WHOLE_FRAME) -> Judgement:
    return inspector.finish(inspector.start(frame_of(rgb), area))


def tiles(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, TILE, TILE, 3), np.uint8)


class NumpyEngine(Engine):
    """An engine that answers by numpy in a given order, stores the tiles, and may fail on black ones."""

    name: EngineKind = "onnxruntime"

    def __init__(self, batch: int = 1, *, last_first: bool = False, fails_on_black: bool = False) -> None:
        self.batch, self._last_first, self._fails_on_black = batch, last_first, fails_on_black
        self._waiting: list[Callable[[], None]] = []
        self.given: list[NDArray[np.uint8]] = []

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        batch = np.zeros((count, TILE, TILE, 3), np.uint8)
        fill(batch)
        self.given.extend(batch)

        def finish() -> None:
            if self._fails_on_black and not batch.reshape(count, -1).any(axis=1).all():
                failed(RuntimeError("this tile is black"))
            else:
                done(*answer(batch))

        self._waiting.append(finish)
        if not self._last_first:
            self.drain()

    def drain(self) -> None:
        while self._waiting:
            self._waiting.pop()()


@pytest.mark.parametrize(("kind", "batch"), [("openvino", 1), ("openvino", 3), ("onnxruntime", 3)])
def test_a_tiles_answer_equals_the_oracles_for_any_neighbours_and_position(
    bundle: Bundle, kind: EngineKind, batch: int
) -> None:
    engine = open_engine(kind, bundle.path, TILE, threads=1, batch=batch)
    shown, order = tiles(7), np.random.default_rng(1).permutation(7)  # not a multiple of the batch
    shown[1] = 0  # the answer must not depend on earlier data in the engine's input
    logits, maps = answer(shown)
    alone = [infer(engine, shown[i : i + 1]) for i in range(7)]
    for came_logits, came_maps, at in [
        (*infer(engine, shown), np.arange(7)),
        (*infer(engine, shown[order]), order),
        (np.concatenate([logit for logit, _ in alone]), np.concatenate([one for _, one in alone]), np.arange(7)),
    ]:
        np.testing.assert_allclose(came_logits, logits[at], atol=1e-4 * np.abs(logits).max())
        np.testing.assert_allclose(came_maps, maps[at], atol=1e-4 * np.abs(maps).max())


FRAMES = {
    "white": (white_frame(), []),
    "square": (dark_square(white_frame(), 100, 300), [(324, 124)]),
    "on a seam": (dark_square(white_frame(), 200, 210), [(234, 224)]),  # one region, although several tiles contain it
    "in the corner": (dark_square(white_frame(), 452, 652), [(676, 476)]),
    "two": (dark_square(dark_square(white_frame(), 10, 10), 400, 500), [(34, 34), (524, 424)]),
    "smaller than a tile": (dark_square(white_frame((100, 90)), 20, 20), [(44, 44)]),
    "a line": (np.full((1, 900, 3), 255, np.uint8), []),
}
"""Pictures, and the middle (x, y) of each black square in them."""
TWO = FRAMES["two"][0]


@pytest.mark.parametrize("name", FRAMES)
def test_both_engines_and_the_oracle_find_a_black_square_at_its_place(
    bundle: Bundle, openvino: Engine, onnxruntime: Engine, name: str
) -> None:
    rgb, places = FRAMES[name]
    expected = inspect(Inspector(bundle.manifest, NumpyEngine()), rgb)
    boxes = [region.box_xyxy for region in expected.regions]
    assert (expected.verdict, len(boxes)) == ("DEFECT" if places else "GOOD", len(places))
    for (left, top, right, bottom), (x, y) in zip(sorted(boxes), places, strict=True):
        assert left <= x < right
        assert top <= y < bottom
        assert max(right - left, bottom - top) <= 48 + 2 * 16, "at most a map cell beyond the square on each side"
    for engine in (openvino, onnxruntime):
        judgement = inspect(Inspector(bundle.manifest, engine), rgb)
        assert (judgement.verdict, [region.box_xyxy for region in judgement.regions]) == (expected.verdict, boxes)
        assert judgement.score == pytest.approx(expected.score, abs=1e-3)
        np.testing.assert_allclose(judgement.heatmap, expected.heatmap, atol=2e-3)


@pytest.mark.parametrize("batch", [1, 5, 100])
@pytest.mark.parametrize("last_first", [False, True])
@pytest.mark.parametrize(
    "area",
    [WHOLE_FRAME, RegionOfInterest.from_polygons([[(0, 0), (699, 0), (0, 499)]], [[(0, 0), (100, 0), (0, 100)]])],
)
def test_the_order_of_answers_and_the_batch_change_nothing(
    bundle: Bundle, batch: int, last_first: bool, area: RegionOfInterest
) -> None:
    expected = inspect(Inspector(bundle.manifest, NumpyEngine()), TWO, area)
    engine = NumpyEngine(batch, last_first=last_first)
    inspector = Inspector(bundle.manifest, engine)
    pending = inspector.start(frame_of(TWO), area)
    engine.drain()
    came = inspector.finish(pending)
    assert (came.verdict, came.score, came.regions) == (expected.verdict, expected.score, expected.regions)
    np.testing.assert_array_equal(came.heatmap, expected.heatmap)


@settings(max_examples=15)
@given(height=st.integers(1, 700), width=st.integers(1, 700))
def test_frames_of_any_size_are_inspected_and_a_white_frame_is_good(
    bundle: Bundle, openvino: Engine, height: int, width: int
) -> None:
    judgement = inspect(Inspector(bundle.manifest, openvino), white_frame((height, width)))
    assert (judgement.verdict, judgement.regions) == ("GOOD", [])
    np.testing.assert_allclose(judgement.heatmap, -2.0, atol=1e-3)


def test_an_engine_failure_on_a_tile_affects_only_that_frames_verdict(bundle: Bundle) -> None:
    inspector = Inspector(bundle.manifest, NumpyEngine(fails_on_black=True))
    broken = white_frame((300, 500))
    broken[:TILE, :TILE] = 0
    with pytest.raises(EngineError, match="this tile is black"):
        inspect(inspector, broken)
    assert inspect(inspector, white_frame((300, 500))).verdict == "GOOD"


def test_a_frame_whose_answers_are_not_finite_has_no_verdict(bundle: Bundle) -> None:
    class NanEngine(NumpyEngine):
        def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
            done(np.full(count, np.nan, np.float32), np.zeros((count, CELLS, CELLS), np.float32))

    with pytest.raises(EngineError, match=r"frame 1 cannot be judged: .* not finite"):
        inspect(Inspector(bundle.manifest, NanEngine()), white_frame())


@pytest.mark.parametrize(("kind", "batch"), [("openvino", 3), ("onnxruntime", 3)])
def test_tiles_that_cannot_be_filled_fail_and_later_tiles_are_inferred(
    bundle: Bundle, kind: EngineKind, batch: int
) -> None:
    engine = open_engine(kind, bundle.path, TILE, threads=1, batch=batch)
    errors: list[Exception] = []

    def fill(_: NDArray[np.uint8]) -> None:
        raise ValueError("no pixels")

    def done(_logits: NDArray[np.float32], _maps: NDArray[np.float32]) -> None:
        raise AssertionError("there is nothing to answer")

    for _ in range(6):  # more than the number of requests
        engine.submit(1, fill, done, errors.append)
    engine.drain()
    assert [str(error) for error in errors] == ["no pixels"] * 6
    np.testing.assert_allclose(infer(engine, tiles(2))[0], answer(tiles(2))[0], atol=1e-3)


def test_overridden_thresholds_and_overlap_are_used(bundle: Bundle, openvino: Engine) -> None:
    strict = Inspector(bundle.manifest, openvino, thresholds=Thresholds(-2.5, 0.0, None), overlap_px=100)
    assert inspect(strict, white_frame()).verdict == "DEFECT"
    assert strict.stitcher((500, 700)).grid.overlap_px == 100
    calibration = msgspec.structs.replace(bundle.manifest.calibration, strong_evidence=77.0)
    manifest = msgspec.structs.replace(bundle.manifest, calibration=calibration)
    assert Inspector(manifest, openvino).thresholds.strong == 77.0
    assert Inspector(bundle.manifest, openvino, overlap_px=0).stitcher((500, 700)).grid.overlap_px == 0


# Frames of 500 x 700 px have tiles at 0, 222 and 276 down, at 0, 222, 444 and 476 across.
PART = RegionOfInterest.from_polygons([[(20, 20), (380, 20), (380, 180), (20, 180)]])
"""A region that touches only the first two tiles of the first row."""


def test_tiles_outside_the_region_of_interest_are_neither_cut_nor_inferred(bundle: Bundle) -> None:
    engine = NumpyEngine()
    rgb = np.random.default_rng(4).integers(0, 256, (500, 700, 3), np.uint8)
    pending = Inspector(bundle.manifest, engine).start(frame_of(rgb), PART)
    assert pending.stitcher.grid.origins_yx == ((0, 0), (0, 222))
    np.testing.assert_array_equal(engine.given, [rgb[:224, :224], rgb[:224, 222:446]])
    assert (pending.logits.shape, pending.maps.shape) == ((2,), (2, CELLS, CELLS))


@given(
    corners=st.lists(st.tuples(st.integers(0, 699), st.integers(0, 499)), min_size=3, max_size=5),
    squares=st.lists(st.tuples(st.integers(0, 452), st.integers(0, 652)), max_size=4),
)
def test_only_tiles_in_the_region_of_interest_decide_verdict_and_regions(
    bundle: Bundle, corners: list[tuple[int, int]], squares: list[tuple[int, int]]
) -> None:
    inspector, frame = Inspector(bundle.manifest, NumpyEngine(4)), white_frame()
    for y, x in squares:
        frame = dark_square(frame, y, x)
    whole, part = (
        inspector.start(frame_of(frame)),
        inspector.start(frame_of(frame), RegionOfInterest.from_polygons([corners])),
    )
    grid, judgement = part.stitcher.grid, inspector.finish(part)
    logits = dict(zip(whole.stitcher.grid.origins_yx, whole.logits, strict=True))
    assert part.logits.tolist() == [logits[origin] for origin in grid.origins_yx]
    assert judgement.score == max(part.logits)
    assert judgement.verdict == ("DEFECT" if judgement.score >= inspector.thresholds.score else "GOOD")
    assert bool(judgement.regions) is (judgement.verdict == "DEFECT")
    for region in judgement.regions:
        x, y = region.peak_xy
        assert any(top <= y < top + TILE and left <= x < left + TILE for top, left in grid.origins_yx)
        assert np.isfinite(region.score)


def test_concurrent_frames_with_different_regions_of_interest_do_not_mix(bundle: Bundle, openvino: Engine) -> None:
    inspector = Inspector(bundle.manifest, openvino)
    other = RegionOfInterest.from_polygons([[(500, 400), (650, 400), (650, 480)]])
    pending = [inspector.start(frame_of(TWO), area) for area in (PART, other, WHOLE_FRAME, PART)]
    peaks = [[region.peak_xy[0] for region in inspector.finish(one).regions] for one in reversed(pending)][::-1]
    assert [sorted(x > 444 for x in found) for found in peaks] == [[False], [True], [False, True], [False]]


def test_an_outside_region_and_a_wrong_pixel_format_are_refused_before_inference(
    bundle: Bundle,
) -> None:
    engine = NumpyEngine()
    inspector = Inspector(bundle.manifest, engine)
    beside = RegionOfInterest.from_polygons([[(700, 0), (900, 0), (900, 400)]])
    with pytest.raises(GeometryError, match="no pixel of a frame of 700x500 px is in the region of interest"):
        inspector.start(frame_of(white_frame()), beside)
    with pytest.raises(InputError):
        inspector.start(Frame(Stamp("test", 1), np.zeros((10, 10), np.uint8), "BGR8"))
    assert engine.given == []
    assert inspect(inspector, white_frame(), PART).verdict == "GOOD"


def test_heatmap_pictures_are_black_and_untinted_where_no_tile_was_inspected(bundle: Bundle) -> None:
    judgement = inspect(Inspector(bundle.manifest, NumpyEngine()), TWO, PART)
    grey = ColourScale(low=-10.0, high=20.0).grey(judgement.heatmap)
    decoded = cv2.imdecode(np.frombuffer(png(grey), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert decoded is not None
    assert not decoded[56:].any()
    assert not decoded[:, 112:].any()
    assert decoded[:56, :111].all(), "even what is as cold as can be is above the scale's low end here"
    picture = overlay(TWO, judgement.heatmap, 4, judgement.regions, ColourScale(low=-10.0, high=20.0))
    np.testing.assert_array_equal(picture[230:, 452:], TWO[230:, 452:])
