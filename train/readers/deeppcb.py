"""Boxes in DeepPCB's text files: one file per picture, with its stem, and a line `x1 y1 x2 y2 type` per defect.

Spaces or commas separate the numbers. Px count from 0; x1 and y1 belong to the box, x2 and y2 do not. DeepPCB does not
document this; of 2,149 of its boxes (every fourth file), the defect reaches column x1 in 28, row y1 in 42, column x2 in
5 and row y2 in none. Type numbers are those of its README; an unknown number is its own class name.
"""

from collections import Counter

from heatline.edge.errors import InputError
from heatline.train.readers.shapes import Box, MarkedObject, MarkedObjects, Marks

TYPES = {1: "open", 2: "short", 3: "mousebite", 4: "spur", 5: "copper", 6: "pin-hole"}


class DeepPcbBoxes(MarkedObjects):
    """The boxes of one picture."""

    def marks(self) -> Marks:
        return Marks(None, tuple(self._box(number, line) for number, line in self.lines()))

    def objects(self) -> Counter[str]:
        """Count the boxes of each type; known types without boxes count 0."""
        counts = Counter(dict.fromkeys(TYPES.values(), 0))
        counts.update(super().objects())
        return counts

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
