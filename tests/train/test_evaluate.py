"""A bundle held against known defects, on pictures whose figures can be counted by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.bundle import Bundle
from edge.errors import InputError
from tests.small_bundle import dark_square, white_frame
from train.evaluate import Evaluation, evaluate_bundle
from train.readers import read_folder


def folder(path: Path, defects: dict[str, tuple[int, int] | None], marked: dict[str, tuple[int, int]]) -> Path:
    """White frames of 224x446 px (two tiles) with a black square each where `defects` says, and masks as `marked`
    says.
    """
    for name in ("images", "masks"):
        (path / name).mkdir(parents=True)
    for stem, place in defects.items():
        frame = white_frame((224, 446))
        if place is not None:
            frame = dark_square(frame, *place)
        cv2.imwrite(str(path / "images" / f"{stem}.png"), frame)
        mask = np.zeros((224, 446), np.uint8)
        if stem in marked:
            y, x = marked[stem]
            mask[y : y + 48, x : x + 48] = 255
        cv2.imwrite(str(path / "masks" / f"{stem}.png"), mask)
    return path


def evaluate(path: Path, bundle: Bundle) -> Evaluation:
    read = read_folder(path)
    return evaluate_bundle(bundle, read.truth, read.images)


def test_what_is_found_where_it_is_scores_full_marks(tmp_path: Path, bundle: Bundle) -> None:
    places = {"a": (80, 80), "b": (100, 300)}
    found = evaluate(folder(tmp_path / "data", {**places, "c": None}, places), bundle)
    assert (found.tile.tiles, found.tile.defective) == (6, 2)
    assert found.tile.majority_share == pytest.approx(4 / 6)
    assert found.tile.average_precision == found.tile.auroc == found.tile.accuracy == 1
    assert found.tile.pointing == found.tile.pointing_gated == found.tile.pointing_within_cell == 1
    frame = found.frame
    assert (frame.frames, frame.defects, frame.defects_hit, frame.false_regions) == (3, 2, 2, 0)
    assert (frame.defective_frames, frame.escaped_frames, frame.good_frames, frame.rejected_frames) == (2, 0, 1, 0)


def test_misses_false_regions_escapes_and_rejects_are_counted(tmp_path: Path, bundle: Bundle) -> None:
    shown = {"seen": (80, 80), "harmless": (80, 80), "unseen": None}
    found = evaluate(folder(tmp_path / "data", shown, {"seen": (80, 80), "unseen": (10, 10)}), bundle)
    frame = found.frame
    assert (frame.defects, frame.defects_hit, frame.false_regions) == (2, 1, 1)
    assert (frame.defective_frames, frame.escaped_frames, frame.good_frames, frame.rejected_frames) == (2, 1, 1, 1)
    # Tiles: one defective tile is found, one is not, one good tile looks defective: 4 of 6 are right.
    assert found.tile.accuracy == pytest.approx(4 / 6)
    assert found.tile.pointing_gated == pytest.approx(1 / 2)


def test_average_precision_and_auroc_are_those_of_the_ranking(tmp_path: Path, bundle: Bundle) -> None:
    """Scores by hand: the defective tiles rank first and last of the four that differ."""
    shown = {"seen": (80, 80), "harmless": (80, 80), "unseen": None}
    found = evaluate(folder(tmp_path / "data", shown, {"seen": (80, 80), "unseen": (10, 10)}), bundle)
    # Two tiles score alike high (one true), four alike low (one true): precision 1/2 at recall 1/2, 2/6 at recall 1.
    assert found.tile.average_precision == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 6)
    # Of the 2 x 4 pairs: the high true one beats 3 and ties 1; the low true one loses 1 and ties 3.
    assert found.tile.auroc == pytest.approx((3 + 0.5 + 3 * 0.5) / 8)


def test_one_class_of_tiles_makes_no_figures(tmp_path: Path, bundle: Bundle) -> None:
    data = folder(tmp_path / "data", {"a": (80, 80), "b": None}, {"a": (80, 80)})
    images = [image for image in read_folder(data).images if not image.defective]
    with pytest.raises(InputError, match="both classes"):
        evaluate_bundle(bundle, "masks", images)
