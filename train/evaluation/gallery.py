"""Pictures of the frames that are judged worst: defective ones of the lowest scores, good ones of the highest."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.heatmap_picture import ColourScale, draw_outlines, overlay, png, tint
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.util.page import jpeg_uri
from heatline.train.files import make_folder, write_atomically

FRAMES = 6
"""Frames of each label."""
FRAME_PX = 900
"""Longest side of each of a frame's pictures."""
TRUTH_RGB = (0, 230, 255)
GAP_PX = 6
GROUND = 112
"""Grey of the picture that the legend's scale tints, as cold places of a heatmap show the picture itself."""
STEPS, HEIGHT_PX = 512, 16


class FrameGallery:
    """Picks the frames to show, and draws each when it is picked, so that no full-size frame stays in memory."""

    def __init__(self) -> None:
        self._picked: dict[bool, list[tuple[float, int, NDArray[np.uint8]]]] = {True: [], False: []}

    def add(self, number: int, score: float, defective: bool, draw: Callable[[], NDArray[np.uint8]]) -> None:
        """Offer a frame; `draw` returns its picture, RGB."""
        picked, key = self._picked[defective], score if defective else -score
        if len(picked) < FRAMES or key < picked[-1][0]:
            picked.append((key, number, draw()))
            picked.sort(key=lambda each: each[0])
            del picked[FRAMES:]

    def write(self, folder: Path) -> dict[int, str]:
        """Write the pictures into `folder`/pictures; return their files by the numbers of the frames."""
        make_folder(folder / "pictures", "--out")
        files = {}
        for _, number, picture in chain(*self._picked.values()):
            files[number] = f"pictures/frame-{number:04}.png"
            write_atomically(folder / files[number], partial(Path.write_bytes, data=png(picture)))
        return files


def draw_frame(
    rgb: NDArray[np.uint8],
    mask: NDArray[np.bool_] | None,
    reference: NDArray[np.uint8] | None,
    judgement: Judgement,
    cell_px: int,
    scale: ColourScale,
) -> NDArray[np.uint8]:
    """Draw the frame with its truth outlined, its reference if it has one, and the frame under its heatmap, RGB.

    Args:
        mask: defective pixels [H, W]; None: their place is not known.
        reference: what the reference shows at the same place, RGB [H, W, 3].
        cell_px: side of a cell of the heatmap.
    """
    height, width = rgb.shape[:2]
    truth = np.ascontiguousarray(rgb.copy())
    if mask is not None:
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        outlines = [np.asarray(contour, np.int32) for contour in contours]
        draw_outlines(truth, outlines, TRUTH_RGB, max(2, round(max(height, width) / 200)))
    heat = overlay(rgb, judgement.heatmap, cell_px, judgement.regions, scale)
    parts = [shrink(picture, FRAME_PX) for picture in (truth, reference, heat) if picture is not None]
    is_wide = width > 1.4 * height
    gap = ((0, GAP_PX), (0, 0), (0, 0)) if is_wide else ((0, 0), (0, GAP_PX), (0, 0))
    parts[:-1] = [np.pad(part, gap, constant_values=255) for part in parts[:-1]]
    return np.concatenate(parts, axis=0 if is_wide else 1)


def shrink(rgb: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    """Return a picture whose longest side is at most this long."""
    height, width = rgb.shape[:2]
    scale = min(1.0, longest_px / max(height, width))
    size_wh = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def make_legend(
    scale: ColourScale,
    thresholds: Mapping[str, float],
    ends: tuple[str, str],
    outlines: Mapping[str, tuple[int, int, int]],
) -> dict[str, Any]:
    """Return what the macro `legend_of` shows for pictures that share a colour scale.

    Args:
        thresholds: logits by the text beside them. The scale includes all.
        ends: texts at the ends of the scale.
        outlines: colours of outlines in the pictures, RGB, by their meaning.
    """
    low, high = min(scale.low, *thresholds.values()), max(scale.high, *thresholds.values())
    grey = scale.grey(np.linspace(low, high, STEPS, dtype=np.float32)[None])
    colours = tint(np.full((HEIGHT_PX, STEPS, 3), GROUND, np.uint8), np.repeat(grey, HEIGHT_PX, axis=0), 1)
    return {
        "uri": jpeg_uri(np.asarray(cv2.cvtColor(colours, cv2.COLOR_RGB2BGR), np.uint8)),
        "ends": ends,
        "percent": {text: round(100 * (value - low) / (high - low), 2) for text, value in thresholds.items()},
        "outlines": outlines,
    }
