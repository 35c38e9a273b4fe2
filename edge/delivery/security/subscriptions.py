"""Limits the subscriptions of all subscribers, since ZeroMQ keeps them in memory without a limit."""

import time
from collections.abc import Iterator

import zmq

LONGEST_BYTES = 1024
"""ZeroMQ disconnects a client that subscribes to a longer prefix."""
MOST_PREFIX_BYTES = 200_000
"""Limit for the different prefixes of all subscribers together. ZeroMQ takes some 50 bytes of memory for each byte, so
10 MB. A line has some tens of topics of some tens of bytes."""
TAKEN_WITHIN_SECONDS = 0.005
"""Limit between two messages, so that a flood of subscriptions does not delay events for longer."""
FLOOD = 50_000
"""Number of (un)subscriptions without a pause that counts as a flood: those not read by then wait in memory."""


class Subscriptions:
    """Reads subscriptions from an XPUB socket, and detects when there are too many. Used in the socket's thread."""

    def __init__(self) -> None:
        self._prefixes: set[int] = set()
        self._prefix_bytes = 0
        self._without_a_pause = 0

    def set_up(self, socket: zmq.Socket[bytes]) -> None:
        """Set the options that must be set before the socket is bound."""
        socket.setsockopt(zmq.MAXMSGSIZE, LONGEST_BYTES)

    def taken(self, socket: zmq.Socket[bytes]) -> Iterator[bytes]:
        """Yield the prefixes that are new, for at most `TAKEN_WITHIN_SECONDS`."""
        give_up_s = time.monotonic() + TAKEN_WITHIN_SECONDS
        while time.monotonic() < give_up_s:
            if not socket.poll(0):
                self._without_a_pause = 0
                return
            message = socket.recv()
            self._without_a_pause += 1
            if message[:1] == b"\x01":
                # Unsubscriptions are not subtracted: ZeroMQ reports them also while another client has the prefix.
                if (prefix := hash(message)) not in self._prefixes:
                    self._prefixes.add(prefix)
                    self._prefix_bytes += len(message)
                yield message[1:]

    @property
    def too_many(self) -> str | None:
        """Why all subscribers must be disconnected, as a sentence; None: they need not be."""
        if self._prefix_bytes > MOST_PREFIX_BYTES:
            return f"subscribers use different prefixes of more than {MOST_PREFIX_BYTES:,} bytes together"
        if self._without_a_pause > FLOOD:
            return f"more than {FLOOD:,} subscriptions came without a pause"
        return None

    def begin_again(self) -> None:
        """Start again after all subscribers were disconnected."""
        self._prefixes.clear()
        self._prefix_bytes = 0
        self._without_a_pause = 0
