"""Hands over the newest picture of a camera that sends without request, and reports the pictures that it replaces."""

import logging
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from heatline.edge.errors import CameraError, last_line
from heatline.edge.frames import BadFrame, Stamp
from heatline.edge.util.process import NamedThread

logger = logging.getLogger(__name__)

T = TypeVar("T")
CLOSE_WITHIN_SECONDS = 1.0
"""After this time, a read that hangs is left to its own timeout."""


@dataclass(frozen=True)
class ReceivedPicture(Generic[T]):
    """A picture that was received and is not a frame yet."""

    stamp: Stamp
    picture: T


class NewestPicture(Generic[T]):
    """Holds one picture between a thread that receives and a thread that grabs."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._newest: ReceivedPicture[T] | None = None
        self._replaced: Stamp | None = None
        """Stamp of the run of pictures that were replaced since the last `take`."""
        self._next: ReceivedPicture[T] | None = None
        """The picture after such a run. It cannot be replaced, or a slow reader would get reports of losses only."""
        self._end: str | None = None
        self._interrupted = False

    def put(self, received: ReceivedPicture[T]) -> None:
        """Store a picture; it replaces the one before if that was not taken."""
        with self._changed:
            if self._newest is not None:
                lost = self._newest.stamp
                run = self._replaced
                self._replaced = (
                    lost if run is None else replace(run, last_frame_id=lost.frame_id, frames=run.frames + 1)
                )
            self._newest = received
            self._changed.notify_all()

    def end(self, reason: str) -> None:
        """Record that no more pictures come. The stored picture can still be taken."""
        with self._changed:
            self._end = reason
            self._changed.notify_all()

    def interrupt(self) -> None:
        """Make a `take` that waits, and every later one, return at once."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> ReceivedPicture[T] | BadFrame | None:
        """Return a report of the pictures that were replaced, else the newest picture; None: none came, or interrupted.

        Raises:
            CameraError: no more pictures come, for the reason that `end` was given.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._interrupted or self._has_picture or self._end is not None, timeout_s)
            if self._interrupted:
                return None
            if not self._has_picture and self._end is not None:
                raise CameraError(self._end)
            if self._next is not None:
                after_run, self._next = self._next, None
                return after_run
            newest, self._newest = self._newest, None
            if self._replaced is None:
                return newest
            replaced, self._replaced, self._next = self._replaced, None, newest
            return BadFrame(
                replaced,
                "overload",
                "newer frames came before these were taken; have the camera send fewer or smaller ones",
                "dropped",
            )

    @property
    def _has_picture(self) -> bool:
        return self._next is not None or self._newest is not None


class Receiver(ABC, Generic[T]):
    """The thread that receives pictures. No other thread uses their source.

    Args:
        camera: the camera's name.
        source: the source of the pictures, for people.
        newest: receives the pictures.
    """

    def __init__(self, camera: str, source: str, newest: NewestPicture[T]) -> None:
        self._camera, self._source, self._newest = camera, source, newest
        self._stopped = False
        self._thread = NamedThread(f"receive {camera}", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._thread.join(CLOSE_WITHIN_SECONDS)

    @abstractmethod
    def _receive(self) -> str:
        """Receive pictures until they end or `stop` is called; return the reason of the end."""

    @abstractmethod
    def _close_source(self) -> None:
        """Close the source of the pictures."""

    def _run(self) -> None:
        try:
            reason = self._receive()
        except Exception as error:
            logger.exception("%s could not be received", self._source)
            reason = f"broke off ({last_line(error)}); see the log"
        finally:
            self._close_source()
        self._newest.end(f"camera {self._camera}: {self._source} {reason}")
