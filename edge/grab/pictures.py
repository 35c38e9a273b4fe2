"""Pictures go to a folder beside the grabbing, in bounded memory: frames that wait for a disk are lost."""

import contextlib
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.geometry import TileGrid
from edge.heatmap_picture import png
from edge.util.os_errors import writing

MAX_WAITING_BYTES = 512 << 20
"""Of pictures that wait to be written, all cameras together."""
WRITERS = 4
AREA_RGB, TILE_RGB = (255, 220, 0), (0, 200, 255)
SHADE = 3
"""What no tile looks at is drawn so many times darker."""


class PictureWriter:
    """Writes pictures, grey [H, W] or RGB [H, W, 3], on threads of its own.

    Nothing is written any more once something could not be.

    Args:
        folder: is made where it is not there.
        most_bytes: of pictures that wait. One is always taken.
    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, most_bytes: int = MAX_WAITING_BYTES) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._room = threading.Condition()
        self._waiting_bytes = 0
        self._error: Exception | None = None
        self.written: set[str] = set()
        """The files that were written."""
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            self.earlier = [path.name for path in folder.iterdir() if path.is_file()]
            """The files that were there before."""
        self._threads = ThreadPoolExecutor(WRITERS, initializer=_step_back)

    def __enter__(self) -> "PictureWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._threads.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def save(self, name: str, picture: NDArray[np.uint8], *, waits: bool) -> bool:
        """Have a picture written in a while; False: there was no room for it.

        Args:
            waits: until there is room.
        """
        with self._room:
            if waits:
                self._room.wait_for(lambda: self._has_room(picture))
            elif not self._has_room(picture):
                return False
            self._waiting_bytes += picture.nbytes
        self._threads.submit(self._save, name, picture)
        return True

    def save_now(self, name: str, picture: NDArray[np.uint8]) -> bool:
        """Write a picture; whether it was written."""
        if self.failed:
            return False
        path = self._folder / name
        try:
            with self._writing():
                path.write_bytes(png(picture))
        except Exception as error:  # whatever it is, `check` tells it
            self._error = error
            with contextlib.suppress(OSError):  # half a picture is worse than none
                path.unlink()
            return False
        self.written.add(name)
        return True

    @property
    def failed(self) -> bool:
        """Whether something could not be written."""
        return self._error is not None

    def check(self) -> None:
        """See that all that was taken was written.

        Raises:
            InputError: something was not.
        """
        if self._error is not None:
            raise self._error

    def _has_room(self, picture: NDArray[np.uint8]) -> bool:
        return not self._waiting_bytes or self._waiting_bytes + picture.nbytes <= self._most_bytes

    def _save(self, name: str, picture: NDArray[np.uint8]) -> None:
        self.save_now(name, picture)
        with self._room:
            self._waiting_bytes -= picture.nbytes
            self._room.notify_all()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(self._folder, or_else=", or name another folder with --out")


def _step_back() -> None:
    """Have this thread work when no other one wants to: a frame that waits for the processor is lost."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)  # on Linux a thread has a priority of its own


def area_picture(frame: NDArray[np.uint8], grid: TileGrid) -> NDArray[np.uint8]:
    """A frame with the region of interest outlined and the tiles that are inspected framed, the rest in shade.

    Args:
        frame: grey [H, W] or RGB [H, W, 3], of the grid's size.
    Returns: RGB [H, W, 3].
    """
    picture = np.array(cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) if frame.ndim == 2 else frame, np.uint8)
    side, thick = grid.tile_px, max(2, round(max(grid.frame_hw) / 600))
    in_shade = np.ones(grid.frame_hw, np.bool_)
    for y, x in grid.origins_yx:
        in_shade[y : y + side, x : x + side] = False
    picture[in_shade] //= SHADE
    for y, x in grid.origins_yx:
        cv2.rectangle(picture, (x, y), (x + side - 1, y + side - 1), TILE_RGB, max(1, thick // 2))
    mask = grid.area.mask(grid.frame_hw).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, outlines, -1, AREA_RGB, thick)
    return picture
