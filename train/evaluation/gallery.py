"""Gallery of an evaluation: the defective frames of the lowest scores, and the good frames of the highest scores.

It is collected during the evaluation, so that no picture is read twice.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Calibration
from heatline.edge.heatmap_picture import ColourScale, draw_outlines, overlay, png
from heatline.edge.inspection.verdict import Judgement
from heatline.edge.util.text import utf8_safe
from heatline.train.evaluation.result import GalleryItem, Kind
from heatline.train.files import make_folder, write_atomically

FRAMES = 6
"""Frames of each kind."""
FRAME_PX = 900
"""Longest side of each of a frame's two pictures."""
TRUTH_RGB = (0, 230, 255)
GAP_PX = 6
WHOLE_FRAME = "frame with its true defects; its heatmap with the regions found"
WITH_REFERENCE = "frame with its true defects; its reference; its heatmap with the regions found"


class FrameView(NamedTuple):
    """One frame with its truth and its heatmap."""

    path: Path
    pixels: NDArray[np.uint8]
    """RGB [H, W, 3]."""
    truth: NDArray[np.bool_] | None
    """[H, W]; None if the place of the defect is not known."""
    defective: bool
    judgement: Judgement
    cell_px: int
    """Side of a cell of its heatmap, px."""
    reference: NDArray[np.uint8] | None = None
    """What the reference shows at the same place, RGB [H, W, 3]; None: the frame is compared with none."""


class FrameGallery:
    """Picks the frames to show.

    A frame is drawn when it is picked, so that no full-size frame stays in memory.

    Args:
        calibration: gives the colour scale of the line, in which good frames are cold.
        folder: of the pictures; frames are named by their paths below it.
        size: number of frames of each kind.
    """

    def __init__(self, calibration: Calibration, folder: Path, size: int = FRAMES) -> None:
        self._scale = ColourScale.around(calibration.evidence_threshold, calibration.background)
        self._folder, self._size = folder, size
        self._picked: dict[Kind, list[tuple[float, GalleryItem, NDArray[np.uint8]]]] = {"escaped": [], "rejected": []}

    def add(self, view: FrameView) -> None:
        """Offer a frame."""
        score = view.judgement.score
        kind: Kind = "escaped" if view.defective else "rejected"
        picked, key = self._picked[kind], score if view.defective else -score
        if len(picked) == self._size and key >= picked[-1][0]:
            return
        caption = WHOLE_FRAME if view.reference is None else WITH_REFERENCE
        item = GalleryItem(kind, "", relative_name(self._folder, view.path), score, caption)
        picked.append((key, item, draw_frame(view, self._scale)))
        picked.sort(key=lambda each: each[0])
        del picked[self._size :]

    def write(self, folder: Path) -> list[GalleryItem]:
        """Write the pictures into `folder`/pictures; return their items, the worst of each kind first.

        Raises:
            TrainingError: the folder or a picture cannot be written.
        """
        make_folder(folder / "pictures", "--out")
        gallery = []
        for number, (_, item, picture) in enumerate([*self._picked["escaped"], *self._picked["rejected"]]):
            file = f"pictures/frame-{number:02d}-{item.kind}.png"
            write_atomically(folder / file, partial(Path.write_bytes, data=png(picture)))
            gallery.append(msgspec.structs.replace(item, file=file))
        return gallery


def relative_name(folder: Path, path: Path) -> str:
    """Return a picture's name for reports: its path below the folder of pictures, or its file name."""
    return utf8_safe(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name)


def draw_frame(view: FrameView, scale: ColourScale) -> NDArray[np.uint8]:
    """Draw the frame with its truth outlined, its reference if it has one, and the frame under its heatmap, RGB.

    They stand side by side; those of a wide frame stand one below the other. Each is at most `FRAME_PX` long.
    """
    height, width = view.pixels.shape[:2]
    thick = max(2, round(max(height, width) / 200))
    truth = view.pixels if view.truth is None else _outline(view.pixels, view.truth, thick)
    heat = overlay(view.pixels, view.judgement.heatmap, view.cell_px, view.judgement.regions, scale)
    shrink = min(1.0, FRAME_PX / max(height, width))
    size_wh = max(1, round(width * shrink)), max(1, round(height * shrink))
    pictures = [each for each in (truth, view.reference, heat) if each is not None]
    small = [np.asarray(cv2.resize(each, size_wh, interpolation=cv2.INTER_AREA), np.uint8) for each in pictures]
    return _join(small, axis=0 if width > 1.4 * height else 1)


def _outline(rgb: NDArray[np.uint8], mask: NDArray[np.bool_], thick: int) -> NDArray[np.uint8]:
    picture = np.ascontiguousarray(rgb.copy())
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    draw_outlines(picture, [np.asarray(contour, np.int32) for contour in contours], TRUTH_RGB, thick)
    return picture


def _join(pictures: Sequence[NDArray[np.uint8]], axis: int) -> NDArray[np.uint8]:
    """Join pictures of one size side by side (axis 1) or one below the other (axis 0), with a white gap."""
    padding = [(0, 0), (0, 0), (0, 0)]
    padding[axis] = (0, GAP_PX)
    parts = [np.pad(picture, padding, constant_values=255) for picture in pictures[:-1]]
    return np.concatenate([*parts, pictures[-1]], axis=axis)
