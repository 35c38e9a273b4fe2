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


def read_places(file: Path) -> tuple[object, list[dict[str, Any]]]:
    """Return what was drawn here, as `Areas`, and LabelMe's shapes of other programs; both are empty without a file. An
    InputError: it is not LabelMe's JSON.
    """
    try:
        content = _read(file)
        return content.get(DRAWN, {}), [each for each in content["shapes"] if not (each.get("flags") or {}).get(DRAWN)]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError, AttributeError, TypeError) as error:
        raise InputError(f"{file} is not a LabelMe annotation ({error}); remove it, or export it again") from error


def write_places(file: Path, areas: Areas, image: Path, moved_to: Path) -> None:
    """Write the places of a picture's defects, in place of those drawn before; without any, remove the file.

    Args:
        moved_to: where the picture will lie.
    Raises:
        InputError: a place does not lie in the picture, or picture or file cannot be read.
        OSError: the file cannot be written.
    """
    _, others = read_places(file)
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
    size = {"imagePath": os.path.relpath(moved_to, file.parent), "imageHeight": height, "imageWidth": width}
    content = _read(file) | {"shapes": [*others, *own], "imageData": None, DRAWN: areas} | size
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


def _read(file: Path) -> dict[str, Any]:
    empty = {"version": "5.5.0", "flags": {}, "shapes": []}
    return empty | msgspec.json.decode(file.read_bytes(), type=dict[str, Any]) if file.exists() else empty


def _outside(place: object, width: int, height: int) -> InputError:
    return InputError(f"the place {place} does not lie in its picture of {width}x{height} px; draw it in the picture")
