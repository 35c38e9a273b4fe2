"""A camera that shows the pictures of a folder, at a given rate."""

import threading
import time
from pathlib import Path

from edge.cameras.base import EndOfFrames, FrameSource
from edge.errors import CameraError, InputError
from edge.frames import BadFrame, Frame, Stamp
from edge.images import list_images, read_image


class FolderCamera(FrameSource):
    """Shows the pictures of a folder by name, frame ids from 1.

    Args:
        rate_fps: pictures per second; None: as fast as they are taken.
        loop: begin again after the last.
    """

    def __init__(self, name: str, folder: Path, *, rate_fps: float | None = None, loop: bool = False) -> None:
        super().__init__(name)
        self._folder, self._rate_fps, self._loop = folder, rate_fps, loop
        self._files: list[Path] = []
        self._shown = 0
        self._first_due: float | None = None
        self._interrupted = threading.Event()

    def open(self) -> str:
        try:
            self._files = list_images(self._folder)
        except InputError as error:
            raise CameraError(f"camera {self.name}: {error}") from error
        return f"{len(self._files)} pictures in {self._folder}"

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        if self._shown >= len(self._files) and not self._loop:
            raise EndOfFrames
        if not self._due(timeout_s):
            return None
        path = self._files[self._shown % len(self._files)]
        self._shown += 1
        stamp = Stamp(self.name, self._shown, path.name)
        try:
            image, pixel_format = read_image(path)
        except InputError as error:
            return BadFrame(stamp, "unreadable", str(error))
        return Frame(stamp, image, pixel_format)

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        """There is nothing to let go of."""

    def _due(self, timeout_s: float) -> bool:
        """Wait for the next picture's time; whether it has come."""
        if self._rate_fps is None:
            return not self._interrupted.is_set()
        if self._first_due is None:
            self._first_due = time.monotonic()
        wait_s = self._first_due + self._shown / self._rate_fps - time.monotonic()
        return not self._interrupted.wait(min(max(wait_s, 0.0), timeout_s)) and wait_s <= timeout_s
