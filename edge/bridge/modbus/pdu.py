"""Requests and replies of Modbus, by pymodbus: the only file that knows it, because its names change in minor versions.

pymodbus' own server is not used. It answers one of several requests that arrive together and drops the others, it
answers unknown functions with the wrong function code, and it bounds neither connections nor what a client does not
read (3.16.1).
"""

import logging
from collections.abc import Sequence
from typing import Any, cast

from pymodbus.constants import ExcCodes
from pymodbus.pdu import DecodePDU

from edge.bridge.modbus.bank import Bank

FUNCTIONS = (3, 4, 6, 16, 23)
"""Read holding registers, read input registers, write one register, write registers, and write and read."""
NO_SUCH_UNIT = int(ExcCodes.GATEWAY_NO_RESPONSE)

logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # a hostile client must not fill the disk

_decoder = DecodePDU(True)


async def answer(request: bytes, bank: Bank) -> bytes:
    """Return the reply to a request: function code and data, without header.

    Args:
        request: at least the function code.
    """
    function = request[0]
    if function not in FUNCTIONS:
        return refuse(function, ExcCodes.ILLEGAL_FUNCTION)
    decoded = _decoder.decode(request)
    if decoded is None:
        return refuse(function, ExcCodes.ILLEGAL_VALUE)
    reply = await decoded.datastore_update(cast(Any, _Store(bank)), 0)
    return bytes([reply.function_code]) + reply.encode()


def refuse(function: int, reason: int) -> bytes:
    """Return an exception response."""
    return bytes([function | 0x80, reason])


class _Store:
    """The registers as pymodbus calls them. One table: both functions for reading read all of it."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank

    async def async_getValues(self, _unit: int, _function: int, address: int, count: int) -> list[int] | ExcCodes:
        words = self._bank.read(address, count)
        return ExcCodes.ILLEGAL_ADDRESS if words is None else words

    async def async_setValues(self, _unit: int, _function: int, address: int, values: Sequence[int]) -> ExcCodes | None:
        return None if self._bank.write(address, values) else ExcCodes.ILLEGAL_ADDRESS
