"""An OPC UA bridge of a line, and secured clients of it."""

import asyncio
import contextlib
import datetime
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncua import Client, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from heatline.edge.bridge.line import end
from heatline.edge.bridge.opcua.bridge import Bridge, Endpoint
from heatline.edge.bridge.opcua.server import SUBSCRIPTIONS
from heatline.edge.config.bridges import OpcuaConfig
from tests.command import HEATLINE, process_env
from tests.edge.secured import free_port

WITHIN_SECONDS = 40.0
"""Bound on waiting, so that a test fails instead of hanging; never a measured time."""
ROOT = "ns=2;s=VisionSystem"
RESULTS, RECIPES = f"{ROOT}.ResultManagement", f"{ROOT}.RecipeManagement"


@dataclass(frozen=True)
class Identity:
    """A client's certificate and key."""

    name: str
    folder: Path

    @property
    def der(self) -> Path:
        return self.folder / f"{self.name}.der"

    @property
    def pem(self) -> Path:
        return self.folder / f"{self.name}.pem"

    @property
    def uri(self) -> str:
        return f"urn:{self.name}"


def make_identity(folder: Path, name: str) -> Identity:
    """Write a client's certificate and key."""
    identity = Identity(name, folder)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + 30 * day)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    identity.der.write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    identity.pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return identity


class ServedBridge:
    """Where a bridge listens, and who may connect."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.url = f"opc.tcp://127.0.0.1:{port}"
        self.subscriptions: dict[int, Any] = {}
        """Those of all clients, of a bridge in this process."""

    def allow(self, identity: Identity, role: str) -> Path:
        place = self.folder / "allowed" / role
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{identity.name}.der"
        path.write_bytes(identity.der.read_bytes())
        return path

    def listens(self) -> bool:
        """Return whether the bridge takes connections."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), WITHIN_SECONDS):
            return True
        return False

    def client(self) -> Client:
        client = Client(self.url, timeout=WITHIN_SECONDS)
        client.session_timeout = 60_000
        return client

    async def secured(self, identity: Identity) -> Client:
        """Return a client with that certificate, not connected yet."""
        client = self.client()
        client.application_uri = identity.uri
        await client.set_security(
            SecurityPolicyBasic256Sha256,
            certificate=str(identity.der),
            private_key=str(identity.pem),
            server_certificate=str(self.folder / "server.der"),
            mode=ua.MessageSecurityMode.SignAndEncrypt,
        )
        return client

    @contextlib.asynccontextmanager
    async def connected(self, identity: Identity) -> AsyncIterator[Client]:
        """Connect as a client with that certificate."""
        async with await self.secured(identity) as client:
            yield client


@contextlib.contextmanager
def threaded_bridge(
    folder: Path, endpoints: tuple[Endpoint, Endpoint, Endpoint | None], cameras: list[str], **config: Any
) -> Iterator[ServedBridge]:
    """Run a bridge in a thread of this process."""
    port = free_port()
    served = ServedBridge(folder, port.number)
    ready, ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []
    control: dict[str, Any] = {}

    def run() -> None:
        async def serve() -> None:
            bridge = Bridge(
                "line1",
                cameras,
                OpcuaConfig(listen=f"127.0.0.1:{port.number}", start="first", **config),
                folder,
                *endpoints,
            )
            control.update(loop=asyncio.get_running_loop(), bridge=bridge)
            served.subscriptions = bridge._server.iserver.subscription_service.subscriptions
            await bridge.run(lambda _: ready.set())

        try:
            asyncio.run(serve())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(WITHIN_SECONDS), "the bridge did not start"
        assert not errors, errors
        yield served
    finally:
        if not ended.is_set():
            control["loop"].call_soon_threadsafe(end, control["bridge"].ended)
        thread.join(WITHIN_SECONDS)
    assert not thread.is_alive(), "the bridge did not end"
    assert not errors, errors


class BridgeProcess:
    """`heatline bridge opcua` in a process of its own."""

    def __init__(self, file: Path, served: ServedBridge) -> None:
        self.served = served
        self.process = subprocess.Popen(
            [HEATLINE, "bridge", "opcua", file], env=process_env({}), stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self.log = [self.process.stderr.readline()]
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr or ()))
        self._reader.start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WITHIN_SECONDS)
        self._reader.join(WITHIN_SECONDS)
        assert self.process.stderr is not None
        self.process.stderr.close()


class Listener:
    """Collects the events and values of a subscription."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.values: list[tuple[str, Any, str]] = []

    def event_notification(self, event: Any) -> None:
        self.events.append(event)

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        status = data.monitored_item.Value.StatusCode.name
        self.values.append((node.nodeid.Identifier.rpartition(".")[2], value, status))


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool], description: str) -> None:
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


async def ids(client: Client) -> list[str]:
    """Return the ids of held results."""
    found, error = await call(client, "ResultManagement.GetResultIdList")
    assert error == 0
    return list(found)


async def acknowledge(client: Client, *result_ids: str) -> Any:
    given = ua.Variant(list(result_ids), ua.VariantType.String, is_array=True)
    return await call(client, "ResultManagement.AcknowledgeResults", given)


def main() -> None:
    """Subscribe as a client, print a line, and wait to be killed: `python -m tests.edge.opcua_clients FACTS`."""
    facts = json.loads(sys.argv[1])

    async def run() -> None:
        served = ServedBridge(Path(facts["folder"]), facts["port"])
        identity = Identity(facts["name"], Path(facts["identities"]))
        async with served.connected(identity) as client:
            for _ in range(SUBSCRIPTIONS):
                subscription = await client.create_subscription(20, Listener())
                await subscription.subscribe_events(
                    client.get_node(ROOT), client.get_node("ns=2;s=ResultReadyEventType")
                )
            print("subscribed", flush=True)
            await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
