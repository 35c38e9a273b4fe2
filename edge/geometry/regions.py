"""Connected defect areas of a heatmap."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry.stitching import Stitcher
from heatline.edge.wire.events import Region


def find_regions(
    heatmap: NDArray[np.float32],
    stitcher: Stitcher,
    defective: NDArray[np.bool_],
    evidence_threshold: float,
    strong_evidence: float | None = None,
) -> list[Region]:
    """Return the regions of a frame, highest score first; a frame without a defective tile has none.

    They consist of the cells that reach the evidence threshold, connected by 8 neighbours: inside defective tiles all
    of them, also where such a tile extends beyond the region of interest; elsewhere those of an area with strong
    evidence, which counts whole (two thresholds, as in the edge detection of Canny 1986). A defective tile without such
    a cell gets one at its peak, so that every DEFECT frame has a region.

    Args:
        heatmap: [*stitcher.heatmap_hw], logits; not NaN in any tile of the grid.
        defective: [len(grid)], the tiles that reach the score threshold.
        evidence_threshold: logits.
        strong_evidence: logits, of one cell at least; None: regions lie only in defective tiles.
    """
    if not defective.any():
        return []
    found = found_cells(heatmap, stitcher, defective, evidence_threshold, strong_evidence)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
    regions = [_region(heatmap, labels, label, stats[label], stitcher) for label in range(1, len(stats))]
    return sorted(regions, key=lambda region: -region.score)


def found_cells(
    heatmap: NDArray[np.float32],
    stitcher: Stitcher,
    defective: NDArray[np.bool_],
    evidence_threshold: float,
    strong_evidence: float | None = None,
) -> NDArray[np.bool_]:
    """Return the heatmap cells of all regions, bool [*stitcher.heatmap_hw]; arguments as of `find_regions`."""
    found = np.zeros(heatmap.shape, np.bool_)
    tiles = [stitcher.tile_cells(int(tile)) for tile in np.flatnonzero(defective)]
    if not tiles:
        return found
    # In float64, as both are published: rounded to float32, a threshold could equal a value that lies below it.
    evidence = heatmap.astype(np.float64)
    reached = evidence >= evidence_threshold
    for cells in tiles:
        found[cells] |= reached[cells]
    strong = reached & (evidence >= (np.inf if strong_evidence is None else strong_evidence))
    if strong.any():
        count, labels = cv2.connectedComponents(reached.astype(np.uint8), connectivity=8)
        kept = np.zeros(count, np.bool_)
        kept[labels[strong]] = True
        found |= kept[labels]
    for cells in tiles:
        if not found[cells].any():
            peak = np.unravel_index(np.argmax(heatmap[cells]), heatmap[cells].shape)
            found[cells][peak] = True
    return found


def _region(
    heatmap: NDArray[np.float32], labels: NDArray[Any], label: int, stats: NDArray[Any], stitcher: Stitcher
) -> Region:
    cell = stitcher.cell_px
    frame_h, frame_w = stitcher.grid.frame_hw
    left, top, width, height = (int(value) for value in stats[:4])
    part = np.s_[top : top + height, left : left + width]
    inside = labels[part] == label
    row, column = np.unravel_index(np.argmax(np.where(inside, heatmap[part], -np.inf)), inside.shape)
    peak_y, peak_x = stitcher.centres_y[top + row], stitcher.centres_x[left + column]
    # Outline in px, cropped at the frame's border, as the last cells may extend beyond it.
    pixels = inside.repeat(cell, axis=0).repeat(cell, axis=1)[: frame_h - top * cell, : frame_w - left * cell]
    contours, _ = cv2.findContours(
        pixels.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(left * cell, top * cell)
    )
    outline = cv2.approxPolyDP(contours[0], cell / 2, closed=True).reshape(-1, 2)
    return Region(
        box_xyxy=(left * cell, top * cell, min((left + width) * cell, frame_w), min((top + height) * cell, frame_h)),
        contour_xy=[(x, y) for x, y in outline.tolist()],
        area_px=int(np.count_nonzero(pixels)),
        peak_xy=(int(peak_x), int(peak_y)),
        score=float(heatmap[part][row, column]),
    )
