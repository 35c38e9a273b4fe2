"""The expected answers of each system, computed slowly from the tiles' logits and maps, so that none can skip work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry import Stitcher, TileGrid
from heatline.edge.inference import Engine, Precision, infer

OF_SPREAD: Mapping[Precision, float] = {"f32": 1e-3, "bf16": 0.2, "int8": 0.05}
"""Allowed error, as a share of the standard deviation between tiles. In f32, sums are added in another order; in the
other precisions, a value that is rounded differently changes all later ones."""
STEPS = 255
"""Model API rounds its maps to 8 bits."""


@dataclass(frozen=True)
class Scale:
    """Map of logits to 0..1 by anomalib's post-processor: the threshold becomes 0.5, and no value is clipped."""

    threshold: float
    range: float
    """In logits."""


@dataclass(frozen=True)
class TileAnswers:
    """Answers to the tiles of a grid, of all frames."""

    logits: NDArray[np.float32]
    """[frames, tiles]"""
    maps: NDArray[np.float32]
    """[frames, tiles, h, w]"""


@dataclass(frozen=True)
class Expected:
    """Expected answers to all frames."""

    logits: NDArray[np.float32]
    """[frames, tiles]"""
    heatmaps: NDArray[np.float32] | None
    """[frames, h, w]; None: there are none, or they are unknown."""
    coarse: float = 0.0
    """Error of a heatmap by rounding of the answers."""

    def of_requests(self, requests: int, batch: int) -> "Expected":
        """Return the answers of the engine alone, whose requests all hold the first frame's first tiles."""
        return Expected(np.tile(self.logits[0, :batch], (requests, 1)), None)


def on_our_grid(engine: Engine, frames: NDArray[np.uint8], grid: TileGrid) -> TileAnswers:
    """Answer the tiles of RGB frames [n, H, W, 3], of which the last ones are moved back to the border."""
    return _answers(engine, frames, grid.origins_yx, grid.tile_px)


def on_padded_grid(engine: Engine, frames: NDArray[np.uint8], grid: TileGrid) -> TileAnswers:
    """Answer tiles as anomalib's tiler cuts them: one step apart, and black beyond the frame."""
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
    """Expect the heatmaps of the stitcher, which other tests compare with a slow version."""
    return Expected(tiles.logits, np.stack([stitcher.stitch(maps) for maps in tiles.maps]))


def of_anomalib(tiles: TileAnswers, grid: TileGrid, scale: Scale) -> Expected:
    """Expect maps in 0..1 as large as the tile, with their mean where tiles overlap, without the padding."""
    heatmaps = [
        _mean_of(_normalised(maps, grid.tile_px, scale), padded_origins(grid), padded_hw(grid), grid.tile_px)
        for maps in tiles.maps
    ]
    height, width = grid.frame_hw
    return Expected(tiles.logits, np.stack(heatmaps)[:, :height, :width])


def of_model_api(tiles: TileAnswers, grid: TileGrid, scale: Scale) -> Expected:
    """Expect the same on heatline's grid, in steps of 8 bits."""
    heatmaps = [
        _mean_of(_normalised(maps, grid.tile_px, scale), grid.origins_yx, grid.frame_hw, grid.tile_px)
        for maps in tiles.maps
    ]
    return Expected(tiles.logits, np.stack(heatmaps), coarse=0.5 / STEPS)


def of_grad_cam(tiles: TileAnswers, grid: TileGrid, bias: float | None) -> Expected:
    """Expect the evidence for a defect in each tile, stretched to 0..1.

    Args:
        bias: of a CNN's head, which is not part of its map; None: of a ViT, whose map is unknown.
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
    """Return the largest error of logits, as a share of their spread.

    Args:
        found: answers of a turn, as summed up by `workers/serve.py`.
        spread: standard deviation between tiles.
    """
    if found["logits"].shape != expected.logits.shape:
        return float("inf")
    return float(np.abs(found["logits"] - expected.logits).max() / spread)


def find_difference(
    found: Mapping[str, NDArray[Any]], expected: Expected, precision: Precision, sample_px: int, threshold: float
) -> str | None:
    """Return what is wrong with verdicts or heatmaps; None: nothing.

    Args:
        found: answers of a turn, as summed up by `workers/serve.py`.
        threshold: logit from which a frame is defective.
    """
    if (found["defective"] != (found["logits"] >= threshold).any(axis=1)).any():
        return "its verdicts are not those of its logits"
    if len(found.get("samples", ())) != len(expected.logits):
        return "it makes no heatmap of some frame"
    if expected.heatmaps is None:
        if not np.isfinite(found["samples"]).all():
            return "its heatmaps hold values that are not finite"
        flat = int((np.ptp(found["samples"], axis=(1, 2)) == 0).sum())
        return f"{flat} of its {len(found['samples'])} heatmaps are flat" if flat else None
    if (found["hw"] != expected.heatmaps.shape[1:]).any():
        return f"its heatmaps are {found['hw'].tolist()}, expected all {list(expected.heatmaps.shape[1:])}"
    allowed = OF_SPREAD[precision] * float(expected.heatmaps.std()) + expected.coarse
    off = float(np.abs(found["samples"] - expected.heatmaps[:, ::sample_px, ::sample_px]).max())
    if not off <= allowed:
        return f"its heatmaps are off by {off:.2g}, expected at most {allowed:.2g}"
    highest = expected.heatmaps.max(axis=(1, 2))
    at_peak = np.array([one[tuple(peak)] for one, peak in zip(expected.heatmaps, found["peaks_yx"], strict=True)])
    if not (highest - at_peak).max() <= 2 * allowed:
        return f"its heatmaps peak where {(highest - at_peak).max():.2g} less than the peak is expected"
    return None


def _answers(
    engine: Engine, frames: NDArray[np.uint8], origins: Sequence[tuple[int, int]], tile_px: int
) -> TileAnswers:
    found = [infer(engine, np.stack([frame[y : y + tile_px, x : x + tile_px] for y, x in origins])) for frame in frames]
    return TileAnswers(np.stack([logits for logits, _ in found]), np.stack([maps for _, maps in found]))


def _normalised(maps: NDArray[np.float32], tile_px: int, scale: Scale) -> list[NDArray[np.float32]]:
    return [np.clip((one - scale.threshold) / scale.range + 0.5, 0, 1) for one in _large(list(maps), tile_px)]


def _large(maps: Sequence[NDArray[Any]], tile_px: int) -> list[NDArray[np.float32]]:
    """Enlarge maps to the tile, linearly, half-pixel correct."""
    return [np.asarray(cv2.resize(one.astype(np.float32), (tile_px, tile_px))) for one in maps]


def _mean_of(
    maps: Sequence[NDArray[np.float32]], origins: Sequence[tuple[int, int]], hw: tuple[int, int], tile_px: int
) -> NDArray[np.float32]:
    """Join maps: each px is the mean of the tiles that show it."""
    total, tiles = np.zeros(hw, np.float64), np.zeros(hw, np.int64)
    for one, (y, x) in zip(maps, origins, strict=True):
        total[y : y + tile_px, x : x + tile_px] += one
        tiles[y : y + tile_px, x : x + tile_px] += 1
    return (total / tiles).astype(np.float32)


def _from_0_to_1(one: NDArray[np.float32]) -> NDArray[np.float32]:
    lifted = one - one.min()
    return np.asarray(lifted / max(float(lifted.max()), 1e-7), np.float32)
