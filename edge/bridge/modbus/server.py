"""Serves the registers over Modbus TCP: who may connect, how many, and how much a client may ask."""

import asyncio
import contextlib
import ipaddress
import logging
import struct
import time

from heatline.edge.bridge.modbus.bank import RegisterBank
from heatline.edge.bridge.modbus.pdu import answer
from heatline.edge.config.bridges import ModbusConfig
from heatline.edge.util.listener import ACCEPTED_AT_ONCE, MODBUS_QUIET_SECONDS, Listener
from heatline.edge.util.rate_limited_log import RateLimitedLog

logger = logging.getLogger(__name__)

HEADER = struct.Struct(">HHHB")
"""Transaction, protocol (0), number of bytes that follow, unit; big-endian."""
LONGEST_BYTES = 254
"""Of unit, function and data."""
IDLE_SECONDS = 60.0
"""A connection without a request for so long is closed."""
SLICE_SECONDS = 0.1
MOST_IN_A_SLICE = 200
"""Requests of a connection; further ones wait for the next slice, so that a flood leaves the processor to others."""
READ_WITHIN_SECONDS = 5.0
"""A client that does not read its replies for so long is disconnected."""


class ModbusServer:
    """Answers requests, one at a time per connection, in their order."""

    def __init__(self, bank: RegisterBank, config: ModbusConfig) -> None:
        self._bank, self._config = bank, config
        self._networks = config.networks
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused = RateLimitedLog(logger)
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None

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
            quiet_s=MODBUS_QUIET_SECONDS,
            allows=self._is_allowed,
        )
        self._server = await asyncio.start_server(
            self._accepted, sock=self._listener, backlog=ACCEPTED_AT_ONCE, limit=2 * LONGEST_BYTES
        )

    async def close(self) -> None:
        """Close all connections; no request is executed afterwards."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listener is not None:
            await self._listener.disconnect_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)  # of those accepted meanwhile

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_allowed(self, peer: str) -> bool:
        found = ipaddress.ip_address(peer.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        if found.is_loopback or any(found in network for network in self._networks):
            return True
        self._refused.error("a Modbus client at %s was refused; modbus.allow does not name it", found)
        return False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._listener is not None
        slice_s, in_slice = time.monotonic(), 0
        try:
            # A client that goes, is silent, or sends no Modbus: there is no way to find its next request.
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, _NotModbusError):
                while True:
                    async with asyncio.timeout(IDLE_SECONDS):
                        header, request = await _next_request(reader)
                    self._listener.requested(writer.transport)
                    now_s = time.monotonic()
                    transaction, _, _, unit = header
                    reply = answer(request, self._bank)
                    writer.write(HEADER.pack(transaction, 0, len(reply) + 1, unit) + reply)
                    async with asyncio.timeout(READ_WITHIN_SECONDS):
                        await writer.drain()
                    if now_s - slice_s >= SLICE_SECONDS:
                        slice_s, in_slice = now_s, 0
                    in_slice += 1
                    # A client that sends without waiting must not keep the others waiting.
                    await asyncio.sleep(0 if in_slice < MOST_IN_A_SLICE else slice_s + SLICE_SECONDS - now_s)
        finally:
            writer.transport.abort()


class _NotModbusError(Exception):
    """What came is not a request."""


async def _next_request(reader: asyncio.StreamReader) -> tuple[tuple[int, int, int, int], bytes]:
    transaction, protocol, length, unit = HEADER.unpack(await reader.readexactly(HEADER.size))
    if protocol != 0 or not 2 <= length <= LONGEST_BYTES:
        raise _NotModbusError
    return (transaction, protocol, length, unit), await reader.readexactly(length - 1)
