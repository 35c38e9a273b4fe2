"""Hostile messages at every socket of a line and of its clients: no program ends, no memory grows, and valid messages
are still served.

A seed mutates valid messages. The memory of this process is measured after equal rounds, the first of which warms it
up, so anything that is stored for each message shows.
"""

import contextlib
import itertools
import socket as sockets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import msgspec
import pytest
import zmq

from heatline.edge.delivery import client as commander
from heatline.edge.delivery import follower, subscriber
from heatline.edge.delivery.auth import ROLE_OF, Access, SocketName
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.follower import Follower
from heatline.edge.delivery.subscriber import Received, Subscriber
from heatline.edge.errors import (
    AccessError,
    CommandRefusedError,
    DeliveryError,
    EventsLostError,
    HeatlineError,
    JournalError,
    MessageError,
)
from heatline.edge.wire import commands, following
from heatline.edge.wire.commands import Announced, Selected, SelectRequest, Triggered, TriggerRequest
from heatline.edge.wire.events import Message, StatusEvent, header_of, to_frames
from heatline.edge.wire.following import AckRequest, Batch, FollowRequest, ForgetRequest
from heatline.edge.wire.requests import to_bytes
from tests.edge import follow_examples, wire_examples
from tests.edge.followed_line import BUNDLE, GOOD, event
from tests.edge.hostile import Memory, Mutator, Parts, RawClient, send_and_reset
from tests.edge.secured import WITHIN_MS, WITHIN_SECONDS, Port, Secured, connected, free_port, until
from tests.edge.socket_servers import SOCKET_SERVERS, Follow

SEED = 20261126
ROUNDS = 5
GROWTH_BYTES = 4 << 20
"""Bound on this process's growth from the first round to the last. Of 100,000 messages, 80,000 come between them: 100
bytes stored for each would be twice as much."""
GROWTH_BLOCKS_PER_MESSAGE, GROWTH_BLOCKS = 0.5, 300
"""Bounds on Python objects that stay."""
GROWTH_DESCRIPTORS = 8
"""Connections may be in progress."""
MESSAGES_PER_HANDSHAKE = 20
"""One invalid handshake comes with so many messages."""
BURST = 100
FEW, MANY = 2_000, 100_000
FEWEST_HANDSHAKES = 1_000
"""Fewer handshakes could each leave an object without reaching a bound."""


@pytest.fixture(params=[pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.long)])
def count(request: pytest.FixtureRequest) -> int:
    """Number of messages."""
    found: int = request.param
    return found


@pytest.fixture(params=SOCKET_SERVERS)
def name(request: pytest.FixtureRequest) -> SocketName:
    found: SocketName = request.param
    return found


@pytest.fixture
def port() -> Port:
    return free_port()


