"""The interface of all annotation formats: the defective pixels of one picture."""

from collections import Counter
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Annotation(Protocol):
    """The marked defects of one picture. A new format needs a module with such a class and an entry in `TRUTHS`."""

    @property
    def file(self) -> Path:
        """The file that holds the annotation."""

    def objects(self) -> Counter[str]:
        """Count the marked objects of each class, whether the class counts as a defect or not.

        A known class without objects counts 0. Masks have no classes, so their result is empty. Errors as `mask`.
        """

    def marks_defects(self) -> bool:
        """Whether any defect is marked. Errors as `mask`."""

    def is_exact(self) -> bool:
        """Whether the marks follow the outline of the defects; boxes overstate defects. Errors as `mask`."""

    def masks_by_class(self, frame_hw: tuple[int, int]) -> dict[str, NDArray[np.bool_]]:
        """Return the defective pixels of each class that counts as a defect; empty for masks. Errors as `mask`."""

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the defective pixels, bool [H, W].

        Args:
            frame_hw: size of the picture, px.
        Raises:
            InputError: the file cannot be read, or was made for a picture of another size.
        """
