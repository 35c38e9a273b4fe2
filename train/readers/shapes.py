"""Boxes, polygons, circles and runs: what annotations that are no masks consist of, and which pixels each covers.

Coordinates count px from 0 at the picture's upper left pixel. Annotation tools round, and count from 0 or from 1, so a
shape may stick out of its picture by `SLACK_PX` and is cut off there; one that sticks out further belongs to another
picture.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError

SLACK_PX = 1


class Shape(Protocol):
    """An area of a picture."""

    def draw(self, mask: NDArray[np.bool_]) -> None:
        """Set its pixels in a mask [H, W].

        Raises:
            ValueError: it does not fit a picture of that size; the message goes on from "a shape that ...".
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
    """Corners x, y, rounded to whole px; the outline belongs to it, and where it crosses itself, even-odd decides.

    So `cv2.fillPoly` has it: every pixel whose centre lies inside the rounded polygon, and those that its edges run
    through. It gives the published masks of BSData, all 192, to the pixel.
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


class Rectangle(Polygon):
    """A polygon that was drawn as a box: it covers pixels as a polygon, and overstates a defect as a box."""


@dataclass(frozen=True)
class Circle:
    """All pixels whose centre is at most `radius` px from (x, y).

    Its rim may leave the picture, as no circle follows a border; its centre may not.
    """

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
    """Run lengths down the columns of a picture of `hw`, in turn outside (first) and inside: COCO's RLE."""

    hw: tuple[int, int]
    counts: Sequence[int]

    def draw(self, mask: NDArray[np.bool_]) -> None:
        if self.hw != mask.shape:
            raise ValueError(f"is of a picture of {self.hw[0]}x{self.hw[1]} px (height x width)")
        total = self.hw[0] * self.hw[1]
        if min(self.counts, default=0) < 0 or sum(self.counts) != total:
            raise ValueError(f"has run lengths of {sum(self.counts)} px in all; expected {total}, none below 0")
        inside = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        mask |= inside.reshape(self.hw[1], self.hw[0]).T


def _outside(mask: NDArray[np.bool_]) -> str:
    return f"does not lie in its picture of {mask.shape[1]}x{mask.shape[0]} px (width x height)"


@dataclass(frozen=True)
class MarkedObject:
    """One object of an annotation."""

    name: str
    """Its class."""
    shapes: tuple[Shape, ...]
    told: str
    """What and where it is, as its file puts it."""


@dataclass(frozen=True)
class Marks:
    """What an annotation says of one picture."""

    frame_hw: tuple[int, int] | None
    """The size of the picture it was made for, where it says so."""
    objects: tuple[MarkedObject, ...]


@dataclass(frozen=True)
class MarkedObjects(ABC):
    """An `Annotation` that consists of objects with classes; a format says how `marks` come from its file."""

    file: Path
    classes: frozenset[str] | None
    """Which objects are defects; None: all."""

    @abstractmethod
    def marks(self) -> Marks:
        """What the file says.

        Raises:
            InputError: it is damaged, or no file of this format.
        """

    @property
    def where(self) -> str:
        """Which annotation this is, for messages."""
        return str(self.file)

    def objects(self) -> Counter[str]:
        """How many objects of each class it has."""
        return Counter(marked.name for marked in self.marks().objects)

    def marks_defects(self) -> bool:
        """Whether it has an object that is a defect."""
        return any(self._is_defect(marked) for marked in self.marks().objects)

    def is_exact(self) -> bool:
        """Whether none of its defects is a box."""
        defects = filter(self._is_defect, self.marks().objects)
        return not any(isinstance(shape, Box | Rectangle) for marked in defects for shape in marked.shapes)

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Defective pixels, bool [H, W]: all that lie in an object that is a defect."""
        marks = self.marks()
        if marks.frame_hw is not None and marks.frame_hw != frame_hw:
            height, width = marks.frame_hw
            raise InputError(
                f"{self.where} was made for a picture of {height}x{width} px (height x width), its picture is "
                f"{frame_hw[0]}x{frame_hw[1]}; defects must be marked on the picture they belong to"
            )
        mask = np.zeros(frame_hw, np.bool_)
        for marked in filter(self._is_defect, marks.objects):
            for shape in marked.shapes:
                try:
                    shape.draw(mask)
                except ValueError as error:
                    raise InputError(
                        f"{self.where} has a {marked.told} that {error}; mend it, or take it out"
                    ) from error
        return mask

    def _is_defect(self, marked: MarkedObject) -> bool:
        return self.classes is None or marked.name in self.classes
