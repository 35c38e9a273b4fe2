"""Runs evaluated as runs and, exported, as bundles, which say the same; and what a frame's regions cover."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.bundle import open_bundle
from edge.bundle.plausibility import Vitals
from edge.errors import InputError
from edge.frames import Frame, Stamp
from edge.geometry import Stitcher, TileGrid
from edge.inspection.inspector import PendingFrame
from edge.inspection.verdict import Thresholds, judge
from tests.command import heatline
from tests.train.blobs import sort_tiles
from tests.train.trained import NAMED_SPLIT, SMALL
from train.evaluation.evaluate import Asked, evaluate_model
from train.evaluation.evaluated import open_model
from train.evaluation.observe import line_mask
from train.evaluation.result import Evaluation

pytestmark = pytest.mark.usefixtures("one_thread")

TILE = 64
SMALL_VIT = ("model=test_vit", *(item for item in SMALL if item not in ("model=test_efficientnet", "model.stride=16")))


def trained_vit(data: Path, out: Path, *split: str) -> Path:
    done = heatline("train", f"data={data}", f"out={out}", *SMALL_VIT, *split)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def vit_run(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_vit(blobs, tmp_path_factory.mktemp("vit") / "run", *NAMED_SPLIT)


def evaluated(model: Path, asked: Asked, left: Path) -> Evaluation:
    """With all its pictures left in a folder."""
    evaluation = evaluate_model(model, asked, left)
    (found,) = evaluation.truths
    assert found.gallery
    assert all((left / one.file).is_file() for one in found.gallery)
    return evaluation


def flat(value: Any, name: str = "") -> Mapping[str, Any]:
    """The leaves of something that JSON can hold, by dotted name."""
    if not isinstance(value, dict):
        return {name: value}
    return {path: leaf for key, below in value.items() for path, leaf in flat(below, f"{name}.{key}").items()}


@pytest.mark.parametrize("family", ["cnn", pytest.param("vit", marks=pytest.mark.long)])
def test_a_run_and_its_bundle_have_the_same_figures_but_for_what_runs_them(
    request: pytest.FixtureRequest, blobs: Path, tmp_path: Path, family: str
) -> None:
    """Another engine sums in another order, so a pixel at the very threshold may fall to either side of it."""
    run: Path = request.getfixturevalue("trained_run" if family == "cnn" else "vit_run")
    if family == "cnn":
        bundle: Path = request.getfixturevalue("trained_bundle")
    else:
        bundle = tmp_path / "bundle"
        assert heatline("export", run, "--to", bundle, "--precision", "f32").returncode == 0
    by_run = evaluated(run, Asked(part="all"), tmp_path / "left")
    by_bundle = evaluate_model(bundle, Asked(blobs, part="all"))
    one, other = (flat(msgspec.to_builtins(each.truths[0].figures)) for each in (by_run, by_bundle))
    assert one.keys() == other.keys()
    for name, value in one.items():
        tolerance = 20 if name.endswith("_px") else 1e-3
        assert value == pytest.approx(other[name], abs=tolerance, nan_ok=False), name
    assert by_run.truths[0].truth == "masks"
    assert by_run.truths[0].figures.frame.frames == 12
    thresholds = [
        (each.calibration.score_threshold, each.calibration.evidence_threshold) for each in (by_run, by_bundle)
    ]
    assert thresholds[0] == pytest.approx(thresholds[1], rel=1e-3, abs=1e-4)
    assert by_run.calibration.frames_are == by_bundle.calibration.frames_are
    assert by_bundle.truths[0].sweep is None  # a bundle has one map

    ours, theirs = by_run.told, by_bundle.told
    assert (ours.kind, ours.engine, theirs.kind, theirs.engine) == ("run", "torch f32", "bundle", "openvino f32")
    assert (ours.name, ours.path, ours.part, ours.groups) == ("run", str(run), "all", ["a", "b", "c", "d"])
    for name in ("model", "family", "method", "map_hw", "weights", "steps", "taught_by", "data"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert (ours.map_hw, ours.steps, ours.data, ours.taught_by) == ((4, 4), 6, "blobs", "masks")
    assert ours.recipe == "finetune, 6 steps of 8"
    assert ours.seconds is not None


def test_a_sweep_is_of_vits_runs_and_has_the_runs_own_map_among_its_variants(
    trained_run: Path, vit_run: Path, tmp_path: Path
) -> None:
    of_cnn = evaluated(trained_run, Asked(), tmp_path / "cnn").truths[0]
    assert of_cnn.sweep is None
    assert {one.kind for one in of_cnn.gallery} == {"example", "missed", "false"}
    evaluation = evaluated(vit_run, Asked(part="all"), tmp_path / "vit")
    (found,) = evaluation.truths
    assert {one.kind for one in found.gallery} == {"example", "missed", "false", "fusions", "ratios"}
    assert found.sweep is not None
    assert found.figures.study is not None
    assert found.figures.tile is not None
    fusion, ratio = found.sweep.fusions.index("max"), found.sweep.ratios.index(0.0)  # as the model is configured
    assert evaluation.told.method == "rollout-max"
    own = {
        **{name: getattr(found.figures.study, name) for name in ("precision", "recall", "f1", "jaccard", "accuracy")},
        "pointing": found.figures.tile.pointing,
        "pointing_gated": found.figures.study.pointing_gated,
        "weighting": found.figures.tile.weighting,
    }
    for name, value in own.items():
        assert getattr(found.sweep, name)[fusion][ratio] == pytest.approx(value, abs=1e-4), name


def test_a_run_is_evaluated_on_its_own_test_groups_where_nothing_is_asked(trained_run: Path) -> None:
    done = heatline("evaluate", trained_run, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (evaluation,) = json.loads(done.stdout)["evaluations"]
    assert (evaluation["told"]["part"], evaluation["told"]["groups"]) == ("test", ["d"])
    assert evaluation["truths"][0]["figures"]["frame"]["frames"] == 3


def test_the_share_of_good_frames_to_reject_is_for_runs(trained_run: Path, trained_bundle: Path) -> None:
    """One good frame: all of it, or none."""
    strict, lax = (open_model(trained_run, false_reject=share).settings.calibration for share in (0.0, 0.5))
    assert (strict.false_reject_per_frame, lax.false_reject_per_frame) == (0.0, 0.5)
    assert strict.frames == lax.frames == 1
    own = open_bundle(trained_bundle).manifest.calibration
    assert open_model(trained_bundle, false_reject=0.5).settings.calibration == own


def test_a_run_whose_pictures_are_gone_says_so_in_one_sentence(blobs: Path, trained_run: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(trained_run, tmp_path / "moved"))
    config = moved / "config.yaml"
    config.write_text(config.read_text().replace(str(blobs), str(tmp_path / "gone")))
    with pytest.raises(InputError, match=r"was taught on .*gone, which is no folder any more") as raised:
        evaluate_model(moved, Asked(blobs))
    assert "\n" not in str(raised.value)


def test_a_run_trained_on_labels_is_evaluated_by_frames(tmp_path: Path) -> None:
    data = sort_tiles(tmp_path / "tiles")
    run = trained_vit(data, tmp_path / "run", "split.fractions=[0.4,0.3,0.3]")
    evaluation = evaluate_model(run, Asked(), tmp_path / "left")
    (found,) = evaluation.truths
    assert (found.truth, found.sweep, found.gallery, found.figures.tile) == ("labels", None, [], None)
    assert (evaluation.told.taught_by, evaluation.told.part) == ("labels", "test")
    assert found.figures.frame.frames == found.figures.frame.unplaced == len(evaluation.told.groups)
    assert (tmp_path / "left" / "evaluation.json").is_file()


# ----------------------------------------------------------------------------------------------- what the regions cover

FRAMES = st.tuples(st.integers(30, 150), st.integers(30, 150))


def answered(frame_hw: tuple[int, int], seed: int, smoothing_px: float) -> PendingFrame:
    """A frame with random answers: logits and maps of 4x4 cells, a few of them hot."""
    rng = np.random.default_rng(seed)
    stitcher = Stitcher(TileGrid(frame_hw, TILE, 10), (4, 4), 8, smoothing_px)
    pending = PendingFrame(
        Frame(Stamp("drawn", 1, "a"), np.zeros((*frame_hw, 3), np.uint8), "RGB8"), stitcher, Vitals(0, 0, 0)
    )
    pending.logits[:] = rng.normal(0, 1, len(stitcher.grid))
    pending.maps[:] = rng.normal(0, 2, pending.maps.shape)
    return pending


@given(FRAMES, st.integers(0, 2**32 - 1), st.sampled_from([0.0, 20.0]), st.sampled_from([-1.0, 0.5, 9.0]))
def test_the_pixels_of_the_lines_rule_are_those_of_its_regions(
    frame_hw: tuple[int, int], seed: int, smoothing_px: float, evidence: float
) -> None:
    """Also where the frame ends within a cell, and where no cell of a tile reaches the threshold: its peak counts."""
    pending, thresholds = answered(frame_hw, seed, smoothing_px), Thresholds(0.3, evidence)
    judgement = judge(pending.logits, pending.maps, pending.stitcher, thresholds)
    mask = line_mask(pending, judgement, thresholds)
    assert mask.shape == frame_hw
    assert mask.any() == (judgement.verdict == "DEFECT")
    assert int(mask.sum()) == sum(region.area_px for region in judgement.regions)
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    boxes = sorted((int(x), int(y), int(x + w), int(y + h)) for x, y, w, h, _ in stats[1:])
    assert boxes == sorted(region.box_xyxy for region in judgement.regions)
    assert all(mask[region.peak_xy[1], region.peak_xy[0]] for region in judgement.regions)
    assert not (mask & ~near(outlined(judgement.regions, frame_hw), pending.stitcher.cell_px)).any()


def outlined(regions: list[Any], frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """All within the regions' outlines, which follow them within a cell; holes are within, too."""
    drawn = np.zeros(frame_hw, np.uint8)
    for region in regions:
        cv2.fillPoly(drawn, [np.array(region.contour_xy, np.int32)], 1)
    return drawn > 0


def near(mask: NDArray[np.bool_], reach_px: int) -> NDArray[np.bool_]:
    side = 2 * reach_px + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
