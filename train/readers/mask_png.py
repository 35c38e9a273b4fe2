"""Masks: a PNG with the picture's stem and size; every pixel that is not zero is defective."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.edge.images import read_image


@dataclass(frozen=True)
class MaskPng:
    """The mask of one picture."""

    file: Path

    def objects(self) -> Counter[str]:
        """Return an empty count: a mask has no classes."""
        return Counter()

    def marks_defects(self) -> bool:
        """Whether any pixel is not zero."""
        return bool(self._pixels().any())

    def is_exact(self) -> bool:
        """Return True: a mask follows the outline of the defects."""
        return True

    def masks_by_class(self, frame_hw: tuple[int, int]) -> dict[str, NDArray[np.bool_]]:
        """Return no mask: a mask has no classes."""
        return {}

    def mask(self, frame_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the defective pixels, bool [H, W]; in a colour mask, those that are not black."""
        mask = self._pixels()
        if mask.shape != frame_hw:
            raise InputError(
                f"{self.file} is {mask.shape[0]}x{mask.shape[1]} px (height x width), its picture is "
                f"{frame_hw[0]}x{frame_hw[1]}; a mask must have its picture's size"
            )
        return mask

    def _pixels(self) -> NDArray[np.bool_]:
        pixels, pixel_format = read_image(self.file)
        if pixels.ndim == 2:
            return np.asarray(pixels != 0)
        colours = pixels[..., :3] if pixel_format == "BGRA8" else pixels
        return np.asarray(colours.any(axis=2))
