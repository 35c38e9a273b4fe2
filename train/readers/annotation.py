"""The interface of all annotation formats: the defective pixels of one picture, and objects with classes and shapes."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError

OnUnusable = Callable[[Path, InputError], None]
"""Called with the file and the error. If it returns, reading continues without the file's content."""


def stop(file: Path, error: InputError) -> None:
    """Raise the error: reading ends at the first file that cannot be used."""
    raise error


T = TypeVar("T")


def read_json(file: Path, kind: type[T], name: str) -> T:
    """Read an annotation of the format of this name."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file} is not a {name} annotation ({error}); expected its JSON, export it again") from error


SLACK_PX = 1
"""By which a shape may extend beyond its picture, from rounding, and is clipped; px count from 0 at the upper left."""


class Shape(Protocol):
    def draw(self, mask: NDArray[np.bool_]) -> None:
        """Set the shape's pixels in a mask [H, W].

        Raises:
            ValueError: it does not fit a picture of that size; the message continues "a shape that ...".
        """


@dataclass(frozen=True)
class Box:
    """The pixels x0 <= x < x1, y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int

    def draw(self, mask: NDArray[np.bool_]) -> None:
        height, width = mask.shape
        if self.x0 >= self.x1 or self.y0 >= self.y1:
            raise ValueError("has no area")
        if (
            not (-SLACK_PX <= self.x0 < width and -SLACK_PX <= self.y0 < height)
            or not (0 < self.x1 <= width + SLACK_PX)
            or not (0 < self.y1 <= height + SLACK_PX)
        ):
            raise ValueError(_outside(mask))
        mask[max(self.y0, 0) : self.y1, max(self.x0, 0) : self.x1] = True


@dataclass(frozen=True)
class Polygon:
    """Corners x, y, rounded to whole px. The outline belongs to the polygon; it is filled by the even-odd rule.

    As `cv2.fillPoly` draws it: every pixel whose centre lies inside the rounded polygon, and every pixel that an edge
    passes through. This reproduces all 192 published masks of BSData to the pixel.
    """

    corners: Sequence[tuple[float, float]]

    def draw(self, mask: NDArray[np.bool_]) -> None:
        height, width = mask.shape
        corners = np.asarray(self.corners, np.float64)
        if len(corners) < 3:
            raise ValueError(f"has {len(corners)} corners; expected at least 3")
        last = np.array([width - 1, height - 1])
        if corners.min() < -SLACK_PX or (corners > last + SLACK_PX).any():
            raise ValueError(_outside(mask))
        rounded = np.clip(np.rint(corners), 0, last).astype(np.int32)
        cv2.fillPoly(mask.view(np.uint8), [rounded], 1)


@dataclass(frozen=True)
class RelativePolygon:
    """A polygon whose corners x, y are shares of the picture's width and height, 0 to 1."""

    corners: Sequence[tuple[float, float]]

    def draw(self, mask: NDArray[np.bool_]) -> None:
        height, width = mask.shape
        Polygon([(x * width, y * height) for x, y in self.corners]).draw(mask)


class RelativeBox(RelativePolygon):
    """A box by two such corners; it covers at least one px."""

    def draw(self, mask: NDArray[np.bool_]) -> None:
        height, width = mask.shape
        (x0, y0), (x1, y1) = self.corners
        left, top = min(round(x0 * width), width - 1), min(round(y0 * height), height - 1)
        Box(left, top, max(round(x1 * width), left + 1), max(round(y1 * height), top + 1)).draw(mask)


class Rectangle(Polygon):
    """A box that LabelMe stores as two corners: it covers pixels like a polygon and overstates a defect like a box."""


@dataclass(frozen=True)
class Circle:
    """All pixels whose centre is at most `radius` px from (x, y), which must lie in the picture."""

    x: float
    y: float
    radius: float

    def draw(self, mask: NDArray[np.bool_]) -> None:
        height, width = mask.shape
        if not (0 <= self.x < width and 0 <= self.y < height):
            raise ValueError(_outside(mask))
        ys, xs = np.ogrid[:height, :width]
        mask |= (xs - self.x) ** 2 + (ys - self.y) ** 2 <= self.radius**2


