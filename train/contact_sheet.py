"""The contact sheet: pictures of a folder side by side, with their annotations outlined."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.heatmap_picture import draw_outlines
from heatline.train.readers import LabelledImage

SHEET_PX, GAP_PX = 1600, 8
"""Width of the sheet, and the gap between pictures."""
ROW_PX, HIGHEST_ROW_PX = 260, 480
"""Approximate and highest height of a row's pictures."""
TITLE_PX, HEADING_PX = 46, 44
EACH = 8
"""Number of pictures of each label."""
LONGEST_ASPECT = 4.0
"""Highest ratio of the sides of a picture on the sheet; longer pictures are cropped around their annotations."""
OUTLINE_RGB = (0, 230, 255)
GROUND_RGB, TEXT_RGB, QUIET_RGB = (32, 36, 42), (255, 255, 255), (176, 186, 196)
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Cell:
    """A picture of the sheet, and the two lines above it."""

    pixels: NDArray[np.uint8]
    """RGB uint8 [H, W, 3], possibly cropped."""
    mask: NDArray[np.bool_] | None
    """[H, W]; None: only the label is known."""
    title: str
    details: str

    @property
    def aspect(self) -> float:
        """Width over height."""
        return float(self.pixels.shape[1] / self.pixels.shape[0])


def write_contact_sheet(file: Path, images: Sequence[LabelledImage]) -> None:
    """Write a PNG of eight defective and eight good pictures, evenly chosen from the folder.

    Args:
        images: pictures that cannot be used are skipped.
    Raises:
        InputError: no picture can be used, or the file cannot be written.
    """
    parts = []
    for kind in ("defective", "good"):
        of_kind = [image for image in images if image.defective == (kind == "defective")]
        if cells := _choose_cells(of_kind):
            parts += [_heading(f"{len(cells)} of {len(of_kind)} {kind} pictures"), *_rows(cells)]
    if not parts:
        raise InputError(f"{file} would be empty, as no picture can be used; correct the folder first")
    sheet = np.concatenate(parts)
    try:
        file.write_bytes(cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); name another file") from error


def _choose_cells(images: Sequence[LabelledImage]) -> list[Cell]:
    """Choose pictures that are evenly spaced in the list; the next picture replaces an unusable one."""
    cells = []
    for part in np.array_split(np.arange(len(images)), max(min(EACH, len(images)), 1)):
        for number in part:
            try:
                cells.append(_cell(images[number]))
            except InputError:  # the folder's summary reports it
                continue
            break
    return cells


def _cell(image: LabelledImage) -> Cell:
    pixels = image.pixels()
    height, width = pixels.shape[:2]
    mask = image.mask((height, width))
    details = f"{width}x{height} px"
    if image.defective and mask is None:
        details += ", by its label"
    top, left, bottom, right = _window((height, width), mask)
    if (bottom - top, right - left) != (height, width):
        details += f", cropped to {right - left}x{bottom - top}"
    shown = mask if mask is None else mask[top:bottom, left:right]
    return Cell(pixels[top:bottom, left:right], shown, image.name, details)


def _window(hw: tuple[int, int], mask: NDArray[np.bool_] | None) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of the shown part: all, or of a long picture around its annotations."""
    ends = []
    for axis in (0, 1):
        size = hw[axis]
        length = min(size, round(LONGEST_ASPECT * hw[1 - axis]))
        marked = np.flatnonzero(mask.any(axis=1 - axis)) if mask is not None and mask.any() else np.array([size // 2])
        start = int(np.clip((marked[0] + marked[-1]) // 2 - length // 2, 0, size - length))
        ends.append((start, start + length))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right


def _rows(cells: Sequence[Cell]) -> list[NDArray[np.uint8]]:
    """Draw rows of cells; each row is as wide as the sheet, and its pictures have the same height."""
    aspects = np.array([cell.aspect for cell in cells])
    wanted = max(1, round(float(aspects.sum()) * ROW_PX / SHEET_PX))
    row_of = ((np.cumsum(aspects) - aspects / 2) / aspects.sum() * wanted).astype(int)
    rows = []
    for number in sorted(set(row_of.tolist())):
        of_row = [cell for cell, row in zip(cells, row_of, strict=True) if row == number]
        space = SHEET_PX - GAP_PX * (len(of_row) + 1)
        height = min(HIGHEST_ROW_PX, round(space / sum(cell.aspect for cell in of_row)))
        row = _ground(TITLE_PX + height + GAP_PX)
        left = GAP_PX
        for cell in of_row:
            width = min(max(1, round(height * cell.aspect)), SHEET_PX - left)
            row[TITLE_PX : TITLE_PX + height, left : left + width] = _draw_cell(cell, (width, height))
            _write(row, cell.title, (left, 18), width, TEXT_RGB)
            _write(row, cell.details, (left, 37), width, QUIET_RGB)
            left += width + GAP_PX
        rows.append(row)
    return rows


def _draw_cell(cell: Cell, size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a cell's picture at that size with its annotations outlined, RGB uint8 [height, width, 3]."""
    scale = size_wh[0] / cell.pixels.shape[1]
    shown = np.asarray(
        cv2.resize(cell.pixels, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST), np.uint8
    )
    if cell.mask is not None:
        # Dilate before shrinking: a defect smaller than a px of the cell must not vanish, nor hide under its outline.
        reach = np.ones((2 * round(4 / scale) + 1,) * 2, np.uint8)
        grown = cv2.resize(cv2.dilate(cell.mask.view(np.uint8), reach), size_wh, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        draw_outlines(shown, [np.asarray(outline, np.int32) for outline in outlines], OUTLINE_RGB, 2)
    return shown


def _heading(text: str) -> NDArray[np.uint8]:
    strip = _ground(HEADING_PX)
    cv2.putText(strip, text, (GAP_PX, 31), FONT, 0.8, TEXT_RGB, 2, cv2.LINE_AA)
    return strip


def _write(
    row: NDArray[np.uint8], text: str, place_xy: tuple[int, int], width_px: int, rgb: tuple[int, int, int]
) -> None:
    """Write a line into a row, in place; a line that is too long keeps its end, which distinguishes names."""
    text = text.encode("ascii", "replace").decode()  # OpenCV's fonts have no other characters
    end = text
    while len(text) > 1 and cv2.getTextSize(text, FONT, 0.5, 1)[0][0] > width_px:
        end = end[1:]
        text = f"..{end}"
    cv2.putText(row, text, place_xy, FONT, 0.5, rgb, 1, cv2.LINE_AA)


def _ground(height: int) -> NDArray[np.uint8]:
    return np.full((height, SHEET_PX, 3), GROUND_RGB, np.uint8)
