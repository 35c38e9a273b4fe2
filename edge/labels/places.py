"""Places of defects that people draw, stored as LabelMe's JSON: a rectangle for a box, and for a brush stroke the
polygons of its outline, so that each pixel of it is known. What was drawn is kept beside, to be shown again."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.images import read_rgb
from heatline.edge.util.files import make_folder, replacing
from heatline.edge.util.text import encode_json
from heatline.edge.wire.events import Areas, Stroke

Corners = list[tuple[float, float]]
"""x, y of each, px."""
DEFECT = "defect"
DRAWN = "heatline"
"""Key of what was drawn, and flag of its shapes. Shapes of other programs stay as they are."""


class Shape(msgspec.Struct):
    """What the page shows of a shape of LabelMe."""

    points: Corners
    shape_type: str = "polygon"


def read_places(file: Path) -> tuple[Areas, list[Corners]]:
    """Return what was drawn here, and the polygons of other programs; both are empty if there is no file.

    Raises:
        InputError: it is not LabelMe's JSON.
    """
    content, others = _read(file)
    try:
        areas = msgspec.convert(content.get(DRAWN, {}), Areas)
        shapes = msgspec.convert(others, list[Shape])
    except msgspec.ValidationError as error:
        raise InputError(f"{file} cannot be shown ({error}); expected LabelMe's JSON, remove or mend it") from error
    return areas, [_corners(shape) for shape in shapes]


def write_places(file: Path, areas: Areas, image: Path, moved_to: Path) -> None:
    """Write the places of a picture's defects, in place of those drawn before; without any, remove the file.

    Args:
        moved_to: where the picture will lie.
    Raises:
        InputError: a place does not lie in the picture, or picture or file cannot be read.
        OSError: the file cannot be written.
    """
    content, others = _read(file)
    height, width = read_rgb(image).shape[:2]
    shapes: list[tuple[str, Corners]] = []
    for x, y, w, h in areas.boxes_xywh:
        if not (x >= 0 and y >= 0 and 0 < w <= width - x and 0 < h <= height - y):
            raise _outside([x, y, w, h], width, height)
        shapes.append(("rectangle", [(x, y), (x + w - 1, y + h - 1)]))
    for stroke in areas.strokes:
        outlines = [*outlines_of(drawn(stroke, (height, width)))]
        if not outlines:
            raise _outside(stroke.points_xy, width, height)
        shapes += [("polygon", outline) for outline in outlines]
    if not shapes and not others:
        file.unlink(missing_ok=True)
        return
    own = [
        {"label": DEFECT, "points": points, "group_id": None, "shape_type": kind, "flags": {DRAWN: True}}
        for kind, points in shapes
    ]
    content |= {
        "version": "5.5.0",
        "flags": content.get("flags", {}),
        "shapes": [*others, *own],
        "imagePath": os.path.relpath(moved_to, file.parent),
        "imageData": None,
        "imageHeight": height,
        "imageWidth": width,
        DRAWN: areas,
    }
    make_folder(file.parent)
    with replacing(file) as new:
        new.write_bytes(encode_json(content))


def drawn(stroke: Stroke, hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return 1 where a stroke covers a picture, uint8 [H, W]."""
    mask = np.zeros(hw, np.uint8)
    way = np.array([stroke.points_xy[0], *stroke.points_xy], np.int32)  # one point alone is not drawn
    cv2.polylines(mask, [way], False, 1, stroke.width_px)
    return mask


def outlines_of(mask: NDArray[np.uint8], top: int = 0) -> Iterator[Corners]:
    """Yield polygons that cover exactly a mask. A polygon has no hole, so a mask with one is cut in two there."""
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes = [contour for contour, (*_, above) in zip(contours, tree[0], strict=True) if above >= 0] if contours else []
    if holes:
        ys = holes[0][:, 0, 1]
        middle = int(ys.min() + ys.max()) // 2
        yield from outlines_of(mask[: middle + 1], top)
        yield from outlines_of(mask[middle + 1 :], top + middle + 1)
        return
    for contour in contours:
        corners = [(float(x), float(y + top)) for x, y in contour[:, 0]]
        yield corners + corners[-1:] * (3 - len(corners))  # a point or a line is a polygon, too


def _corners(shape: Shape) -> Corners:
    if shape.shape_type == "rectangle" and len(shape.points) == 2:
        (x0, y0), (x1, y1) = shape.points
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return shape.points


def _read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the content of a file, and the shapes of other programs."""
    try:
        content = msgspec.json.decode(file.read_bytes(), type=dict[str, Any]) if file.exists() else {}
        shapes = msgspec.convert(content.get("shapes", []), list[dict[str, Any]])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file} is not a LabelMe annotation ({error}); remove it, or export it again") from error
    return content, [shape for shape in shapes if not (shape.get("flags") or {}).get(DRAWN)]


def _outside(place: object, width: int, height: int) -> InputError:
    return InputError(f"the place {place} does not lie in its picture of {width}x{height} px; draw it in the picture")
