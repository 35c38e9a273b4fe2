"""Draws heatmaps, on one colour scale for all frames of a bundle, so that a good frame looks cold."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry import Region

OUTLINE_RGB = (255, 255, 255)
FOREIGN_RGB = (255, 176, 0)
"""Of areas that the product cannot show."""
DARK_RGB = (0, 0, 0)
MAX_COVER = 0.75
CLEARED = float("-inf")
"""In a heatmap: cells of tiles that the screening stage cleared, see `heatline.edge.inspection.screening`."""
CLEARED_GREY = 1
"""The same in the picture of a heatmap that has such cells; others are darker only if they were not inspected."""


@dataclass(frozen=True)
class ColourScale:
    """A linear scale between two logits, clipped beyond them."""

    low: float
    high: float

    @classmethod
    def around(cls, evidence_threshold: float, background: float) -> "ColourScale":
        """Return the scale that starts at the good frames' background and has the evidence threshold in its middle."""
        reach = max(evidence_threshold - background, 1e-3)
        return cls(evidence_threshold - reach, evidence_threshold + reach)

    def grey(self, heatmap: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the heatmap as uint8: 0 at `low`, 255 at `high`, and 0 where no tile was inspected (NaN); see
        `CLEARED_GREY`."""
        cleared = heatmap == CLEARED
        share = (heatmap - self.low) / (self.high - self.low)
        grey = np.round(np.clip(share, (CLEARED_GREY + 1) / 255 if cleared.any() else 0, 1) * 255)
        grey[np.isnan(share)] = 0
        grey[cleared] = CLEARED_GREY
        return np.asarray(grey, np.uint8)

    def logits(self, grey: NDArray[np.uint8], cleared_grey: int | None) -> NDArray[np.float32]:
        """Return the heatmap of which this is the picture, as exact as its 255 steps."""
        logits = np.asarray(self.low + grey / 255 * (self.high - self.low), np.float32)
        if cleared_grey is not None:
            logits[grey < cleared_grey], logits[grey == cleared_grey] = np.nan, CLEARED
        return logits


def png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture, grey [H, W] or RGB [H, W, 3], as PNG."""
    data = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", data)[1].tobytes()


def overlay(
    rgb: NDArray[np.uint8],
    heatmap: NDArray[np.float32],
    cell_px: int,
    regions: Sequence[Region],
    scale: ColourScale,
) -> NDArray[np.uint8]:
    """Return the frame with its heatmap and the outlines of its regions: RGB uint8 [H, W, 3]."""
    return outline_regions(tint(rgb, scale.grey(heatmap), cell_px), regions)


def tint(rgb: NDArray[np.uint8], grey: NDArray[np.uint8], cell_px: int) -> NDArray[np.uint8]:
    """Return the frame tinted by its heatmap, grey on a `ColourScale`: colour and cover grow with the evidence."""
    height, width = rgb.shape[:2]
    # Enlarge whole cells, then crop: the last cells may extend beyond the frame.
    full_wh = (grey.shape[1] * cell_px, grey.shape[0] * cell_px)
    share = cv2.resize(grey, full_wh, interpolation=cv2.INTER_LINEAR)[:height, :width]
    heat = cv2.cvtColor(cv2.applyColorMap(share, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    cover = (share.astype(np.float32) / 255 * MAX_COVER)[..., None]
    tinted: NDArray[np.uint8] = (rgb * (1 - cover) + heat * cover).astype(np.uint8)
    return tinted


def outline_regions(rgb: NDArray[np.uint8], regions: Sequence[Region]) -> NDArray[np.uint8]:
    """Return a copy of the frame with the outline and the peak of each region."""
    picture = np.ascontiguousarray(rgb.copy())
    thick = max(2, round(max(rgb.shape[:2]) / 600))
    draw_outlines(picture, [np.array(region.contour_xy, np.int32) for region in regions], OUTLINE_RGB, thick)
    for region in regions:
        cv2.drawMarker(picture, region.peak_xy, OUTLINE_RGB, cv2.MARKER_CROSS, 6 * thick, thick)
    return picture


def outline_foreign(rgb: NDArray[np.uint8], boxes: Sequence[tuple[int, int, int, int]]) -> NDArray[np.uint8]:
    """Return a copy of the frame with the outline of each area that the product cannot show, (x0, y0, x1, y1) px."""
    picture = np.ascontiguousarray(rgb.copy())
    corners = [np.array([(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)], np.int32) for x0, y0, x1, y1 in boxes]
    draw_outlines(picture, corners, FOREIGN_RGB, max(2, round(max(rgb.shape[:2]) / 600)))
    return picture


def draw_outlines(
    picture: NDArray[np.uint8], contours: Sequence[NDArray[np.int32]], rgb: tuple[int, int, int], thick: int
) -> None:
    """Draw closed contours into a picture, RGB [H, W, 3], each over a wider dark line, so that it shows on any ground.

    Args:
        contours: each [points, 2] or [points, 1, 2], x and y in px.
        thick: width of the line in `rgb`, px.
    """
    kind = cv2.LINE_AA if thick > 2 else cv2.LINE_8
    for colour, width in ((DARK_RGB, thick + 2 * max(1, thick // 2)), (rgb, thick)):
        cv2.polylines(picture, contours, isClosed=True, color=colour, thickness=width, lineType=kind)
