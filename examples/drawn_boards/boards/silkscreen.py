"""The silkscreen: component outlines, reference designators and the board's title."""

import cv2
import numpy as np

from .design import Design, Layer
from .footprints import Footprint


def draw_print(design: Design, printed: Layer, opening: Layer) -> None:
    """Draw outlines, designators and the board's title into `printed`."""
    text_px = design.silk_text_px
    for part in design.parts:
        _draw_outline(design, printed, part, design.silk_line_px)
    for part, name in zip(design.parts, design.part_names, strict=True):
        _draw_name(design, printed, opening, part, name, text_px)
    for i, node in enumerate(design.test_points):
        text = _text(f"TP{i + 1}", round(text_px * 0.8))
        (x, y), reach = design.pixel_xy(*node), design.pitch_px // 2
        right, left = (x + reach, y - text.shape[0]), (x - reach - text.shape[1], y - text.shape[0])
        spot = min((right, left), key=lambda spot: _count_covered(printed | opening, text, spot))
        if not _count_covered(printed | opening, text, spot):
            _stamp(printed, text, spot)
    edge = design.frame.edge_px
    if edge is not None:
        title = _text(design.title, text_px + 6)
        bottom = design.frame.plane_hw[0] - edge - title.shape[0] - 12
        for corner in ((edge + 190, edge + 12), (edge + 190, bottom)):
            if not _count_covered(printed | opening, title, corner):
                _stamp(printed, title, corner)
                break


def _draw_outline(design: Design, printed: Layer, part: Footprint, thickness_px: int) -> None:
    top, left, bottom, right = part.outline_cells
    a, b = design.pixel_xy(top, left), design.pixel_xy(bottom, right)
    centre = (a[0] + b[0]) // 2, (a[1] + b[1]) // 2
    if part.outline == "circle":
        cv2.circle(printed, centre, (b[0] - a[0]) // 2, 1, thickness_px)
        return
    cv2.rectangle(printed, a, b, 1, thickness_px)
    if part.outline == "body_and_leads":
        across = right - left > bottom - top
        for pad, near in zip(part.pads, (a, b), strict=True):
            x, y = design.pixel_xy(pad.row, pad.column)
            cv2.line(printed, (x, y), (near[0], y) if across else (x, near[1]), 1, thickness_px)
    elif part.outline == "box" and part.prefix == "U":
        across = right - left > bottom - top
        notch = (a[0], centre[1]) if across else (centre[0], a[1])
        cv2.circle(printed, notch, design.pitch_px // 3, 1, thickness_px)


def _draw_name(design: Design, printed: Layer, opening: Layer, part: Footprint, name: str, text_px: int) -> None:
    """Print the designator inside the outline or next to it, where it covers the fewest pads and lines."""
    top, left, bottom, right = part.outline_cells
    text = _text(name, text_px)
    if bottom - top > right - left:
        text = np.rot90(text)
    height, width = text.shape
    x, y = design.pixel_xy(top, left)
    x_end, y_end = design.pixel_xy(bottom, right)
    middle_x, middle_y = (x + x_end - width) // 2, (y + y_end - height) // 2
    spots = (
        (middle_x, middle_y),
        (x, y - height - 4),
        (x, y_end + 4),
        (x_end + 4, middle_y),
        (x - width - 4, middle_y),
    )
    occupied = opening | printed
    _stamp(printed, text, min(spots, key=lambda spot: _count_covered(occupied, text, spot)))


def _text(text: str, height_px: int) -> Layer:
    """Return a patch with one line of text."""
    scale = height_px / 22
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    patch = np.zeros((height + 6, width + 6), np.uint8)
    cv2.putText(patch, text, (3, height + 3), cv2.FONT_HERSHEY_SIMPLEX, scale, 1, 1, cv2.LINE_8)
    return patch


def _count_covered(occupied: Layer, patch: Layer, corner_xy: tuple[int, int]) -> int:
    """Count the occupied pixels that a patch would cover: all pixels of the patch if it reaches beyond the plane."""
    (x, y), (height, width) = corner_xy, patch.shape
    if x < 0 or y < 0 or x + width > occupied.shape[1] or y + height > occupied.shape[0]:
        return int(height * width)
    return int(cv2.countNonZero(occupied[y : y + height, x : x + width]))


def _stamp(printed: Layer, patch: Layer, corner_xy: tuple[int, int]) -> None:
    """Print a patch with its top left corner at `corner_xy`; cut it off at the edges of the plane."""
    x, y = corner_xy
    target = printed[max(y, 0) : max(y + patch.shape[0], 0), max(x, 0) : max(x + patch.shape[1], 0)]
    top, left = max(-y, 0), max(-x, 0)
    target |= patch[top : top + target.shape[0], left : left + target.shape[1]]
