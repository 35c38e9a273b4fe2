"""Some pictures of a folder on one sheet, their annotations outlined: for people who would rather look than read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from edge.heatmap_picture import draw_outlines
from train.readers import LabelledImage

SHEET_PX, GAP_PX = 1600, 8
"""Width of the sheet, and the ground between pictures."""
ROW_PX, HIGHEST_ROW_PX = 260, 480
"""Height of a row's pictures: about, and at most."""
TITLE_PX, HEADING_PX = 46, 44
EACH = 8
"""Pictures of a kind."""
LONGEST_ASPECT = 4.0
"""Of a picture as it is shown; a longer one is cut around its annotations."""
OUTLINE_RGB = (0, 230, 255)
GROUND_RGB, TEXT_RGB, QUIET_RGB = (32, 36, 42), (255, 255, 255), (176, 186, 196)
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True)
class Cell:
    """A picture of the sheet, and the two lines above it."""

    pixels: NDArray[np.uint8]
    """RGB [H, W, 3], as stored or cut."""
    mask: NDArray[np.bool_] | None
    """[H, W]; None where nothing is annotated."""
    title: str
    about: str

    @property
    def aspect(self) -> float:
        """Width over height."""
        return float(self.pixels.shape[1] / self.pixels.shape[0])


def write_contact_sheet(file: Path, images: Sequence[LabelledImage]) -> None:
    """Write eight defective pictures and eight good ones, from all over the folder, as a PNG.

    Args:
        images: those that cannot be used are passed over.
    Raises:
        InputError: none can be used, or the file cannot be written.
    """
    parts = []
    for kind in ("defective", "good"):
        of_kind = [image for image in images if image.defective == (kind == "defective")]
        if cells := _cells(of_kind):
            parts += [_heading(f"{len(cells)} of {len(of_kind)} {kind} pictures"), *_rows(cells)]
    if not parts:
        raise InputError(f"{file} would be empty, as no picture can be used; mend the folder first")
    sheet = np.concatenate(parts)
    try:
        file.write_bytes(cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); name another file") from error


def _cells(images: Sequence[LabelledImage]) -> list[Cell]:
    """Pictures that lie evenly over the list, and the next one where one cannot be used."""
    cells = []
    for part in np.array_split(np.arange(len(images)), max(min(EACH, len(images)), 1)):
        for number in part:
            try:
                cells.append(_cell(images[number]))
            except InputError:  # the survey tells of it
                continue
            break
    return cells


def _cell(image: LabelledImage) -> Cell:
    pixels = image.pixels()
    height, width = pixels.shape[:2]
    mask = image.mask((height, width))
    about = f"{width}x{height} px"
    if image.defective and mask is None:
        about += ", by its label"
    top, left, bottom, right = _window((height, width), mask)
    if (bottom - top, right - left) != (height, width):
        about += f", cut to {right - left}x{bottom - top}"
    shown = mask if mask is None else mask[top:bottom, left:right]
    return Cell(pixels[top:bottom, left:right], shown, image.name, about)


def _window(hw: tuple[int, int], mask: NDArray[np.bool_] | None) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of what is shown: all, or of a long picture what lies around its annotations."""
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
    """Rows of cells, each row as wide as the sheet and its pictures equally high, whatever their aspects are."""
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
            row[TITLE_PX : TITLE_PX + height, left : left + width] = _shown(cell, (width, height))
            _write(row, cell.title, (left, 18), width, TEXT_RGB)
            _write(row, cell.about, (left, 37), width, QUIET_RGB)
            left += width + GAP_PX
        rows.append(row)
    return rows


def _shown(cell: Cell, size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """A cell's picture of that size, its annotations outlined, RGB uint8 [height, width, 3]."""
    scale = size_wh[0] / cell.pixels.shape[1]
    shown = np.asarray(
        cv2.resize(cell.pixels, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST), np.uint8
    )
    if cell.mask is not None:
        # Enlarged first: a defect that is smaller than a px here must not vanish, nor hide under its outline.
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
    """Write a line into a row, in place; of one that is too long the end, which tells names apart."""
    text = text.encode("ascii", "replace").decode()  # OpenCV's fonts have no other characters
    whole = text
    while len(text) > 1 and cv2.getTextSize(text, FONT, 0.5, 1)[0][0] > width_px:
        whole = whole[1:]
        text = f"..{whole}"
    cv2.putText(row, text, place_xy, FONT, 0.5, rgb, 1, cv2.LINE_AA)


def _ground(height: int) -> NDArray[np.uint8]:
    return np.full((height, SHEET_PX, 3), GROUND_RGB, np.uint8)
