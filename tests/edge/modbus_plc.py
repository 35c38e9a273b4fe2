"""A PLC that is simulated by a client of another author, and the bridge's server without a line."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import msgspec
from pymodbus.client import ModbusTcpClient

from heatline.edge.bridge.modbus.registers import (
    BEGIN,
    COMMANDS,
    END,
    ID,
    MAILBOX,
    TEXT,
    UDINT,
    UINT,
    ULINT,
    Block,
    RegisterBank,
    register_map,
)
from heatline.edge.bridge.modbus.server import ModbusServer
from heatline.edge.config.bridges import ModbusConfig
from tests.edge.followed_line import WITHIN_SECONDS, wait_until

TYPES = {
    UINT: ModbusTcpClient.DATATYPE.UINT16,
    UDINT: ModbusTcpClient.DATATYPE.UINT32,
    ULINT: ModbusTcpClient.DATATYPE.UINT64,
}
Values = Mapping[str, Any]


class Plc:
    """Reads blocks and writes registers as a PLC does. Integers are read by pymodbus' own client."""

    def __init__(self, port: int, word_order: Literal["big", "little"] = "big") -> None:
        self._order: Literal["big", "little"] = word_order
        self.client = ModbusTcpClient("127.0.0.1", port=port, timeout=WITHIN_SECONDS, retries=0)
        wait_until(self.client.connect, f"the bridge listens on {port}")

    def words(self, address: int, count: int) -> list[int]:
        reply = self.client.read_input_registers(address, count=count, device_id=1)
        assert not reply.isError(), reply
        return list(reply.registers)

    def read(self, block: Block) -> Values:
        """Read a block in one request."""
        return self.values(block, self.words(block.address, block.end - block.address))

    def values(self, block: Block, words: list[int]) -> Values:
        found: dict[str, Any] = {}
        for name, kind in block.fields.items():
            at = block.addresses[name] - block.address
            own = words[at : at + kind.registers]
            data = b"".join(word.to_bytes(2, "big") for word in own)
            if kind is TEXT:
                found[name] = data.rstrip(b"\0").decode("ascii")
            elif kind is ID:
                found[name] = data.hex()
            else:
                found[name] = self.client.convert_from_registers(own, TYPES[kind], word_order=self._order)
        assert found.get(BEGIN) == found.get(END), "a block that is read at once is never torn"
        return found

    def write(self, address: int, words: list[int]) -> None:
        reply = self.client.write_registers(address, words, device_id=1)
        assert not reply.isError(), reply

    def acknowledge(self, number: int) -> None:
        kind = ModbusTcpClient.DATATYPE.UINT32
        words = self.client.convert_to_registers(number, kind, word_order=self._order)
        self.write(COMMANDS.addresses["acknowledge"], words)

    def command(self, code: int, camera: int = 0, product: int = 0, part_id: str = "") -> None:
        """Write a command and its arguments in one request."""
        data = part_id.encode("latin-1").ljust(64, b"\0")
        words = [int.from_bytes(data[at : at + 2], "big") for at in range(0, 64, 2)]
        self.write(COMMANDS.addresses["command"], [code, camera, product, len(part_id), *words])

    def until(self, block: Block, wanted: Callable[[Values], bool], description: str = "") -> Values:
        """Read a block until it is as wanted."""
        found: list[Values] = []

        def is_wanted() -> bool:
            found.append(self.read(block))
            return wanted(found[-1])

        wait_until(is_wanted, description or f"{block.prefix} is as wanted")
        return found[-1]

    def next_result(self) -> Values:
        """Wait for something in the mailbox."""
        return self.until(MAILBOX, lambda values: values["kind"] != 0, "the mailbox shows something")

    def take(self) -> Values:
        """Wait for something in the mailbox, and acknowledge it."""
        values = self.next_result()
        self.acknowledge(values["number"])
        return values

    def close(self) -> None:
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass
class Served:
    """A server, its registers, and its thread."""

    bank: RegisterBank
    port: int
    loop: asyncio.AbstractEventLoop
    plcs: list[Plc] = field(default_factory=list)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in the thread of the server."""

        async def called() -> Any:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(WITHIN_SECONDS)

    def soon(self, function: Callable[..., object], *arguments: Any) -> None:
        self.loop.call_soon_threadsafe(function, *arguments)

    def plc(self, **options: Any) -> Plc:
        self.plcs.append(Plc(self.port, **options))
        return self.plcs[-1]


@contextlib.contextmanager
def served(address: str, cameras: int = 2, **keys: Any) -> Iterator[Served]:
    """Serve registers in a thread.

    Args:
        address: `tcp://HOST:PORT`.
        keys: of the table `[modbus]`.
    """
    listen = address.removeprefix("tcp://")
    config = msgspec.convert({"listen": listen, "start": "first", **keys}, ModbusConfig)
    bank = RegisterBank(register_map(cameras), config.word_order)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = ModbusServer(bank, config)
    found = Served(bank, int(listen.rpartition(":")[2]), loop)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(WITHIN_SECONDS)
        yield found
    finally:
        for plc in found.plcs:
            plc.close()
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(WITHIN_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WITHIN_SECONDS)
        loop.close()
