"""Requests and replies of Modbus, without header: the functions that read and write registers."""

import struct

from heatline.edge.bridge.modbus.bank import RegisterBank

FUNCTIONS = (3, 4, 6, 16, 23)
"""Read holding registers, read input registers, write one register, write registers, and write and read."""
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
MOST_READ, MOST_WRITTEN, MOST_WRITTEN_AND_READ = 125, 123, 121
"""Registers in one request; the last is of function 23."""


def answer(request: bytes, bank: RegisterBank) -> bytes:
    """Return the reply to a request: function code and data.

    Args:
        request: at least the function code.
    """
    function = request[0]
    if function not in FUNCTIONS:
        return refuse(function, ILLEGAL_FUNCTION)
    read_address, read_count, address, words = 0, 0, 0, b""
    try:
        match function:
            case 3 | 4:
                read_address, read_count = struct.unpack(">HH", request[1:])
                is_valid = 1 <= read_count <= MOST_READ
            case 6:
                address, words = struct.unpack(">H2s", request[1:])
                is_valid = True
            case 16:
                address, count, size = struct.unpack_from(">HHB", request, 1)
                words = request[6:]
                is_valid = 1 <= count <= MOST_WRITTEN and 2 * count == size == len(words)
            case _:
                read_address, read_count, address, count, size = struct.unpack_from(">HHHHB", request, 1)
                words = request[10:]
                is_valid = 1 <= count <= MOST_WRITTEN_AND_READ and 2 * count == size == len(words)
                is_valid = is_valid and 1 <= read_count <= MOST_READ
    except struct.error:
        is_valid = False
    if not is_valid:
        return refuse(function, ILLEGAL_VALUE)
    values = struct.unpack(f">{len(words) // 2}H", words)
    if bank.read(read_address, read_count) is None or (values and not bank.write(address, values)):
        return refuse(function, ILLEGAL_ADDRESS)
    if not read_count:
        return request[:5]
    read = bank.read(read_address, read_count) or []  # as written in the same request
    return struct.pack(f">BB{read_count}H", function, 2 * read_count, *read)


def refuse(function: int, reason: int) -> bytes:
    """Return an exception response."""
    return bytes([function | 0x80, reason])
