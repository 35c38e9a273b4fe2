"""Objects in COCO's JSON: one or more files for all pictures, in `annotations/` or beside the pictures.

The reader uses an object's `segmentation` (polygons, or run lengths as numbers), or else its `bbox`. It finds a picture
by the end of `file_name`. https://cocodataset.org/#format-data describes the format.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from heatline.edge.errors import InputError
from heatline.edge.picture_folders import Place
from heatline.train.readers.annotation import Annotation, Box, MarkedObject, Marks, Polygon, Runs, Shape, read_json


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Category(msgspec.Struct):
    id: int
    name: str


class _Object(msgspec.Struct):
    image_id: int | str
    category_id: int
    id: int | str = "without id"
    bbox: list[float] | None = None
    segmentation: list[list[float]] | Runs | None = None


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Object]


@dataclass(frozen=True)
class CocoObjects(Annotation):
    """A file's entries for one picture."""

    image: _Image
    names: dict[int, str]
    """Class names by category id."""
    entries: list[_Object]

    @property
    def where(self) -> str:
        return f"{self.file} (image {self.image.file_name})"

    def marks(self) -> Marks:
        objects = tuple(map(self._mark, self.entries))
        return Marks(objects, self.names.values(), (self.image.height, self.image.width))

    def _mark(self, entry: _Object) -> MarkedObject:
        name = self.names[entry.category_id]
        description = f"{name} (annotation {entry.id})"
        try:
            return MarkedObject(name, _shapes(entry), description)
        except ValueError as error:
            raise InputError(f"{self.where} has a {description} that {error}; correct it, or remove it") from error


def read(files: Mapping[Path, Place], classes: frozenset[str] | None) -> Iterator[tuple[Place, CocoObjects]]:
    """Read files of annotations; return them with the places of their pictures."""
    for file, (*folders, _) in files.items():
        content = read_json(file, _File, "COCO")
        names = {category.id: category.name for category in content.categories}
        objects: dict[int | str, list[_Object]] = {image.id: [] for image in content.images}
        for entry in content.annotations:
            for kind, number, listed in (("image", entry.image_id, objects), ("category", entry.category_id, names)):
                if number not in listed:
                    raise InputError(f"{file} has an annotation {entry.id} of {kind} {number}, which it does not list")
            objects[entry.image_id].append(entry)
        for image in content.images:
            name = PurePosixPath(image.file_name.replace("\\", "/"))
            place = (*folders, *name.parent.parts, name.stem)
            yield place, CocoObjects(file, classes, image, names, objects[image.id])


def _shapes(entry: _Object) -> tuple[Shape, ...]:
    """Return the shapes of an object; the message of a `ValueError` continues "an object that ..."."""
    if isinstance(entry.segmentation, Runs):
        return (entry.segmentation,)
    if entry.segmentation:
        return tuple(_polygon(numbers) for numbers in entry.segmentation)
    if not entry.bbox:
        raise ValueError("has neither segmentation nor bbox")
    if len(entry.bbox) != 4:
        raise ValueError(f"has a bbox of {len(entry.bbox)} numbers; expected x, y, width, height")
    x, y, width, height = entry.bbox
    if width <= 0 or height <= 0:
        raise ValueError(f"has a bbox of {width:g}x{height:g} px (width x height)")
    x0, y0 = round(x), round(y)
    return (Box(x0, y0, max(round(x + width), x0 + 1), max(round(y + height), y0 + 1)),)


def _polygon(numbers: list[float]) -> Polygon:
    if len(numbers) % 2:
        raise ValueError(f"has a polygon of {len(numbers)} numbers; expected pairs of x and y")
    return Polygon(list(zip(numbers[::2], numbers[1::2], strict=True)))
