"""Objects in YOLO's text files: one file per picture, with its stem, and a line per object.

A line is `class cx cy w h`, a box by its centre and size, or `class x1 y1 x2 y2 x3 y3 ...`, a polygon. Coordinates are
shares of the picture's width and height, 0 to 1; what extends beyond the picture by less than `SLACK` of it, from
rounding, is clipped. A box may end with the confidence of a detector, which is ignored. Names of classes come from one
of the files `NAMES`; without them, a class has its number for a name.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from heatline.edge.errors import InputError
from heatline.edge.picture_folders import Place
from heatline.edge.util.extras import missing_extra
from heatline.train.readers.annotation import MarkedObject, MarkedObjects, Marks, RelativeBox, RelativePolygon

SLACK = 0.1

NAMES = ("data.yaml", "dataset.yaml", "classes.txt", "obj.names")
"""Files that name classes, beside the folder of the pictures or of the annotations."""


class _Dataset(msgspec.Struct):
    names: list[object] | dict[int, object] = []


@dataclass(frozen=True)
class YoloObjects(MarkedObjects):
    """The objects of one picture."""

    names: Mapping[int, str]

    def marks(self) -> Marks:
        return Marks(None, tuple(self._object(number, line) for number, line in self.lines()))

    def objects(self) -> Counter[str]:
        """Count the objects of each class; named classes without objects count 0."""
        counts = Counter(dict.fromkeys(self.names.values(), 0))
        counts.update(super().objects())
        return counts

    def _object(self, number: int, line: str) -> MarkedObject:
        kind, *words = line.split()
        try:
            at = [float(word) for word in words]
            number_of_class = int(float(kind))  # some tools write 0.0
            if number_of_class != float(kind) or number_of_class < 0:
                at = []
            name = self.names.get(number_of_class, str(number_of_class))
        except (ValueError, OverflowError):
            at = []
        if len(at) == 5:
            del at[4]
        if len(at) < 4 or len(at) % 2 or not all(-SLACK < value < 1 + SLACK for value in at):
            raise InputError(
                f"line {number} of {self.file} is {line[:60]!r}; expected YOLO's class cx cy w h, or class x1 y1 x2 y2 "
                "x3 y3 ..., with a class from 0 and coordinates from 0 to 1"
            )
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


def read(files: Mapping[Path, Place], classes: frozenset[str] | None) -> Iterator[tuple[Place, YoloObjects]]:
    """List annotations with the places of their pictures.

    Raises:
        InputError: the file with the names of classes cannot be read.
    """
    names: dict[Path, dict[int, str]] = {}
    for file, place in files.items():
        if file.parent not in names:
            above = (folder / name for folder in file.parents[: len(place) + 1] for name in NAMES)
            source = next((path for path in above if path.is_file()), None)
            names[file.parent] = {} if source is None else _read_names(source)
        if file.name not in NAMES:
            yield place, YoloObjects(file, classes, names[file.parent])


def _read_names(file: Path) -> dict[int, str]:
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
