"""Cameras that send without request, of which the newest frame is shown: V4L2 devices through OpenCV, e.g. USB webcams,
and network cameras that send RTSP, through PyAV.
"""

import logging
import os
import re
import threading
import time
from abc import abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from heatline.edge.cameras.base import FrameSource, Opened, SettingsT
from heatline.edge.cameras.files import silence_opencv_log
from heatline.edge.cameras.settings import RtspSettings, V4l2Settings
from heatline.edge.errors import CameraError, last_line
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.util.extras import missing_extra
from heatline.edge.util.process import NamedThread

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream

logger = logging.getLogger(__name__)

T = TypeVar("T")
CLOSE_WITHIN_SECONDS = 1.0
"""After this time, a read that hangs is left to its own timeout."""
HIGHEST_RATE_FPS = 1000.0
"""A device may state an impossible rate, and a stream without a rate that of its clock, 90000."""


class StreamSource(FrameSource[SettingsT], Generic[SettingsT, T]):
    """A camera that sends without request: a thread receives its pictures, and `grab` shows the newest one. Pictures
    that newer ones replaced are reported as one run of `overload`.
    """

    def __init__(self, settings: SettingsT) -> None:
        super().__init__(settings)
        self._changed = threading.Condition()
        self._newest: tuple[Stamp, T] | None = None
        self._replaced: Stamp | None = None
        """The run of pictures before the newest that were not taken."""
        self._next: tuple[Stamp, T] | None = None
        """The picture after a run that was reported: if newer ones replaced it, a slow reader would get losses only."""
        self._end: str | None = None
        """Why no more pictures come."""
        self._receiver: NamedThread | None = None

    @abstractmethod
    def _receive(self) -> str:
        """Put pictures until they end or `interrupted` is set; then close their source and return why."""

    @abstractmethod
    def _to_frame(self, stamp: Stamp, picture: T) -> Frame | BadFrame:
        """Convert a picture that is shown."""

    def start(self, source: str) -> None:
        self._receiver = NamedThread(f"receive {self.name}", self._run, source)
        self._receiver.start()

    def put(self, stamp: Stamp, picture: T) -> None:
        with self._changed:
            if self._newest is not None:
                lost, _ = self._newest
                self._replaced = lost if self._replaced is None else self._replaced.extended_to(lost)
            self._newest = stamp, picture
            self._changed.notify_all()

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        replaced = None
        if self._next is None:
            with self._changed:
                self._changed.wait_for(lambda: self.interrupted.is_set() or self._newest or self._end, timeout_s)
                if self.interrupted.is_set() or not (self._newest or self._end):
                    return None
                if self._newest is None:
                    raise CameraError(self._end)
                self._next, self._newest = self._newest, None
                replaced, self._replaced = self._replaced, None
        if replaced is not None:
            detail = "newer frames came before these were taken; have the camera send fewer or smaller ones"
            return BadFrame(replaced, "overload", detail, "dropped")
        picture, self._next = self._next, None
        return self._to_frame(*picture)

    def interrupt(self) -> None:
        with self._changed:
            self.interrupted.set()
            self._changed.notify_all()

    def close(self) -> None:
        self.interrupt()
        if self._receiver is not None:
            self._receiver.join(CLOSE_WITHIN_SECONDS)

    def _run(self, source: str) -> None:
        try:
            reason = self._receive()
        except Exception as error:
            logger.exception("%s could not be received", source)
            reason = f"broke off ({last_line(error)}); see the log"
        with self._changed:
            self._end = f"camera {self.name}: {source} {reason}"
            self._changed.notify_all()


class V4l2Camera(StreamSource[V4l2Settings, NDArray[np.uint8]]):
    """Shows the newest frame of a device, BGR8; frame ids count the frames that were read, from 1. Frames that the
    driver drops are not noticed: OpenCV hides the sequence numbers.
    """

    def open(self) -> Opened:
        silence_opencv_log()
        try:
            os.close(os.open(self._settings.device, os.O_RDWR | os.O_NONBLOCK))  # OpenCV gives no reason
        except OSError as error:
            raise self._error(
                f"cannot be opened ({error.strerror}); is the camera plugged in? Set device to one of /dev/video*, and "
                "add the user that runs the line to the group of the device, usually video"
            ) from error
        self._capture = cv2.VideoCapture(str(self._settings.device), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            raise self._error("is not a video device that captures, or another program uses it; set device")
        found = self._set_up(self._capture)
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

    def _set_up(self, capture: cv2.VideoCapture) -> Opened:
        wanted = self._settings
        # With a single buffer, the driver would drop frames that begin while another one is converted, unreported.
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 4)
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
            capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, 1)  # V4L2_EXPOSURE_MANUAL: no other mode keeps the exposure
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


