"""A stage of a frame's way, all by itself, ready to be done over and over."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

from edge.errors import BenchError


class Moved(NamedTuple):
    """Bytes of what a stage is given and of what it makes; what it makes for itself in between is no part of it."""

    read: int
    written: int


class Stage(ABC):
    """Holds what the stage needs until `close`."""

    name: str
    variant: str = ""
    """Which of the ways to do it."""
    frames: int = 1
    """That one run does, or events."""
    helpers: Sequence[int] = ()
    """Ids of other processes that do a part of it."""

    @abstractmethod
    def run(self) -> None:
        """Do it once."""

    @abstractmethod
    def check(self) -> None:
        """See that the last run did all of its work; then there is none any more.

        Raises:
            BenchError: it did not: its time would be no figure.
        """

    @abstractmethod
    def moved(self) -> Moved:
        """What the last run moved, by the arrays and bytes themselves; not to be asked after `check`."""

    def timed(self) -> float:
        """Seconds of a run."""
        began = perf_counter()
        self.run()
        return perf_counter() - began

    def close(self) -> None:  # noqa: B027  (most stages hold nothing but memory)
        """Let go of what it needs."""

    def require(self, holds: bool, what: str) -> None:
        """Raise where a run did not do its work.

        Args:
            what: must hold.
        """
        if not holds:
            raise BenchError(f"{self}: {what} does not hold after a run, so its time says nothing; report this")

    def __str__(self) -> str:
        return f"{self.name} ({self.variant})" if self.variant else self.name
