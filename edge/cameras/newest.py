"""The newest picture of a camera that sends without being asked; what it takes the place of is told, not forgotten."""

import logging
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from edge.errors import CameraError, last_line
from edge.frames import BadFrame, Stamp
from edge.util.threads import NamedThread

logger = logging.getLogger(__name__)

T = TypeVar("T")
CLOSE_WITHIN_SECONDS = 1.0
"""After that, a read that hangs is left to its own timeout."""


@dataclass(frozen=True)
class Received(Generic[T]):
    """A picture as it was received, not yet a frame."""

    stamp: Stamp
    picture: T


class Newest(Generic[T]):
    """One place between a thread that receives and one that grabs."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._newest: Received[T] | None = None
        self._replaced: Stamp | None = None
        """Of the run of pictures that were replaced since the last `take`."""
        self._next: Received[T] | None = None
        """The picture after such a run: no longer replaced, lest a slow taker be told of losses and of nothing else."""
        self._end: str | None = None
        self._interrupted = False

    def put(self, received: Received[T]) -> None:
        """Put a picture in the place of the one before, should that still be there."""
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
        """There will be no more pictures; what is there can still be taken."""
        with self._changed:
            self._end = reason
            self._changed.notify_all()

    def interrupt(self) -> None:
        """End a `take` that waits, and every later one, at once."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Received[T] | BadFrame | None:
        """Word of the pictures that were replaced, else the newest picture; None: none came, or interrupted.

        Raises:
            CameraError: there will be no more, for the reason that was given.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._interrupted or self._there or self._end is not None, timeout_s)
            if self._interrupted:
                return None
            if not self._there and self._end is not None:
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
    def _there(self) -> bool:
        return self._next is not None or self._newest is not None


class Receiver(ABC, Generic[T]):
    """The thread that receives pictures; it alone touches what they come from.

    Args:
        camera: its name.
        where: what they come from, for people.
        newest: takes them.
    """

    def __init__(self, camera: str, where: str, newest: Newest[T]) -> None:
        self._camera, self._where, self._newest = camera, where, newest
        self._stopped = False
        self._thread = NamedThread(f"receive {camera}", self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped = True
        self._thread.join(CLOSE_WITHIN_SECONDS)

    @abstractmethod
    def _receive(self) -> str:
        """Receive until there is no more or it is stopped; why there is no more."""

    @abstractmethod
    def _let_go(self) -> None:
        """Close what they come from."""

    def _run(self) -> None:
        try:
            reason = self._receive()
        except Exception as error:
            logger.exception("%s could not be received", self._where)
            reason = f"broke off ({last_line(error)}); see the log"
        finally:
            self._let_go()
        self._newest.end(f"camera {self._camera}: {self._where} {reason}")
