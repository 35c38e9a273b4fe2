"""Boxes in Pascal VOC XML: one file per picture, with the picture's stem, and one `object/bndbox` per defect.

Boxes overstate defects: in the study's PCB images the changed pixels cover about a sixth of their box.
"""

from xml.etree import ElementTree

from heatline.edge.errors import InputError
from heatline.train.readers.shapes import Box, MarkedObject, MarkedObjects, Marks


class VocBoxes(MarkedObjects):
    """The boxes of one picture. VOC counts px from 1; both corners belong to the box."""

    def marks(self) -> Marks:
        try:
            root = ElementTree.parse(self.file).getroot()
        except (OSError, ElementTree.ParseError, LookupError) as error:  # LookupError: unknown encoding
            raise InputError(
                f"{self.file} is not a VOC annotation ({error}); expected its XML, copy it again"
            ) from error
        if root.tag != "annotation":
            raise InputError(f"{self.file} is not a VOC annotation, its root is <{root.tag}>; expected <annotation>")
        return Marks(self._size(root), tuple(self._mark(element) for element in root.iter("object")))

    def _size(self, root: ElementTree.Element) -> tuple[int, int] | None:
        size = root.find("size")
        if size is None or size.find("height") is None or size.find("width") is None:
            return None
        return self._px(size, "height"), self._px(size, "width")

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
