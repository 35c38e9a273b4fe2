"""What every annotation format comes down to: the defective pixels of one picture."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Annotation(Protocol):
    """Where one picture is defective. A new format is a new file with such a class, and a line in `folder.TRUTHS`."""

    @property
    def file(self) -> Path:
        """Where it is written."""

    def marks_defects(self) -> bool:
        """Whether it marks any pixel at all. Errors as `mask`."""

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Defective pixels, bool [H, W], of a picture of that size.

        Raises:
            InputError: the file cannot be read, or was made for a picture of another size.
        """
