"""Boxes in the text files of DeepPCB: one file per picture, of its stem, with a line `x1 y1 x2 y2 type` per defect.

Numbers are separated by spaces or commas. Px count from 0; x1 and y1 belong to the box, x2 and y2 do not. DeepPCB does
not say so; of 2,149 of its boxes (every fourth file), the defect reaches column x1 in 28 and row y1 in 42, column x2 in
5 and row y2 in none. Types are numbered as in its README, and any other number is its own name.
"""

from collections import Counter
from pathlib import Path

from edge.errors import InputError
from train.readers.shapes import Box, MarkedObject, MarkedObjects, Marks

TYPES = {1: "open", 2: "short", 3: "mousebite", 4: "spur", 5: "copper", 6: "pin-hole"}


class DeepPcbBoxes(MarkedObjects):
    """The boxes of one picture."""

    def marks(self) -> Marks:
        try:
            lines = self.file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.file} cannot be read ({error}); expected a text of boxes, copy it again"
            ) from error
        boxes = (self._box(number, line) for number, line in enumerate(lines, start=1) if line.strip())
        return Marks(None, tuple(boxes))

    def objects(self) -> Counter[str]:
        """How many boxes of each type it has; the known types that it lacks count 0."""
        found = Counter(dict.fromkeys(TYPES.values(), 0))
        found.update(super().objects())
        return found

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


def read(folder: Path, classes: frozenset[str] | None) -> dict[str, DeepPcbBoxes]:
    """The annotations of a folder, by the stem of their pictures."""
    return {file.stem: DeepPcbBoxes(file, classes) for file in sorted(folder.glob("*.txt"))}
