"""A live subscriber in a process of its own, which writes a receipt for every message. It ends with its standard input.

python -m heatline.bench.stages.listener ADDRESS
"""

import os
import sys
import threading
import time
import zlib

import msgspec

from heatline.edge.delivery.client.subscriber import Subscriber
from heatline.edge.wire.events import Message, to_frames


class Receipt(msgspec.Struct, frozen=True):
    """Receipt of a message."""

    at_ns: int
    """Monotonic; all processes of a machine share that clock."""
    bytes: int
    """Length of all parts together."""
    crc: int
    """CRC-32 of all parts."""

    @classmethod
    def of(cls, message: Message, at_ns: int) -> "Receipt":
        data = b"".join(to_frames(message))
        return cls(at_ns, len(data), zlib.crc32(data))


def main() -> None:
    threading.Thread(target=_end_with_input, daemon=True).start()
    with Subscriber(sys.argv[1], topics=["verdict."]) as events:
        for message in events:
            if not isinstance(message, Message):
                continue
            receipt = Receipt.of(message, time.monotonic_ns())
            sys.stdout.buffer.write(msgspec.json.encode(receipt) + b"\n")
            sys.stdout.buffer.flush()


def _end_with_input() -> None:
    """End also if the starting process was killed."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
