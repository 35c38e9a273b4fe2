"""Which part a frame shows.

A part is expected from the moment its trigger is sent (software) or its id is announced (hardware). A frame shows the
part that was expected last when the frame was taken: by time and not by counting, so that a lost frame or a trigger
that was not heard costs its own part its verdict and no other one.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part whose frame is waited for. `expected_ns` and `until_ns` are the host's monotonic clock."""

    part_id: str | None
    expected_ns: int
    until_ns: int


class Parts:
    """The parts that one camera's frames are waited for, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[Part] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_until_ns(self) -> int | None:
        """When the first of them has waited long enough."""
        return self._waiting[0].until_ns if self._waiting else None

    def expect(self, part: Part) -> None:
        """The next frame that is taken from now on shows this part."""
        self._waiting.append(part)

    def frame(self, taken_ns: int) -> tuple[Part | None, list[Part]]:
        """A frame came: the part that it shows, or None where none was expected; and the parts that it passed over,
        whose frames will not come any more.
        """
        passed: list[Part] = []
        while self._waiting and self._waiting[0].expected_ns <= taken_ns:
            passed.append(self._waiting.popleft())
        return (passed.pop() if passed else None), passed

    def expired(self, now_ns: int) -> list[Part]:
        """Those that have waited long enough; they wait no more."""
        gone: list[Part] = []
        while self._waiting and self._waiting[0].until_ns <= now_ns:
            gone.append(self._waiting.popleft())
        return gone

    def all(self) -> list[Part]:
        """All of them; they wait no more."""
        gone = list(self._waiting)
        self._waiting.clear()
        return gone
