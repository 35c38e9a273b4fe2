"""Polygons in LabelMe's JSON: one file per picture, with the picture's stem.

A shape is a polygon, a rectangle (two opposite corners) or a circle (centre and a point on the rim). Lines and points
have no area and are refused. Coordinates are rounded to whole px.
"""

from math import hypot

import msgspec

from heatline.edge.errors import InputError
from heatline.train.readers.shapes import Circle, MarkedObject, MarkedObjects, Marks, Polygon, Rectangle, Shape


class _Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    shape_type: str = "polygon"


class _File(msgspec.Struct, rename="camel"):
    shapes: list[_Shape]
    image_height: int | None = None
    image_width: int | None = None


_decoder = msgspec.json.Decoder(_File)


class LabelMePolygons(MarkedObjects):
    """The shapes of one picture."""

    def marks(self) -> Marks:
        try:
            content = _decoder.decode(self.file.read_bytes())
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(
                f"{self.file} is not a LabelMe annotation ({error}); expected its JSON, save it again"
            ) from error
        size = None
        if content.image_height is not None and content.image_width is not None:
            size = content.image_height, content.image_width
        return Marks(size, tuple(self._mark(number, shape) for number, shape in enumerate(content.shapes, start=1)))

    def _mark(self, number: int, shape: _Shape) -> MarkedObject:
        description = f"{shape.shape_type} ({shape.label}, shape {number})"
        return MarkedObject(shape.label, (self._shape(shape, description),), description)

    def _shape(self, shape: _Shape, description: str) -> Shape:
        points = shape.points
        match shape.shape_type:
            case "polygon":
                return Polygon(points)
            case "rectangle" if len(points) == 2:
                (x0, y0), (x1, y1) = points
                return Rectangle([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
            case "circle" if len(points) == 2:
                (x, y), (rim_x, rim_y) = points
                return Circle(x, y, hypot(rim_x - x, rim_y - y))
            case "rectangle" | "circle":
                raise InputError(f"{self.file} has a {description} of {len(points)} points; expected 2, draw it again")
        raise InputError(
            f"{self.file} has a {description}; expected polygons, rectangles or circles, as only they have an area: "
            "draw one of these"
        )
