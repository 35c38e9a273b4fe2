"""The contact sheet: pictures of a folder side by side, with their annotations outlined."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from train.readers import LabelledImage

CELL_PX = 400
CAPTION_PX = 22
COLUMNS = 4
ROWS_EACH = 2
OUTLINE_RGB = (255, 40, 40)


def write_contact_sheet(file: Path, images: Sequence[LabelledImage]) -> None:
    """Write a PNG of eight defective and eight good pictures, evenly chosen from the folder.

    Args:
        images: pictures that cannot be used are skipped.
    Raises:
        InputError: no picture can be used, or the file cannot be written.
    """
    defective = _draw_cells([image for image in images if image.defective])
    good = _draw_cells([image for image in images if not image.defective])
    if not defective and not good:
        raise InputError(f"{file} would be empty, as no picture can be used; correct the folder first")
    sheet = np.concatenate([_grid(cells) for cells in (defective, good) if cells])
    try:
        file.write_bytes(cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))[1].tobytes())
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}); name another file") from error


def _draw_cells(images: Sequence[LabelledImage]) -> list[NDArray[np.uint8]]:
    """Draw the cells of pictures that are evenly spaced in the list; the next picture replaces an unusable one."""
    wanted = min(COLUMNS * ROWS_EACH, len(images))
    cells = []
    for part in np.array_split(np.arange(len(images)), max(wanted, 1)):
        for number in part:
            try:
                cells.append(_cell(images[number]))
            except InputError:  # the folder's summary reports it
                continue
            break
    return cells


def _cell(image: LabelledImage) -> NDArray[np.uint8]:
    """Draw one picture with outlines and a caption, RGB uint8 [at most CELL_PX + CAPTION_PX, CELL_PX, 3]."""
    pixels = image.pixels()
    height, width = pixels.shape[:2]
    mask = image.mask((height, width))
    scale = min(CELL_PX / height, CELL_PX / width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    shown = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    if mask is not None:
        # Dilate before shrinking: a defect smaller than a px of the cell must not vanish, nor hide under its outline.
        reach = np.ones((2 * round(3 / scale) + 1,) * 2, np.uint8)
        grown = cv2.resize(cv2.dilate(mask.view(np.uint8), reach), size, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, outlines, -1, OUTLINE_RGB, 1)
    cell = np.zeros((size[1] + CAPTION_PX, CELL_PX, 3), np.uint8)
    cell[: size[1], : size[0]] = shown
    name = image.name.encode("ascii", "replace").decode()  # OpenCV's fonts have no other characters
    caption = f"{'defective' if image.defective else 'good'}: {name}"
    cv2.putText(cell, caption, (2, size[1] + 15), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1, cv2.LINE_AA)
    return cell


def _grid(cells: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Arrange cells in rows of `COLUMNS`; missing cells are black."""
    rows = []
    for start in range(0, len(cells), COLUMNS):
        row = cells[start : start + COLUMNS]
        sheet = np.zeros((max(len(cell) for cell in row), COLUMNS * CELL_PX, 3), np.uint8)
        for column, cell in enumerate(row):
            sheet[: len(cell), column * CELL_PX : (column + 1) * CELL_PX] = cell
        rows.append(sheet)
    return np.concatenate(rows)
