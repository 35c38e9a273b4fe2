"""A network camera that sends RTSP, through PyAV: every frame is decoded, and the newest one is shown."""

import re
import time
from typing import TYPE_CHECKING

import numpy as np

from heatline.edge.cameras.base import FrameSource, Opened
from heatline.edge.cameras.newest import NewestPicture, ReceivedPicture, Receiver
from heatline.edge.cameras.settings import RtspSettings
from heatline.edge.errors import CameraError, last_line
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.util.extras import missing_extra

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

HIGHEST_RATE_FPS = 1000.0
"""A stream without a frame rate may state that of its clock, 90000."""


class RtspCamera(FrameSource):
    """Shows the newest frame of a stream, RGB8; frame ids count the frames that were decoded, from 1.

    Frames that newer ones replaced are reported as one run of `overload`. Losses on the network are not noticed: the
    frames of a stream have no numbers.
    """

    def __init__(self, settings: RtspSettings) -> None:
        super().__init__(settings.name)
        self._settings = settings
        self._newest: NewestPicture[VideoFrame | None] = NewestPicture()
        self._receiver: _StreamReceiver | None = None
        self._reformatter: VideoReformatter | None = None

    def open(self) -> Opened:
        try:
            import av
            from av.video.reformatter import VideoReformatter
        except ImportError as error:
            raise missing_extra("rtsp", f"camera {self.name}") from error
        began = time.monotonic()
        try:
            container = av.open(
                self._settings.url,
                options={
                    "rtsp_transport": self._settings.transport,
                    "allowed_media_types": "video",
                    "fflags": "nobuffer",  # packets that arrive while FFmpeg probes the stream are old afterwards
                    "fpsprobesize": "0",  # do not probe for as long as it takes to measure the rate
                },
                timeout=(self._settings.open_within_s, self._settings.read_within_s),
            )
        except av.error.FFmpegError as error:
            took_s = time.monotonic() - began
            raise CameraError(f"camera {self.name}: {self._describe_failure(error, took_s)}") from error
        if not container.streams.video:
            container.close()
            raise CameraError(f"camera {self.name}: {_shown(self._settings.url)} has no video; correct the path in url")
        stream = container.streams.video[0]
        stream.codec_context.options = {"flags": "low_delay"}
        self._reformatter = VideoReformatter()
        self._receiver = _StreamReceiver(self._settings, container, stream, self._newest)
        self._receiver.start()
        rate_fps = stream.average_rate
        size = f"{stream.codec_context.width}x{stream.codec_context.height} px"
        return Opened(
            found=f"{stream.codec_context.name} stream of {size}, shown as RGB8, from {_shown(self._settings.url)}",
            period_s=float(1 / rate_fps) if rate_fps is not None and 0 < rate_fps <= HIGHEST_RATE_FPS else None,
        )

    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        received = self._newest.take(timeout_s)
        if received is None or isinstance(received, BadFrame):
            return received
        if received.picture is None:
            return BadFrame(
                received.stamp,
                "unreadable",
                "the frame came incomplete and cannot be decoded; check whether the network loses packets",
            )
        assert self._reformatter is not None, "grabbed before it was opened"
        rgb = self._reformatter.reformat(received.picture, format="rgb24").to_ndarray()
        return Frame(received.stamp, np.asarray(rgb, np.uint8), "RGB8")

    def interrupt(self) -> None:
        self._newest.interrupt()

    def close(self) -> None:
        if self._receiver is not None:
            self._receiver.stop()
            self._receiver = None

    def _describe_failure(self, error: Exception, took_s: float) -> str:
        """Return why the stream cannot be opened, and what to do."""
        import av

        url, within_s = _shown(self._settings.url), self._settings.open_within_s
        reason = getattr(error, "strerror", None) or last_line(error)
        if took_s >= within_s:  # whatever error FFmpeg reports
            return (
                f"{url} did not answer within {within_s:g} s; check the cable and the address, or raise open_within_s"
            )
        if isinstance(error, ConnectionRefusedError):
            return f"{url} refused the connection; is the camera switched on, and the port in url right?"
        if isinstance(error, av.error.HTTPUnauthorizedError):
            return f"{url} expects a valid user and password; set url to rtsp://USER:PASSWORD@..."
        if isinstance(error, av.error.HTTPNotFoundError):
            return f"{url} names a stream that the camera does not have ({reason}); correct the path in url"
        return f"{url} cannot be opened ({reason}); expected an RTSP server with a video stream; correct url"


class _StreamReceiver(Receiver["VideoFrame | None"]):
    """Receives and decodes a stream."""

    def __init__(
        self,
        settings: RtspSettings,
        container: "InputContainer",
        stream: "VideoStream",
        newest: "NewestPicture[VideoFrame | None]",
    ) -> None:
        super().__init__(settings.name, _shown(settings.url), newest)
        self._settings = settings
        self._container, self._stream = container, stream
        self._decoded = 0
        self._damaged = False

    def _close_source(self) -> None:
        self._container.close()

    @property
    def _silence(self) -> str:
        return f"sent nothing for {self._settings.read_within_s:g} s; check the camera and its cable"

    def _receive(self) -> str:
        import av

        try:
            return self._receive_packets()
        except av.error.ExitError:
            return self._silence
        except av.error.FFmpegError as error:
            return f"broke off ({error.strerror or last_line(error)}); it must be opened again"

    def _receive_packets(self) -> str:
        packets = self._container.demux(self._stream)
        while not self._stopped:
            began = time.monotonic()
            packet = next(packets, None)
            if packet is None:
                return "ended its stream; was the camera restarted?"
            if time.monotonic() - began >= self._settings.read_within_s:
                return self._silence  # FFmpeg first returns what it had before: the beginning of an old frame
            self._decode(packet)
        return "was closed"

    def _decode(self, packet: "Packet[VideoStream]") -> None:
        import av

        try:
            pictures = packet.decode()
        except av.error.InvalidDataError:
            self._damaged = True
            if self._decoded:  # a stream that is joined midway begins with packets that cannot be decoded
                self._put(None, None)
            return
        for picture in pictures:
            # Pictures after a damaged one are damaged up to the next key frame, though the decoder does not flag them.
            self._damaged = picture.is_corrupt or (self._damaged and not picture.key_frame)
            self._put(None if self._damaged else picture, _timestamp_ns(picture))

    def _put(self, picture: "VideoFrame | None", timestamp_ns: int | None) -> None:
        self._decoded += 1
        stamp = Stamp(self._camera, self._decoded, camera_timestamp_ns=timestamp_ns)
        self._newest.put(ReceivedPicture(stamp, picture))


def _timestamp_ns(picture: "VideoFrame") -> int | None:
    if picture.pts is None or picture.time_base is None:
        return None
    return int(picture.pts * picture.time_base * 1_000_000_000)


def _shown(url: str) -> str:
    """Return a URL without user and password."""
    return re.sub("(?<=://)[^/]*@", "", url)
