"""Small drawn pictures: grey noise with dark blobs, and boards in nearly the same place; a defect is a square."""

import csv
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

GROUPS = ("a", "b", "c", "d")


def draw_blobs(folder: Path, frame_hw: tuple[int, int] = (150, 200), per_group: int = 2, seed: int = 0) -> Path:
    """Draw pictures of four groups with masks and labels.csv; the last picture of each group is good."""
    rng = np.random.default_rng(seed)
    rows = []
    for group, number in itertools.product(GROUPS, range(per_group + 1)):
        picture, mask = rng.normal(150, 12, (*frame_hw, 3)), np.zeros(frame_hw, np.uint8)
        for _ in range(2 if number < per_group else 0):
            centre = int(rng.integers(20, frame_hw[1] - 20)), int(rng.integers(20, frame_hw[0] - 20))
            cv2.circle(mask, centre, int(rng.integers(8, 14)), 255, -1)
        picture[mask > 0] -= 90
        rows.append(_write(folder, group, number, picture, mask))
    write_labels(folder, rows)
    return folder


def _write(folder: Path, group: str, number: int, bgr: NDArray[Any], mask: NDArray[np.uint8]) -> tuple[str, str, str]:
    """Write a picture, and its mask if it is defective; return its row of labels.csv."""
    name = f"{group}_{number}.png"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "images" / name), bgr.clip(0, 255).astype(np.uint8))
    if mask.any():
        cv2.imwrite(str(folder / "masks" / name), mask)
    return name, "defective" if mask.any() else "good", group


def write_labels(folder: Path, rows: list[tuple[str, str, str]], group: str = "group") -> None:
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", group), *rows])


def sort_tiles(folder: Path, count: int = 12, side: int = 64, seed: int = 0) -> Path:
    """Write tile-sized pictures to good/ and defective/."""
    rng = np.random.default_rng(seed)
    for label, number in itertools.product(("good", "defective"), range(count)):
        picture = rng.normal(150, 12, (side, side, 3)).clip(0, 255).astype(np.uint8)
        if label == "defective":
            cv2.circle(picture, (side // 2, side // 2), side // 4, (40, 40, 40), -1)
        (folder / label).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / label / f"{label[0]}{number:02d}.png"), picture)
    return folder


def draw_plain(folder: Path, names: tuple[str, ...], frame_hw: tuple[int, int] = (30, 40)) -> Path:
    """Write grey pictures of that size to images/, without annotations."""
    (folder / "images").mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(folder / "images" / name), np.full(frame_hw, 90, np.uint8))
    return folder


BOARD_HW = (160, 224)
SQUARE_PX = 14
DEFECT_AT_YX = (70, 100)
"""Where `one_place` puts the square, on a board that is not shifted."""


def board(design: int) -> NDArray[np.uint8]:
    """Draw a board without defects, uint8 [H, W, 3], with a margin of 20 px around what pictures show."""
    rng = np.random.default_rng(design)
    height, width = (side + 40 for side in BOARD_HW)
    picture = np.full((height, width, 3), 70, np.uint8)
    for _ in range(90):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = (int(side) for side in rng.integers(4, 30, 2))
        cv2.rectangle(picture, (x, y), (x + w, y + h), rng.integers(20, 200, 3).tolist(), -1)
    return picture


def photograph(design: int, shift_xy: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Return a noisy picture of a board that lies this much further right and down."""
    x, y = shift_xy
    shown = board(design)[20 - y : 20 - y + BOARD_HW[0], 20 - x : 20 - x + BOARD_HW[1]]
    return (shown + np.random.default_rng(seed).normal(0, 3, shown.shape)).clip(0, 255).astype(np.uint8)


def draw_boards(
    folder: Path,
    groups: Sequence[str] = ("a", "b", "c", "d"),
    *,
    designs: bool = False,
    good: int = 1,
    defective: int = 2,
    masks: bool = True,
    one_place: bool = False,
    fixed: bool = True,
) -> Path:
    """Draw pictures of boards to images/, with labels.csv.

    Args:
        designs: whether each group has a design of its own.
        good, defective: pictures of each group.
        masks: whether masks/ says where the defects are.
        one_place: whether all defects of a board are in one place.
        fixed: whether the boards lie in nearly the same place; otherwise each picture shows another board.
    """
    rng = np.random.default_rng(1)
    rows = []
    for (design, group), number in itertools.product(enumerate(groups), range(defective + good)):
        seed = int(rng.integers(1 << 20))
        shift = int(rng.integers(-6, 7)), int(rng.integers(-6, 7))
        picture = photograph((design if designs else 0) if fixed else seed, shift, seed)
        mask = np.zeros(BOARD_HW, np.uint8)
        if number < defective:
            y, x = DEFECT_AT_YX if one_place else (int(rng.integers(20, side - 40)) for side in BOARD_HW)
            y, x = y + shift[1], x + shift[0]
            mask[y : y + SQUARE_PX, x : x + SQUARE_PX] = 255
            picture[mask > 0] = (250, 250, 250)
        rows.append(_write(folder, group, number, picture[..., ::-1], mask))
    if not masks:
        shutil.rmtree(folder / "masks")
    write_labels(folder, rows)
    return folder
