"""Hostile messages at the sockets of a line and of a subscriber: no program ends, no memory grows, and valid messages
are served.

A seed mutates valid messages. The memory of this process is measured after equal rounds, the first of which warms it
up, so anything that is stored for each message shows.
"""

import contextlib
import ctypes
import gc
import os
import socket as sockets
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq

from heatline.edge.delivery import subscriber
from heatline.edge.delivery.auth import Access, SocketName
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import AccessError, DeliveryError, MessageError
from heatline.edge.wire.events import Message, StatusEvent, to_frames
from heatline.edge.wire.requests import to_bytes
from tests.edge import wire_examples
from tests.edge.followed_line import GOOD
from tests.edge.hostile import Mutator, Parts, send_and_reset
from tests.edge.secured import WITHIN_MS, WITHIN_SECONDS, Port, connected, free_port, until
from tests.edge.socket_servers import SOCKET_SERVERS, Follow

SEED = 20261126
ROUNDS = 5
GROWTH_BYTES = 4 << 20
"""Bound on this process's growth from the first round to the last. Of 100,000 messages, 80,000 come between them: 100
bytes stored for each would be twice as much."""

GROWTH_BLOCKS_PER_MESSAGE, GROWTH_BLOCKS = 0.4, 300
"""Bounds on Python objects that stay."""
GROWTH_DESCRIPTORS = 8
"""Connections may be in progress."""
MESSAGES_PER_HANDSHAKE = 20
"""One invalid handshake comes with so many messages."""

BURST = 100
FEW, MANY = 2_000, 100_000
COUNTS = pytest.mark.parametrize(
    "count", [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.long)]
)
"""Numbers of messages."""


