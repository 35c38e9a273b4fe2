"""Drawn boards that are compared with a reference."""

from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import cv2
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle, write_bundle
from heatline.edge.bundle.manifest import product_picture_of
from heatline.edge.inspection.verdict import Thresholds
from heatline.edge.reference.reference import Reference
from tests.small_bundle import contents_of, manifest

THRESHOLDS = Thresholds(score=-0.9, evidence=10.0, strong=None)
"""For the small bundle's graph: a black square is above by its difference, and below by its darkness alone."""


def board(hw: tuple[int, int] = (446, 560), seed: int = 0) -> NDArray[np.uint8]:
    """A light board, RGB, with rectangles everywhere."""
    rng = np.random.default_rng(seed)
    picture = np.full((*hw, 3), 230, np.uint8)
    for _ in range(hw[0] * hw[1] // 2000):
        y, x = (int(rng.integers(side)) for side in hw)
        h, w = (int(side) for side in rng.integers(4, 40, 2))
        picture[y : y + h, x : x + w] = rng.integers(170, 256)
    return picture


def moved(
    rgb: NDArray[np.uint8], right: float = 0, down: float = 0, degrees: float = 0, percent: float = 0
) -> NDArray[np.uint8]:
    """The board where it lies further right and down, turned clockwise around the middle and larger; grey beside it."""
    height, width = rgb.shape[:2]
    motion = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1 + percent / 100)
    motion[:, 2] += right, down
    return np.asarray(cv2.warpAffine(rgb, motion, (width, height), borderValue=(230, 230, 230)), np.uint8)


def board_bundle(path: Path, references: Mapping[str, Reference]) -> Bundle:
    """Write the small bundle with a graph that compares, and `THRESHOLDS`. `references`: by camera, "" for all
    others."""
    made = manifest(references)
    score, evidence, _ = astuple(THRESHOLDS)
    calibration = replace(made.calibration, score_threshold=score, evidence_threshold=evidence)
    pictures = {product_picture_of(camera): each.to_png() for camera, each in references.items()}
    return write_bundle(path, replace(made, calibration=calibration), contents_of(compares=True) | pictures)
