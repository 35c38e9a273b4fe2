"""What each listener owes a client that is at work, whatever others do who only connect.

The others connect in numbers beyond every limit, from the client's own address or another one, and are silent, some
after the first bytes of a request, or connect again and again. No request of the client may stay unanswered, and a new
client of a third address must be served.
"""

import contextlib
import functools
import itertools
import os
import resource
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.config import WebConfig
from heatline.edge.delivery.auth import ROLE_OF, Access, ClientKeys, SocketName
from heatline.edge.delivery.subscriber import Subscriber
from tests.command import HEATLINE
from tests.edge.bridged_line import modbus_served
from tests.edge.lines import POLL_SECONDS, RunningLine, line_started, small_frames, write_line, write_pictures
from tests.edge.secured import Secured, connected, free_port, until
from tests.edge.socket_servers import SOCKET_SERVERS
from tests.edge.view_pages import make_certificates, page

Attack = Literal["silent", "repeated"]
CLIENT, ATTACKER, NEW_CLIENT = "127.0.0.2", "127.0.0.3", "127.0.0.4"
ANSWER_WITHIN_SECONDS = 60.0
"""Bound on waiting, so that a test fails instead of hanging; never a measured time."""
ATTEMPT_WITHIN_SECONDS = 5.0
"""A new client then tries again: the kernel may have dropped its connection in the crowd."""
FEWEST_REQUESTS = 20
"""After all attackers have connected."""
READ_HEARTBEAT = struct.pack(">HHHBBHH", 1, 0, 6, 1, 4, 0, 1)
REQUESTS = {
    "HTTP": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60),
    "Modbus": READ_HEARTBEAT,
    "ZeroMQ": b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48),
}
"""What every second silent one sends, but for the last byte."""

Ask = Callable[[], bool]
"""Returns whether a request was answered."""
Connect = Callable[[str, float], "contextlib.AbstractContextManager[Ask]"]
"""Connects from an address of this machine; its requests end in so many seconds."""


@dataclass(frozen=True)
class Door:
    """A listener that serves."""

    port: int
    protocol: str
    connect: Connect


def asking(port: int, request: bytes, answered: bytes, context: ssl.SSLContext | None = None) -> Connect:
    """Clients that send a request and get an answer with these bytes. A connection that has ended is replaced."""

    @contextlib.contextmanager
    def client(source: str, within_s: float) -> Iterator[Ask]:
        with contextlib.ExitStack() as open_:
            connections: list[socket.socket] = []

            def ask() -> bool:
                try:
                    if not connections:
                        found = socket.create_connection(("127.0.0.1", port), within_s, (source, 0))
                        if context is not None:
                            found = context.wrap_socket(found, server_hostname="127.0.0.1")
                        connections.append(open_.enter_context(found))
                    connections[0].sendall(request)
                    answer = b""
                    while answered not in answer:
                        answer += (part := connections[0].recv(65536))
                        if not part:
                            raise ConnectionError
                    if b"Connection: close" in request:
                        connections.clear()
                    return True
                except OSError:
                    connections.clear()
                    return False

            yield ask

    return client


@contextlib.contextmanager
def metrics_door(folder: Path, tls: bool, once: bool) -> Iterator[Door]:
    """A page whose metrics are asked for, by one connection or by a new one each time."""
    web, context = WebConfig(), None
    if tls:
        authority, certificate, key, _ = make_certificates(folder)
        web, context = WebConfig(certificate=certificate, key=key), ssl.create_default_context(cafile=str(authority))
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + b"Connection: close\r\n" * once + b"\r\n"
    with page(web=web) as served:
        protocol = "HTTP" if context is None else "TLS"
        yield Door(served.port, protocol, asking(served.port, request, b"heatline_up", context))


@contextlib.contextmanager
def modbus_door(_: Path) -> Iterator[Door]:
    port = free_port()
    with modbus_served(port.local):
        yield Door(port.number, "Modbus", asking(port.number, READ_HEARTBEAT, READ_HEARTBEAT[:4]))


