"""The contact sheet: pictures of a folder side by side, with their annotations outlined."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.heatmap_picture import draw_outlines
from heatline.edge.util.files import writing
from heatline.train.readers import LabelledImage

COLUMNS, EACH, LONGEST_NAME = 4, 8, 36
"""Pictures side by side, number of pictures of each label, and characters of a name; its end distinguishes it."""
CELL_WH, TITLE_PX, GAP_PX = (392, 294), 46, 8
"""Size of a picture's place, height of the two lines above it, and the gap between places."""
OUTLINE_RGB = (0, 230, 255)
GROUND_RGB, TEXT_RGB, QUIET_RGB = (32, 36, 42), (255, 255, 255), (176, 186, 196)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def write_contact_sheet(file: Path, images: Sequence[LabelledImage]) -> None:
    """Write a PNG of eight defective and eight good pictures, evenly chosen from the folder.

    Args:
        images: pictures that cannot be used are skipped.
    Raises:
        InputError: no picture can be used, or the file cannot be written.
    """
    cells = [*_cells(images, defective=True), *_cells(images, defective=False)]
    if not cells:
        raise InputError(f"{file} would be empty, as no picture can be used; correct the folder first")
    cells += [np.full_like(cells[0], GROUND_RGB)] * (-len(cells) % COLUMNS)
    rows = [np.concatenate(cells[start : start + COLUMNS], axis=1) for start in range(0, len(cells), COLUMNS)]
    with writing(file):
        file.write_bytes(cv2.imencode(".png", cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR))[1].tobytes())


def _cells(images: Sequence[LabelledImage], *, defective: bool) -> list[NDArray[np.uint8]]:
    """Draw pictures that are evenly spaced among those of a label; the next one replaces an unusable one."""
    of_label = [image for image in images if image.defective == defective]
    cells = []
    for part in np.array_split(np.arange(len(of_label)), max(min(EACH, len(of_label)), 1)):
        for number in part:
            try:
                cells.append(_draw_cell(of_label[number]))
            except InputError:  # the folder's summary reports it
                continue
            break
    return cells


def _draw_cell(image: LabelledImage) -> NDArray[np.uint8]:
    """Draw a picture that fits its place, with its annotations outlined, below its name, label and size, RGB."""
    pixels = image.pixels()
    height, width = pixels.shape[:2]
    mask = image.mask((height, width))
    scale = min(CELL_WH[0] / width, CELL_WH[1] / height)
    size_wh = max(1, round(scale * width)), max(1, round(scale * height))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    shown = np.asarray(cv2.resize(pixels, size_wh, interpolation=interpolation), np.uint8)
    if mask is not None:
        # Dilate before shrinking: a defect smaller than a px of the cell must not vanish, nor hide under its outline.
        reach = np.ones((2 * round(4 / scale) + 1,) * 2, np.uint8)
        grown = cv2.resize(cv2.dilate(mask.view(np.uint8), reach), size_wh, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        draw_outlines(shown, [np.asarray(outline, np.int32) for outline in outlines], OUTLINE_RGB, 2)
    cell = np.full((TITLE_PX + CELL_WH[1] + GAP_PX, CELL_WH[0] + GAP_PX, 3), GROUND_RGB, np.uint8)
    cell[TITLE_PX : TITLE_PX + size_wh[1], : size_wh[0]] = shown
    label = (
        f"{'defective' if image.defective else 'good'}{', by its label' if image.defective and mask is None else ''}"
    )
    name = image.name.encode("ascii", "replace").decode()  # OpenCV's fonts have no other characters
    name = name if len(name) <= LONGEST_NAME else f"...{name[-LONGEST_NAME:]}"
    cv2.putText(cell, name, (0, 18), FONT, 0.5, TEXT_RGB, 1, cv2.LINE_AA)
    cv2.putText(cell, f"{label}, {width}x{height} px", (0, 37), FONT, 0.5, QUIET_RGB, 1, cv2.LINE_AA)
    return cell
