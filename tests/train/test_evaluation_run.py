"""Evaluation of runs and of bundles: figures that can be counted by hand, its parts, warnings and files."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bundle import Bundle, write_bundle
from heatline.edge.bundle.appearance import Appearance, ImageStatistics
from heatline.edge.bundle.plausibility import fit_plausibility
from heatline.edge.errors import InputError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.images import digest_picture
from heatline.edge.inspection.inspector import PendingFrame
from heatline.edge.inspection.verdict import Thresholds, judge
from heatline.train.evaluation.evaluate import evaluate_model, line_mask, select_pictures, tile_row
from heatline.train.evaluation.evaluated import open_model
from heatline.train.evaluation.result import read_evaluation
from heatline.train.evaluation.scoring import Figures
from heatline.train.models.vit import FUSIONS
from tests.command import complaint, heatline, run_json, successful
from tests.conftest import write_picture
from tests.golden import assert_golden
from tests.small_bundle import GAIN, bundle_in, dark_square, parts_of, white_frame
from tests.train.blobs import draw_blobs, write_labels
from tests.train.trained import NAMED_SPLIT, SMALL

pytestmark = pytest.mark.usefixtures("one_thread")

PLACES = {"a1": (80, 80), "b1": (100, 300), "b2": (20, 20)}
"""Place (y, x) of the black square in each defective picture of `grouped`, px."""


def folder(path: Path, defects: dict[str, tuple[int, int] | None], marked: dict[str, tuple[int, int]]) -> Path:
    """Write white frames of 224x446 px (two tiles) and their masks. `defects`: place of a black square in each frame;
    None: no square. `marked`: place of the square in the mask of a frame."""
    for name in ("images", "masks"):
        (path / name).mkdir(parents=True)
    white = white_frame((224, 446))
    for stem, place in defects.items():
        cv2.imwrite(str(path / "images" / f"{stem}.png"), dark_square(white, *place) if place else white)
        mask = np.zeros((224, 446), np.uint8)
        if stem in marked:
            y, x = marked[stem]
            mask[y : y + 48, x : x + 48] = 255
        cv2.imwrite(str(path / "masks" / f"{stem}.png"), mask)
    return path


def grouped(path: Path) -> Path:
    """Write six pictures of three groups, which labels.csv and the first letter of the file name."""
    folder(path, {**PLACES, "a2": None, "c1": None, "c2": None}, PLACES)
    stems = sorted(file.stem for file in (path / "images").iterdir())
    write_labels(path, [(f"{stem}.png", "defective" if stem in PLACES else "good", stem[0]) for stem in stems])
    return path


def boxes(path: Path, marked: dict[str, tuple[int, int] | None]) -> None:
    """Write boxes of 48 px as a second truth, independent of the masks."""
    (path / "boxes").mkdir()
    for stem, place in marked.items():
        y, x = place or (0, 0)
        row = f"{x} {y} {x + 48} {y + 48} 1\n" if place else ""
        (path / "boxes" / f"{stem}.txt").write_text(row)


def with_training_groups(path: Path, bundle: Bundle, data: Path | None, **groups: list[str]) -> Bundle:
    """Copy the bundle with a record of its training groups. `data`: folder of `grouped` that it was trained on; None:
    pictures that are not there any more."""
    stems = [] if data is None else [stem for stem in PLACES if stem[0] in groups["train"]]
    pictures = [(data or path) / "images" / f"{stem}.png" for stem in stems]
    known = {"groups": groups, "digests": [digest_picture(file) for file in pictures] or ["of other pictures"]}
    manifest = msgspec.structs.replace(bundle.manifest, provenance={"data": known})
    return write_bundle(path, manifest, {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files})


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return heatline("evaluate", *arguments)


def reported(*arguments: str | Path) -> dict[str, Any]:
    (evaluation,) = run_json("evaluate", *arguments)["evaluations"]
    return evaluation


def many_groups(path: Path) -> Path:
    """Write twelve pictures, each a group; in two of them, the defect is not visible."""
    squares = {f"d{n}": (80, 80) for n in range(8)}
    shown = {**squares, "d0": None, "d1": None, **{f"g{n}": None for n in range(4)}}
    folder(path, shown, squares)
    write_labels(path, [(f"{stem}.png", "defective" if stem in squares else "good", stem) for stem in shown])
    return path


TILE = 64
SMALL_VIT = ("model=test_vit", *(item for item in SMALL if item not in ("model=test_efficientnet", "model.stride=16")))


@pytest.mark.parametrize("family", ["cnn", pytest.param("vit", marks=pytest.mark.long)])
def test_a_run_and_its_bundle_have_the_same_figures(
    request: pytest.FixtureRequest, blobs: Path, tmp_path: Path, family: str
) -> None:
    """Engines sum in different orders, so a pixel exactly at the threshold may fall on either side."""
    if family == "cnn":
        run, bundle = (request.getfixturevalue(name) for name in ("trained_run", "trained_bundle"))
    else:
        run, bundle = tmp_path / "run", tmp_path / "bundle"
        assert heatline("train", f"data={blobs}", f"out={run}", *SMALL_VIT, *NAMED_SPLIT).returncode == 0
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


def of(found: Figures, part: str, *names: str) -> list[float | None]:
    return [found[f"{part}.{name}"] for name in names]


DEFECTS = "defects", "defects_hit", "false_regions"
VERDICTS = "defective_frames", "escaped_frames", "good_frames", "rejected_frames"
RANKED = "average_precision", "auroc"


def test_misses_false_regions_escapes_and_rejects_are_counted(tmp_path: Path, bundle: Bundle) -> None:
    shown = {"seen": (80, 80), "harmless": (80, 80), "unseen": None}
    data = folder(tmp_path / "data", shown, {"seen": (80, 80), "unseen": (10, 10)})
    found = evaluate_model(bundle.path, data).figures
    assert of(found, "frame", *DEFECTS, "false_regions_per_frame") == [2, 1, 1, pytest.approx(1 / 3)]
    assert of(found, "frame", *VERDICTS, "escape_rate", "false_reject_rate") == [2, 1, 1, 1, 0.5, 1]
    # Frames: the two black squares score alike and highest, one of them is defective, as is one of one that is white.
    assert of(found, "frame", *RANKED) == pytest.approx([0.5 * 1 / 2 + 0.5 * 2 / 3, (0.5 + 0) / 2])
    # Tiles: one defective tile is found, one is not, one good tile looks defective: 4 of 6 are right.
    assert of(found, "tile", "accuracy") == pytest.approx([4 / 6])
    assert of(found, "study", "pointing_gated") == pytest.approx([1 / 2])
    # Two tiles score alike high (one true), four alike low (one true): precision 1/2 at recall 1/2, 2/6 at recall 1.
    # Of the 2 x 4 pairs: the high true one beats 3 and ties 1; the low true one loses 1 and ties 3.
    assert of(found, "tile", *RANKED) == pytest.approx([0.5 * 1 / 2 + 0.5 * 2 / 6, (3 + 0.5 + 3 * 0.5) / 8])


def test_pixels_are_counted_over_all_tiles(tmp_path: Path, bundle: Bundle) -> None:
    """Frames of several tiles, and one smaller than a tile, whose padding does not count.

    One black square is harmless, and one defect is not visible.
    """
    shown = {"seen": (80, 80), "harmless": (90, 150), "unseen": None}
    data = folder(tmp_path / "data", shown, {"seen": (70, 60), "unseen": (10, 10)})
    small = np.zeros((100, 150), np.uint8)
    small[30:80, 60:90] = 255
    write_picture(data / "images" / "small.png", dark_square(white_frame((100, 150)), 40, 40))
    write_picture(data / "masks" / "small.png", small)
    found = evaluate_model(bundle.path, data).figures

    names = "true_positive_px", "false_positive_px", "false_negative_px", "true_negative_px"
    counts = of(found, "study", *names)
    true_positive, _, false_negative, _ = counts
    assert all(counts)
    assert sum(counts) == 3 * 2 * 224**2 + 100 * 150
    assert true_positive + false_negative == 2 * 48**2 + 50 * 30


def test_a_defective_picture_without_a_place_counts_only_as_a_frame(tmp_path: Path, bundle: Bundle) -> None:
    data = grouped(tmp_path / "data")
    before = evaluate_model(bundle.path, data).figures
    write_picture(data / "images" / "d1.png", white_frame((224, 446)))
    write_picture(data / "masks" / "d1.png", np.zeros((224, 446), np.uint8))
    (data / "labels.csv").write_text((data / "labels.csv").read_text() + "d1.png,defective,d\n")
    evaluation = evaluate_model(bundle.path, data)
    after = evaluation.figures
    assert {name.partition(".")[0] for name in after if after[name] != before[name]} == {"frame"}
    assert of(after, "frame", "frames", "unplaced", *DEFECTS) == [7, 1, 3, 3, 0]
    assert of(after, "frame", *VERDICTS) == [4, 1, 3, 0]
    assert after["frame.auroc"] == pytest.approx((3 + 0.5) / 4)  # it looks like the three good frames
    assert any("1 of the 7 frames is only labelled good or defective" in each for each in evaluation.warnings)


def test_pictures_with_labels_only_count_as_frames(tmp_path: Path, bundle: Bundle) -> None:
    """Two pictures have the same name, in good/ and in defective/."""
    for name, side in {"good/white": 0, "good/dark": 48, "defective/dark": 48, "defective/darker": 60}.items():
        write_picture(tmp_path / "data" / f"{name}.png", dark_square(white_frame((224, 224)), 50, 50, side))
    evaluation = reported(bundle.path, "--data", tmp_path / "data")
    found = evaluation["figures"]
    assert (evaluation["truth"], {name.partition(".")[0] for name in found}) == ("labels", {"frame"})
    assert of(found, "frame", "frames", "unplaced", *DEFECTS) == [4, 4, None, None, None]
    assert of(found, "frame", *VERDICTS) == [2, 0, 2, 1]
    assert of(found, "frame", *RANKED) == pytest.approx([0.5 * 1 + 0.5 * 2 / 3, (2 + 1.5) / 4])


@pytest.mark.parametrize(
    ("family", "logit", "pointing"), [("vit", -3.0, True), ("vit", 3.0, True), ("cnn", 3.0, True), ("cnn", -3.0, False)]
)
def test_a_rollout_peaks_at_the_most_relevant_token_for_both_signs(family: str, logit: float, pointing: bool) -> None:
    peak = np.zeros((4, 4), np.float32)
    peak[1, 2] = logit
    truth = np.kron(peak, np.ones((16, 16))) != 0
    _, _, _, (distance_px,), _ = tile_row(family, logit, peak[None], truth, (64, 64))
    assert (distance_px == 0) == pointing


@pytest.mark.parametrize(
    ("int8_gain", "options", "engine"),
    [
        (GAIN, ("--precision", "int8"), "openvino int8"),
        (2 * GAIN, ("--precision", "int8"), "openvino f32 instead of int8"),
        (GAIN, (), "openvino f32"),
    ],
)
def test_an_evaluation_names_the_precision_of_the_computation_and_the_truth(
    tmp_path: Path, int8_gain: float, options: tuple[str, ...], engine: str
) -> None:
    """Masks and boxes lie in different places, and one picture has no box."""
    data = grouped(tmp_path / "data")
    boxes(data, {**PLACES, "a1": (10, 250), "b2": None, "a2": None, "c1": None, "c2": None})
    bundle = bundle_in(tmp_path / "bundle", int8_gain=int8_gain)
    by_boxes = reported(bundle.path, "--data", data, "--truth", "boxes", *options)
    assert (by_boxes["subject"]["engine"], by_boxes["truth"]) == (engine, "boxes")
    assert of(by_boxes["figures"], "frame", "unplaced", "defects_hit") == [1, 1]


def test_a_part_selects_the_groups_that_the_bundle_names(tmp_path: Path, bundle: Bundle) -> None:
    data = grouped(tmp_path / "data")
    trained = with_training_groups(tmp_path / "trained", bundle, data, train=["a"], val=["c"], test=["b"])
    arguments = (trained.path, "--data", data)
    test = reported(*arguments, "--part", "test")
    assert test == reported(*arguments)
    assert (test["subject"]["part"], test["subject"]["groups"], test["subject"]["pictures"]) == ("test", ["b"], 2)
    assert "No frame is good: the rate of false rejects is not known." in test["warnings"]
    assert "The model was trained on these frames" in run(*arguments, "--part", "train").stderr
    everything = reported(*arguments, "--part", "all")
    assert everything["subject"]["pictures"] == 6
    assert everything["warnings"][0].startswith("The model was trained on the groups of at least 2 of the 6 frames")
    only_good = reported(*arguments, "--part", "val")["warnings"]
    assert "No frame is defective: the rate of misses is not known." in only_good
    other = with_training_groups(tmp_path / "other", bundle, None, train=["a"], val=[], test=["z"])
    elsewhere = reported(other.path, "--data", data)  # trained on other pictures: no test groups, no warning
    assert (elsewhere["subject"]["part"], elsewhere["warnings"][0][:15]) == ("all", "Too few groups:")
    for part, message in (("val", "names no groups as val; choose"), ("test", "'z' is miss")):
        assert message in complaint(run(other.path, "--data", data, "--part", part))

    # Good frames that set the threshold give no rate.
    printed = run(*arguments, "--part", "all", "--out", tmp_path / "out").stdout
    assert "good frames rejected     0 of 3 not a rate" in printed
    assert "| 0 of 3 not a rate |" in (tmp_path / "out" / "tables.md").read_text()
    assert "not a rate: these frames set the threshold" in (tmp_path / "out" / "report.html").read_text()


def test_a_wrong_model_or_folder_is_refused_in_one_sentence(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").touch()
    for path, data, told in (
        (tmp_path, tmp_path, "is neither a run nor a bundle; name a folder that `heatline train`"),
        (tmp_path / "nowhere", tmp_path, "does not exist; name a folder that `heatline train`"),
        (tmp_path / "begun", tmp_path, r"begun is not finished; .*: heatline train out=.*begun resume=true"),
        (bundle.path, tmp_path / "nowhere", "nowhere does not exist"),
        (bundle.path, None, "does not record the folder of its pictures; name a folder with --data"),
    ):
        with pytest.raises(InputError, match=told):
            evaluate_model(path, data, part="all")


def test_rates_of_ten_groups_or_more_have_intervals(tmp_path: Path, bundle: Bundle) -> None:
    data = many_groups(tmp_path / "data")
    evaluation = evaluate_model(bundle.path, data)
    low, high = evaluation.intervals["frame.escape_rate"]
    assert 0 <= low < evaluation.figures["frame.escape_rate"] == 2 / 8 < high <= 0.7  # type: ignore[operator]
    assert evaluation.intervals.keys() >= {"tile.average_precision", "study.f1", "line.recall"}
    assert "frame.false_reject_rate" not in evaluation.intervals, "none of 4 good frames is rejected in any resample"
    assert (evaluation.rests_on, evaluation.warnings) == ("all frames of data (12 groups, 12 frames)", [])
    printed = run(bundle.path, "--data", data)
    assert_golden("train_evaluate", printed.stdout + printed.stderr, bundle=bundle.path)


def test_every_frame_is_stored_with_its_name_and_the_lines_answer(tmp_path: Path, bundle: Bundle) -> None:
    """The figures count the same frames; pictures of them are drawn only into a folder."""
    evaluation = evaluate_model(bundle.path, grouped(tmp_path / "data"), folder=tmp_path / "out")
    assert read_evaluation(tmp_path / "out") == evaluation
    frames, threshold = evaluation.frames, evaluation.calibration.score_threshold
    assert [frame.image for frame in frames] == [f"images/{stem}.png" for stem in ("a1", "a2", "b1", "b2", "c1", "c2")]
    assert [frame.defects for frame in frames] == [1, 0, 1, 1, 0, 0]
    assert [frame.score >= threshold for frame in frames] == [frame.defective for frame in frames]
    assert sum(frame.hit or 0 for frame in frames) == evaluation.figures["frame.defects_hit"]
    assert all((tmp_path / "out" / str(frame.picture)).is_file() for frame in frames)
    file, message = tmp_path / "out" / "evaluation.json", r"evaluation\.json has schema 5, this version reads 6; evalua"
    file.write_text(file.read_text().replace('"schema": 6', '"schema": 5'))
    with pytest.raises(InputError, match=message):
        read_evaluation(tmp_path / "out")


def test_frames_that_do_not_show_the_product_count_in_no_figure(tmp_path: Path, bundle: Bundle) -> None:
    """Two frames are black: a good and a defective one. The line gives them no verdict."""
    data, white = grouped(tmp_path / "data"), white_frame((224, 446))
    seen = [Appearance((224, 446), ImageStatistics.of(frame), None) for frame in (white, dark_square(white, 80, 80))]
    calibration = msgspec.structs.replace(bundle.manifest.calibration, plausible=fit_plausibility(seen).plausible)
    manifest = msgspec.structs.replace(bundle.manifest, calibration=calibration)
    knowing = write_bundle(tmp_path / "knowing", manifest, parts_of(bundle))
    for stem in ("a2", "b1"):
        write_picture(data / "images" / f"{stem}.png", white // 100)
    done = successful(run(knowing.path, "--data", data, "--out", tmp_path / "out"))
    evaluation = read_evaluation(tmp_path / "out" / "models" / "knowing")
    refused = [(frame.image, frame.group, frame.defective) for frame in evaluation.implausible]
    assert refused == [("images/a2.png", "a", False), ("images/b1.png", "b", True)]
    assert all("brightness 2, expected" in frame.why for frame in evaluation.implausible)
    assert of(evaluation.figures, "frame", "frames", *VERDICTS) == [4, 2, 0, 2, 0]
    assert evaluation.figures["tile.tiles"] == 8
    assert evaluation.warnings[0].startswith("2 frames are not like the product (1 good, 1 defective): the line gives")
    assert f"{knowing.path}: {evaluation.warnings[0]}" in done.stderr
    assert "images/<wbr>b1.png <span>defective: it does not" in (tmp_path / "out" / "report.html").read_text()


def test_several_models_are_reported_in_a_new_folder(tmp_path: Path, bundle: Bundle) -> None:
    data, out, file = grouped(tmp_path / "data"), tmp_path / "report", tmp_path / "file"
    models = [Path(shutil.copytree(bundle.path, tmp_path / name / "boards")) for name in ("first", "second")]
    assert run(*models, "--data", tmp_path / "nowhere", "--out", out).returncode == InputError.exit_code
    # A corrected command can be given again.
    first, second = run_json("evaluate", *models, "--data", data, "--out", out, "--study")["evaluations"]
    assert first["figures"] == second["figures"]
    assert sorted(path.parent.name for path in out.rglob("evaluation.json")) == ["first-boards", "second-boards"]
    assert "Comparison with the study" in (out / "report.html").read_text()
    file.touch()
    for words, message in (
        ((*models, "--out", out), "report exists already and is not empty; name a new folder with --out"),
        ((*models, "--out", file), "exists already"),
        ((*models, "--out", file / "below"), "cannot be made (Not a directory)"),
        ((models[0], models[0]), "are one folder; name each model once"),
        ((models[0], "--study"), "--study adds a chapter to the report; name the report's folder"),
    ):
        assert message in run(*words, "--data", data).stderr