def require_no_growth(count: int, feed: Callable[[int], None]) -> None:
    """Feed messages in equal rounds and check that the memory does not grow.

    Args:
        feed: sends a number of messages; returns once they were read.
    """
    memory = Memory()
    for _ in range(ROUNDS):
        feed(count // ROUNDS)
        memory.measure()
    between = count * (ROUNDS - 1) // ROUNDS
    more_bytes, more_blocks = (samples[-1] - samples[0] for samples in (memory.rss_bytes, memory.blocks))
    print(f"{between} messages: {more_bytes:+} bytes, {more_blocks:+} blocks; RSS {memory.rss_bytes}")
    assert more_bytes < GROWTH_BYTES, memory.rss_bytes
    assert more_blocks < GROWTH_BLOCKS + GROWTH_BLOCKS_PER_MESSAGE * between, memory.blocks
    assert memory.descriptors[-1] - memory.descriptors[0] < GROWTH_DESCRIPTORS, memory.descriptors


# A line.


JOURNAL = follow_examples.JOURNAL
TRIGGER = to_bytes(TriggerRequest(request_id="r", camera="top", part_id="P-1"))
CLIENT_MESSAGES: dict[SocketName, tuple[str, list[bytes]]] = {
    "events": (
        "SUB",
        [b"\x01verdict.top.DEFECT", b"\x00verdict.top.DEFECT", b"\x01", b'\x01{"type":"verdict"}'],
    ),
    "commands": ("DEALER", [TRIGGER, to_bytes(SelectRequest(request_id="é", product="4711"))]),
    "journal": (
        "REQ",
        [
            to_bytes(request)
            for request in (
                FollowRequest(name="evil", client="c", window=10, topics=("verdict.top",), heatmaps=True),
                AckRequest(name="evil", journal_id=JOURNAL, seq=3),
                ForgetRequest(request_id="r", name="evil"),
            )
        ],
    ),
}
"""The type of a client's socket for each of a line's sockets, and its messages of one frame."""


def test_a_line_survives_hostile_messages(name: SocketName, count: int, port: Port, tmp_path: Path) -> None:
    access, (socket_type, valid) = Access(), CLIENT_MESSAGES[name]
    with contextlib.ExitStack() as at_end:
        server = SOCKET_SERVERS[name](port.local, access, tmp_path)
        at_end.callback(server.close)
        if isinstance(server, Follow):
            journal_id = server.fill(20).encode()
            valid = [part.replace(JOURNAL.encode(), journal_id) for part in valid]
        delimiter: Parts = [b""] if socket_type == "REQ" else []
        mutator = Mutator(SEED, [[*delimiter, part] for part in valid])

        def feed(messages: int) -> None:
            """Send over a raw connection, since no ZeroMQ socket sends most of these bytes."""
            with contextlib.closing(RawClient(port.number, socket_type, WITHIN_SECONDS)) as raw_client:
                for number in range(messages):
                    raw_client.send(mutator.message())
                    if number % MESSAGES_PER_HANDSHAKE == 0:
                        send_and_reset(port.number, mutator.connection(socket_type), WITHIN_SECONDS)
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


def test_a_line_with_keys_survives_invalid_handshakes(name: SocketName, count: int, port: Port, tmp_path: Path) -> None:
    secured = Secured(tmp_path)
    access, keys = secured.access(), secured.client(ROLE_OF[name])

    def feed(messages: int) -> None:
        for _ in range(messages):
            send_and_reset(port.number, mutator.connection("DEALER"), WITHIN_SECONDS)
        with connected(port.reached, server.kind, keys) as honest:
            until(lambda: server.serves(honest, 100))

    with contextlib.closing(SOCKET_SERVERS[name](port.bound, access, tmp_path)) as server:
        mutator = Mutator(SEED, [[TRIGGER]])
        require_no_growth(max(count // MESSAGES_PER_HANDSHAKE, FEWEST_HANDSHAKES), feed)


# Its clients.


PUBLISHED = [*map(to_frames, wire_examples.GOLDEN.values())]


def test_a_subscriber_survives_hostile_events(count: int, address: str) -> None:
    mutator, numbers = Mutator(SEED, PUBLISHED), itertools.count()
    outcomes: Counter[str] = Counter()
    assert isinstance(wire_examples.STATUS.event, StatusEvent)

    def mark(line: str) -> Parts:
        return to_frames(Message(msgspec.structs.replace(wire_examples.STATUS.event, line=line)))

    def until_marked(line: str) -> None:
        while True:
            try:
                message = events.receive()
            except MessageError as error:
                outcomes[type(error).__name__] += 1
                continue
            assert message is not None, "no message came in time"
            if not isinstance(message, Message):
                outcomes[type(message).__name__] += 1
                continue
            outcomes[type(message.event).__name__] += 1
            if isinstance(message.event, StatusEvent) and message.event.line == line:
                return

    def feed(messages: int) -> None:
        for _ in range(messages // BURST):
            for _ in range(BURST):
                publishing.send_multipart(mutator.message())
            last = f"mark {next(numbers)}"
            publishing.send_multipart(mark(last))
            until_marked(last)

    with (
        zmq.Context() as context,
        context.socket(zmq.XPUB) as publishing,
        Subscriber(address, timeout_s=WITHIN_SECONDS) as events,
    ):
        publishing.setsockopt(zmq.LINGER, 0)
        publishing.bind(address)
        assert publishing.poll(WITHIN_MS), "it has subscribed"
        require_no_growth(count, feed)
        publishing.send_multipart(to_frames(wire_examples.DEFECT))
        while not isinstance(last := events.receive(), Message):
            pass
        assert last == wire_examples.DEFECT
    assert outcomes["MessageError"] > count / 3
    good = "Gap", "VerdictEvent", "AlarmEvent", "JournalEvent"
    assert min(outcomes[kind] for kind in good) > count / 500


class HostileReplies:
    """A line that answers each request with given replies."""

    def __init__(self, address: str, answers: Callable[[bytes], Sequence[Parts]]) -> None:
        self._address, self._answers = address, answers
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._answer)
        self.outcomes: Counter[str] = Counter()
        self._answered = 0

    def feed(self, messages: int, send_request: Callable[[], object]) -> None:
        """Send requests until so many are answered; count the outcomes, errors by their class."""
        limit = self._answered + messages
        while self._answered < limit:
            try:
                self.outcomes[str(send_request())] += 1
            except (MessageError, CommandRefusedError, JournalError) as error:
                self.outcomes[type(error).__name__] += 1

    def _answer(self) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(self._address)
            while not self._ended.is_set():
                while socket.poll(50):
                    client, request = socket.recv_multipart()
                    self._answered += 1
                    for parts in self._answers(request):
                        socket.send_multipart([client, *parts])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_a_commander_survives_hostile_replies(count: int, address: str) -> None:
    mutator = Mutator(SEED, [])
    replies: list[commands.Reply] = [
        Triggered(camera="top", part_id="P-1", frame_id=1, frame_number=1),
        Announced(camera="top"),
        Selected(product="4711", bundle=BUNDLE),
        commands.refusal("busy", "ask again"),
    ]
    valid_replies = itertools.cycle(replies)

    def answers(request: bytes) -> list[Parts]:
        request_id = msgspec.json.decode(request)["request_id"]
        valid, honest = (
            to_bytes(msgspec.structs.replace(reply, request_id=request_id))
            for reply in (next(valid_replies), replies[0])
        )
        # Not so long that the client disconnects: the valid reply after it must arrive.
        while max(map(len, mutated := mutator.mutated([valid]))) > commander.LONGEST_REPLY_BYTES:
            pass
        return [mutated, [honest]]

    with HostileReplies(address, answers) as line, Commander(address, WITHIN_SECONDS) as client:
        require_no_growth(count, lambda messages: line.feed(messages, lambda: type(client.trigger("top")).__name__))
    assert min(line.outcomes[kind] for kind in ("MessageError", "CommandRefusedError", "Triggered")) > count / 100


def batch(after_seq: int, through_seq: int) -> Parts:
    """Return the batch of a journal of five events after one event up to another."""
    events = [(header_of(event(seq, GOOD, JOURNAL)), b"png") for seq in range(after_seq + 1, through_seq + 1)]
    header = Batch(journal_id=JOURNAL, after_seq=after_seq, through_seq=through_seq, last_seq=5, events=len(events))
    return following.batch_parts(header, events)


FOLLOWING = following.Following(name="mes1", journal_id=JOURNAL, acked_seq=0, first_seq=1, last_seq=5, heartbeat_s=1.0)
LINE_MESSAGES: list[Parts] = [
    *([to_bytes(reply)] for reply in (FOLLOWING, msgspec.structs.replace(FOLLOWING, acked_seq=2))),
    *([batch(after_seq, through_seq) for after_seq, through_seq in ((0, 2), (0, 5), (2, 5), (5, 5), (0, 0))]),
    *(follow_examples.frames_of(reply) for reply in follow_examples.REPLIES.values()),
]


class HostileLine:
    """Answers each connection of a follower as a line does, each with a new journal, then sends mutated messages."""

    def __init__(self, socket: "zmq.Socket[bytes]", mutator: Mutator) -> None:
        self._socket, self._mutator = socket, mutator
        self._client, self._journal_id = b"", JOURNAL
        self._journals = itertools.count()

    def send_mutated(self) -> bool:
        """Send a mutated message; return False if no follower is connected yet."""
        self._read_requests()
        if self._client:
            self._send(self._mutator.message())
        return bool(self._client)

    def send_valid(self) -> None:
        """Begin a journal and send its five events."""
        self._read_requests()
        if self._client:
            self._begin()
            self._send(batch(0, 5))

    def note_disconnect(self) -> None:
        """Note that the follower disconnected; it will follow again."""
        self._client = b""

    def _read_requests(self) -> None:
        while self._socket.poll(0):
            client, request = self._socket.recv_multipart()
            if b'"follow"' in request:
                self._client = client
                self._begin()

    def _begin(self) -> None:
        self._journal_id = f"{next(self._journals):032}"
        self._send([to_bytes(FOLLOWING)])

    def _send(self, parts: Parts) -> None:
        renamed = [part.replace(JOURNAL.encode(), self._journal_id.encode()) for part in parts]
        self._socket.send_multipart([self._client, *renamed])


def test_a_follower_survives_hostile_batches(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "PAUSE_SECONDS", dict.fromkeys(follower.PAUSE_SECONDS, 0.0))
    address, outcomes = f"ipc://{tmp_path}/journal", Counter[str]()

    def follow() -> Follower:
        return Follower(address, "mes1", timeout_s=0.0)

    events = follow()

    def listen() -> list[int]:
        nonlocal events
        try:
            seqs = [each.seq for each in events.receive_batch()]
        except EventsLostError as error:
            outcomes[type(error).__name__] += 1
        except HeatlineError as error:
            outcomes[type(error).__name__] += 1
            line.note_disconnect()
            if not isinstance(error, MessageError):  # the refusal is final
                events.close()
                events = follow()
        else:
            outcomes["events" if seqs else "nothing"] += 1
            return seqs
        return []

    def feed(messages: int) -> None:
        sent = 0
        while sent < messages:
            sent += line.send_mutated()
            listen()

    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(address)
        line = HostileLine(socket, Mutator(SEED, LINE_MESSAGES))
        require_no_growth(count, feed)
        until(lambda: line.send_valid() or listen() == [1, 2, 3, 4, 5])
        events.close()
    assert min(outcomes[kind] for kind in ("MessageError", "EventsLostError", "events")) > count / 500


def subscriber_is_served(address: str) -> bool:
    with Subscriber(address, timeout_s=WITHIN_SECONDS) as events:
        return events.receive() is not None


def commander_is_served(address: str) -> bool:
    with Commander(address, 0.5) as line:
        give_up_s = time.monotonic() + WITHIN_SECONDS
        while time.monotonic() < give_up_s:
            with contextlib.suppress(DeliveryError, AccessError, MessageError):
                return line.trigger("top") is not None
    return False


@pytest.mark.parametrize(
    ("name", "is_served", "socket_type"),
    [("events", subscriber_is_served, "XPUB"), ("commands", commander_is_served, "ROUTER")],
    ids=["events", "commands"],
)
def test_a_client_reconnects_after_another_program_had_the_address(
    name: SocketName, is_served: Callable[[str], bool], socket_type: str, port: Port, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After some of these bytes, ZeroMQ never reconnects by itself."""
    monkeypatch.setattr(subscriber, "RECONNECT_AFTER_SECONDS", 0.1)
    mutator = Mutator(SEED, PUBLISHED)
    with contextlib.ExitStack() as at_end:
        client = at_end.enter_context(ThreadPoolExecutor(1))
        with sockets.create_server(("127.0.0.1", port.number)) as impostor:
            impostor.settimeout(WITHIN_SECONDS)
            served = client.submit(is_served, port.local)
            for _ in range(4):
                connection, _ = impostor.accept()
                with connection, contextlib.suppress(ConnectionError):
                    connection.sendall(mutator.connection(socket_type))
        at_end.callback(SOCKET_SERVERS[name](port.local, Access(), tmp_path).close)
        assert served.result(2 * WITHIN_SECONDS)


def test_a_subscriber_reconnects_after_an_oversized_part(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriber, "RECONNECT_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(subscriber, "LARGEST_PART_BYTES", 1 << 16)

    def listen() -> Received | None:
        with Subscriber(address, timeout_s=WITHIN_SECONDS) as events:
            return events.receive()

    def until_subscribed() -> None:
        subscription = b""
        while subscription != b"\x01":  # to all topics
            assert publishing.poll(WITHIN_MS)
            subscription = publishing.recv()

    with zmq.Context() as context, context.socket(zmq.XPUB) as publishing, ThreadPoolExecutor(1) as client:
        publishing.setsockopt(zmq.LINGER, 0)
        publishing.bind(address)
        received = client.submit(listen)
        until_subscribed()
        publishing.send_multipart([b"status", bytes((1 << 16) + 1)])
        until_subscribed()
        publishing.send_multipart(to_frames(wire_examples.STATUS))
        assert received.result(WITHIN_SECONDS) == wire_examples.STATUS
