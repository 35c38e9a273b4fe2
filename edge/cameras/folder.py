"""A camera that shows the pictures of a folder, at a given rate."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from heatline.edge.cameras.base import EndOfFrames, FrameSource, Opened
from heatline.edge.cameras.pacing import Pace
from heatline.edge.cameras.settings import FolderSettings
from heatline.edge.colour import PixelFormat
from heatline.edge.errors import CameraError, GeometryError, InputError
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.images import list_images, read_image
from heatline.edge.util.text import format_count, utf8_safe

MAX_PRELOADED_BYTES = 4 << 30

Picture = tuple[NDArray[np.uint8] | NDArray[np.uint16], PixelFormat]


class FolderCamera(FrameSource):
    """Shows the pictures of a folder in order of their names; frame ids count from 1."""

    def __init__(self, settings: FolderSettings) -> None:
        super().__init__(settings.name)
        self._folder, self._loop, self._preload = settings.path, settings.loop, settings.preload
        self._size = settings.size
        self._pace = Pace(settings.rate_fps)
        self._files: list[Path] = []
        self._preloaded: dict[Path, Picture | InputError] = {}
        self._shown = 0

    def open(self) -> Opened:
        try:
            self._files = list_images(self._folder)
        except InputError as error:
            raise CameraError(f"camera {self.name}: {error}") from error
        if self._preload:
            self._read_all()
        return Opened(
            found=f"{format_count(len(self._files), 'picture')} in {self._folder}",
            period_s=self._pace.period_s,
        )

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        if self._shown >= len(self._files) and not self._loop:
            raise EndOfFrames
        if not self._pace.await_frame(self._shown, timeout_s):
            return None
        path = self._files[self._shown % len(self._files)]
        self._shown += 1
        stamp = Stamp(self.name, self._shown, utf8_safe(path.name))
        picture = self._preloaded.get(path) or _read(path)
        if isinstance(picture, GeometryError) and isinstance(self._size, tuple):
            width, height = self._size
            return BadFrame(stamp, "wrong_size", f"a larger picture came, {width}x{height} px expected")
        if isinstance(picture, InputError):
            return BadFrame(stamp, "unreadable", str(picture))
        return Frame(stamp, *picture)

    def _read_all(self) -> None:
        total_bytes = 0
        for number, path in enumerate(self._files, start=1):
            self._preloaded[path] = picture = _read(path)
            total_bytes += 0 if isinstance(picture, InputError) else picture[0].nbytes
            if total_bytes > MAX_PRELOADED_BYTES:
                raise CameraError(
                    f"camera {self.name}: the first {number} of {format_count(len(self._files), 'picture')} in "
                    f"{self._folder} take {total_bytes / 2**30:.1f} GiB, expected at most "
                    f"{MAX_PRELOADED_BYTES / 2**30:.0f}; show fewer, or leave preload out"
                )

    def interrupt(self) -> None:
        self._pace.interrupt()

    def close(self) -> None:
        """Nothing to release."""


def _read(path: Path) -> Picture | InputError:
    try:
        return read_image(path)
    except InputError as error:
        return error
