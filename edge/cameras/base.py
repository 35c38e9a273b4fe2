"""What every kind of camera is. It lives in a child process of its own (`edge.cameras.child`), which may be killed."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import msgspec

from edge.errors import CameraError
from edge.frames import BadFrame, Frame


class EndOfFrames(Exception):
    """The camera has shown all it had: the end of a replay, not a fault."""


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What was found when a camera was opened."""

    found: str
    """In words, for people: model, serial number, size, pixel format."""
    highest_frame_id: int | None = None
    """After which frame ids begin again at 1, e.g. 65535; None: they do not. Only for cameras whose ids show gaps."""
    ids_show_gaps: bool = False
    """Whether a frame id that is left out means a frame that was lost."""
    period_s: float | None = None
    """Time from one frame to the next, where the camera knows it and runs freely."""
    can_be_asked: bool = False
    """Whether `answers` asks the camera itself."""


class FrameSource(ABC):
    """One camera. One thread opens, grabs and closes; another may interrupt, trigger and ask meanwhile."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def open(self) -> Opened:
        """Get ready to grab.

        Raises:
            CameraError: the camera is not there or cannot be used.
            MissingExtraError: a library is not installed.
        """

    @abstractmethod
    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        """The next frame, or None where none came within the timeout or the wait was interrupted.

        The frame's image may lie in the camera's own memory: it is good until the next `grab` or `close`.

        Raises:
            EndOfFrames: there will be no more.
            CameraError: the camera cannot be used any more.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """End a `grab` that waits, and every later one, at once."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the camera."""

    def trigger(self) -> None:
        """Have the camera take one frame now.

        Raises:
            CameraError: it cannot be triggered, or did not take the trigger.
        """
        raise CameraError(f"camera {self.name} cannot be triggered; set its trigger to software")

    def answers(self) -> bool:
        """Whether the camera answers when it is asked, by a register read for example; may take seconds to say no."""
        return True

    def counters(self) -> Mapping[str, int]:
        """What the transport counts since `open`, e.g. packets lost and resent."""
        return {}
