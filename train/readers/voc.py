"""Boxes in Pascal VOC XML: one file per picture, of its stem, with one `object/bndbox` per defect.

Boxes overstate defects: in the study's PCB images the changed pixels are about a sixth of their box.
"""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError


@dataclass(frozen=True)
class VocBoxes:
    """The boxes of one picture."""

    file: Path

    def marks_defects(self) -> bool:
        """Whether there is a box."""
        return self._root().find(".//bndbox") is not None

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Defective pixels, bool [H, W]: all that lie in a box. VOC counts px from 1 and includes both corners."""
        root = self._root()
        height, width = (root.findtext(f"size/{side}") for side in ("height", "width"))
        if height is not None and width is not None and (height, width) != (str(frame_hw[0]), str(frame_hw[1])):
            raise InputError(
                f"{self.file} was made for a picture of {height}x{width} px (height x width), its picture is "
                f"{frame_hw[0]}x{frame_hw[1]}; boxes must be drawn on the picture they belong to"
            )
        mask = np.zeros(frame_hw, np.bool_)
        for box in root.iter("bndbox"):
            x0, y0, x1, y1 = (self._px(box, corner) for corner in ("xmin", "ymin", "xmax", "ymax"))
            if not (1 <= x0 <= x1 <= frame_hw[1] and 1 <= y0 <= y1 <= frame_hw[0]):
                raise InputError(
                    f"{self.file} has a box {x0},{y0} to {x1},{y1} px that does not lie in its picture of "
                    f"{frame_hw[1]}x{frame_hw[0]} (width x height); mend the box"
                )
            mask[y0 - 1 : y1, x0 - 1 : x1] = True
        return mask

    def _root(self) -> ElementTree.Element:
        try:
            return ElementTree.parse(self.file).getroot()
        except (OSError, ElementTree.ParseError) as error:
            raise InputError(f"{self.file} is no VOC annotation ({error}); expected its XML, copy it again") from error

    def _px(self, box: ElementTree.Element, corner: str) -> int:
        text = box.findtext(corner)
        try:
            return round(float(text or ""))
        except ValueError as error:
            raise InputError(f"{self.file} has a box whose {corner} is {text!r}; expected a number of px") from error


def read(folder: Path) -> dict[str, VocBoxes]:
    """The annotations of a folder, by the stem of their pictures."""
    return {file.stem: VocBoxes(file) for file in sorted(folder.glob("*.xml"))}
