"""Serves the registers over Modbus TCP: requests and replies, who may connect, and how many."""

import asyncio
import contextlib
import ipaddress
import logging
import struct

from heatline.edge.bridge.modbus.registers import RegisterBank
from heatline.edge.config.bridges import ModbusConfig
from heatline.edge.util.listener import ACCEPTED_AT_ONCE, Listener
from heatline.edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

HEADER = struct.Struct(">HHHB")
"""Transaction, protocol (0), number of bytes that follow, unit; big-endian."""
LONGEST_BYTES = 254
"""Of unit, function and data."""
IDLE_SECONDS = 60.0
"""A connection that sends no request, or does not read its reply, for so long is closed."""
READING, WRITING = (3, 4, 23), (6, 16, 23)
"""Functions: read holding registers, read input registers, write and read; write one register, write registers."""
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3
MOST_READ, MOST_WRITTEN, MOST_WRITTEN_AND_READ = 125, 123, 121
"""Registers in one request; the last is of function 23."""


class ModbusServer:
    """Answers requests, one at a time per connection, in their order."""

    def __init__(self, bank: RegisterBank, config: ModbusConfig) -> None:
        self._bank, self._config, self._networks = bank, config, config.networks
        self._refused = RateLimitedLog(logger)

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            DeliveryError: the address cannot be bound.
        """
        self._listener = Listener(
            self._config.listen,
            self._config.max_connections,
            "the Modbus bridge cannot listen on",
            "end what uses this address, or set another one in modbus.listen",
            self._is_allowed,
        )
        self._server = await asyncio.start_server(
            self._serve, sock=self._listener, backlog=ACCEPTED_AT_ONCE, limit=2 * LONGEST_BYTES
        )

    async def close(self) -> None:
        """Close all connections, once it has started."""
        self._server.close()
        await self._listener.disconnect_all()

    def _is_allowed(self, peer: str) -> bool:
        found = ipaddress.ip_address(peer.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if found.is_loopback or any(found in network for network in self._networks):
            return True
        self._refused.error("a Modbus client at %s was refused; modbus.allow does not name it", found)
        return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # A client that goes, is silent, or sends no Modbus: there is no way to find its next request.
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                while True:
                    async with asyncio.timeout(IDLE_SECONDS):
                        transaction, protocol, length, unit = HEADER.unpack(await reader.readexactly(HEADER.size))
                        if protocol != 0 or not 2 <= length <= LONGEST_BYTES:
                            break
                        request = await reader.readexactly(length - 1)
                        reply = answer(request, self._bank)
                        writer.write(HEADER.pack(transaction, 0, len(reply) + 1, unit) + reply)
                        await writer.drain()
                    await asyncio.sleep(0)  # a client that sends without waiting must not keep the others waiting
        finally:
            writer.transport.abort()


def answer(request: bytes, bank: RegisterBank) -> bytes:
    """Return the reply to a request, which has at least its function code: function code and data."""
    function = request[0]
    read_address, read_count, address, count, size, words = 0, 0, 0, 0, 0, b""
    try:
        match function:
            case 3 | 4:
                read_address, read_count = struct.unpack(">HH", request[1:])
            case 6:
                address, words, count, size = *struct.unpack(">H2s", request[1:]), 1, 2
            case 16:
                (address, count, size), words = struct.unpack_from(">HHB", request, 1), request[6:]
            case 23:
                read_address, read_count, address, count, size = struct.unpack_from(">HHHHB", request, 1)
                words = request[10:]
            case _:
                return _refuse(function, ILLEGAL_FUNCTION)
    except struct.error:
        return _refuse(function, ILLEGAL_VALUE)
    most_written = MOST_WRITTEN_AND_READ if function in READING else MOST_WRITTEN
    is_read = int(function in READING) <= read_count <= MOST_READ
    is_written = int(function in WRITING) <= count <= most_written and 2 * count == size == len(words)
    if not (is_read and is_written):
        return _refuse(function, ILLEGAL_VALUE)
    values = struct.unpack(f">{len(words) // 2}H", words)
    if bank.read(read_address, read_count) is None or (values and not bank.write(address, values)):
        return _refuse(function, ILLEGAL_ADDRESS)
    if not read_count:
        return request[:5]
    read = bank.read(read_address, read_count) or []  # as written in the same request
    return struct.pack(f">BB{read_count}H", function, 2 * read_count, *read)


def _refuse(function: int, reason: int) -> bytes:
    """Return an exception response."""
    return bytes([function | 0x80, reason])
