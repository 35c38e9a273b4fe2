"""The age of a frame at its arrival, from the camera's clock and the host's."""

SKEW = 500e-6
"""Upper limit of the drift between two quartz clocks. A delay that grows faster is a real delay."""


class CameraClock:
    """Estimates the offset between a camera's clock and the host's from the fastest frames.

    The offset is at most (arrival - timestamp) of any frame; the minimum is the best estimate. As the clocks drift
    apart, the estimate may rise, but no faster than `SKEW`.
    """

    def __init__(self) -> None:
        self._offset_ns: int | None = None
        """An integer: a float that counts ns since 1970 cannot rise by less than 256."""
        self._at_ns = 0

    def age_ns(self, camera_timestamp_ns: int, arrived_ns: int) -> int:
        """Return how much longer than the fastest frame this one took, ns.

        Args:
            camera_timestamp_ns: time of the frame on the camera's clock.
            arrived_ns: time of arrival on the host's monotonic clock.
        """
        offset = arrived_ns - camera_timestamp_ns
        if self._offset_ns is None:
            self._offset_ns = offset
        else:
            self._offset_ns = min(offset, self._offset_ns + round(SKEW * (arrived_ns - self._at_ns)))
        self._at_ns = arrived_ns
        return offset - self._offset_ns
