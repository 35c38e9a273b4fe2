"""A network camera that sends RTSP, through PyAV: every frame is decoded, and the newest one is shown."""

import re
import time
from typing import TYPE_CHECKING

import numpy as np

from heatline.edge.cameras.base import Opened, StreamSource
from heatline.edge.cameras.settings import RtspSettings
from heatline.edge.errors import CameraError, last_line
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.util.extras import missing_extra

if TYPE_CHECKING:
    from av import Packet, VideoFrame, VideoStream

HIGHEST_RATE_FPS = 1000.0
"""A stream without a frame rate may state that of its clock, 90000."""


class RtspCamera(StreamSource["VideoFrame | None"]):
    """Shows the newest frame of a stream, RGB8; frame ids count the frames that were decoded, from 1. Losses on the
    network are not noticed: the frames of a stream have no numbers.
    """

    def __init__(self, settings: RtspSettings) -> None:
        super().__init__(settings.name)
        self._settings = settings
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
            container.close()
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

        try:
            return self._receive_packets()
        except av.error.ExitError:
            return self._silence
        except av.error.FFmpegError as error:
            return f"broke off ({error.strerror or last_line(error)}); it must be opened again"
        finally:
            self._container.close()

    @property
    def _silence(self) -> str:
        return f"sent nothing for {self._settings.read_within_s:g} s; check the camera and its cable"

    def _receive_packets(self) -> str:
        packets = self._container.demux(self._stream)
        while not self.interrupted.is_set():
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
                self._show(None, None)
            return
        for picture in pictures:
            # Pictures after a damaged one are damaged up to the next key frame, though the decoder does not flag them.
            self._damaged = picture.is_corrupt or (self._damaged and not picture.key_frame)
            self._show(None if self._damaged else picture, _timestamp_ns(picture))

    def _show(self, picture: "VideoFrame | None", timestamp_ns: int | None) -> None:
        self._decoded += 1
        self.put(Stamp(self.name, self._decoded, camera_timestamp_ns=timestamp_ns), picture)


def _timestamp_ns(picture: "VideoFrame") -> int | None:
    if picture.pts is None or picture.time_base is None:
        return None
    return int(picture.pts * picture.time_base * 1_000_000_000)
