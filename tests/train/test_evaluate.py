"""Evaluation of bundles on pictures whose figures can be counted by hand."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.geometry import TileGrid
from heatline.edge.images import read_rgb
from heatline.train.evaluation.evaluate import evaluate_model
from heatline.train.evaluation.figures import Figures
from heatline.train.evaluation.observe import tile_row
from tests.small_bundle import GAIN, TILE, answer, bundle_in, dark_square, white_frame
from tests.train.placed_squares import PLACES, boxes, folder, grouped, reported, run


def evaluate(path: Path, bundle: Bundle) -> Figures:
    return evaluate_model(bundle.path, path).figures


def of(found: Figures, part: str, *names: str) -> list[float | None]:
    return [found[f"{part}.{name}"] for name in names]


DEFECTS = "defects", "defects_hit", "false_regions"
VERDICTS = "defective_frames", "escaped_frames", "good_frames", "rejected_frames"
RANKED = "average_precision", "auroc"


def enlarged(tile_map: NDArray[np.float32]) -> NDArray[np.float64]:
    """Enlarge a map to its tile, one axis after the other."""
    centres = (np.arange(len(tile_map)) + 0.5) * TILE / len(tile_map)
    for _ in range(2):
        rows = [np.interp(np.arange(TILE) + 0.5, centres, row) for row in tile_map]
        tile_map = np.array(rows).T  # type: ignore[assignment]
    return np.asarray(tile_map, np.float64)


def test_a_bundle_that_finds_all_defects_has_perfect_figures(tmp_path: Path, bundle: Bundle) -> None:
    places = {"a": (80, 80), "b": (100, 300)}
    found = evaluate(folder(tmp_path / "data", {**places, "c": None}, places), bundle)
    assert of(found, "tile", "tiles", "defective", *RANKED, "accuracy") == [6, 2, 1, 1, 1]
    assert of(found, "study", "pointing", "pointing_gated") == [1, 1]
    assert of(found, "frame", "frames", "unplaced", *DEFECTS) == [3, 0, 2, 2, 0]
    assert of(found, "frame", *VERDICTS) == [2, 0, 1, 0]
    assert of(found, "frame", *RANKED) == [1, 1]
    assert (found["line.recall"] or 0) > 0.7


def test_misses_false_regions_escapes_and_rejects_are_counted(tmp_path: Path, bundle: Bundle) -> None:
    shown = {"seen": (80, 80), "harmless": (80, 80), "unseen": None}
    found = evaluate(folder(tmp_path / "data", shown, {"seen": (80, 80), "unseen": (10, 10)}), bundle)
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


def test_pixels_are_counted_by_the_studys_rule_over_all_tiles(tmp_path: Path, bundle: Bundle) -> None:
    """Frames of several tiles, and one smaller than a tile, whose padding does not count.

    One black square is harmless, and one defect is not visible.
    """
    shown = {"seen": (80, 80), "harmless": (90, 150), "unseen": None}
    data = folder(tmp_path / "data", shown, {"seen": (70, 60), "unseen": (10, 10)})
    cv2.imwrite(str(data / "images" / "small.png"), dark_square(white_frame((100, 150)), 40, 40))
    small = np.zeros((100, 150), np.uint8)
    small[30:80, 60:90] = 255
    cv2.imwrite(str(data / "masks" / "small.png"), small)
    found = evaluate(data, bundle)

    hit = false = missed = total = 0
    for picture in (data / "images").iterdir():
        rgb = read_rgb(picture)
        mask = cv2.imread(str(data / "masks" / picture.name), cv2.IMREAD_GRAYSCALE) > 0
        grid = TileGrid((rgb.shape[0], rgb.shape[1]))
        cut = np.empty((len(grid), TILE, TILE, 3), np.uint8)
        grid.cut(rgb, cut)
        for (y, x), logit, tile_map in zip(grid.origins_yx, *answer(cut), strict=True):
            part = mask[y : y + TILE, x : x + TILE]
            large = enlarged(tile_map)
            level = (large - large.min()) / max(large.max() - large.min(), 1e-9) * 255
            positive = ((level > 127) & (logit > 0))[: part.shape[0], : part.shape[1]]
            hit += int((positive & part).sum())
            false += int((positive & ~part).sum())
            missed += int((~positive & part).sum())
            total += part.size
    assert min(hit, false, missed) > 0
    assert total == 3 * 2 * TILE**2 + 100 * 150
    counted = "true_positive_px", "false_positive_px", "false_negative_px", "true_negative_px"
    assert of(found, "study", *counted) == [hit, false, missed, total - hit - false - missed]
    assert found["study.f1"] == pytest.approx(2 * hit / (2 * hit + false + missed))


def test_a_defective_picture_without_a_place_counts_only_as_a_frame(tmp_path: Path, bundle: Bundle) -> None:
    data = grouped(tmp_path / "data")
    before = evaluate(data, bundle)
    cv2.imwrite(str(data / "images" / "d1.png"), white_frame((224, 446)))
    cv2.imwrite(str(data / "masks" / "d1.png"), np.zeros((224, 446), np.uint8))
    with (data / "labels.csv").open("a") as file:
        file.write("d1.png,defective,d\n")
    after = evaluate(data, bundle)
    changed = {name for name in after if after[name] != before[name]}
    assert not {name for name in changed if not name.startswith("frame.")}
    assert of(after, "frame", "frames", "unplaced", *DEFECTS) == [7, 1, 3, 3, 0]
    assert of(after, "frame", *VERDICTS) == [4, 1, 3, 0]
    assert before["frame.auroc"] == 1
    assert after["frame.auroc"] == pytest.approx((3 + 0.5) / 4)  # it looks like the three good frames
    assert "1 of the 7 frames is only labelled good or defective" in run(bundle.path, "--data", data).stderr


def test_pictures_with_labels_only_count_as_frames(tmp_path: Path, bundle: Bundle) -> None:
    """Two pictures have the same name, in good/ and in defective/."""
    for name in ("good/white", "good/dark", "defective/dark", "defective/darker"):
        side = {"white": 0, "dark": 48, "darker": 60}[name.partition("/")[2]]
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "data" / f"{name}.png"), dark_square(white_frame((224, 224)), 50, 50, side))
    evaluation = evaluate_model(bundle.path, tmp_path / "data")
    found = evaluation.figures
    assert (evaluation.truth, {name.partition(".")[0] for name in found}) == ("labels", {"frame"})
    assert of(found, "frame", "frames", "unplaced", *DEFECTS) == [4, 4, None, None, None]
    assert of(found, "frame", *VERDICTS) == [2, 0, 2, 1]
    assert of(found, "frame", *RANKED) == pytest.approx([0.5 * 1 + 0.5 * 2 / 3, (2 + 1.5) / 4])
    done = run(bundle.path, "--data", tmp_path / "data")
    assert f"{bundle.path} on data (all), by labels" in done.stdout
    assert "not known" in done.stdout


def test_the_option_selects_the_truth(tmp_path: Path, bundle: Bundle) -> None:
    """Masks and boxes lie in different places, and one picture has no box."""
    data = grouped(tmp_path / "data")
    boxes(data, {**PLACES, "a1": (10, 250), "b2": None, "a2": None, "c1": None, "c2": None})
    masks, by_boxes = (evaluate_model(bundle.path, data, truth) for truth in (None, "boxes"))
    assert (masks.truth, by_boxes.truth) == ("masks", "boxes")
    assert of(masks.figures, "frame", "unplaced", "defects_hit") == [0, 3]
    assert of(by_boxes.figures, "frame", "unplaced", "defects_hit") == [1, 1]
    assert of(by_boxes.figures, "tile", "tiles") == [10]
    assert of(by_boxes.figures, "study", "pointing") == [0.5]
    assert f"{bundle.path} on data (all), by boxes\n" in run(bundle.path, "--data", data, "--truth", "boxes").stdout


@pytest.mark.parametrize(
    ("family", "logit", "pointing"), [("vit", -3.0, True), ("vit", 3.0, True), ("cnn", 3.0, True), ("cnn", -3.0, False)]
)
def test_a_rollout_peaks_at_the_most_relevant_token_for_both_signs_of_the_logit(
    family: str, logit: float, pointing: bool
) -> None:
    relevance = np.zeros((4, 4), np.float32)
    relevance[1, 2] = 16
    truth = np.zeros((64, 64), np.bool_)
    truth[16:32, 32:48] = True
    _, _, _, (distance_px,), _ = tile_row(family, logit, relevance[None] * np.float32(logit), truth, (64, 64))
    assert (distance_px == 0) == pointing


def test_an_evaluation_names_the_precision_of_the_computation(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", {"a": (80, 80), "b": None}, {"a": (80, 80)})
    close, far = bundle_in(tmp_path / "close"), bundle_in(tmp_path / "far", int8_gain=2 * GAIN)

    def engine(bundle: Bundle, *options: str) -> Any:
        return reported(bundle.path, "--data", data, *options)["subject"]["engine"]

    assert engine(close, "--precision", "int8") == "openvino int8"
    assert engine(far, "--precision", "int8") == "openvino f32 instead of int8"
    assert engine(close) == "openvino f32"
