"""Objects in COCO's JSON: one or more files `annotations/*.json`, as COCO and CVAT name them, for all pictures.

An object is its `segmentation` (polygons, or run lengths as numbers or as COCO's compressed string), and where it has
none, its `bbox`. A picture is found by the last part of its `file_name`. The format is described at
https://cocodataset.org/#format-data; that of the string only by `rleFrString` in pycocotools' maskApi.c.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from edge.errors import InputError
from train.readers.shapes import Box, MarkedObject, MarkedObjects, Marks, Polygon, Runs, Shape


class _Image(msgspec.Struct):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _Category(msgspec.Struct):
    id: int
    name: str


class _Runs(msgspec.Struct):
    size: tuple[int, int]
    counts: list[int] | str


class _Object(msgspec.Struct):
    image_id: int | str
    category_id: int
    id: int | str = "without id"
    bbox: list[float] | None = None
    segmentation: list[list[float]] | _Runs | None = None


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Object]


@dataclass(frozen=True)
class _Entry:
    """What a file says of one picture."""

    image: _Image
    names: dict[int, str]
    """Classes by number."""
    objects: list[_Object]


@dataclass(frozen=True)
class CocoObjects(MarkedObjects):
    """The objects of one picture."""

    entry: _Entry

    @property
    def where(self) -> str:
        return f"{self.file} (image {self.entry.image.file_name})"

    def marks(self) -> Marks:
        image = self.entry.image
        size = None if image.height is None or image.width is None else (image.height, image.width)
        return Marks(size, tuple(self._object(found) for found in self.entry.objects))

    def objects(self) -> Counter[str]:
        """How many objects of each class it has; the file's other categories count 0."""
        found = Counter(dict.fromkeys(self.entry.names.values(), 0))
        found.update(self.entry.names[one.category_id] for one in self.entry.objects)
        return found

    def _object(self, found: _Object) -> MarkedObject:
        name = self.entry.names[found.category_id]
        told = f"{name} (annotation {found.id})"
        try:
            return MarkedObject(name, _shapes(found), told)
        except ValueError as error:
            raise InputError(f"{self.where} has a {told} that {error}; mend it, or take it out") from error


def read(folder: Path, classes: frozenset[str] | None) -> dict[str, CocoObjects]:
    """The annotations of a folder, by the stem of their pictures.

    Raises:
        InputError: a file is damaged, names what it does not list, or a picture is listed twice.
    """
    read: dict[str, CocoObjects] = {}
    for file in sorted(folder.glob("*.json")):
        for image, entry in _entries(file):
            stem = PurePosixPath(image.file_name.replace("\\", "/")).stem
            if stem in read:
                raise InputError(
                    f"{file} lists {image.file_name}, and {read[stem].where} is a picture of the same name; pictures "
                    "lie in one folder, so each needs a name of its own, and is listed once"
                )
            read[stem] = CocoObjects(file, classes, entry)
    return read


def _entries(file: Path) -> list[tuple[_Image, _Entry]]:
    try:
        content = msgspec.json.decode(file.read_bytes(), type=_File)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file} is no COCO annotation ({error}); expected its JSON, export it again") from error
    names = {category.id: category.name for category in content.categories}
    objects: dict[int | str, list[_Object]] = {image.id: [] for image in content.images}
    for found in content.annotations:
        for what, number, listed in (("image", found.image_id, objects), ("category", found.category_id, names)):
            if number not in listed:
                raise InputError(f"{file} has an annotation {found.id} of {what} {number}, which it does not list")
        objects[found.image_id].append(found)
    return [(image, _Entry(image, names, objects[image.id])) for image in content.images]


def _shapes(found: _Object) -> tuple[Shape, ...]:
    """The parts of an object.

    Raises:
        ValueError: it has none; the message goes on from "an object that ...".
    """
    if isinstance(found.segmentation, _Runs):
        counts = found.segmentation.counts
        return (Runs(found.segmentation.size, _run_lengths(counts) if isinstance(counts, str) else counts),)
    if found.segmentation:
        return tuple(_polygon(numbers) for numbers in found.segmentation)
    if not found.bbox:
        raise ValueError("has neither segmentation nor bbox")
    if len(found.bbox) != 4:
        raise ValueError(f"has a bbox of {len(found.bbox)} numbers; expected x, y, width, height")
    x, y, width, height = found.bbox
    if width <= 0 or height <= 0:
        raise ValueError(f"has a bbox of {width:g}x{height:g} px (width x height)")
    x0, y0 = round(x), round(y)
    return (Box(x0, y0, max(round(x + width), x0 + 1), max(round(y + height), y0 + 1)),)


def _polygon(numbers: list[float]) -> Polygon:
    if len(numbers) % 2:
        raise ValueError(f"has a polygon of {len(numbers)} numbers; expected pairs of x and y")
    return Polygon(list(zip(numbers[::2], numbers[1::2], strict=True)))


def _run_lengths(text: str) -> list[int]:
    """Run lengths from COCO's compressed string.

    Each is a little-endian number of 5 bits a character (from "0" on; 32: more follow; the last one's 16: negative),
    and from the fourth on, the difference to the one two before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"has {character!r} in its run lengths, which is no character of COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("has run lengths that end within a number")
    return counts
