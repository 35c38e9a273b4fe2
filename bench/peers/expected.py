"""What each system must answer, worked out slowly from the tiles' logits and maps: nobody may skip work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.geometry import Stitcher, TileGrid
from edge.inference import Engine, Precision, infer

OF_SPREAD: Mapping[Precision, float] = {"f32": 1e-3, "bf16": 0.2, "int8": 0.05}
"""How far an answer may be off, as a share of how far apart those of different tiles are (standard deviation). In f32
sums are added in another order; in the others, a value that is rounded the other way changes all that comes after."""
STEPS = 255
"""Model API rounds its maps to 8 bits."""


@dataclass(frozen=True)
class Scale:
    """How anomalib's post-processor brings logits to 0..1: the threshold to 0.5, and nothing here beyond the ends."""

    threshold: float
    range: float
    """In logits."""


@dataclass(frozen=True)
class TileAnswers:
    """Of the tiles of some grid, all frames."""

    logits: NDArray[np.float32]
    """[frames, tiles]"""
    maps: NDArray[np.float32]
    """[frames, tiles, h, w]"""


@dataclass(frozen=True)
class Expected:
    """Of all frames."""

    logits: NDArray[np.float32]
    """[frames, tiles]"""
    heatmaps: NDArray[np.float32] | None
    """[frames, h, w]; None: there are none, or nobody knows them."""
    coarse: float = 0.0
    """By how much rounding of the answers may change a heatmap."""

    def of_requests(self, requests: int, batch: int) -> "Expected":
        """What the engine alone answers, whose requests all hold the first frame's first tiles."""
        return Expected(np.tile(self.logits[0, :batch], (requests, 1)), None)


def on_our_grid(engine: Engine, frames: NDArray[np.uint8], grid: TileGrid) -> TileAnswers:
    """Of RGB frames [n, H, W, 3], whose last tiles are moved back to the border."""
    return _answers(engine, frames, grid.origins_yx, grid.tile_px)


def on_padded_grid(engine: Engine, frames: NDArray[np.uint8], grid: TileGrid) -> TileAnswers:
    """As anomalib's tiler cuts them: every tile a step from the one before, and black where the frame ends."""
    height, width = padded_hw(grid)
    padded = np.zeros((len(frames), height, width, 3), np.uint8)
    padded[:, : frames.shape[1], : frames.shape[2]] = frames
    return _answers(engine, padded, padded_origins(grid), grid.tile_px)


def padded_origins(grid: TileGrid) -> list[tuple[int, int]]:
    step = grid.tile_px - grid.overlap_px
    return [(row * step, column * step) for row in range(len(grid.rows_y)) for column in range(len(grid.columns_x))]


def padded_hw(grid: TileGrid) -> tuple[int, int]:
    last_y, last_x = padded_origins(grid)[-1]
    return last_y + grid.tile_px, last_x + grid.tile_px


def of_heatline(tiles: TileAnswers, stitcher: Stitcher) -> Expected:
    """The heatmaps that the stitcher makes, which tests hold to a slow version of its own."""
    return Expected(tiles.logits, np.stack([stitcher.stitch(maps) for maps in tiles.maps]))


def of_anomalib(tiles: TileAnswers, grid: TileGrid, scale: Scale) -> Expected:
    """Maps in 0..1 as large as the tile, and their mean where tiles overlap; what was padded is cut off."""
    heatmaps = [
        _mean_of(_normalised(maps, grid.tile_px, scale), padded_origins(grid), padded_hw(grid), grid.tile_px)
        for maps in tiles.maps
    ]
    height, width = grid.frame_hw
    return Expected(tiles.logits, np.stack(heatmaps)[:, :height, :width])


def of_model_api(tiles: TileAnswers, grid: TileGrid, scale: Scale) -> Expected:
    """The same on our grid, in steps of 8 bits."""
    heatmaps = [
        _mean_of(_normalised(maps, grid.tile_px, scale), grid.origins_yx, grid.frame_hw, grid.tile_px)
        for maps in tiles.maps
    ]
    return Expected(tiles.logits, np.stack(heatmaps), coarse=0.5 / STEPS)