@contextlib.contextmanager
def zeromq_door(folder: Path, name: SocketName, with_keys: bool) -> Iterator[Door]:
    port, secured = free_port(), Secured(folder)
    keys: ClientKeys | None = secured.client(ROLE_OF[name]) if with_keys else None
    access, bound = (secured.access(), port.bound) if with_keys else (Access(), port.local)
    server = SOCKET_SERVERS[name](bound, access, folder)

    @contextlib.contextmanager
    def client(source: str, within_s: float) -> Iterator[Ask]:
        with connected(f"tcp://{source}:0;127.0.0.1:{port.number}", server.kind, keys) as found:
            yield lambda: server.serves(found, int(1000 * within_s))

    with contextlib.closing(server):
        yield Door(port.number, "ZeroMQ", client)


DOORS: dict[str, Callable[[Path], "contextlib.AbstractContextManager[Door]"]] = {
    "Modbus": modbus_door,
    "page": functools.partial(metrics_door, tls=False, once=False),
    "metrics with TLS": functools.partial(metrics_door, tls=True, once=True),
    "events with keys": functools.partial(zeromq_door, name="events", with_keys=True),
    "commands": functools.partial(zeromq_door, name="commands", with_keys=False),
    "journal with keys": functools.partial(zeromq_door, name="journal", with_keys=True),
}


@contextlib.contextmanager
def attacked(door: Door, attack: Attack, source: str, count: int) -> Iterator[threading.Event]:
    """Attack until the context ends; yield an event that is set once `count` connections were made."""
    all_connected, end = threading.Event(), threading.Event()
    request = REQUESTS[door.protocol][:-1]

    def run() -> None:
        with contextlib.ExitStack() as at_end:
            for number in itertools.count(1):
                if end.is_set() or (number > count and attack != "repeated"):
                    break
                with contextlib.suppress(OSError):
                    one = socket.create_connection(("127.0.0.1", door.port), 1.0, (source, 0))
                    if attack == "repeated":
                        one.close()
                    else:
                        at_end.enter_context(one).sendall(request if number % 2 else b"")
                if number == count:
                    all_connected.set()
            end.wait()

    with ThreadPoolExecutor(1) as thread:
        attacker = thread.submit(run)
        try:
            yield all_connected
        finally:
            end.set()
            attacker.result()


@pytest.fixture(scope="module", autouse=True)
def _descriptors() -> Iterator[None]:
    """Attackers and listeners share this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module", params=DOORS)
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with DOORS[request.param](tmp_path_factory.mktemp("door")) as found:
        yield found


@pytest.mark.parametrize("count", [pytest.param(200, id="few"), pytest.param(1000, id="many", marks=pytest.mark.long)])
@pytest.mark.parametrize("attack", get_args(Attack))
def test_a_client_at_work_is_served_and_a_new_one_admitted(door: Door, attack: Attack, count: int) -> None:
    """At the page and at Modbus, an address that opens very many connections ends its own: others attack."""
    source = ATTACKER if door.protocol in ("HTTP", "TLS", "Modbus") else CLIENT

    def is_admitted() -> bool:
        with contextlib.suppress(OSError), door.connect(NEW_CLIENT, ATTEMPT_WITHIN_SECONDS) as new:
            return new()
        return False

    with door.connect(CLIENT, ANSWER_WITHIN_SECONDS) as ask:
        assert ask(), "nobody is served, even without an attack"
        with attacked(door, attack, source, count) as all_connected:
            more = FEWEST_REQUESTS
            while more:
                more -= all_connected.is_set()
                assert ask()
            until(is_admitted)
    until(is_admitted)  # after the attack, the attackers before it in the queue are gone


def test_silent_connections_leave_a_line_its_descriptors(bundle: Bundle, tmp_path: Path, address: str) -> None:
    camera = {"top": f'path = "{write_pictures(tmp_path / "pictures", small_frames(2))}"\nloop = true'}
    line = write_line(tmp_path, bundle.path, address, camera)
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    command = "bash", "-c", 'ulimit -S -n 128; exec "$0" run "$1"', HEATLINE
    with (
        Subscriber(address, timeout_s=POLL_SECONDS) as events,
        line_started(line, command=command) as process,
        contextlib.ExitStack() as open_,
    ):
        run = RunningLine(process, events)
        run.until_inspected()
        for _ in range(200):
            open_.enter_context(socket.create_connection((host, int(port)), ANSWER_WITHIN_SECONDS))
        until(lambda: len(os.listdir(f"/proc/{process.pid}/fd")) > 200)
        run.until_inspected()
