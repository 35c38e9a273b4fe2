"""Near-duplicate pictures are found across parts, and only there."""

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from heatline.train.discovery import near_duplicate_chains, near_duplicates_across, thumbnail

Rgb = NDArray[np.uint8]


def scene(seed: int, hw: tuple[int, int] = (200, 300)) -> Rgb:
    """Draw random rectangles."""
    rng = np.random.default_rng(seed)
    picture = np.full((*hw, 3), 120, np.uint8)
    for _ in range(25):
        x, y = int(rng.integers(hw[1])), int(rng.integers(hw[0]))
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        cv2.rectangle(picture, (x, y), (x + int(rng.integers(10, 60)), y + int(rng.integers(10, 60))), colour, -1)
    return picture


def again(picture: Rgb, gain: float = 0.8, shade: float = 30, defect_px: int = 6) -> Rgb:
    """Draw the same scene under other light, brighter to one side, with noise and a small defect."""
    rng = np.random.default_rng(int(picture.sum()) % 1000)
    slope = np.linspace(0, shade, picture.shape[1])[None, :, None]
    changed = (picture * gain + slope + rng.normal(0, 4, picture.shape)).clip(0, 255).astype(np.uint8)
    cv2.circle(changed, (100, 100), defect_px, (0, 0, 0), -1)
    return changed


def thumbnails(*pictures: Rgb) -> NDArray[np.uint8]:
    return np.stack([thumbnail(picture) for picture in pictures])


def found(**parts: NDArray[np.uint8]) -> list[tuple[str, int, str, int]]:
    places = [(part, number) for part, pictures in parts.items() for number in range(len(pictures))]
    pairs = near_duplicates_across(np.concatenate(list(parts.values())), [part for part, _ in places])
    return [(*places[one], *places[other]) for one, other, _ in pairs]


def test_a_picture_taken_twice_is_found_across_parts() -> None:
    train = thumbnails(*(scene(seed) for seed in range(40)))
    val = thumbnails(scene(50), again(scene(7)))
    test = thumbnails(again(scene(50)), scene(51), again(scene(3)))
    assert sorted(found(train=train, val=val, test=test)) == [
        ("test", 0, "val", 0), ("test", 2, "train", 3), ("val", 1, "train", 7),
    ]  # fmt: skip


def test_pairs_within_a_part_and_blank_pictures_are_ignored() -> None:
    assert found(train=thumbnails(scene(1), again(scene(1))), val=thumbnails(scene(2))) == []
    assert near_duplicates_across(np.zeros((0, 32, 32), np.uint8), []) == []
    assert found(train=thumbnails(scene(1))) == []
    blank = np.full((50, 50, 3), 200, np.uint8)
    assert found(train=thumbnails(blank, scene(1)), test=thumbnails(blank)) == []


def test_different_parts_before_a_fixed_camera_are_no_near_duplicates() -> None:
    fixture = scene(0).astype(int)
    parts = [(0.7 * fixture + 0.3 * scene(seed)).clip(0, 255).astype(np.uint8) for seed in range(1, 31)]
    assert found(train=thumbnails(*parts[:20]), test=thumbnails(*parts[20:])) == []
    assert found(train=thumbnails(*parts[:20]), test=thumbnails(*parts[20:], again(parts[4], 0.9, 20, 2))) == [
        ("test", 10, "train", 4)
    ]


def test_the_best_match_is_reported_and_the_most_similar_pair_comes_first() -> None:
    train = thumbnails(again(scene(1), 0.5, 60, 20), scene(1), *(scene(seed) for seed in range(2, 30)))
    every = np.concatenate([train, thumbnails(again(scene(2)), scene(1))])
    first, second = near_duplicates_across(every, ["train"] * len(train) + ["test"] * 2)
    assert (first[:2], second[:2]) == ((len(train) + 1, 1), (len(train), 2))
    assert first[2] > second[2]
    np.testing.assert_allclose(first[2], 1, atol=1e-4)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=24))
def test_chains_are_those_of_all_pairs(drawn: list[tuple[int, int]]) -> None:
    """Pictures of one scene differ by what hides them, so some are alike only by way of others."""
    pictures = [again(scene(number), 1 - level / 10, 20 * level, 6 + 40 * level) for number, level in drawn]
    small = np.array([thumbnail(picture) for picture in pictures])
    slow = list(range(len(drawn)))
    for other in range(len(drawn)):
        for one in range(other):
            if near_duplicates_across(small[[one, other]], ["a", "b"]):
                slow = [min(slow[one], slow[other]) if each in (slow[one], slow[other]) else each for each in slow]
    assert near_duplicate_chains(small).tolist() == slow


def test_many_pictures_in_blocks_give_the_same_pairs_as_a_slow_search() -> None:
    rng = np.random.default_rng(3)
    train = rng.integers(0, 256, (1500, 32, 32), np.uint8)
    test = rng.integers(0, 256, (60, 32, 32), np.uint8)
    copies = {number: int(rng.integers(1500)) for number in range(0, 60, 7)}
    for number, original in copies.items():
        test[number] = train[original] // 2 + 10
    assert sorted(found(train=train, test=test)) == [
        ("test", number, "train", original) for number, original in copies.items()
    ]
