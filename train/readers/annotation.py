"""What every annotation format comes down to: the defective pixels of one picture."""

from collections import Counter
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Annotation(Protocol):
    """Where one picture is defective. A new format is a new file with such a class, and a line in `folder.TRUTHS`."""

    @property
    def file(self) -> Path:
        """Where it is written."""

    def objects(self) -> Counter[str]:
        """How many objects of each class it marks, whether they count as defects or not; a class that it knows and
        does not mark counts 0. Nothing for masks, which have no classes. Errors as `mask`.
        """

    def marks_defects(self) -> bool:
        """Whether it marks any defect at all. Errors as `mask`."""

    def is_exact(self) -> bool:
        """Whether its marks follow the defects. Boxes do not: they overstate them. Errors as `mask`."""

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Defective pixels, bool [H, W], of a picture of that size.

        Raises:
            InputError: the file cannot be read, or was made for a picture of another size.
        """
