"""Pictures for benches that are given none."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError


def golden_mosaic(bundle: Bundle, hw: tuple[int, int], seed: int, lowest: int | None = None) -> NDArray[np.uint8]:
    """Make a frame of the bundle's product: its golden tiles side by side in random order, RGB [H, W, 3].

    Args:
        hw: height and width of the frame, px.
        lowest: how many of the golden tiles it may show, those of the lowest logits; None: all.
    """
    golden, grid = bundle.golden(), bundle.manifest.grid
    tiles = golden.tiles[np.argsort(golden.logit)[:lowest]]
    pitch = grid.tile_px - grid.overlap_px  # so that a tile of the line shows one golden tile
    rows, columns = (-(-side // pitch) for side in hw)
    chosen = tiles[np.random.default_rng(seed).integers(len(tiles), size=(rows, columns)), :pitch, :pitch]
    mosaic = chosen.transpose(0, 2, 1, 3, 4).reshape(rows * pitch, columns * pitch, 3)  # was [r, c, y, x, 3]
    return np.ascontiguousarray(mosaic[: hw[0], : hw[1]])


def write_pictures(folder: Path, bundle: Bundle, hw: tuple[int, int], count: int) -> Path:
    """Write frames of the bundle's golden tiles, from good ones to defective ones; return the folder.

    Args:
        folder: to be made.
        hw: height and width of the frames, px.
    Raises:
        BenchError: the bundle compares frames with a reference, with which such frames cannot be aligned.
    """
    if bundle.manifest.tensors.difference is not None:
        raise BenchError(
            f"frames that are made of golden tiles cannot be compared with a reference, as {bundle.path} does; show "
            "pictures of the product with --pictures, where the bench has it, or measure a bundle without a reference"
        )
    folder.mkdir()
    tiles = len(bundle.golden().tiles)
    for number in range(count):
        frame = golden_mosaic(bundle, hw, seed=number, lowest=max(1, (number + 1) * tiles // count))
        moved = np.roll(frame, 8 * number, axis=1)  # the same picture twice would count as a frozen camera
        cv2.imwrite(str(folder / f"{number:03}.bmp"), np.ascontiguousarray(moved[..., ::-1]))
    return folder


def draw_shapes(hw: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """Draw discs and strokes under a little noise, with edges of all sizes as in photographs: RGB [H, W, 3]."""
    random = np.random.default_rng(seed)
    picture = np.full((*hw, 3), random.integers(0, 256, 3), np.uint8)
    for _ in range(hw[0] * hw[1] // 2000):
        (x, y), (dx, dy) = random.integers(0, hw[::-1]).tolist(), random.integers(-80, 81, 2).tolist()
        colour = random.integers(0, 256, 3).tolist()
        cv2.line(picture, (x, y), (x + dx, y + dy), colour, int(random.integers(2, 16)))
        cv2.circle(picture, (x - dx, y - dy), int(random.integers(2, 24)), colour, -1)
    noisy: NDArray[np.uint8] = np.clip(picture + random.integers(-8, 9, picture.shape), 0, 255).astype(np.uint8)
    return noisy
