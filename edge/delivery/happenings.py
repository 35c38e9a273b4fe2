"""What ZeroMQ tells of a socket's connections through its monitor.

pyzmq reads that as well, in a module that imports asyncio, which would make every start of a line later by a tenth.
"""

import struct

_EVENT_AND_VALUE = struct.Struct("=Hi")


def read_happening(parts: list[bytes]) -> tuple[int, int]:
    """The event, such as `zmq.EVENT_CLOSED`, and its value, of a message of the monitor: event and value, endpoint.

    >>> read_happening([b"\\x00\\x02\\x08\\x00\\x00\\x00", b"tcp://127.0.0.1:5556"])
    (512, 8)
    """
    event, value = _EVENT_AND_VALUE.unpack(parts[0])
    return event, value
