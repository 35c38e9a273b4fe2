"""Formats with one file per picture: LabelMe polygons, Pascal VOC and DeepPCB boxes, masks, and YOLO's objects."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.images import read_image
from heatline.edge.picture_folders import Place
from heatline.edge.util.extras import missing_extra
from heatline.train.readers.annotation import (
    Annotation,
    Box,
    Circle,
    MarkedObject,
    Marks,
    Polygon,
    Rectangle,
    RelativeBox,
    RelativePolygon,
    Shape,
    read_json,
)

TYPES = {1: "open", 2: "short", 3: "mousebite", 4: "spur", 5: "copper", 6: "pin-hole"}
"""Of DeepPCB's README; an unknown number is its own class name."""


class DeepPcbBoxes(Annotation):
    """A line `x1 y1 x2 y2 type` per defect; px count from 0, and x2 and y2 do not belong to the box.

    DeepPCB does not document this; of 2,149 of its boxes, the defect reaches column x1 in 28 and column x2 in 5.
    """

    def marks(self) -> Marks:
        return Marks(tuple(self._box(number, line) for number, line in self.lines()), TYPES.values())

    def _box(self, number: int, line: str) -> MarkedObject:
        try:
            x1, y1, x2, y2, kind = (int(word) for word in line.replace(",", " ").split())
        except ValueError as error:
            raise InputError(
                f"line {number} of {self.file} is {line[:40]!r}; expected five whole numbers: x1 y1 x2 y2 type"
            ) from error
        return MarkedObject(
            TYPES.get(kind, str(kind)), (Box(x1, y1, x2, y2),), f"box {x1},{y1} to {x2},{y2} px in line {number}"
        )


class VocBoxes(Annotation):
    """Pascal VOC's XML, an `object/bndbox` per defect; px count from 1, and both corners belong to the box."""

    def marks(self) -> Marks:
        try:
            root = ElementTree.parse(self.file).getroot()
        except (OSError, ElementTree.ParseError, LookupError) as error:  # LookupError: unknown encoding
            raise InputError(
                f"{self.file} is not a VOC annotation ({error}); expected its XML, copy it again"
            ) from error
        if root.tag != "annotation":
            raise InputError(f"{self.file} is not a VOC annotation, its root is <{root.tag}>; expected <annotation>")
        objects = tuple(self._mark(element) for element in root.iter("object"))
        size = root.find("size")
        if size is None or size.find("height") is None or size.find("width") is None:
            return Marks(objects)
        return Marks(objects, frame_hw=(self._px(size, "height"), self._px(size, "width")))

    def _mark(self, element: ElementTree.Element) -> MarkedObject:
        box = element.find("bndbox")
        if box is None:
            raise InputError(f"{self.file} has an object without bndbox; add its box, or remove the object")
        x0, y0, x1, y1 = (self._px(box, corner) for corner in ("xmin", "ymin", "xmax", "ymax"))
        name = (element.findtext("name") or "").strip() or "unnamed"
        return MarkedObject(name, (Box(x0 - 1, y0 - 1, x1, y1),), f"box {x0},{y0} to {x1},{y1} px")

    def _px(self, element: ElementTree.Element, name: str) -> int:
        text = element.findtext(name)
        try:
            return round(float(text or ""))
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{self.file} has a {element.tag} whose {name} is {text!r}; expected a number of px"
            ) from error


class _Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    shape_type: str = "polygon"


class _File(msgspec.Struct, rename="camel"):
    shapes: list[_Shape]
    image_height: int | None = None
    image_width: int | None = None


