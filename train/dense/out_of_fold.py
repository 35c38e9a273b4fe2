"""Out-of-fold predictions of a cross-validation, and their file in a run's folder. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatline.edge.errors import InputError
from heatline.train.files import write_atomically


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of tiles by heads that were not trained on the tiles' groups."""

    frames: NDArray[np.str_]
    """Names of the pictures, in the order of their tiles."""
    fold: NDArray[np.int64]
    """Fold of each picture."""
    logit: NDArray[np.float32]
    """[N], logit of each grid tile, frame by frame in the grid's order."""
    map: NDArray[np.float16]
    """[N, h, w], map of each grid tile, in logits."""

    def write(self, file: Path) -> None:
        """Write the file; errors as `write_atomically`."""

        def write(path: Path) -> None:
            with path.open("wb") as opened:
                np.savez(opened, frames=self.frames, fold=self.fold, logit=self.logit, map=self.map)

        write_atomically(file, write)

    @classmethod
    def read(cls, file: Path) -> "OutOfFold":
        """Read the file.

        Raises:
            InputError: it does not exist, or is damaged.
        """
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return cls(arrays["frames"], arrays["fold"], arrays["logit"], arrays["map"])
        except Exception as error:  # a damaged archive may raise anything
            raise InputError(f"{file} cannot be read ({error}); train again") from error
