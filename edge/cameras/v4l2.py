"""A V4L2 camera, e.g. a USB webcam, through OpenCV."""

import os
import stat

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.cameras.base import Opened, StreamSource
from heatline.edge.cameras.files import silence_opencv_log
from heatline.edge.cameras.settings import V4l2Settings
from heatline.edge.errors import CameraError
from heatline.edge.frames import Frame, Stamp

BUFFERS = 4
"""Buffers of the driver. With a single one, the driver would drop every frame that begins while another one is
converted, and OpenCV reports no drops."""
MANUAL_EXPOSURE = 1
"""V4L2_EXPOSURE_MANUAL: in every other mode the camera overrides the exposure."""
HIGHEST_RATE_FPS = 1000.0


class V4l2Camera(StreamSource[NDArray[np.uint8]]):
    """Shows the newest frame of a device, BGR8; frame ids count the frames that were read, from 1. Frames that the
    driver drops are not noticed: OpenCV hides the sequence numbers.
    """

    def __init__(self, settings: V4l2Settings) -> None:
        super().__init__(settings.name)
        self._settings = settings

    def open(self) -> Opened:
        silence_opencv_log()
        self._check_device()
        self._capture = cv2.VideoCapture(str(self._settings.device), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise self._error("is not a video device that captures, or another program uses it; set device")
        try:
            found = self._set_up(self._capture)
        except CameraError:
            self._capture.release()
            raise
        self.start(str(self._settings.device))
        return found

    def _receive(self) -> str:
        """Read the device; OpenCV aborts a read that hangs after 10 s."""
        capture, frame_id = self._capture, 0
        try:
            while not self.interrupted.is_set():
                read, image = capture.read()
                if not read:
                    return "brought no frame; was it unplugged, or does another program use it?"
                frame_id += 1
                # When the driver took the frame: it stands still when OpenCV repeats a frame after a timeout.
                taken_ns = round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1000) * 1000
                stamp = Stamp(self.name, frame_id, camera_timestamp_ns=taken_ns if taken_ns > 0 else None)
                self.put(stamp, np.asarray(image, np.uint8))
            return "was closed"
        finally:
            capture.release()

    def _to_frame(self, stamp: Stamp, picture: NDArray[np.uint8]) -> Frame:
        return Frame(stamp, picture, "BGR8")

    def _check_device(self) -> None:
        """Find out why a device cannot be opened, since OpenCV gives no reason."""
        device = self._settings.device
        try:
            if not stat.S_ISCHR(device.stat().st_mode):
                raise self._error("is not a device; set device to one of /dev/video*")
            os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK))
        except FileNotFoundError as error:
            raise self._error("is not there; is the camera plugged in? Set device to one of /dev/video*") from error
        except OSError as error:
            raise self._error(
                f"cannot be opened ({error.strerror}); add the user that runs the line to the group of the device, "
                "usually video"
            ) from error

    def _set_up(self, capture: cv2.VideoCapture) -> Opened:
        """Apply the settings, and read back what the driver accepted."""
        wanted = self._settings
        capture.set(cv2.CAP_PROP_BUFFERSIZE, BUFFERS)
        if wanted.fourcc is not None:  # before the size, which depends on it
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*wanted.fourcc))
        if wanted.frame_size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, wanted.frame_size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, wanted.frame_size[1])
        size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        fourcc = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin-1")
        for key, requested, accepted in (
            ("fourcc", wanted.fourcc, fourcc),
            ("frame_size", _px(wanted.frame_size), _px(size)),
        ):
            if requested is not None and requested != accepted:
                raise self._error(
                    f"took {accepted} when asked for {requested}; set {key} to what `v4l2-ctl --list-formats-ext` shows"
                )
        if wanted.exposure is not None:
            capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, MANUAL_EXPOSURE)
        for key, setting, value in (
            ("rate_fps", cv2.CAP_PROP_FPS, wanted.rate_fps),
            ("exposure", cv2.CAP_PROP_EXPOSURE, wanted.exposure),
            ("gain", cv2.CAP_PROP_GAIN, wanted.gain),
        ):
            if value is not None and not capture.set(setting, value):
                raise self._error(f"does not take {key} = {value:g}; leave {key} out, or see `v4l2-ctl --list-ctrls`")
        rate_fps = capture.get(cv2.CAP_PROP_FPS)
        known = 0 < rate_fps <= HIGHEST_RATE_FPS
        return Opened(
            found=f"{self._settings.device}: {_px(size)}, {fourcc} shown as BGR8"
            + (f", {rate_fps:g} frames/s" if known else ""),
            period_s=1 / rate_fps if known else None,
        )

    def _error(self, message: str) -> CameraError:
        return CameraError(f"camera {self.name}: {self._settings.device} {message}")


def _px(size: tuple[int, int] | None) -> str | None:
    return None if size is None else f"{size[0]}x{size[1]} px"
