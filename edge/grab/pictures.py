"""Writes pictures to a folder in the background, in bounded memory, so that grabbing does not wait for the disk."""

import contextlib
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.geometry import TileGrid
from heatline.edge.heatmap_picture import png
from heatline.edge.util.os_errors import writing

MAX_WAITING_BYTES = 512 << 20
"""Limit of the pictures that wait to be written, all cameras together."""
WRITERS = 4
REGION_RGB, TILE_RGB = (255, 220, 0), (0, 200, 255)
SHADE = 3
"""Factor by which pixels outside all tiles are darkened."""


class PictureWriter:
    """Writes pictures, grey [H, W] or RGB [H, W, 3], on threads of its own.

    After an error, nothing more is written.

    Args:
        folder: created if it is missing.
        max_waiting_bytes: limit of the pictures that wait. One picture is always accepted.
    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self._folder, self._max_waiting_bytes = folder, max_waiting_bytes
        self._room = threading.Condition()
        self._waiting_bytes = 0
        self._error: Exception | None = None
        self.written: set[str] = set()
        """Names of the files that were written."""
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            self.existing = [path.name for path in folder.iterdir() if path.is_file()]
            """Names of the files that existed before."""
        self._threads = ThreadPoolExecutor(WRITERS, initializer=_lower_priority)

    def __enter__(self) -> "PictureWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._threads.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def write(self, name: str, picture: NDArray[np.uint8], *, block: bool) -> bool:
        """Queue a picture for writing; return whether there was room for it.

        Args:
            block: wait until there is room.
        """
        with self._room:
            if block:
                self._room.wait_for(lambda: self._has_room(picture))
            elif not self._has_room(picture):
                return False
            self._waiting_bytes += picture.nbytes
        self._threads.submit(self._write_queued, name, picture)
        return True

    def write_now(self, name: str, picture: NDArray[np.uint8]) -> bool:
        """Write a picture; return whether it was written."""
        if self.failed:
            return False
        path = self._folder / name
        try:
            with self._writing():
                path.write_bytes(png(picture))
        except Exception as error:  # `check` raises it
            self._error = error
            with contextlib.suppress(OSError):  # leave no incomplete picture
                path.unlink()
            return False
        self.written.add(name)
        return True

    @property
    def failed(self) -> bool:
        """Whether something could not be written."""
        return self._error is not None

    def check(self) -> None:
        """Check that all accepted pictures were written.

        Raises:
            InputError: a picture was not written.
        """
        if self._error is not None:
            raise self._error

    def _has_room(self, picture: NDArray[np.uint8]) -> bool:
        return not self._waiting_bytes or self._waiting_bytes + picture.nbytes <= self._max_waiting_bytes

    def _write_queued(self, name: str, picture: NDArray[np.uint8]) -> None:
        self.write_now(name, picture)
        with self._room:
            self._waiting_bytes -= picture.nbytes
            self._room.notify_all()

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(self._folder, or_else=", or name another folder with --out")


def _lower_priority() -> None:
    """Give this thread the lowest priority, since frames that wait for the processor are lost."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)  # on Linux a thread has a priority of its own


def draw_region(frame: NDArray[np.uint8], grid: TileGrid) -> NDArray[np.uint8]:
    """Draw the outline of the region of interest and the inspected tiles into a frame; darken the rest.

    Args:
        frame: grey [H, W] or RGB [H, W, 3], of the grid's size.
    Returns: RGB [H, W, 3].
    """
    picture = np.array(cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB) if frame.ndim == 2 else frame, np.uint8)
    side, thick = grid.tile_px, max(2, round(max(grid.frame_hw) / 600))
    outside = np.ones(grid.frame_hw, np.bool_)
    for y, x in grid.origins_yx:
        outside[y : y + side, x : x + side] = False
    picture[outside] //= SHADE
    for y, x in grid.origins_yx:
        cv2.rectangle(picture, (x, y), (x + side - 1, y + side - 1), TILE_RGB, max(1, thick // 2))
    mask = grid.region_of_interest.mask(grid.frame_hw).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, outlines, -1, REGION_RGB, thick)
    return picture
