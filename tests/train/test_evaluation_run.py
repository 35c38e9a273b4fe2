"""Evaluation of runs and of their exported bundles, which agree; and the pixels of a frame's regions."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bundle.appearance import ImageStatistics
from heatline.edge.errors import InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inspection.inspector import PendingFrame
from heatline.edge.inspection.verdict import Thresholds, judge
from heatline.train.evaluation.evaluate import evaluate_model, select_pictures
from heatline.train.evaluation.evaluated import open_model
from heatline.train.evaluation.observe import line_mask
from heatline.train.models.vit import FUSIONS
from tests.command import heatline
from tests.train.blobs import draw_blobs
from tests.train.trained import NAMED_SPLIT, SMALL

pytestmark = pytest.mark.usefixtures("one_thread")
TILE = 64
SMALL_VIT = ("model=test_vit", *(item for item in SMALL if item not in ("model=test_efficientnet", "model.stride=16")))


@pytest.fixture(scope="module")
def vit_run(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vit") / "run"
    done = heatline("train", f"data={blobs}", f"out={out}", *SMALL_VIT, *NAMED_SPLIT)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("family", ["cnn", pytest.param("vit", marks=pytest.mark.long)])
def test_a_run_and_its_bundle_have_the_same_figures(
    request: pytest.FixtureRequest, blobs: Path, tmp_path: Path, family: str
) -> None:
    """Engines sum in different orders, so a pixel exactly at the threshold may fall on either side."""
    if family == "cnn":
        run, bundle = (request.getfixturevalue(name) for name in ("trained_run", "trained_bundle"))
    else:
        run, bundle = request.getfixturevalue("vit_run"), tmp_path / "bundle"
        options = ("--precision", "f32", "--false-reject", "0")
        assert heatline("export", run, "--to", bundle, *options).returncode == 0
    by_run, by_bundle = evaluate_model(run, part="all", false_reject=0.0), evaluate_model(bundle, blobs, part="all")
    one, other = by_run.figures, by_bundle.figures
    assert one.keys() - other.keys() == {name for name in one if name.startswith(FUSIONS)}, "a bundle has one map"
    for name, value in other.items():
        assert value == pytest.approx(one[name], abs=20 if name.endswith("_px") else 1e-3, nan_ok=False), name
    assert (by_run.truth, by_run.figures["frame.frames"]) == ("masks", 12)
    for name in ("score_threshold", "evidence_threshold"):
        found, expected = (getattr(each.calibration, name) for each in (by_run, by_bundle))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4), name
    mine, theirs = by_run.subject, by_bundle.subject
    assert (mine.kind, mine.engine, theirs.kind, theirs.engine) == ("run", "torch f32", "bundle", "openvino f32")
    assert (mine.name, mine.part, mine.groups, mine.recipe) == ("run", "all", [*"abcd"], "finetune, 6 steps of 8")
    for name in ("model", "family", "method", "map_hw", "data"):
        assert getattr(mine, name) == getattr(theirs, name), name


def test_the_run_of_a_vit_has_figures_of_every_fusion_which_include_its_own(vit_run: Path) -> None:
    evaluation = evaluate_model(vit_run, part="all")
    assert evaluation.subject.method == "rollout-max"
    for name in ("precision", "recall", "f1", "jaccard", "accuracy", "pointing", "pointing_gated"):
        own = evaluation.figures[f"study.{name}"]
        assert evaluation.figures[f"max.{name}"] == pytest.approx(own, abs=1e-4), name
        assert f"min.{name}" in evaluation.figures


def test_a_run_without_its_pictures_is_refused_in_one_sentence(blobs: Path, trained_run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(trained_run, tmp_path / "moved"))
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace(str(blobs), str(tmp_path / "gone")))
    with pytest.raises(InputError, match=r"was trained on .*gone, which is not a folder any more"):
        evaluate_model(moved, blobs)


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_pictures_of_the_training_are_recognised_by_their_content(
    request: pytest.FixtureRequest, blobs: Path, tmp_path: Path, kind: str
) -> None:
    """Not by the name of their folder."""
    model = open_model(request.getfixturevalue(f"trained_{kind}"))
    moved = Path(shutil.copytree(blobs, tmp_path / "moved"))
    assert select_pictures(model, moved).part == "test"
    assert select_pictures(model, moved, part="all").trained_on == 6
    others = select_pictures(model, draw_blobs(tmp_path / "blobs", seed=1))
    assert (others.part, others.trained_on) == ("all", 0)


def random_answers(frame_hw: tuple[int, int], seed: int, smoothing_px: float) -> PendingFrame:
    """Return a frame with random logits and maps of 4x4 cells."""
    rng, frame = np.random.default_rng(seed), np.zeros((*frame_hw, 3), np.uint8)
    stitcher = Stitcher(TileGrid(frame_hw, TILE, 10), (4, 4), 8, smoothing_px)
    pending = PendingFrame(Frame(Stamp("drawn", 1, "a"), frame, "RGB8"), stitcher, ImageStatistics(0, 0, 0, 0))
    pending.logits[:] = rng.normal(0, 1, len(stitcher.grid))
    pending.maps[:] = rng.normal(0, 2, pending.maps.shape)
    return pending


@given(
    st.tuples(st.integers(30, 150), st.integers(30, 150)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 20.0]),
    st.sampled_from([-1.0, 0.5, 9.0]),
    st.sampled_from([None, 0.3, 4.0]),
)
def test_the_lines_rule_calls_the_pixels_of_its_regions_defective(
    frame_hw: tuple[int, int], seed: int, smoothing_px: float, evidence: float, strong: float | None
) -> None:
    """Also if the frame ends within a cell, and if no cell of a tile reaches the threshold, so that its peak counts."""
    pending, thresholds = random_answers(frame_hw, seed, smoothing_px), Thresholds(0.3, evidence, strong)
    judgement = judge(pending.logits, pending.maps, pending.stitcher, thresholds)
    mask = line_mask(pending, judgement, thresholds)
    assert (mask.shape, bool(mask.any())) == (frame_hw, judgement.verdict == "DEFECT")
    assert int(mask.sum()) == sum(region.area_px for region in judgement.regions)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = sorted((int(x), int(y), int(x + w), int(y + h)) for x, y, w, h, _ in stats[1:])
    assert boxes == sorted(region.box_xyxy for region in judgement.regions)
    assert all(mask[region.peak_xy[1], region.peak_xy[0]] for region in judgement.regions)
    outlined = np.zeros(frame_hw, np.uint8)  # exact to a cell, with holes
    for region in judgement.regions:
        cv2.fillPoly(outlined, [np.array(region.contour_xy, np.int32)], 1)
    side = 2 * pending.stitcher.cell_px + 1
    assert not mask[cv2.dilate(outlined, np.ones((side, side), np.uint8)) == 0].any()
