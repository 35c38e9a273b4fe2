"""A line with its bridge in a process, and the plant: a PLC by a Modbus client of another author, OPC UA clients."""

import asyncio
import contextlib
import functools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
from asyncua import Client, ua
from asyncua.crypto.cert_gen import dump_private_key_as_pem, generate_private_key, generate_self_signed_app_certificate
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from pymodbus.client import ModbusTcpClient

from heatline.edge.bridge.modbus.registers import BEGIN, COMMANDS, END, ID, TEXT, Block, RegisterBank, register_map
from heatline.edge.bridge.modbus.server import ModbusServer
from heatline.edge.config.bridges import ModbusConfig
from tests.command import HEATLINE
from tests.edge.followed_line import WITHIN_SECONDS, FollowedLine, wait_until
from tests.edge.lines import LineProcess

LINE_FILE = """
bundle = "none"
[[cameras]]
kind = "pattern"
name = "top"
[[cameras]]
kind = "pattern"
name = "side"
[events]
bind = "ipc://{0}/events"
[journal]
bind = "ipc://{0}/follow"
[part]
views = ["top", "side"]
within_ms = 100
"""


class BridgeProcess(LineProcess):
    """`heatline bridge KIND FILE`, which is killed at the end."""

    def __init__(self, kind: str, file: Path, env: Mapping[str, str] | None = None) -> None:
        super().__init__([HEATLINE, "bridge", kind, file], file.with_name(f"bridge-{time.monotonic_ns()}.log"), env)

    def wait_until_logged(self, text: str) -> None:
        wait_until(lambda: text in self.log(), f"the log has {text!r}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.send_signal(number)
        return self.wait(WITHIN_SECONDS)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        assert "Traceback" not in self.log(), self.log()


class BridgedLine(contextlib.AbstractContextManager["BridgedLine"]):
    """A line's journal and its file, with the table of one bridge, which begins with the oldest event."""

    def __init__(self, folder: Path, kind: str, keys: str = "") -> None:
        self.folder, self.kind, self.file = folder, kind, folder / "line1.toml"
        self.events = f"ipc://{folder}/events"
        self.journal = FollowedLine(folder / "journal", f"ipc://{folder}/follow")
        self.write(keys)

    def write(self, keys: str = "") -> None:
        self.file.write_text(f'{LINE_FILE.format(self.folder)}[{self.kind}]\nstart = "first"\n{keys}\n')

    def bridge(self, env: Mapping[str, str] | None = None) -> BridgeProcess:
        return BridgeProcess(self.kind, self.file, env)

    def acked(self, seq: int) -> None:
        self.journal.wait_until_acked(seq, self.kind)

    def __exit__(self, *_: object) -> None:
        self.journal.close()


Values = Mapping[str, Any]
INTEGERS = {1: ModbusTcpClient.DATATYPE.UINT16, 2: ModbusTcpClient.DATATYPE.UINT32, 4: ModbusTcpClient.DATATYPE.UINT64}
"""By the number of their registers."""


class Plc:
    """Reads blocks and writes registers as a PLC does. Integers are read by pymodbus' own client."""

    def __init__(self, port: int, word_order: Literal["big", "little"] = "big") -> None:
        self._order: Literal["big", "little"] = word_order
        self.client = ModbusTcpClient("127.0.0.1", port=port, timeout=WITHIN_SECONDS, retries=0)

    def read(self, block: Block) -> Values:
        """Read a block in one request."""
        reply = self.client.read_input_registers(block.address, count=block.end - block.address, device_id=1)
        assert not reply.isError(), reply
        found: dict[str, Any] = {}
        for name, kind in block.fields.items():
            at = block.addresses[name] - block.address
            own = reply.registers[at : at + kind.registers]
            if kind in (ID, TEXT):
                data = b"".join(word.to_bytes(2, "big") for word in own)
                found[name] = data.hex() if kind is ID else data.rstrip(b"\0").decode("ascii")
            else:
                found[name] = self.client.convert_from_registers(own, INTEGERS[len(own)], word_order=self._order)
        assert found.get(BEGIN) == found.get(END), "a block that is read at once is never torn"
        return found

    def write(self, address: int, words: list[int]) -> None:
        reply = self.client.write_registers(address, words, device_id=1)
        assert not reply.isError(), reply

    def acknowledge(self, number: int) -> None:
        words = self.client.convert_to_registers(number, INTEGERS[2], word_order=self._order)
        self.write(COMMANDS.addresses["acknowledge"], words)

    def command(
        self, code: int, camera: int = 0, product: int = 0, part_id: bytes = b"", length: int | None = None
    ) -> None:
        """Write a command and its arguments in one request."""
        data = part_id.ljust(2 * TEXT.registers, b"\0")
        words = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
        length = len(part_id) if length is None else length
        self.write(COMMANDS.addresses["command"], [code, camera, product, length, *words])

    def until(self, block: Block, description: str = "", **wanted: object) -> Values:
        """Read a block until fields have the wanted values."""
        found: Values = {}

        def is_wanted() -> bool:
            nonlocal found
            found = self.read(block)
            return found.items() >= wanted.items()

        wait_until(is_wanted, description or f"{block.prefix} has {wanted}")
        return found

    def __enter__(self) -> Self:
        wait_until(self.client.connect, "the bridge listens")
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


@contextlib.contextmanager
def modbus_served(address: str, **keys: Any) -> Iterator[int]:
    """Serve registers without a line, in a thread; yield the port. `address`: `tcp://HOST:PORT`. `keys`: of the table
    `[modbus]`."""
    config = msgspec.convert({"listen": address.removeprefix("tcp://"), **keys}, ModbusConfig)
    server, loop = ModbusServer(RegisterBank(register_map(2), config.word_order), config), asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(loop.run_forever)
        try:
            asyncio.run_coroutine_threadsafe(server.start(), loop).result(WITHIN_SECONDS)
            yield int(address.rpartition(":")[2])
        finally:
            asyncio.run_coroutine_threadsafe(server.close(), loop).result(WITHIN_SECONDS)
            loop.call_soon_threadsafe(loop.stop)
            running.result(WITHIN_SECONDS)
            loop.close()


ROOT = "ns=2;s=VisionSystem"


@dataclass(frozen=True)
class Identity:
    """A client's certificate and key, made at the first use."""

    name: str
    folder: Path

    @property
    def der(self) -> Path:
        path = self.folder / f"{self.name}.der"
        if not path.exists():
            key, names = generate_private_key(), [x509.UniformResourceIdentifier(f"urn:{self.name}")]
            made = generate_self_signed_app_certificate(key, self.name, {}, names, [ExtendedKeyUsageOID.CLIENT_AUTH])
            path.with_suffix(".pem").write_bytes(dump_private_key_as_pem(key))
            path.write_bytes(made.public_bytes(Encoding.DER))
        return path


@dataclass(frozen=True)
class OpcuaDoor:
    """Where a bridge listens, and who may connect."""

    folder: Path
    port: int

    def allow(self, identity: Identity, role: str) -> Path:
        path = self.folder / "allowed" / role / f"{identity.name}.der"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(identity.der.read_bytes())
        return path

    def client(self, timeout_s: float = WITHIN_SECONDS) -> Client:
        """Return a client without a certificate, not connected yet."""
        client = Client(f"opc.tcp://127.0.0.1:{self.port}", timeout=timeout_s)
        client.session_timeout = 60_000
        return client

    async def secured(self, identity: Identity) -> Client:
        """Return a client with that certificate, not connected yet."""
        client = self.client()
        client.application_uri = f"urn:{identity.name}"
        await client.set_security(
            SecurityPolicyBasic256Sha256,
            certificate=str(identity.der),
            private_key=str(identity.der.with_suffix(".pem")),
            server_certificate=str(self.folder / "server.der"),
            mode=ua.MessageSecurityMode.SignAndEncrypt,
        )
        return client

    @contextlib.asynccontextmanager
    async def connected(self, identity: Identity) -> AsyncIterator[Client]:
        """Connect as a client with that certificate."""
        async with await self.secured(identity) as client:
            yield client


class Listener:
    """Collects the events of subscriptions."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def event_notification(self, event: Any) -> None:
        self.events.append(event)

    async def subscribe(self, client: Client, kind: str, node: str = ROOT) -> Self:
        subscription = await client.create_subscription(20, self)
        await subscription.subscribe_events(client.get_node(node), client.get_node(f"ns=2;s={kind}"))
        return self


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that is a coroutine."""

    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        asyncio.run(test(*arguments, **fixtures))

    return run


async def until(condition: Callable[[], Awaitable[bool] | bool], description: str) -> None:
    """Wait until a condition is true; the bound is generous."""
    give_up = time.monotonic() + WITHIN_SECONDS
    while True:
        found = condition()
        if await found if isinstance(found, Awaitable) else found:
            return
        assert time.monotonic() < give_up, f"not within {WITHIN_SECONDS:.0f} s: {description}"
        await asyncio.sleep(0.02)


async def call(client: Client, path: str, *arguments: Any) -> Any:
    """Call a method by its path below the root."""
    parent, _, name = f"{ROOT}.{path}".rpartition(".")
    return await client.get_node(parent).call_method(f"2:{name}", *arguments)


async def read(client: Client, path: str) -> tuple[Any, str]:
    """Return a variable's value and status."""
    data = await client.get_node(f"{ROOT}.{path}").read_data_value(raise_on_bad_status=False)
    return data.Value.Value, data.StatusCode.name


async def until_read(client: Client, path: str, value: object, status: str = "Good") -> None:
    """Wait until a variable has a value and a status."""

    async def is_read() -> bool:
        return await read(client, path) == (value, status)

    await until(is_read, f"{path} is {value}, {status}")


async def ids(client: Client) -> list[str]:
    """Return the ids of held results."""
    found, error = await call(client, "ResultManagement.GetResultIdList")
    assert error == 0
    return list(found)


async def until_held(client: Client, expected: list[str]) -> None:
    """Wait until exactly these results are held."""

    async def is_held() -> bool:
        return await ids(client) == expected

    await until(is_held, f"{expected} are held")


async def acknowledge(client: Client, *result_ids: str) -> Any:
    given = ua.Variant(list(result_ids), ua.VariantType.String, is_array=True)
    return await call(client, "ResultManagement.AcknowledgeResults", given)
