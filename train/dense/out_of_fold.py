"""What the heads of a cross-validation say, as a run's folder keeps it. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError
from train.files import write_whole


@dataclass(frozen=True)
class OutOfFold:
    """What heads say of tiles whose groups they were not trained on."""

    frames: NDArray[np.str_]
    """Names of the pictures, in the order of their tiles."""
    fold: NDArray[np.int64]
    """Of each picture."""
    logit: NDArray[np.float32]
    """[N], of each grid tile, frame by frame in the grid's order."""
    map: NDArray[np.float16]
    """[N, h, w]"""

    def write(self, file: Path) -> None:
        def write(place: Path) -> None:
            with place.open("wb") as opened:
                np.savez(opened, frames=self.frames, fold=self.fold, logit=self.logit, map=self.map)

        write_whole(file, write)

    @classmethod
    def read(cls, file: Path) -> "OutOfFold":
        """Raises:
        InputError: it is not there, or damaged.
        """
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                return cls(arrays["frames"], arrays["fold"], arrays["logit"], arrays["map"])
        except Exception as error:  # a damaged archive ends in whatever it trips over
            raise InputError(f"{file} cannot be read ({error}); train again") from error
