"""Small parts of a training of a dense head: pictures, tiles, samples and features, all real."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from heatline.train.compose import compose
from heatline.train.config import AugmentConfig, CopiesConfig, DenseRecipeConfig
from heatline.train.dense.cache import FeatureCache, Features, key_of
from heatline.train.dense.samples import Kind, Samples
from heatline.train.dense.tiles import DenseTiles, LabelKind
from heatline.train.frames import TileTable
from heatline.train.models.dense import DenseHead
from tests.train.blobs import write_labels

PLAIN = AugmentConfig(flips=False, rotate=False, brightness=0, contrast=0, gain=0, noise=0, blur=False)
RECIPE = msgspec.structs.replace(
    compose(["data=.", "recipe=heatline"]).recipe,
    folds=3, steps=60, located=4, good=8, synthetic=4, bags=2, tiles_per_bag=3, jitter_px=20,
    copies=CopiesConfig(defective=2, most=40), augment=PLAIN,
)  # fmt: skip


def recipe_with(**changes: Any) -> DenseRecipeConfig:
    return msgspec.structs.replace(RECIPE, **changes)  # type: ignore[return-value]


def write_pictures(folder: Path, frame_hw: tuple[int, int] = (90, 120), truth: str = "masks") -> Path:
    """Draw two good pictures, two with a masked (or boxed) disc, and two with a labelled disc; groups a and b."""
    rng = np.random.default_rng(0)
    for name in ("images", truth):
        (folder / name).mkdir(parents=True)
    rows = []
    for group, kind in itertools.product("ab", ("good", "labelled", "marked")):
        picture, mask, stem = rng.normal(150, 6, (*frame_hw, 3)), np.zeros(frame_hw, np.uint8), f"{group}_{kind}"
        x, y, r = int(rng.integers(30, 60)), int(rng.integers(30, 60)), 9
        cv2.circle(mask, (x, y), r, 255, -1)
        picture[mask > 0] -= 0 if kind == "good" else 90
        cv2.imwrite(str(folder / "images" / f"{stem}.png"), picture.clip(0, 255).astype(np.uint8))
        if kind == "marked" and truth == "masks":
            cv2.imwrite(str(folder / "masks" / f"{stem}.png"), mask)
        elif kind == "marked":
            (folder / "boxes" / f"{stem}.txt").write_text(f"{x - r} {y - r} {x + r + 1} {y + r + 1} 1\n")
        rows.append((f"{stem}.png", "good" if kind == "good" else "defective", group))
    write_labels(folder, rows)
    return folder


def tiles_of(known: Sequence[LabelKind], group: Sequence[int], frame: Sequence[int] | None = None) -> DenseTiles:
    """Make tiles without pictures; each is its own frame unless `frame` is given."""
    count = len(known)
    zero = np.zeros(count, np.int64)
    number = np.arange(count) if frame is None else np.asarray(frame, np.int64)
    defect_px = np.where(np.asarray(known) == LabelKind.GOOD, 0, 99)
    table = TileTable(number, zero, zero, defect_px, defect_px > 0)
    names = tuple(f"group {each}" for each in range(max(group) + 1))
    pictures = tuple(f"{each}.png" for each in dict.fromkeys(number.tolist()))
    return DenseTiles(
        table, np.asarray(known, np.int8), np.asarray(group, np.int64), names, pictures, np.zeros(count, np.bool_)
    )


def samples_of(
    tiles: DenseTiles,
    share: NDArray[np.floating[Any]],
    pasted: Sequence[tuple[int, int, NDArray[np.floating[Any]]]] = (),
) -> Samples:
    """Make the grid tiles, and good tiles with synthetic defects. `share`: of each tile [N, cells, cells]. `pasted`: of
    each synthetic defect: row of its tile, row of its donor, share."""
    row = np.array([*range(len(tiles)), *(row for row, _, _ in pasted)])
    donor = np.array([*range(len(tiles)), *(donor for _, donor, _ in pasted)])
    is_pasted = np.arange(len(row)) >= len(tiles)
    return Samples(
        kind=np.where(is_pasted, Kind.SYNTHETIC, Kind.TILE).astype(np.int8),
        known=np.where(is_pasted, LabelKind.MASKED, tiles.known[row]).astype(np.int8),
        groups=np.stack([tiles.group[row], tiles.group[donor]], axis=1),
        frame=tiles.table.frame[row],
        share=np.concatenate([share, *(one[None] for _, _, one in pasted)]).astype(np.float16),
        reviewed=np.zeros(len(row), np.bool_),
    )


def stored(folder: Path, stages: Sequence[NDArray[np.float16]]) -> Features:
    """Read features [n, h, w, c] of each stage from a cache."""
    keys = [key_of(number) for number in range(len(stages[0]))]
    cache = FeatureCache(folder, "small", [stage.shape[1:] for stage in stages])
    cache.write(cache.missing(keys), stages)
    return cache.read(keys)


CELLS = 8
CHANNELS, STRIDES = (3, 4, 5), (4, 8, 16)
"""Strides of the features that `features_of` makes, for tiles of 64 px."""


def squares(count: int, seed: int) -> NDArray[np.float32]:
    """Draw shares [count, 8, 8], each with a square of 4x4 defective cells."""
    rng = np.random.default_rng(seed)
    share = np.zeros((count, CELLS, CELLS), np.float32)
    for one, (y, x) in zip(share, rng.integers(0, CELLS - 3, (count, 2)), strict=True):
        one[y : y + 4, x : x + 4] = 1
    return share


def features_of(share: NDArray[np.float32], seed: int) -> list[NDArray[np.float16]]:
    """Make stages of strides 4, 8 and 16, [n, h, w, c]: noise, with the defects in the first channel of stride 8."""
    rng = np.random.default_rng(seed)
    sides = [share.shape[1] * 8 // stride for stride in STRIDES]
    stages = [
        rng.normal(0, 0.2, (len(share), side, side, channels)).astype(np.float16)
        for side, channels in zip(sides, CHANNELS, strict=True)
    ]
    stages[1][..., 0] += share.astype(np.float16)
    return stages


def new_head(seed: int = 0, channels: Sequence[int] = CHANNELS) -> DenseHead:
    torch.manual_seed(seed)
    return DenseHead(channels, STRIDES, 16)