def memory() -> tuple[int, int, int]:
    """Return this process's bytes in use, its Python objects and its descriptors.

    Pages of files do not count: the kernel takes them while memory is short, and they come back at any time.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # return freed memory, so that the rest is in use
    _, _, anonymous = Path("/proc/self/status").read_text().partition("RssAnon:")
    return int(anonymous.split()[0]) * 1024, sys.getallocatedblocks(), len(os.listdir("/proc/self/fd"))


def require_no_growth(count: int, feed: Callable[[int], None]) -> None:
    """Feed messages in equal rounds and check that the memory does not grow after the first. `feed`: sends a number of
    messages; returns once they were read."""
    samples = []
    for _ in range(ROUNDS):
        feed(count // ROUNDS)
        samples.append(memory())
    growth = np.diff(samples, axis=0)
    more_bytes, more_blocks, more_descriptors = growth.sum(axis=0).tolist()
    assert more_bytes - growth[:, 0].max() < GROWTH_BYTES, samples  # one step may be the allocator's
    assert more_blocks < GROWTH_BLOCKS + GROWTH_BLOCKS_PER_MESSAGE * count, samples
    assert more_descriptors < GROWTH_DESCRIPTORS, samples


JOURNAL = wire_examples.JOURNAL
CLIENT_MESSAGES: dict[SocketName, tuple[int, list[bytes]]] = {
    "events": (zmq.XSUB, [b"\x01verdict.top.DEFECT", b"\x00verdict.top.DEFECT", b"\x01", b'\x01{"type":"verdict"}']),
    "commands": (
        zmq.DEALER,
        [
            b'{"type":"trigger","schema_version":2,"request_id":"r","camera":"top","part_id":"P-1"}',
            b'{"type":"select","schema_version":2,"request_id":"r","product":"4711"}',
        ],
    ),
    "journal": (zmq.DEALER, [*map(to_bytes, wire_examples.REQUESTS.values())]),
}
"""The type of a client's socket for each of a line's sockets, and its messages of one frame."""


@contextlib.contextmanager
def hostile_client(port: Port, kind: int) -> Iterator[Callable[[Parts], None]]:
    """Yield a function that sends a message, also while another has ended the connection, and drops what comes back."""
    with zmq.Context() as context, context.socket(kind) as client:
        client.setsockopt(zmq.LINGER, WITHIN_MS)
        client.setsockopt(zmq.SNDHWM, 10)  # an end of the connection loses few
        client.setsockopt(zmq.SNDTIMEO, WITHIN_MS)
        client.setsockopt(zmq.RECONNECT_IVL, 20)
        client.connect(port.local)

        def send(parts: Parts) -> None:
            while client.poll(0):
                client.recv_multipart()
            client.send_multipart(parts)

        yield send


@COUNTS
@pytest.mark.parametrize("name", SOCKET_SERVERS)
def test_a_line_survives_hostile_messages(name: SocketName, count: int, tmp_path: Path) -> None:
    port, access, (socket_type, valid) = free_port(), Access(), CLIENT_MESSAGES[name]
    with contextlib.ExitStack() as at_end:
        server = SOCKET_SERVERS[name](port.local, access, tmp_path)
        at_end.callback(server.close)
        if isinstance(server, Follow):
            server.line.add(*[GOOD] * 20, png=b"png")
            valid = [part.replace(JOURNAL.encode(), server.line.journal_id.encode()) for part in valid]
        mutator, handshake_of = Mutator(SEED, [[part] for part in valid]), "SUB" if name == "events" else "DEALER"

        def feed(messages: int) -> None:
            with hostile_client(port, socket_type) as send:
                for number in range(messages):
                    send(mutator.message())
                    if number % MESSAGES_PER_HANDSHAKE == 0:
                        send_and_reset(port.number, mutator.connection(handshake_of), WITHIN_SECONDS)
                    if number % BURST == 0:
                        assert server.serves(honest, WITHIN_MS), "at the same time"
            with connected(port.local, server.kind) as another:
                for _ in range(20):  # the server reads some of the earlier messages each time
                    until(lambda: server.serves(another, 100))

        honest = at_end.enter_context(connected(port.local, server.kind))
        until(lambda: server.serves(honest, 100))
        require_no_growth(count, feed)
        if name != "events":
            # A message that is too large ends the connection. A client that is far ahead then loses what it sent after.
            least = count / 2 if count == FEW else count / 10
            until(lambda: access.refusals.counts()[f"{name}.malformed"] > least)


PUBLISHED = [*map(to_frames, wire_examples.GOLDEN.values())]


@COUNTS
def test_a_subscriber_survives_hostile_events(count: int, address: str) -> None:
    mutator, status, outcomes = Mutator(SEED, PUBLISHED), wire_examples.STATUS.event, Counter[str]()
    assert isinstance(status, StatusEvent)

    def receive() -> Message | None:
        """Receive and count what comes; return a message."""
        try:
            found: object = events.receive()
        except MessageError as error:
            found = error
        assert found is not None, "no message came in time"
        outcomes[type(found.event if isinstance(found, Message) else found).__name__] += 1
        return found if isinstance(found, Message) else None

    def feed(messages: int) -> None:
        for _ in range(messages // BURST):
            for _ in range(BURST):
                publishing.send_multipart(mutator.message())
            last = Message(msgspec.structs.replace(status, line=f"mark {outcomes.total()}"))
            publishing.send_multipart(to_frames(last))
            while receive() != last:
                pass

    with (
        zmq.Context() as context,
        context.socket(zmq.XPUB) as publishing,
        Subscriber(address, timeout_s=WITHIN_SECONDS) as events,
    ):
        publishing.setsockopt(zmq.LINGER, 0)
        publishing.bind(address)
        assert publishing.poll(WITHIN_MS), "it has subscribed"
        require_no_growth(count, feed)
    assert outcomes["MessageError"] > count / 3
    assert min(outcomes[kind] for kind in ("Gap", "VerdictEvent", "AlarmEvent", "JournalEvent")) > count / 500


def is_served(name: SocketName, address: str) -> bool:
    if name == "events":
        with Subscriber(address, timeout_s=WITHIN_SECONDS) as events:
            return events.receive() is not None
    with Commander(address, 0.5) as line:

        def is_answered() -> bool:
            with contextlib.suppress(DeliveryError, AccessError, MessageError):
                return line.trigger("top") is not None
            return False

        until(is_answered)
    return True


@pytest.mark.parametrize(("name", "socket_type"), [("events", "XPUB"), ("commands", "ROUTER")])
def test_a_client_reconnects_after_another_program_had_the_address(
    name: SocketName, socket_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some of these bytes, ZeroMQ never reconnects by itself."""
    monkeypatch.setattr(subscriber, "RECONNECT_AFTER_SECONDS", 0.1)
    mutator, port = Mutator(SEED, PUBLISHED), free_port()
    with contextlib.ExitStack() as at_end:
        client = at_end.enter_context(ThreadPoolExecutor(1))
        with sockets.create_server(("127.0.0.1", port.number)) as impostor:
            impostor.settimeout(WITHIN_SECONDS)
            served = client.submit(is_served, name, port.local)
            for _ in range(4):
                connection, _ = impostor.accept()
                with connection, contextlib.suppress(ConnectionError):
                    connection.sendall(mutator.connection(socket_type))
        at_end.callback(SOCKET_SERVERS[name](port.local, Access(), tmp_path).close)
        assert served.result(2 * WITHIN_SECONDS)
