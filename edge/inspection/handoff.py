"""The bounded hand-off from cameras to inspection. Each camera has a lane with a policy; lanes are served in turn."""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from heatline.edge.cameras.settings import Policy

T = TypeVar("T")


@dataclass(frozen=True)
class Lane:
    """How many of one camera's frames may wait, and what happens when the lane is full.

    `block` makes the camera wait for room, so that no frame is lost: for file sources. `drop_oldest` drops the oldest
    waiting frame: for a camera that does not wait. `drop_newest` drops the new frame: for a line that must finish what
    it has begun, such as all pictures of one part.
    """

    capacity: int
    policy: Policy


class Handoff(Generic[T]):
    """Passes items from one thread per lane to one consumer thread. It serves the lanes in turn, so that no lane
    starves another.
    """

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = dict(lanes)
        self._waiting: dict[str, deque[T]] = {name: deque() for name in lanes}
        self._turn = deque(lanes)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, lane: str, item: T) -> T | None:
        """Add an item to a lane. Return the item that was dropped, or None; once closed, every new item is dropped."""
        capacity, policy = self._lanes[lane].capacity, self._lanes[lane].policy
        with self._changed:
            waiting = self._waiting[lane]
            if policy == "block":
                self._changed.wait_for(lambda: len(waiting) < capacity or self._closed)
            if self._closed:
                return item
            if len(waiting) >= capacity and policy == "drop_newest":
                return item
            dropped = waiting.popleft() if len(waiting) >= capacity else None
            waiting.append(item)
            self._changed.notify_all()
            return dropped

    def get(self) -> T | None:
        """Wait for the next item and return it; None once the hand-off is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._waiting.values()))
            for _ in range(len(self._turn)):
                lane = self._turn[0]
                self._turn.rotate(-1)
                if self._waiting[lane]:
                    item = self._waiting[lane].popleft()
                    self._changed.notify_all()
                    return item
            return None

    def close(self) -> None:
        """Accept no more items. `get` still returns the items that wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def waiting(self) -> int:
        """Return how many items wait, over all lanes."""
        with self._changed:
            return sum(map(len, self._waiting.values()))