def of_grad_cam(tiles: TileAnswers, grid: TileGrid, bias: float | None) -> Expected:
    """Of each tile what speaks for a defect, from 0 to 1, however little it is.

    Args:
        bias: of a CNN's head, which has no place in its map; None: of a ViT it is another map than ours.
    """
    if bias is None:
        return Expected(tiles.logits, None)
    heatmaps = []
    for maps in tiles.maps:
        small = [_from_0_to_1(np.maximum(one - bias, 0)) for one in maps]
        large = [_from_0_to_1(one) for one in _large(small, grid.tile_px)]
        heatmaps.append(_mean_of(large, grid.origins_yx, grid.frame_hw, grid.tile_px))
    return Expected(tiles.logits, np.stack(heatmaps))


def logits_off(found: Mapping[str, NDArray[Any]], expected: Expected, spread: float) -> float:
    """Largest difference, as a share of the spread.

    Args:
        found: as `workers/serve.py` sums up the answers of a turn.
        spread: how far logits of different tiles are apart (standard deviation).
    """
    if found["logits"].shape != expected.logits.shape:
        return float("inf")
    return float(np.abs(found["logits"] - expected.logits).max() / spread)


def what_differs(
    found: Mapping[str, NDArray[Any]], expected: Expected, precision: Precision, sample_px: int, threshold: float
) -> str | None:
    """What is wrong with verdicts or heatmaps, in words; None if they are as they should be.

    Args:
        found: as above.
        threshold: at which logit a frame is defective.
    """
    if (found["defective"] != (found["logits"] >= threshold).any(axis=1)).any():
        return "its verdicts are not those of its logits"
    if len(found.get("samples", ())) != len(expected.logits):
        return "it makes no heatmap of some frame"
    if expected.heatmaps is None:
        if not np.isfinite(found["samples"]).all():
            return "its heatmaps hold what is no number"
        flat = int((np.ptp(found["samples"], axis=(1, 2)) == 0).sum())
        return f"{flat} of its {len(found['samples'])} heatmaps are flat" if flat else None
    if (found["hw"] != expected.heatmaps.shape[1:]).any():
        return f"its heatmaps are {found['hw'].tolist()}, expected all {list(expected.heatmaps.shape[1:])}"
    allowed = OF_SPREAD[precision] * float(expected.heatmaps.std()) + expected.coarse
    off = float(np.abs(found["samples"] - expected.heatmaps[:, ::sample_px, ::sample_px]).max())
    if not off <= allowed:
        return f"its heatmaps are off by {off:.2g}, expected at most {allowed:.2g}"
    highest = expected.heatmaps.max(axis=(1, 2))
    there = np.array([one[tuple(peak)] for one, peak in zip(expected.heatmaps, found["peaks_yx"], strict=True)])
    if not (highest - there).max() <= 2 * allowed:
        return f"its heatmaps peak where {(highest - there).max():.2g} less than the peak was expected"
    return None


def _answers(
    engine: Engine, frames: NDArray[np.uint8], origins: Sequence[tuple[int, int]], tile_px: int
) -> TileAnswers:
    found = [infer(engine, np.stack([frame[y : y + tile_px, x : x + tile_px] for y, x in origins])) for frame in frames]
    return TileAnswers(np.stack([logits for logits, _ in found]), np.stack([maps for _, maps in found]))


def _normalised(maps: NDArray[np.float32], tile_px: int, scale: Scale) -> list[NDArray[np.float32]]:
    return [np.clip((one - scale.threshold) / scale.range + 0.5, 0, 1) for one in _large(list(maps), tile_px)]


def _large(maps: Sequence[NDArray[Any]], tile_px: int) -> list[NDArray[np.float32]]:
    """As large as the tile, linearly, half-pixel correct."""
    return [np.asarray(cv2.resize(one.astype(np.float32), (tile_px, tile_px))) for one in maps]


def _mean_of(
    maps: Sequence[NDArray[np.float32]], origins: Sequence[tuple[int, int]], hw: tuple[int, int], tile_px: int
) -> NDArray[np.float32]:
    """Each px the mean of the tiles that show it."""
    total, tiles = np.zeros(hw, np.float64), np.zeros(hw, np.int64)
    for one, (y, x) in zip(maps, origins, strict=True):
        total[y : y + tile_px, x : x + tile_px] += one
        tiles[y : y + tile_px, x : x + tile_px] += 1
    return (total / tiles).astype(np.float32)


def _from_0_to_1(one: NDArray[np.float32]) -> NDArray[np.float32]:
    lifted = one - one.min()
    return np.asarray(lifted / max(float(lifted.max()), 1e-7), np.float32)
