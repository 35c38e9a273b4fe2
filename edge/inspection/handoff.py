"""The bounded hand-off from cameras to inspection: one lane per camera, with a policy, counted, served in turn."""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from edge.cameras.settings import Policy

T = TypeVar("T")


@dataclass(frozen=True)
class Lane:
    """How one camera's frames wait.

    `block` makes the camera wait for room, so nothing is lost: right for replays. `drop_oldest` keeps the newest
    frames: right for a camera that does not wait. `drop_newest` keeps those that wait: right where what has been begun
    is to be finished, such as all pictures of one part.
    """

    capacity: int
    policy: Policy


class Handoff(Generic[T]):
    """Takes items from one thread per lane, gives them to one other thread, lane by lane in turn: no lane starves
    another.
    """

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = dict(lanes)
        self._waiting: dict[str, deque[T]] = {name: deque() for name in lanes}
        self._turn = deque(lanes)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, lane: str, item: T) -> T | None:
        """Hand over an item; returns the one that had to give way, which may be the item itself once closed."""
        capacity, policy = self._lanes[lane].capacity, self._lanes[lane].policy
        with self._changed:
            waiting = self._waiting[lane]
            if policy == "block":
                self._changed.wait_for(lambda: len(waiting) < capacity or self._closed)
            if self._closed:
                return item
            if len(waiting) >= capacity and policy == "drop_newest":
                return item
            lost = waiting.popleft() if len(waiting) >= capacity else None
            waiting.append(item)
            self._changed.notify_all()
            return lost

    def get(self) -> T | None:
        """The next item; waits for one; None once closed and empty."""
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
        """Take no more. What waits is still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def waiting(self) -> int:
        """How many items wait, over all lanes."""
        with self._changed:
            return sum(map(len, self._waiting.values()))
