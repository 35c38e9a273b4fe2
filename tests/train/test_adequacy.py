"""Warnings about too few labels and too small defects."""

from pathlib import Path

import numpy as np
import pytest

from heatline.train.adequacy import (
    MEASURED,
    defect_areas,
    describe_expectation,
    describe_few_groups,
    describe_small_defects,
    describe_threshold_transfer,
)
from heatline.train.readers import LabelledImage


def test_areas_are_those_of_connected_defects() -> None:
    mask = np.zeros((40, 50), np.bool_)
    mask[2:5, 3:7] = True
    mask[5, 7] = True  # touches only at a corner
    mask[20:30, 20:21] = True
    assert sorted(defect_areas(mask)) == [10, 13]
    assert defect_areas(np.zeros((4, 4), np.bool_)) == []


def warnings_of(areas_px: list[int], ambiguous: int = 0, defective: int = 10) -> list[str]:
    return describe_small_defects(areas_px, ambiguous, defective, tile_px=224, defective_share=0.01)


def test_a_median_defect_of_less_than_four_cells_is_small() -> None:
    assert warnings_of([]) == []
    assert warnings_of([10, 256, 9000]) == []
    (warning,) = warnings_of([10, 200, 9000])
    assert "half of the 3 have at most 200 px, 0.40 % of a 224 px tile and 3.1 cells" in warning


def test_more_than_a_third_of_the_tiles_up_to_one_percent_is_many() -> None:
    assert warnings_of([900], 5, 10) == []
    (warning,) = warnings_of([900], 6, 10)
    assert warning.startswith("6 of the 16 tiles with a defect have at most 1.0 % of the area defective")


def images(good: int, defective: int) -> list[LabelledImage]:
    labels = [False] * good + [True] * defective
    return [LabelledImage(Path(f"{n}.png"), f"g{n}", label, None, True) for n, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("good", "defective", "excerpts"),
    [
        (20, 25, []),
        (20, 0, []),  # another warning reports this
        (7, 25, ["only 7 groups have a good picture: a threshold from so few may reject 1 in 8 new good parts; add "
                 "good pictures of 13 other groups"]),
        (0, 25, ["no picture is good"]),
        (20, 24, ["only 24 pictures are defective: with so few, models told new pictures apart less well"]),
        (20, 2, ["only 2 groups have a defective picture: the figures depend on g20, g21 and may differ on others; add "
                 "23 defective pictures of 8 other groups"]),
        (1, 1, ["only 1 group has a defective picture", "only 1 group has a good picture"]),
    ],
)  # fmt: skip
def test_few_groups_or_defects_are_reported_with_what_is_missing(
    good: int, defective: int, excerpts: list[str]
) -> None:
    warnings = describe_few_groups(images(good, defective))
    assert len(warnings) == len(excerpts)
    assert all(excerpt in warning for excerpt, warning in zip(excerpts, warnings, strict=True))


@pytest.mark.parametrize(
    ("good", "defective", "measured"),
    [(2, 1, 10), (12, 12, 10), (20, 5, 25), (0, 30, 25), (240, 10, 50), (4_000, 1_000, max(MEASURED))],
)
def test_what_so_many_pictures_gave_on_measured_sets_is_said(good: int, defective: int, measured: int) -> None:
    sentence = describe_expectation(images(good, defective))
    assert sentence is not None
    (least, most), _, sets = MEASURED[measured]
    assert f"on {sets} measured sets, {measured} pictures with marked defects found {least} to {most} %" in sentence
    assert describe_expectation(images(good, 0)) is None


def test_groups_that_are_not_known_are_not_counted() -> None:
    assert describe_few_groups([LabelledImage(Path("p.png"), None, True, None, True)]) == []


def test_a_group_that_the_threshold_would_reject_is_named_with_advice() -> None:
    rng = np.random.default_rng(0)
    groups = [str(number // 10) for number in range(100)]
    even = rng.normal(size=100)
    assert describe_threshold_transfer(even.tolist(), groups, 0.01) == []
    hot = np.where(np.array(groups) == "7", even + 8, even)
    (warning,) = describe_threshold_transfer(hot.tolist(), groups, 0.01)
    assert "it would reject 10 of 10 of 7, all good, where 1.0 % was wanted" in warning
    assert "calibrate with 299 good frames of it" in warning
    assert (
        describe_threshold_transfer(hot.tolist(), groups, 0.01, lowest_defect=30.0) == []
    )  # the margin has room for it
    assert describe_threshold_transfer(even.tolist(), ["one"] * 100, 0.01) == []


def test_similar_groups_rarely_give_a_warning() -> None:
    rng = np.random.default_rng(1)
    groups = ["a"] * 7 + ["b"] * 20
    warned = sum(bool(describe_threshold_transfer(rng.normal(size=27).tolist(), groups, 0.01)) for _ in range(400))
    assert warned <= 8
