"""A camera that shows a video file, through OpenCV."""

import os

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.cameras.base import EndOfFrames, FrameSource, Opened
from edge.cameras.pacing import Pace
from edge.cameras.settings import VideoSettings
from edge.errors import CameraError
from edge.frames import BadFrame, Frame, Stamp
from edge.util.text import format_count, utf8_safe

HIGHEST_RATE_FPS = 10000.0
"""Files that know no rate give one that cannot be."""


def keep_quiet() -> None:
    """Have OpenCV and its FFmpeg write nothing to standard error: what goes wrong is told as an error of ours."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when the first capture of this process is opened
    # OpenCV 5 has moved it.
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_level(0)


class VideoCamera(FrameSource):
    """Shows a video's frames, BGR8, frame ids from 1 and on over every loop.

    A file says how many frames it has: while fewer have come, a read that brings none stands for a frame that cannot
    be decoded, or that the file lacks at its end. FFmpeg passes some over in silence: they are told at the end.
    """

    def __init__(self, settings: VideoSettings) -> None:
        super().__init__(settings.name)
        self._settings = settings
        self._capture: cv2.VideoCapture | None = None
        self._announced = 0
        """How many frames the file says it has; 0: it does not say."""
        self._pace = Pace(settings.rate_fps)
        self._shown = 0
        """Frames, with those that could not be read."""
        self._shown_of_loop = 0
        self._read_ahead: NDArray[np.uint8] | None = None
        """The frame after some that could not be read."""

    def open(self) -> Opened:
        keep_quiet()
        self._capture = capture = self._open_file()
        rate_fps = self._settings.rate_fps or capture.get(cv2.CAP_PROP_FPS)
        if not 0 < rate_fps <= HIGHEST_RATE_FPS:
            raise CameraError(f"camera {self.name}: {self._settings.path} does not say its frame rate; set rate_fps")
        self._pace = Pace(rate_fps)
        width, height = (int(capture.get(which)) for which in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        frames = format_count(self._announced, "frame") if self._announced else "frames"
        return Opened(
            found=f"{frames} of {width}x{height} px, BGR8, in {self._settings.path}, at {rate_fps:g} frames/s",
            period_s=self._pace.period_s,
        )

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        if not self._pace.await_frame(self._shown, timeout_s):
            return None
        stamp = self._stamp(1)
        image = self._read()
        if image is None:
            unreadable = self._read_on()
            if unreadable is not None:
                return unreadable
            self._begin_again()
            return self.grab(timeout_s)
        self._count(1)
        return Frame(stamp, image, "BGR8")

    def interrupt(self) -> None:
        self._pace.interrupt()

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _open_file(self) -> cv2.VideoCapture:
        path = self._settings.path
        try:
            with path.open("rb") as file:
                name = str(path.absolute())
                if utf8_safe(name) != name:  # OpenCV dies of it
                    name = f"/proc/self/fd/{file.fileno()}"
                capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
        except OSError as error:
            raise CameraError(
                f"camera {self.name}: {path} cannot be read ({error.strerror}); check the path and its permissions"
            ) from error
        if not capture.isOpened():
            raise CameraError(
                f"camera {self.name}: {path} is no video that can be read; expected a whole file that FFmpeg knows, "
                "e.g. MP4, Matroska or AVI"
            )
        self._announced = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        return capture

    def _read(self) -> NDArray[np.uint8] | None:
        image, self._read_ahead = self._read_ahead, None
        if image is None:
            assert self._capture is not None, "grabbed before it was opened"
            read, decoded = self._capture.read()
            image = np.asarray(decoded, np.uint8) if read else None
        return image

    def _read_on(self) -> BadFrame | None:
        """After a read that brought none: the frames that cannot be read, up to the next that can; None: the end."""
        lacking = self._announced - self._shown_of_loop
        if lacking <= 0:
            return None
        unreadable = 1
        while unreadable < lacking and self._read_ahead is None:
            self._read_ahead = self._read()
            unreadable += self._read_ahead is None
        stamp = self._stamp(unreadable)
        self._count(unreadable)
        return BadFrame(
            stamp,
            "unreadable",
            f"{self._settings.path} announces {format_count(self._announced, 'frame')}, of which {unreadable} cannot "
            "be read after "
            f"frame {self._shown_of_loop - unreadable}; it is damaged or cut off, copy it again",
        )

    def _begin_again(self) -> None:
        if not self._settings.loop or self._shown_of_loop == 0:  # an empty file would be looped over without end
            raise EndOfFrames
        self.close()
        self._capture = self._open_file()
        self._shown_of_loop = 0

    def _stamp(self, frames: int) -> Stamp:
        """For this many frames that come next."""
        last = None if frames == 1 else self._shown + frames
        return Stamp(self.name, self._shown + 1, self._settings.path.name, last_frame_id=last, frames=frames)

    def _count(self, frames: int) -> None:
        self._shown += frames
        self._shown_of_loop += frames
