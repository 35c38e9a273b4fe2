"""Frames are compared with their reference where they show it; what cannot be compared is never GOOD."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.errors import BundleError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME, RegionOfInterest, TileGrid
from heatline.edge.inference import Engine, open_engine
from heatline.edge.inference.engine import ONNX_GRAPH, Done, Failed, Fill
from heatline.edge.inspection.inspector import Inspector, outcome_of
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.reference.alignment import Pose
from heatline.edge.reference.difference import Grey, differences, to_grey
from heatline.edge.reference.reference import Alignment, Reference
from tests.edge.boards import THRESHOLDS, board, moved
from tests.small_bundle import TILE, answer, dark_square, graph

BOARD = board()
REFERENCE = Reference(BOARD)


@pytest.fixture(scope="module")
def comparing(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("comparing")
    (folder / ONNX_GRAPH).write_bytes(graph(compares=True))
    return open_engine("onnxruntime", folder, TILE, threads=1, batch=4)


@pytest.fixture
def inspector(bundle: Bundle, comparing: Engine) -> Inspector:
    return Inspector(bundle.manifest, comparing, thresholds=THRESHOLDS, references={"": REFERENCE})


def inspect(
    inspector: Inspector, rgb: NDArray[np.uint8], area: RegionOfInterest = WHOLE_FRAME, camera: str = "top"
) -> Judgement:
    return inspector.finish(inspector.start(Frame(Stamp(camera, 1), rgb, "RGB8"), area))


PART = RegionOfInterest.from_polygons([[(300, 250), (550, 250), (550, 440), (300, 440)]])


@pytest.mark.parametrize("area", [WHOLE_FRAME, PART])
@pytest.mark.parametrize(("right", "down"), [(0, 0), (17, -9)])
def test_each_tile_gets_the_difference_to_what_the_reference_shows_there(
    inspector: Inspector, area: RegionOfInterest, right: int, down: int
) -> None:
    frame = dark_square(moved(BOARD, right, down), 300, 400)
    judgement = inspect(inspector, frame, area)
    assert judgement.pose is not None
    assert (judgement.pose.x_px, judgement.pose.y_px) == pytest.approx((right, down), abs=0.3)
    grid = TileGrid((446, 560), TILE, 2, area)
    corners = grid.origins - np.array([down, right], np.int32)
    expected = differences(to_grey(frame), REFERENCE.range, grid.origins_yx, corners, TILE)
    np.testing.assert_allclose(judgement.tiles.logits, answer(grid.tiles(frame), expected)[0], atol=1e-3)
    assert judgement.verdict == "DEFECT"
    assert judgement.regions[0].box_xyxy[0] <= 424 < judgement.regions[0].box_xyxy[2]
    assert outcome_of(Stamp("top", 1), judgement).judgement is judgement


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (moved(BOARD, 200, 0), "confidence"),
        (BOARD[::-1, ::-1].copy(), "confidence"),
        (dark_square(moved(BOARD, 0, 0, 90), 0, 0), "confidence"),
        (np.full_like(BOARD, 200), "confidence"),
        (BOARD[:, :500].copy(), "500x446"),
        (np.rot90(BOARD).copy(), "446x560"),
    ],
    ids=["moved too far", "turned by 180", "turned by 90", "blank", "smaller", "of the other orientation"],
)
def test_a_frame_that_cannot_be_compared_gets_no_verdict_and_no_heatmap(
    inspector: Inspector, frame: NDArray[np.uint8], why: str
) -> None:
    judgement = inspect(inspector, frame)
    outcome = outcome_of(Stamp("top", 1), judgement)
    assert outcome.unjudged is not None
    assert (outcome.judgement, outcome.unjudged.kind, outcome.unjudged.reason) == (None, "failed", "misaligned")
    assert why in outcome.unjudged.detail
    assert outcome.shown is None, "its tiles were compared with nothing"
    assert outcome.inspected is judgement
    implausible = outcome_of(Stamp("top", 1), replace(judgement, implausible="it shows another product"))
    assert implausible.unjudged is not None
    assert implausible.unjudged.reason == "implausible"


def test_tiles_are_compared_one_request_after_the_other_while_the_engine_works(bundle: Bundle) -> None:
    steps: list[str] = []

    class Noting(Reference):
        def align(self, grey: Grey) -> Alignment:
            steps.append("align")
            return super().align(grey)

        def difference_of(self, grey: Grey, pose: Pose, grid: TileGrid) -> Callable[[slice], NDArray[np.uint8]]:
            steps.append("place")
            compared = super().difference_of(grey, pose, grid)

            def compare(tiles: slice) -> NDArray[np.uint8]:
                steps.append(f"compare {tiles.start} to {tiles.stop}")
                return compared(tiles)

            return compare

    class Working(Engine):
        name, batch, compares = "working", 4, True

        def collect_ended(self) -> None:
            steps.append("collect")

        def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
            fill(np.empty((count, TILE, TILE, 3), np.uint8), np.empty((count, 28, 28, 8), np.uint8))
            steps.append("infer")

    inspector = Inspector(bundle.manifest, Working(), references={"": Noting(BOARD)})
    inspector.start(Frame(Stamp("top", 1), BOARD, "RGB8"))
    assert steps == ["collect", "align", "place", "compare 0 to 4", "infer", "compare 4 to 6", "infer"]


def test_a_camera_has_its_own_reference_and_one_without_any_gets_no_verdict(bundle: Bundle, comparing: Engine) -> None:
    other = Reference(board(seed=1))
    own = Inspector(bundle.manifest, comparing, thresholds=THRESHOLDS, references={"": REFERENCE, "side": other})
    assert inspect(own, BOARD, camera="top").reject_reason is None
    assert inspect(own, other.rgb, camera="side").reject_reason is None
    assert inspect(own, BOARD, camera="side").misaligned is not None
    only = Inspector(bundle.manifest, comparing, thresholds=THRESHOLDS, references={"side": other})
    assert "bundle set-reference" in str(inspect(only, BOARD, camera="top").reject_reason)
    frame = Frame(Stamp("top", 1), other.rgb, "RGB8")
    assert only.finish(only.start(frame, reference=other)).reject_reason is None, "as evaluation gives it"


def test_a_reference_that_knows_little_of_the_part_is_refused(tmp_path: Path) -> None:
    picture = np.full((300, 400, 4), 120, np.uint8)
    picture[:20, :, 3] = 0
    cv2.imwrite(str(tmp_path / "some.png"), picture)
    unknown = Reference.load(tmp_path / "some.png", (300, 400)).unknown
    assert unknown is not None
    assert unknown.sum() == 20 * 400
    picture[:200, :, 3] = 0
    cv2.imwrite(str(tmp_path / "little.png"), picture)
    with pytest.raises(BundleError, match="knows 33% of the part, expected at least 90%"):
        Reference.load(tmp_path / "little.png", (300, 400))
