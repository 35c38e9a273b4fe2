"""A camera's clock, read on the host's: how old a frame was when it arrived."""

SKEW = 500e-6
"""Two quartz clocks part by less; frames that fall behind faster than that are late and not just timed otherwise."""


class CameraClock:
    """Learns how far a camera's clock is from the host's from the frames that came fastest.

    The offset between both is at most (arrival - timestamp) of any frame; the least of these is the best guess. As the
    clocks drift apart, the guess may rise, but no faster than they can drift.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None
        """A whole number: a float that counts ns since 1970 stands still where it is to rise by less than 256."""
        self._at_ns = 0

    def age_ns(self, camera_timestamp_ns: int, arrived_ns: int) -> int:
        """How much longer than the fastest frame this one took, ns.

        Args:
            camera_timestamp_ns: on the camera's clock.
            arrived_ns: on the host's monotonic clock.
        """
        offset = arrived_ns - camera_timestamp_ns
        if self._offset_ns is None:
            self._offset_ns = offset
        else:
            self._offset_ns = min(offset, self._offset_ns + round(SKEW * (arrived_ns - self._at_ns)))
        self._at_ns = arrived_ns
        return offset - self._offset_ns
