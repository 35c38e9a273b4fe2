"""Which frames are missing between two frame ids."""

from dataclasses import dataclass

MOST_LOST = 32767
"""Farther from one id to the next is no loss but another count."""


@dataclass(frozen=True)
class Gap:
    """Frames that were announced by their ids and never came."""

    ids: list[int]
    """Of all of them, in their order."""


class FrameIds:
    """Follows one camera's frame ids from one opening to the next.

    GigE Vision counts in 16 bits and skips 0: after 65535 comes 1.

    Args:
        highest: the id after which 1 comes again; None: ids do not wrap.
    """

    def __init__(self, highest: int | None) -> None:
        self._highest = highest
        self._last: int | None = None

    def next(self, frame_id: int, last_frame_id: int | None = None) -> Gap | None:
        """Take the next id, or a run of them up to `last_frame_id`; what is missing before it.

        Raises:
            ValueError: ids run back, stand still or leap, so that nobody can say what is missing.
        """
        last, self._last = self._last, frame_id if last_frame_id is None else last_frame_id
        if last is None:
            return None
        step = frame_id - last
        if self._highest is not None:
            step %= self._highest
        # On a circle, a step back is a very long step forward.
        if not 0 < step <= MOST_LOST:
            raise ValueError(f"frame id {frame_id} came after {last}")
        return None if step == 1 else Gap([self._after(last, steps) for steps in range(1, step)])

    def _after(self, frame_id: int, steps: int) -> int:
        return frame_id + steps if self._highest is None else (frame_id + steps - 1) % self._highest + 1