class LabelMePolygons(Annotation):
    """LabelMe's JSON: polygons, rectangles (two opposite corners) and circles (centre and a point on the rim)."""

    def marks(self) -> Marks:
        content = read_json(self.file, _File, "LabelMe")
        objects = tuple(self._mark(number, shape) for number, shape in enumerate(content.shapes, start=1))
        return Marks(objects, frame_hw=(content.image_height, content.image_width))

    def _mark(self, number: int, shape: _Shape) -> MarkedObject:
        description = f"{shape.shape_type} ({shape.label}, shape {number})"
        drawn: Shape
        match shape.shape_type, shape.points:
            case "polygon", points:
                drawn = Polygon(points)
            case "rectangle", [(x0, y0), (x1, y1)]:
                drawn = Rectangle([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
            case "circle", [(x, y), (rim_x, rim_y)]:
                drawn = Circle(x, y, hypot(rim_x - x, rim_y - y))
            case _, points:
                raise InputError(
                    f"{self.file} has a {description} of {len(points)} points; expected a polygon, or a rectangle or "
                    "circle of 2 points: draw one of these"
                )
        return MarkedObject(shape.label, (drawn,), description)


class MaskPng(Annotation):
    """The mask of one picture; a mask has no classes, and follows the outline of the defects."""

    def marks(self) -> Marks:
        return Marks(())

    def marks_defects(self) -> bool:
        return bool(self._pixels().any())

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the defective pixels, bool [H, W]; in a colour mask, those that are not black."""
        mask = self._pixels()
        if mask.shape != frame_hw:
            raise InputError(
                f"{self.file} is {mask.shape[0]}x{mask.shape[1]} px (height x width), its picture is "
                f"{frame_hw[0]}x{frame_hw[1]}; a mask must have its picture's size"
            )
        return mask

    def _pixels(self) -> NDArray[np.bool_]:
        pixels, pixel_format = read_image(self.file)
        colours = pixels[..., :3] if pixel_format == "BGRA8" else np.atleast_3d(pixels)
        return np.asarray(colours.any(axis=2))


SLACK = 0.1
"""Share of the picture by which a shape of YOLO may extend beyond it, from rounding, and is clipped."""

NAMES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names")
"""Files that name classes, beside the folder of the pictures or of the annotations."""


class _Dataset(msgspec.Struct):
    names: list[object] | dict[int, object] = []


@dataclass(frozen=True)
class YoloObjects(Annotation):
    """A box `class cx cy w h` or a polygon `class x1 y1 x2 y2 x3 y3 ...` per line, in shares of the picture.

    A box may end with the confidence of a detector, which is ignored. A class without a name has its number for one.
    """

    names: Mapping[int, str]

    def marks(self) -> Marks:
        return Marks(tuple(self._object(number, line) for number, line in self.lines()), self.names.values())

    def _object(self, number: int, line: str) -> MarkedObject:
        kind, *words = line.split()
        try:
            at = [float(word) for word in words]
            is_class = float(kind).is_integer() and float(kind) >= 0  # some tools write 0.0
        except ValueError:
            is_class = False
        if is_class and len(at) == 5:
            del at[4]
        if not is_class or len(at) < 4 or len(at) % 2 or not all(-SLACK < value < 1 + SLACK for value in at):
            raise InputError(
                f"line {number} of {self.file} is {line[:60]!r}; expected YOLO's class cx cy w h, or class x1 y1 x2 y2 "
                "x3 y3 ..., with a class from 0 and coordinates from 0 to 1"
            )
        name = self.names.get(int(float(kind)), str(int(float(kind))))
        if len(at) == 4:
            x, y, width, height = at
            corners = [(x - width / 2, y - height / 2), (x + width / 2, y + height / 2)]
            return MarkedObject(name, (RelativeBox(_clip(corners)),), f"box ({name}) in line {number}")
        polygon = RelativePolygon(_clip(list(zip(at[::2], at[1::2], strict=True))))
        return MarkedObject(name, (polygon,), f"polygon ({name}) in line {number}")


def _clip(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Clip a shape that leaves the picture by less than `SLACK`; return others as they are, to be refused."""
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    if low.min() <= -SLACK or high.max() >= 1 + SLACK or low.max() >= 1 or high.min() <= 0:
        return corners
    return [(min(max(x, 0), 1), min(max(y, 0), 1)) for x, y in corners]


def read_yolo(files: Mapping[Path, Place], classes: frozenset[str] | None) -> Iterator[tuple[Place, YoloObjects]]:
    """List annotations with the places of their pictures; a file of class names may raise `InputError`."""
    names: dict[Path, dict[int, str]] = {}
    for file, place in files.items():
        if file.parent not in names:
            above = (folder / name for folder in file.parents[: len(place) + 1] for name in NAMES)
            source = next((path for path in above if path.is_file()), None)
            names[file.parent] = {} if source is None else _read_class_names(source)
        if file.name not in NAMES:
            yield place, YoloObjects(file, classes, names[file.parent])


def _read_class_names(file: Path) -> dict[int, str]:
    try:
        if file.suffix != ".yaml":
            return {n: name for n, name in enumerate(file.read_text(encoding="utf-8-sig").splitlines()) if name}
        names = msgspec.yaml.decode(file.read_bytes(), type=_Dataset).names
    except ImportError as error:
        raise missing_extra("train", f"reading {file}") from error
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); expected the names of YOLO's classes: mend it, or remove it"
        ) from error
    numbered = names.items() if isinstance(names, dict) else enumerate(names)
    return {number: str(name) for number, name in numbered}