@dataclass(frozen=True)
class Runs:
    """COCO's RLE: run lengths down the columns of a picture of `size`, h and w, first outside, then inside."""

    size: tuple[int, int]
    counts: list[int]

    def draw(self, mask: NDArray[np.bool_]) -> None:
        height, width = self.size
        if self.size != mask.shape:
            raise ValueError(f"was made for a picture of {height}x{width} px (height x width)")
        total = height * width
        if min(self.counts, default=0) < 0 or sum(self.counts) != total:
            raise ValueError(f"has run lengths of {sum(self.counts)} px in all; expected {total}, none below 0")
        inside = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        mask |= inside.reshape(width, height).T


def _outside(mask: NDArray[np.bool_]) -> str:
    return f"does not lie in its picture of {mask.shape[1]}x{mask.shape[0]} px (width x height)"


@dataclass(frozen=True)
class MarkedObject:
    name: str
    """Of its class."""
    shapes: tuple[Shape, ...]
    description: str
    """Phrase for messages: the object's kind, and its place in the file or picture."""


@dataclass(frozen=True)
class Marks:
    objects: tuple[MarkedObject, ...]
    known: Collection[str] = ()
    """Classes that the format or the file lists, whether the picture has objects of them or not."""
    frame_hw: tuple[int | None, int | None] = (None, None)
    """Height and width of the annotated picture, px; None: the file does not state it."""


@dataclass(frozen=True)
class Annotation(ABC):
    """The marked defects of one picture: objects with classes, from a file.

    All methods raise `InputError` if the file cannot be read.
    """

    file: Path
    classes: frozenset[str] | None
    """Classes whose objects are defects; None: all."""

    @abstractmethod
    def marks(self) -> Marks:
        """Read the marked objects from the file."""

    def lines(self) -> list[tuple[int, str]]:
        """Return the lines of a text file that are not empty, with their numbers."""
        try:
            lines = self.file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.file} cannot be read ({error}); expected a line per object, copy it again"
            ) from error
        return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]

    @property
    def where(self) -> str:
        """Phrase for messages: which annotation this is."""
        return str(self.file)

    def objects(self) -> Counter[str]:
        """Count the objects of each class, whether it counts as a defect or not; known classes without any count 0."""
        marks = self.marks()
        counts = Counter(dict.fromkeys(marks.known, 0))
        counts.update(marked.name for marked in marks.objects)
        return counts

    def defects(self) -> list[MarkedObject]:
        """Return the objects whose class counts as a defect."""
        return [marked for marked in self.marks().objects if self.classes is None or marked.name in self.classes]

    def marks_defects(self) -> bool:
        """Whether any defect is marked."""
        return bool(self.defects())

    def is_exact(self) -> bool:
        """Whether the marks follow the outline of the defects; boxes overstate defects."""
        loose = Box | Rectangle | RelativeBox
        return not any(isinstance(shape, loose) for marked in self.defects() for shape in marked.shapes)

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the defective pixels, bool [H, W], of a picture of this size, px; another size is an `InputError`."""
        masks = self.masks_by_class(frame_hw).values()
        return np.asarray(np.logical_or.reduce([np.zeros(frame_hw, np.bool_), *masks]))

    def masks_by_class(self, frame_hw: tuple[int, int]) -> dict[str, NDArray[np.bool_]]:
        """Return the defective pixels of each class, as `mask`; empty for masks."""
        height, width = self.marks().frame_hw
        if None not in (height, width) and (height, width) != frame_hw:
            raise InputError(
                f"{self.where} was made for a picture of {height}x{width} px (height x width), its picture is "
                f"{frame_hw[0]}x{frame_hw[1]}; defects must be marked on the picture they belong to"
            )
        masks: dict[str, NDArray[np.bool_]] = {}
        for marked in self.defects():
            mask = masks.setdefault(marked.name, np.zeros(frame_hw, np.bool_))
            for shape in marked.shapes:
                try:
                    shape.draw(mask)
                except ValueError as error:
                    raise InputError(
                        f"{self.where} has a {marked.description} that {error}; correct it, or remove it"
                    ) from error
        return masks
