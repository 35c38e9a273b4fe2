"""A camera that shows the pictures of a folder, at a given rate."""

from pathlib import Path

from edge.cameras.base import EndOfFrames, FrameSource, Opened
from edge.cameras.pacing import Pace
from edge.cameras.settings import FolderSettings
from edge.errors import CameraError, InputError
from edge.frames import BadFrame, Frame, Stamp
from edge.images import list_images, read_image
from edge.text import sayable


class FolderCamera(FrameSource):
    """Shows the pictures of a folder by name, frame ids from 1."""

    def __init__(self, settings: FolderSettings) -> None:
        super().__init__(settings.name)
        self._folder, self._loop = settings.path, settings.loop
        self._pace = Pace(settings.rate_fps)
        self._files: list[Path] = []
        self._shown = 0

    def open(self) -> Opened:
        try:
            self._files = list_images(self._folder)
        except InputError as error:
            raise CameraError(f"camera {self.name}: {error}") from error
        return Opened(
            found=f"{len(self._files)} pictures in {self._folder}",
            period_s=self._pace.period_s,
        )

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        if self._shown >= len(self._files) and not self._loop:
            raise EndOfFrames
        if not self._pace.await_frame(self._shown, timeout_s):
            return None
        path = self._files[self._shown % len(self._files)]
        self._shown += 1
        stamp = Stamp(self.name, self._shown, sayable(path.name))
        try:
            image, pixel_format = read_image(path)
        except InputError as error:
            return BadFrame(stamp, "unreadable", str(error))
        return Frame(stamp, image, pixel_format)

    def interrupt(self) -> None:
        self._pace.interrupt()

    def close(self) -> None:
        """There is nothing to let go of."""
