"""The messages that the broker took last, to publish them again if it may not have passed them on.

A broker that is killed loses what it has acknowledged and not yet sent to its subscribers, unless it stores every
message before its PUBACK, which few do.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge.bridge.mqtt.publication import Publication
from edge.wire.following import Delivered

MOST_BYTES = 64 << 20


@dataclass(eq=False)
class Entry:
    """A message of a batch."""

    publication: Publication
    event: Delivered | None = None
    """The event that it belongs to; None: it reports lost events."""
    taken: bool = False
    is_report: bool = False
    """Whether it stands for a message that the broker refuses for what it is."""


class Recent:
    """Holds what was taken within some seconds, and no more than `MOST_BYTES`.

    Args:
        clock: monotonic, s.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._taken: deque[tuple[float, Entry]] = deque()
        self._bytes = 0

    def add(self, entry: Entry) -> None:
        """Add a message that was taken now."""
        now_s = self._clock()
        self._taken.append((now_s, entry))
        self._bytes += len(entry.publication.payload)
        while self._taken and (self._taken[0][0] < now_s - self._seconds or self._bytes > MOST_BYTES):
            self._bytes -= len(self._taken.popleft()[1].publication.payload)

    def take_since(self, at_s: float) -> list[Entry]:
        """Return what was taken within these seconds before a time, and after it, in order; forget all."""
        found = [entry for taken_s, entry in self._taken if taken_s >= at_s - self._seconds]
        self._taken.clear()
        self._bytes = 0
        return list(dict.fromkeys(found))
