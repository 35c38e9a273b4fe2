"""A wall clock that is read only when it can be trusted: it may be wrong after a start, and leap when it is set."""

from collections.abc import Callable

AGREED_SECONDS = 600.0
"""The clock is trusted after it ran evenly with the monotonic clock for this time."""
LEAP_SECONDS = 10.0


class WallClock:
    """Compares the wall clock with the monotonic clock at each call.

    Args:
        wall_ns: UTC, ns since 1970.
        monotonic_s: seconds.
    """

    def __init__(self, wall_ns: Callable[[], int], monotonic_s: Callable[[], float]) -> None:
        self._wall_ns, self._monotonic_s = wall_ns, monotonic_s
        self._agreed_since_s = monotonic_s()
        self._apart_s = self._apart()

    def trusted_ns(self) -> int | None:
        """Return the time: UTC, ns since 1970. None: the clock has not run evenly for long enough."""
        apart_s = self._apart()
        if abs(apart_s - self._apart_s) > LEAP_SECONDS:
            self._agreed_since_s = self._monotonic_s()
        self._apart_s = apart_s
        agreed = self._monotonic_s() - self._agreed_since_s >= AGREED_SECONDS
        return self._wall_ns() if agreed else None

    def _apart(self) -> float:
        return self._wall_ns() / 1e9 - self._monotonic_s()
