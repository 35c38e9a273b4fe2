"""A camera's process: `python -m heatline.edge.cameras.child FD`, where FD is its end of the socket to the line. It may
hang, crash or be killed. Frames are converted to RGB directly into the shared memory.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from importlib import import_module
from typing import Literal

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from heatline.edge.cameras.base import EndOfFrames, FrameSource
from heatline.edge.cameras.process import (
    Close,
    Ended,
    FireTrigger,
    FrameReady,
    FromCamera,
    Health,
    ToCamera,
    TriggerResult,
)
from heatline.edge.cameras.settings import CameraSettings, from_bytes
from heatline.edge.colour import to_rgb
from heatline.edge.errors import CameraError, HeatlineError, InputError, MissingExtraError
from heatline.edge.frames import BadFrame, Frame
from heatline.edge.util.channel import Channel, ReleaseSlot, RingWriter
from heatline.edge.util.process import NamedThread
from heatline.edge.util.text import utf8_safe

logger = logging.getLogger(__name__)

GRAB_TIMEOUT_SECONDS = 0.5
SLOT_WITHIN_SECONDS = 0.25
"""A line that drops the oldest frame frees a slot sooner. After this time the line is overloaded."""
HEALTH_EVERY_SECONDS = 1.0
SPARE_SLOTS = 11
"""Slots besides those of the frames that wait to be inspected: a frame's pixels are held until its event is sent. One
is written, one is on its way to the line, one is cut into tiles, two are with the engine, one is judged, two wait with
their judgement and two without one to be reported, and one is reported."""
SOURCES = {
    "folder": ("files", "FolderCamera"),
    "video": ("files", "VideoCamera"),
    "pattern": ("pattern", "PatternCamera"),
    "genicam": ("genicam", "GenicamCamera"),
    "v4l2": ("streams", "V4l2Camera"),
    "rtsp": ("streams", "RtspCamera"),
}
"""Module and class of each kind of camera."""


def make_source(settings: CameraSettings) -> FrameSource[CameraSettings]:
    """Create the camera that the settings describe, not opened yet. Only its own kind's library is loaded."""
    module, name = SOURCES[str(settings.__struct_config__.tag)]
    source: FrameSource[CameraSettings] = getattr(import_module(f"heatline.edge.cameras.{module}"), name)(settings)
    return source


class CameraServer:
    def __init__(self, settings: CameraSettings, line: Channel[FromCamera, ToCamera]) -> None:
        self._settings, self._line = settings, line
        self._source = make_source(settings)
        self._ring = RingWriter(line.send)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Serve the camera until it ends or the line closes it."""
        NamedThread("commands", self._handle_commands).start()
        try:
            opened = self._source.open()
            self._line.send(msgspec.structs.replace(opened, found=utf8_safe(opened.found)))
            NamedThread("health", self._report_health).start()
            while not self._stopping.is_set():
                item = self._source.grab(GRAB_TIMEOUT_SECONDS)
                if isinstance(item, Frame):
                    item = self._send_frame(item)
                if item is not None:
                    self._line.send(replace(item, detail=utf8_safe(item.detail)))
        except EndOfFrames:
            self._line.send(Ended())
        except HeatlineError as error:
            cause: Literal["camera", "library"] = "library" if isinstance(error, MissingExtraError) else "camera"
            self._line.send(Ended(utf8_safe(str(error)), cause))
        finally:
            self._source.close()

    def _send_frame(self, frame: Frame) -> BadFrame | None:
        """Send a frame, or return why that is not possible."""
        height, width = frame.image.shape[:2]
        slot = self._take_slot(height * width * 3)
        if slot is None:
            if self._stopping.is_set():
                return BadFrame(frame.stamp, "stopped", "its camera was closed before there was room for it", "dropped")
            return BadFrame(frame.stamp, "overload", "there was no memory free to hold it", "dropped")
        try:
            to_rgb(frame.image, frame.pixel_format, self._ring.view(slot, (height, width, 3)))
        except InputError as error:
            self._ring.release(self._ring.generation, slot)
            return BadFrame(frame.stamp, "wrong_colour", str(error))
        checksum = digest(frame.image) if self._settings.frozen_after_frames else None
        self._line.send(FrameReady(frame.stamp, slot, (height, width), frame.pixel_format, checksum))
        return None

    def _take_slot(self, frame_bytes: int) -> int | None:
        """Return a free slot, of a new ring if the frame is larger than those before; None: no slot is free."""
        if frame_bytes > self._ring.slot_bytes:
            self._ring.make(self._settings.waiting_frames + SPARE_SLOTS, frame_bytes)
        while not self._stopping.is_set():
            slot = self._ring.take(SLOT_WITHIN_SECONDS)
            # Only a camera that may block waits on; other cameras' frames would grow old.
            if slot is not None or self._settings.on_overload != "block":
                return slot
        return None

    def _handle_commands(self) -> None:
        try:
            while (message := self._line.receive()) is not None:
                match message:
                    case ReleaseSlot(generation, slot):
                        self._ring.release(generation, slot)
                    case FireTrigger(number, not_after_ns):
                        self._line.send(TriggerResult(number, self._fire(not_after_ns)))
                    case Close():
                        self._stopping.set()
                        self._source.interrupt()
        except ConnectionError:
            pass
        except Exception:
            logger.exception("camera %s: its process failed", self._settings.name)
            os._exit(1)
        os._exit(0)  # the line has ended, so nothing waits for the camera any more

    def _report_health(self) -> None:
        with contextlib.suppress(ConnectionError):  # the line has ended
            while not self._stopping.wait(HEALTH_EVERY_SECONDS):
                self._line.send(Health(dict(self._source.counters())))

    def _fire(self, not_after_ns: int) -> str | None:
        if time.monotonic_ns() > not_after_ns:
            return "the camera could not be triggered in time"
        try:
            self._source.trigger()
        except CameraError as error:
            return utf8_safe(str(error))
        return None


def main() -> None:
    """Serve the camera whose settings the first packet holds."""
    # A signal to the process group is meant for the line, which closes this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    end = socket.socket(fileno=int(sys.argv[1]))
    first = end.recv(1 << 20)
    if not first:  # the line has ended
        return
    line = Channel[FromCamera, ToCamera](end, ToCamera)
    with contextlib.suppress(ConnectionError):  # the line has ended
        CameraServer(from_bytes(first), line).run()


def digest(image: NDArray[np.uint8] | NDArray[np.uint16]) -> int:
    """Return XXH3 of the image's bytes, 64 bits: images that differ share it by a chance of one in 2**64.

    It takes less time than to copy the image. It is not a signature: collisions can be made.
    """
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(image).data)


if __name__ == "__main__":
    main()
