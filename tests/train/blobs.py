"""Small training pictures: grey noise with dark blobs as defects."""

import csv
from pathlib import Path

import cv2
import numpy as np

GROUPS = ("a", "b", "c", "d")


def draw_blobs(folder: Path, frame_hw: tuple[int, int] = (150, 200), per_group: int = 2, seed: int = 0) -> Path:
    """Draw pictures of four groups with masks and labels.csv; the last picture of each group is good."""
    rng = np.random.default_rng(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    rows = []
    for group in GROUPS:
        for number in range(per_group + 1):
            defective = number < per_group
            picture = rng.normal(150, 12, (*frame_hw, 3))
            mask = np.zeros(frame_hw, np.uint8)
            for _ in range(2 if defective else 0):
                centre = int(rng.integers(20, frame_hw[1] - 20)), int(rng.integers(20, frame_hw[0] - 20))
                cv2.circle(mask, centre, int(rng.integers(8, 14)), 255, -1)
            picture[mask > 0] -= 90
            stem = f"{group}_{number}"
            cv2.imwrite(str(folder / "images" / f"{stem}.png"), picture.clip(0, 255).astype(np.uint8))
            if defective:  # a good picture needs no mask
                cv2.imwrite(str(folder / "masks" / f"{stem}.png"), mask)
            rows.append((f"{stem}.png", "defective" if defective else "good", group))
    write_labels(folder, rows)
    return folder


def write_labels(folder: Path, rows: list[tuple[str, str, str]], group: str = "group") -> None:
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", group), *rows])


def sort_tiles(folder: Path, count: int = 12, side: int = 64, seed: int = 0) -> Path:
    """Write tile-sized pictures to good/ and defective/."""
    rng = np.random.default_rng(seed)
    for label in ("good", "defective"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            picture = rng.normal(150, 12, (side, side, 3)).clip(0, 255).astype(np.uint8)
            if label == "defective":
                cv2.circle(picture, (side // 2, side // 2), side // 4, (40, 40, 40), -1)
            cv2.imwrite(str(folder / label / f"{label[0]}{number:02d}.png"), picture)
    return folder


def draw_plain(folder: Path, names: tuple[str, ...], frame_hw: tuple[int, int] = (30, 40)) -> Path:
    """Write grey pictures of that size to images/, without annotations."""
    (folder / "images").mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(folder / "images" / name), np.full(frame_hw, 90, np.uint8))
    return folder
