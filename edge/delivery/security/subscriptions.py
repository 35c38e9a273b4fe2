"""What listeners subscribe to: ZeroMQ keeps all of it in memory, without a limit. Here is one."""

import time
from collections.abc import Iterator

import zmq

LONGEST_BYTES = 1024
"""Who subscribes to a longer prefix is hung up on by ZeroMQ."""
MOST_PREFIX_BYTES = 200_000
"""Of different ones, of all listeners together. ZeroMQ takes some 50 bytes of memory for each of them, 10 MB then. A
line has some tens of topics, of some tens of bytes."""
TAKEN_WITHIN_SECONDS = 0.005
"""Between two messages: nobody who floods us with subscriptions keeps events from going out for longer."""
FLOOD = 50_000
"""So many (un)subscriptions without a pause are one: what is not taken by then waits in memory."""


class Subscriptions:
    """Takes them from an XPUB socket, and says when they get too many. In the socket's thread."""

    def __init__(self) -> None:
        self._prefixes: set[int] = set()
        self._prefix_bytes = 0
        self._without_a_pause = 0

    def set_up(self, socket: zmq.Socket[bytes]) -> None:
        """Before the socket is bound."""
        socket.setsockopt(zmq.MAXMSGSIZE, LONGEST_BYTES)

    def taken(self, socket: zmq.Socket[bytes]) -> Iterator[bytes]:
        """The prefixes that are new, as far as they can be taken in `TAKEN_WITHIN_SECONDS`."""
        give_up_s = time.monotonic() + TAKEN_WITHIN_SECONDS
        while time.monotonic() < give_up_s:
            if not socket.poll(0):
                self._without_a_pause = 0
                return
            said = socket.recv()
            self._without_a_pause += 1
            if said[:1] == b"\x01":
                # Those that are given up are not taken off: ZeroMQ also says so where another one keeps it.
                if (prefix := hash(said)) not in self._prefixes:
                    self._prefixes.add(prefix)
                    self._prefix_bytes += len(said)
                yield said[1:]

    @property
    def too_many(self) -> str | None:
        """Why all listeners must be hung up on, in words."""
        if self._prefix_bytes > MOST_PREFIX_BYTES:
            return f"listeners subscribed to different prefixes of more than {MOST_PREFIX_BYTES:,} bytes together"
        if self._without_a_pause > FLOOD:
            return f"more than {FLOOD:,} subscriptions came without a pause"
        return None

    def begin_again(self) -> None:
        """All listeners were hung up on."""
        self._prefixes.clear()
        self._prefix_bytes = 0
        self._without_a_pause = 0
