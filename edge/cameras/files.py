"""Cameras that show files: the pictures of a folder, and a video through OpenCV."""

import contextlib
import functools
import os
from pathlib import Path

import cv2
import numpy as np

from heatline.edge.cameras.base import EndOfFrames, FrameSource, Opened, Pace
from heatline.edge.cameras.settings import FolderSettings, VideoSettings
from heatline.edge.errors import CameraError, InputError
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.images import list_images, read_image
from heatline.edge.util.text import format_count, utf8_safe

HIGHEST_RATE_FPS = 10000.0
"""A file without a frame rate may state an impossible one."""


class FolderCamera(FrameSource[FolderSettings]):
    """Shows the pictures of a folder in order of their names; frame ids count from 1."""

    def __init__(self, settings: FolderSettings) -> None:
        super().__init__(settings)
        self._pace = Pace(settings.rate_fps, self.interrupted)
        self._files: list[Path] = []
        self._read = functools.cache(read_image) if settings.preload else read_image
        self._shown = 0

    def open(self) -> Opened:
        try:
            self._files = list_images(self._settings.path)
        except InputError as error:
            raise CameraError(f"camera {self.name}: {error}") from error
        for path in self._files if self._settings.preload else []:
            with contextlib.suppress(InputError):  # it is reported when it is shown
                self._read(path)
        return Opened(
            found=f"{format_count(len(self._files), 'picture')} in {self._settings.path}",
            period_s=self._pace.period_s,
        )

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        if self._shown >= len(self._files) and not self._settings.loop:
            raise EndOfFrames
        if not self._pace.await_frame(self._shown, timeout_s):
            return None
        path = self._files[self._shown % len(self._files)]
        self._shown += 1
        stamp = Stamp(self.name, self._shown, utf8_safe(path.name))
        try:
            return Frame(stamp, *self._read(path))
        except InputError as error:
            return BadFrame(stamp, "unreadable", str(error))


class VideoCamera(FrameSource[VideoSettings]):
    """Shows the frames of a video, BGR8; frame ids count from 1 and continue over every loop.

    A file states how many frames it has. Before that many have come, a read without a frame stands for one that cannot
    be decoded or is missing at the file's end. FFmpeg skips some frames without an error: they count at the end.
    """

    def __init__(self, settings: VideoSettings) -> None:
        super().__init__(settings)
        self._capture = cv2.VideoCapture()
        self._announced = 0
        """Number of frames that the file states; 0: it states none."""
        self._shown = self._shown_of_loop = 0
        """Numbers of frames, unreadable ones included."""

    def open(self) -> Opened:
        silence_opencv_log()
        self._open_file()
        capture = self._capture
        rate_fps = self._settings.rate_fps or capture.get(cv2.CAP_PROP_FPS)
        if not 0 < rate_fps <= HIGHEST_RATE_FPS:
            raise CameraError(f"camera {self.name}: {self._settings.path} does not state its frame rate; set rate_fps")
        self._pace = Pace(rate_fps, self.interrupted)
        width, height = (int(capture.get(size)) for size in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        frames = format_count(self._announced, "frame") if self._announced else "frames"
        return Opened(
            found=f"{frames} of {width}x{height} px, BGR8, in {self._settings.path}, at {rate_fps:g} frames/s",
            period_s=self._pace.period_s,
        )

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        if not self._pace.await_frame(self._shown, timeout_s):
            return None
        path = self._settings.path
        stamp = Stamp(self.name, self._shown + 1, path.name)  # its time includes reading and decoding
        read, image = self._capture.read()
        if not read and self._shown_of_loop >= self._announced:
            if not self._settings.loop or self._shown_of_loop == 0:  # an empty file would loop without end
                raise EndOfFrames
            self._open_file()
            self._shown_of_loop = 0
            return self.grab(timeout_s)
        self._shown += 1
        self._shown_of_loop += 1
        if read:
            return Frame(stamp, np.asarray(image, np.uint8), "BGR8")
        states = f"{path} states {format_count(self._announced, 'frame')}"
        remedy = "it is damaged or cut off, copy it again"
        return BadFrame(stamp, "unreadable", f"{states}, and frame {self._shown_of_loop} cannot be read; {remedy}")

    def close(self) -> None:
        self._capture.release()

    def _open_file(self) -> None:
        """Open the file, again at the end of a loop."""
        path = self._settings.path
        try:
            with path.open("rb") as file:
                name = str(path.absolute())
                if utf8_safe(name) != name:  # OpenCV dies of it
                    name = f"/proc/self/fd/{file.fileno()}"
                is_open = self._capture.open(name, cv2.CAP_FFMPEG)
        except OSError as error:
            raise CameraError(
                f"camera {self.name}: {path} cannot be read ({error.strerror}); check the path and its permissions"
            ) from error
        if not is_open:
            raise CameraError(
                f"camera {self.name}: {path} cannot be read as a video; expected a whole file that FFmpeg supports, "
                "e.g. MP4, Matroska or AVI"
            )
        self._announced = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)


def silence_opencv_log() -> None:
    """Stop OpenCV and its FFmpeg from writing to standard error: this package raises errors of its own."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when this process opens its first capture
    # OpenCV 5 has moved the function.
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_level(0)
