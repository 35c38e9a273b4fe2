"""Small parts of a training of a dense head: pictures, tiles, samples and features, all real."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from tests.train.blobs import write_labels
from train.config import AugmentConfig, CopiesConfig, DenseRecipeConfig
from train.dense.copies import Kind
from train.dense.samples import Samples
from train.dense.tiles import DenseTiles, Known
from train.features.cache import FeatureCache, key_of
from train.features.view import Features
from train.tiles import TileTable

PLAIN = AugmentConfig(flips=False, rotate=False, brightness=0, contrast=0, gain=0, noise=0, blur=False)
RECIPE = DenseRecipeConfig(
    name="heatline", folds=3, steps=60, located=4, good=8, synthetic=4, bags=2, tiles_per_bag=3, lr=0.01,
    weight_decay=0.05, warmup=0.1, jitter_px=20, copies=CopiesConfig(defective=2, most=40), augment=PLAIN,
)  # fmt: skip


def recipe_with(**changes: Any) -> DenseRecipeConfig:
    return msgspec.structs.replace(RECIPE, **changes)


def write_pictures(folder: Path, frame_hw: tuple[int, int] = (90, 120), truth: str = "masks") -> Path:
    """Two good pictures, two with a disc in a mask (or box), two with a disc that is only labelled; groups a and b."""
    rng = np.random.default_rng(0)
    for name in ("images", truth):
        (folder / name).mkdir(parents=True)
    rows = []
    for group in "ab":
        for kind in ("good", "labelled", "marked"):
            picture = rng.normal(150, 6, (*frame_hw, 3))
            mask = np.zeros(frame_hw, np.uint8)
            centre, radius = (int(rng.integers(30, 60)), int(rng.integers(30, 60))), 9
            cv2.circle(mask, centre, radius, 255, -1)
            if kind != "good":
                picture[mask > 0] -= 90
            stem = f"{group}_{kind}"
            cv2.imwrite(str(folder / "images" / f"{stem}.png"), picture.clip(0, 255).astype(np.uint8))
            if kind == "marked" and truth == "masks":
                cv2.imwrite(str(folder / "masks" / f"{stem}.png"), mask)
            elif kind == "marked":
                (x, y), r = centre, radius
                (folder / "boxes" / f"{stem}.txt").write_text(f"{x - r} {y - r} {x + r + 1} {y + r + 1} 1\n")
            rows.append((f"{stem}.png", "good" if kind == "good" else "defective", group))
    write_labels(folder, rows)
    return folder


def tiles_of(known: Sequence[Known], group: Sequence[int], frame: Sequence[int] | None = None) -> DenseTiles:
    """Tiles without pictures; each is its own frame unless one is named."""
    count = len(known)
    zero = np.zeros(count, np.int64)
    number = np.arange(count) if frame is None else np.asarray(frame, np.int64)
    defect_px = np.where(np.asarray(known) == Known.GOOD, 0, 99)
    table = TileTable(number, zero, zero, defect_px, defect_px > 0)
    names = tuple(f"group {each}" for each in range(max(group) + 1))
    pictures = tuple(f"{each}.png" for each in dict.fromkeys(number.tolist()))
    return DenseTiles(table, np.asarray(known, np.int8), np.asarray(group, np.int64), names, pictures)


def samples_of(
    tiles: DenseTiles,
    share: NDArray[np.floating[Any]],
    pasted: Sequence[tuple[int, int, NDArray[np.floating[Any]]]] = (),
) -> Samples:
    """The grid tiles as they are, and good tiles with synthetic defects.

    Args:
        share: of each tile [N, cells, cells].
        pasted: of each synthetic defect: row of its tile, row of its donor, share.
    """
    row = np.array([*range(len(tiles)), *(row for row, _, _ in pasted)])
    donor = np.array([*range(len(tiles)), *(donor for _, donor, _ in pasted)])
    is_pasted = np.arange(len(row)) >= len(tiles)
    return Samples(
        kind=np.where(is_pasted, Kind.SYNTHETIC, Kind.TILE).astype(np.int8),
        known=np.where(is_pasted, Known.MASKED, tiles.known[row]).astype(np.int8),
        groups=np.stack([tiles.group[row], tiles.group[donor]], axis=1),
        frame=tiles.table.frame[row],
        share=np.concatenate([share, *(one[None] for _, _, one in pasted)]).astype(np.float16),
    )


def stored(folder: Path, stages: Sequence[NDArray[np.float16]]) -> Features:
    """Features [n, h, w, c] of each stage, in a cache."""
    keys = [key_of(number) for number in range(len(stages[0]))]
    cache = FeatureCache(folder, "small", [stage.shape[1:] for stage in stages], say=lambda line: None)
    cache.missing(keys)
    cache.write(keys, stages)
    return Features(cache, keys)
