"""What all cameras have in common. Each is opened once in its life, in a process of its own (`cameras.child`)."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.frames import BadFrame, Frame
from heatline.edge.util.channel import Message

HIGHEST_16_BIT_ID = 65535
"""GigE Vision cameras count in 16 bits and skip 0: 1 follows."""


class EndOfFrames(Exception):
    """The camera has shown its last frame: the end of a file source, not a fault."""


class Opened(Message, frozen=True, kw_only=True):
    """Properties of an open camera."""

    found: str
    """Description for people: model, serial number, size, pixel format."""
    ids_show_gaps: bool = False
    """Whether a missing frame id means a lost frame. Ids may wrap from 65535 to 1."""
    period_s: float | None = None
    """Time from one frame to the next; None: the camera does not know it, or does not run freely."""


SettingsT = TypeVar("SettingsT", bound=CameraSettings)


class FrameSource(ABC, Generic[SettingsT]):
    """One camera. One thread opens, grabs and closes; another may interrupt and trigger meanwhile."""

    def __init__(self, settings: SettingsT) -> None:
        self.name, self._settings = settings.name, settings
        self.interrupted = threading.Event()

    @abstractmethod
    def open(self) -> Opened:
        """Prepare to grab. CameraError, MissingExtraError: the camera, or a library, is missing or cannot be used."""

    @abstractmethod
    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        """Return the next frame; None if none came within the timeout or the wait was interrupted.

        The image may lie in the camera's own memory: it is valid until the next `grab` or `close`.
        EndOfFrames, CameraError: there are no more frames, or the camera cannot be used any more.
        """

    def interrupt(self) -> None:
        """Make a `grab` that waits, and every later one, return at once."""
        self.interrupted.set()

    def close(self) -> None:
        """Release the camera."""

    def trigger(self) -> None:
        """Make a camera that waits for software triggers take one frame now. CameraError: it did not."""

    def counters(self) -> Mapping[str, int]:
        """Return the counters of the transport since `open`, e.g. of packets lost and resent."""
        return {}


class Pace:
    """Times at which frames are due: a grid that begins with the first, or at once if there is no rate. A late reader
    catches up and misses none. `interrupted` ends every wait.
    """

    def __init__(self, rate_fps: float | None, interrupted: threading.Event) -> None:
        self._rate_fps, self._interrupted = rate_fps, interrupted
        self._first_due: float | None = None

    @property
    def period_s(self) -> float | None:
        return None if self._rate_fps is None else 1 / self._rate_fps

    def await_frame(self, before: int, timeout_s: float) -> bool:
        """Wait until the frame after this many others is due; return whether it is."""
        if self._rate_fps is None:
            return not self._interrupted.is_set()
        if self._first_due is None:
            self._first_due = time.monotonic()
        wait_s = self._first_due + before / self._rate_fps - time.monotonic()
        return not self._interrupted.wait(min(max(wait_s, 0.0), timeout_s)) and wait_s <= timeout_s