class RtspCamera(StreamSource[RtspSettings, "VideoFrame | None"]):
    """Shows the newest frame of a stream, RGB8; frame ids count the frames that were decoded, from 1. Losses on the
    network are not noticed: the frames of a stream have no numbers.
    """

    def __init__(self, settings: RtspSettings) -> None:
        super().__init__(settings)
        self._decoded = 0
        self._damaged = False

    def open(self) -> Opened:
        try:
            import av
            from av.video.reformatter import VideoReformatter
        except ImportError as error:
            raise missing_extra("rtsp", f"camera {self.name}") from error
        url, within_s, began = self._settings.url, self._settings.open_within_s, time.monotonic()
        shown = re.sub("(?<=://)[^/]*@", "", url)  # without user and password
        try:
            container = av.open(
                url,
                options={
                    "rtsp_transport": self._settings.transport,
                    "allowed_media_types": "video",
                    "fflags": "nobuffer",  # packets that arrive while FFmpeg probes the stream are old afterwards
                    "fpsprobesize": "0",  # do not probe for as long as it takes to measure the rate
                },
                timeout=(within_s, self._settings.read_within_s),
            )
        except av.error.FFmpegError as error:
            reason = f"cannot be opened ({error.strerror or last_line(error)}); check that the camera is on, and url"
            if time.monotonic() - began >= within_s:  # whatever error FFmpeg reports
                reason = f"did not answer within {within_s:g} s; check cable and address, or raise open_within_s"
            raise CameraError(f"camera {self.name}: {shown} {reason}") from error
        if not container.streams.video:
            raise CameraError(f"camera {self.name}: {shown} has no video; correct the path in url")
        stream = container.streams.video[0]
        stream.codec_context.options = {"flags": "low_delay"}
        self._container, self._stream, self._reformatter = container, stream, VideoReformatter()
        self.start(shown)
        rate_fps = stream.average_rate
        size = f"{stream.codec_context.width}x{stream.codec_context.height} px"
        return Opened(
            found=f"{stream.codec_context.name} stream of {size}, shown as RGB8, from {shown}",
            period_s=float(1 / rate_fps) if rate_fps is not None and 0 < rate_fps <= HIGHEST_RATE_FPS else None,
        )

    def _to_frame(self, stamp: Stamp, picture: "VideoFrame | None") -> Frame | BadFrame:
        if picture is None:
            detail = "the frame came incomplete and cannot be decoded; check whether the network loses packets"
            return BadFrame(stamp, "unreadable", detail)
        rgb = self._reformatter.reformat(picture, format="rgb24").to_ndarray()
        return Frame(stamp, np.asarray(rgb, np.uint8), "RGB8")

    def _receive(self) -> str:
        import av

        packets = self._container.demux(self._stream)
        silence = f"sent nothing for {self._settings.read_within_s:g} s; check the camera and its cable"
        try:
            while not self.interrupted.is_set():
                began = time.monotonic()
                packet = next(packets, None)
                if packet is None:
                    return "ended its stream; was the camera restarted?"
                if time.monotonic() - began >= self._settings.read_within_s:
                    return silence  # FFmpeg first returns what it had before: the beginning of an old frame
                self._decode(packet)
            return "was closed"
        except av.error.ExitError:
            return silence
        except av.error.FFmpegError as error:
            return f"broke off ({error.strerror or last_line(error)}); it must be opened again"
        finally:
            self._container.close()

    def _decode(self, packet: "Packet[VideoStream]") -> None:
        import av

        try:
            pictures = packet.decode()
        except av.error.InvalidDataError:
            self._damaged = True
            if self._decoded:  # a stream that is joined midway begins with packets that cannot be decoded
                self._show(None, None)
            return
        for picture in pictures:
            # Pictures after a damaged one are damaged up to the next key frame, though the decoder does not flag them.
            self._damaged = picture.is_corrupt or (self._damaged and not picture.key_frame)
            clock_ns = None if picture.time is None else round(picture.time * 1e9)
            self._show(None if self._damaged else picture, clock_ns)

    def _show(self, picture: "VideoFrame | None", timestamp_ns: int | None) -> None:
        self._decoded += 1
        self.put(Stamp(self.name, self._decoded, camera_timestamp_ns=timestamp_ns), picture)
