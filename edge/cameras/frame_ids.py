"""Finds the frames that are missing between two frame ids."""

from dataclasses import dataclass

MAX_LOST_FRAMES = 32767
"""A larger step from one id to the next is not a loss: the camera has restarted its count."""


@dataclass(frozen=True)
class Gap:
    """Frames that are missing from the sequence of ids."""

    ids: list[int]
    """Ids of all missing frames, in order."""


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
        """Record the next id, or a run of ids up to `last_frame_id`; return the frames that are missing before it.

        Raises:
            ValueError: ids run back, stand still or leap, so that the missing frames are unknown.
        """
        last, self._last = self._last, frame_id if last_frame_id is None else last_frame_id
        if last is None:
            return None
        step = frame_id - last
        if self._highest is not None:
            step %= self._highest
        # Modulo the highest id, a step back is a very long step forward.
        if not 0 < step <= MAX_LOST_FRAMES:
            raise ValueError(f"frame id {frame_id} came after {last}")
        return None if step == 1 else Gap([self._after(last, steps) for steps in range(1, step)])

    def _after(self, frame_id: int, steps: int) -> int:
        return frame_id + steps if self._highest is None else (frame_id + steps - 1) % self._highest + 1
