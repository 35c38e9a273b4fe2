"""What every camera is."""

from abc import ABC, abstractmethod

from edge.frames import BadFrame, Frame


class EndOfFrames(Exception):
    """The camera has shown all it had: the end of a replay, not a fault."""


class FrameSource(ABC):
    """One camera. One thread grabs; any thread may interrupt."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def open(self) -> str:
        """Get ready to grab; returns what was found, in words.

        Raises:
            CameraError: the camera is not there or cannot be used.
        """

    @abstractmethod
    def grab(self, timeout_s: float) -> Frame | BadFrame | None:
        """The next frame, or None where none came within the timeout or the wait was interrupted.

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
