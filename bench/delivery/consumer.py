"""A durable consumer in a process of its own, which notes when each event came. Written when it is told to end.

python -m bench.delivery.consumer ADDRESS FILE
"""

import signal
import sys
import time
from array import array
from contextlib import suppress
from pathlib import Path

from edge.delivery.client.follower import Follower

NAME = "bench"


class Ended(Exception):
    """SIGTERM."""


def main() -> None:
    address, path = sys.argv[1:]
    noted = array("q")  # seq and receipt, monotonic ns

    def end(*_: object) -> None:
        raise Ended

    signal.signal(signal.SIGTERM, end)
    with suppress(Ended), Follower(address, NAME) as events:
        for event in events:
            noted.extend((event.seq, time.monotonic_ns()))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(path).write_bytes(noted.tobytes())


def read(path: Path) -> dict[int, int]:
    """When each event came first, by its seq."""
    noted = array("q")
    noted.frombytes(path.read_bytes())
    came: dict[int, int] = {}
    for seq, at_ns in zip(noted[::2], noted[1::2], strict=True):
        came.setdefault(seq, at_ns)
    return came


if __name__ == "__main__":
    main()
