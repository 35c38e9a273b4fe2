"""Whatever comes, on every socket that reads, of a line and of its clients: nothing ends, nothing grows, and whoever
means well is served after it.

Messages are made from valid ones, from a seed. What is kept of each would show: the memory of this process is looked at
after equal rounds, the first of which warms it up.
"""

import contextlib
import ctypes
import itertools
import socket as sockets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
import zmq

from edge.delivery import commander, commands, connection, subscriber
from edge.delivery.commander import Commander
from edge.delivery.commands import Announced, Selected, SelectRequest, Triggered, TriggerRequest
from edge.delivery.durable import follower, following
from edge.delivery.durable.follower import Follower
from edge.delivery.durable.following import (
    AckRequest,
    Batch,
    Following,
    FollowRequest,
    ForgetRequest,
    ReplayRequest,
    batch_parts,
)
from edge.delivery.messages import (
    BundleName,
    Counts,
    Message,
    StatusEvent,
    Welcome,
    header_of,
    to_frames,
    welcome_to_bytes,
)
from edge.delivery.replay import Replay
from edge.delivery.security.access import Access
from edge.delivery.security.socket_guard import ROLE_OF, SocketName
from edge.delivery.subscriber import Subscriber
from edge.errors import (
    AccessError,
    CommandRefusedError,
    DeliveryError,
    EventsLostError,
    HeatlineError,
    JournalError,
    MessageError,
)
from tests.edge import follow_examples, wire_examples
from tests.edge.doors import DOORS, Follow
from tests.edge.followed_line import GOOD, event
from tests.edge.hostile import Memory, Parts, Spoiler, Stranger, knock
from tests.edge.secured import WITHIN_MS, WITHIN_SECONDS, Port, Secured, connected, free_port, until

SEED = 20261126
ROUNDS = 5
KEPT_BYTES = 4 << 20
"""What this process may take more after the last round than after the first. Of 100,000 messages, 80,000 come between:
100 bytes kept of each would be twice as much."""
KEPT_BLOCKS_PER_MESSAGE, KEPT_BLOCKS = 0.5, 300
"""Objects of Python that may be kept."""
KEPT_DESCRIPTORS = 8
"""A connection may be on its way."""
PER_KNOCK = 20
"""With so many messages comes one who gets through no handshake."""
AT_ONCE = 100
FEW, MANY = 2_000, 100_000


@pytest.fixture(params=[pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.long)])
def count(request: pytest.FixtureRequest) -> int:
    """How many messages come."""
    found: int = request.param
    return found


@pytest.fixture
def port() -> Port:
    return free_port()


def require_no_growth(count: int, feed: Callable[[int], None]) -> None:
    """Feed messages in equal rounds.

    Args:
        feed: so many; returns once they were taken.
    """
    memory = Memory()
    for _ in range(ROUNDS):
        feed(count // ROUNDS)
        memory.look()
    between = count * (ROUNDS - 1) // ROUNDS
    more_bytes, more_blocks = (kept[-1] - kept[0] for kept in (memory.rss_bytes, memory.blocks))
    print(f"{between} messages: {more_bytes:+} bytes, {more_blocks:+} blocks; RSS {memory.rss_bytes}")
    assert more_bytes < KEPT_BYTES, memory.rss_bytes
    assert more_blocks < KEPT_BLOCKS + KEPT_BLOCKS_PER_MESSAGE * between, memory.blocks
    assert memory.descriptors[-1] - memory.descriptors[0] < KEPT_DESCRIPTORS, memory.descriptors


# A line.


class Speaker(Protocol):
    """Says to one of a line's sockets what it is given."""

    def say(self, message: Parts) -> None: ...

    def settle(self) -> None:
        """Wait until all of it was taken."""

    def close(self) -> None: ...


class Listening:
    """To events, over a connection of its own: no SUB socket would say most of this."""

    def __init__(self, port: Port, _: Callable[[str], bytes]) -> None:
        self._port = port
        self._stranger: Stranger | None = None

    def say(self, message: Parts) -> None:
        if self._stranger is None:
            self._stranger = Stranger(self._port.number, "SUB", WITHIN_SECONDS)
        self._stranger.send(message)

    def settle(self) -> None:
        self.close()
        with connected(self._port.bound.replace("*", "127.0.0.1"), zmq.SUB) as listener:
            for _ in range(20):  # each comes after some of the subscriptions were taken
                assert listener.poll(WITHIN_MS)
                listener.recv_multipart()

    def close(self) -> None:
        if self._stranger is not None:
            self._stranger.close()
            self._stranger = None


class Asking:
    """Requests, as a client does, and takes the replies."""

    def __init__(self, port: Port, question: Callable[[str], bytes]) -> None:
        self._question = question
        self._numbers = itertools.count()
        self._opened = contextlib.ExitStack()
        self._client = self._opened.enter_context(connected(port.bound.replace("*", "127.0.0.1"), zmq.DEALER))
        self._client.setsockopt(zmq.SNDTIMEO, WITHIN_MS)

    def say(self, message: Parts) -> None:
        self._client.send_multipart(message)
        while self._client.poll(0):
            self._client.recv_multipart()

    def settle(self) -> None:
        wanted = f"settled {next(self._numbers)}"

        def is_answered() -> bool:
            self._client.send(self._question(wanted))  # again: what waits for a line that hangs up on us may be lost
            while self._client.poll(100):
                if wanted.encode() in self._client.recv_multipart()[-1]:
                    return True
            return False

        until(is_answered)

    def close(self) -> None:
        self._opened.close()


def trigger(request_id: str) -> bytes:
    return commands.to_bytes(TriggerRequest(request_id=request_id, camera="top", part_id="P-1"))


def forget(request_id: str) -> bytes:
    return following.to_bytes(ForgetRequest(request_id=request_id, name="nobody"))


SPEAKERS: dict[SocketName, tuple[Callable[..., Speaker], Callable[[str], bytes], str]] = {
    "events": (Listening, lambda _: b"", "SUB"),
    "commands": (Asking, trigger, "DEALER"),
    "journal": (Asking, forget, "REQ"),
}
JOURNAL_ID = "a journal's id"
SAID: dict[SocketName, list[Parts]] = {
    "events": [[b"\x01verdict.top.DEFECT"], [b"\x00verdict.top.DEFECT"], [b"\x01"], [b'\x01{"type":"verdict"}']],
    "commands": [
        [trigger("r")],
        [b"", trigger("é")],
        [commands.to_bytes(SelectRequest(request_id="r", product="4711"))],
    ],
    "journal": [
        [following.to_bytes(request)]
        for request in (
            FollowRequest(name="evil", client="c", window=10, topics=("verdict.top",), heatmaps=True),
            AckRequest(name="evil", journal_id=JOURNAL_ID, seq=3),
            ReplayRequest(request_id="r", journal_id=JOURNAL_ID, after_seq=2, through_seq=9, heatmaps=True),
            ForgetRequest(request_id="r", name="evil"),
        )
    ],
}


@pytest.fixture(params=DOORS)
def name(request: pytest.FixtureRequest) -> SocketName:
    found: SocketName = request.param
    return found


@pytest.mark.long
def test_a_line_takes_whatever_is_said_to_it(name: SocketName, count: int, port: Port, tmp_path: Path) -> None:
    address, access = f"tcp://127.0.0.1:{port.number}", Access()
    kind, question, socket_type = SPEAKERS[name]
    with contextlib.ExitStack() as at_end:
        door = DOORS[name](address, access, tmp_path)
        at_end.callback(door.close)
        said = SAID[name]
        if isinstance(door, Follow):
            journal_id = door.fill(20)
            said = [[part.replace(JOURNAL_ID.encode(), journal_id.encode()) for part in parts] for parts in said]
        spoiler, speaker = Spoiler(SEED, said), kind(port, question)
        at_end.callback(speaker.close)

        def feed(messages: int) -> None:
            for number in range(messages):
                speaker.say(spoiler.message())
                if number % PER_KNOCK == 0:
                    knock(port.number, spoiler.connection(socket_type), WITHIN_SECONDS)
                if number % AT_ONCE == 0:
                    assert door.serves(friend, WITHIN_MS), "meanwhile"
            speaker.settle()

        friend = at_end.enter_context(connected(address, door.kind))
        until(lambda: door.serves(friend, 100))
        require_no_growth(count, feed)
        another = at_end.enter_context(connected(address, door.kind))
        until(lambda: door.serves(another, 100))
    refused = access.refusals.counts()
    assert refused[f"{name}.protocol"] + refused[f"{name}.handshake"] > count / PER_KNOCK / 2
    if name != "events":
        assert refused[f"{name}.malformed"] > count / 2


@pytest.mark.long
def test_a_line_with_keys_takes_whatever_is_no_handshake(
    name: SocketName, count: int, port: Port, tmp_path: Path
) -> None:
    secured = Secured(tmp_path)
    access, keys = secured.access(), secured.client(ROLE_OF[name])
    door = DOORS[name](port.bound, access, tmp_path)
    spoiler = Spoiler(SEED, SAID[name])

    def feed(messages: int) -> None:
        before = sum(access.refusals.counts().values())
        for _ in range(messages):
            knock(port.number, spoiler.connection(SPEAKERS[name][2]), WITHIN_SECONDS)
        until(lambda: sum(access.refusals.counts().values()) >= before + 0.9 * messages)

    try:
        require_no_growth(count // PER_KNOCK, feed)
        with connected(port.reached, door.kind, keys) as friend:
            until(lambda: door.serves(friend, 100))
    finally:
        door.close()


@pytest.mark.parametrize(
    ("where", "count"), [("Python", FEW), pytest.param("C", MANY, marks=pytest.mark.long)], ids=["Python", "C"]
)
def test_what_is_kept_of_each_message_would_be_seen(
    where: str, count: int, port: Port, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_from, kept = commands.request_from, list[object]()
    malloc = ctypes.CDLL(None).malloc
    malloc.restype = ctypes.c_void_p

    def leaking(data: bytes) -> commands.Request | commands.Refused:
        if where == "C":
            ctypes.memset(malloc(100), 1, 100)
        else:
            kept.append(bytearray(1))
        return request_from(data)

    monkeypatch.setattr(commands, "request_from", leaking)
    with pytest.raises(AssertionError):
        test_a_line_takes_whatever_is_said_to_it("commands", count, port, tmp_path)


# Its clients.


BOOT = wire_examples.GOOD.event.boot_id
WELCOMED = Welcome(boot_id=BOOT, line="line1", counts=Counts(journal_id="j1", journalled={"alarm": 3}))
PUBLISHED: list[Parts] = [
    *(to_frames(message) for message in wire_examples.KEPT.values()),
    [welcome_to_bytes(WELCOMED)],
]
BUNDLE = BundleName(name="boards", version="1", digest="ab" * 32)
REPLIED: list[commands.Reply] = [
    Triggered(camera="top", part_id="P-1", frame_id=1, frame_number=1),
    Announced(camera="top"),
    Selected(product="4711", bundle=BUNDLE),
    commands.refusal("busy", "ask again"),
]


def test_a_listener_takes_whatever_is_published(count: int, address: str) -> None:
    spoiler, numbers = Spoiler(SEED, PUBLISHED), itertools.count()
    outcomes: Counter[str] = Counter()
    assert isinstance(wire_examples.STATUS.event, StatusEvent)

    def mark(line: str) -> Parts:
        return to_frames(Message(msgspec.structs.replace(wire_examples.STATUS.event, line=line)))

    def until_marked(line: str) -> None:
        while True:
            try:
                message = events.receive()
            except (MessageError, EventsLostError) as error:
                outcomes[type(error).__name__] += 1
                continue
            assert message is not None, "nothing came any more"
            outcomes[type(message.event).__name__] += 1
            if isinstance(message.event, StatusEvent) and message.event.line == line:
                return

    def feed(messages: int) -> None:
        for _ in range(messages // AT_ONCE):
            for _ in range(AT_ONCE):
                publishing.send_multipart(spoiler.message())
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
        assert events.receive() == wire_examples.DEFECT
    assert outcomes["MessageError"] > count / 3
    good = "EventsLostError", "VerdictEvent", "AlarmEvent", "JournalEvent"
    assert min(outcomes[kind] for kind in good) > count / 500


class Answering:
    """A line that answers each request as it is told to."""

    def __init__(self, address: str, answers: Callable[[bytes], Sequence[Parts]]) -> None:
        self._address, self._answers = address, answers
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._answer)

    def _answer(self) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(self._address)
            while not self._ended.is_set():
                while socket.poll(50):
                    client, request = socket.recv_multipart()
                    for parts in self._answers(request):
                        socket.send_multipart([client, *parts])

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def short(spoiler: Spoiler, message: Parts) -> Parts:
    """A spoilt message that is not hung up on for its length: what comes after it shall come."""
    while max(map(len, spoilt := spoiler.spoilt(message))) > commander.LONGEST_REPLY_BYTES:
        pass
    return spoilt


def test_a_commander_takes_whatever_is_replied(count: int, address: str) -> None:
    spoiler, turns = Spoiler(SEED, []), itertools.cycle(REPLIED)
    outcomes: Counter[str] = Counter()
    said = 0

    def answers(request: bytes) -> list[Parts]:
        nonlocal said
        said += 1
        request_id = msgspec.json.decode(request)["request_id"]
        spoilt = commands.to_bytes(msgspec.structs.replace(next(turns), request_id=request_id))
        honest = commands.to_bytes(msgspec.structs.replace(REPLIED[0], request_id=request_id))
        return [short(spoiler, [spoilt]), [honest]]

    def feed(messages: int) -> None:
        until_said = said + messages
        while said < until_said:
            try:
                outcomes[type(line.trigger("top")).__name__] += 1
            except (MessageError, CommandRefusedError) as error:
                outcomes[type(error).__name__] += 1

    with Answering(address, answers), Commander(address, WITHIN_SECONDS) as line:
        require_no_growth(count, feed)
    assert min(outcomes[kind] for kind in ("MessageError", "CommandRefusedError", "Triggered")) > count / 100


JOURNAL = follow_examples.JOURNAL


def batch(after_seq: int, through_seq: int, request_id: str | None = None) -> Parts:
    """All events of a journal of five after one of them up to another."""
    events = [(header_of(event(seq, GOOD, JOURNAL)), b"png") for seq in range(after_seq + 1, through_seq + 1)]
    told = Batch(
        request_id=request_id, journal_id=JOURNAL, after_seq=after_seq, through_seq=through_seq, last_seq=5,
        events=len(events),
    )  # fmt: skip
    return batch_parts(told, events)


def test_a_replay_takes_whatever_is_answered(count: int, address: str) -> None:
    spoiler, outcomes = Spoiler(SEED, []), Counter[str]()
    said = 0

    def answers(request: bytes) -> list[Parts]:
        nonlocal said
        said += 1
        asked = msgspec.json.decode(request, type=ReplayRequest)
        honest = batch(min(asked.after_seq, 5), 5, asked.request_id)
        return [spoiler.spoilt(honest), honest]

    def feed(messages: int) -> None:
        until_said = said + messages
        while said < until_said:
            try:
                came = [each.seq for part in line.events(JOURNAL, 0, 5, [""]) for each in part.events]
                outcomes["whole" if came == [1, 2, 3, 4, 5] else "not whole"] += 1
            except (MessageError, JournalError) as error:
                outcomes[type(error).__name__] += 1

    line = Replay(address)
    try:
        with Answering(address, answers):
            require_no_growth(count, feed)
    finally:
        line.close()
    assert min(outcomes["whole"], outcomes["MessageError"]) > count / 100


FOLLOWING = Following(name="mes1", journal_id=JOURNAL, acked_seq=0, first_seq=1, last_seq=5, heartbeat_s=1.0)
TOLD: list[Parts] = [
    *([following.to_bytes(reply)] for reply in (FOLLOWING, msgspec.structs.replace(FOLLOWING, acked_seq=2))),
    *([batch(after_seq, through_seq) for after_seq, through_seq in ((0, 2), (0, 5), (2, 5), (5, 5), (0, 0))]),
    *(follow_examples.parts_of(reply) for reply in follow_examples.REPLIES.values()),
]


class HostileLine:
    """Begins with each connection of a follower as a line does, of another journal each, then tells what is spoilt."""

    def __init__(self, socket: "zmq.Socket[bytes]", spoiler: Spoiler) -> None:
        self._socket, self._spoiler = socket, spoiler
        self._client, self._journal_id = b"", JOURNAL
        self._journals = itertools.count()

    def tell(self) -> bool:
        """Whether it told something spoilt; it does not before the follower has come."""
        self._take()
        if self._client:
            self._send(self._spoiler.message())
        return bool(self._client)

    def tell_the_truth(self) -> None:
        """From the beginning, of a journal of five events."""
        self._take()
        if self._client:
            self._begin()
            self._send(batch(0, 5))

    def has_lost_it(self) -> None:
        """The follower hung up, and will come again."""
        self._client = b""

    def _take(self) -> None:
        while self._socket.poll(0):
            client, request = self._socket.recv_multipart()
            if b'"follow"' in request:
                self._client = client
                self._begin()

    def _begin(self) -> None:
        self._journal_id = f"{next(self._journals):032}"
        self._send([following.to_bytes(FOLLOWING)])

    def _send(self, parts: Parts) -> None:
        of_this = [part.replace(JOURNAL.encode(), self._journal_id.encode()) for part in parts]
        self._socket.send_multipart([self._client, *of_this])


@pytest.mark.long
def test_a_follower_takes_whatever_it_is_told(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "PAUSE_SECONDS", dict.fromkeys(follower.PAUSE_SECONDS, 0.0))
    address, outcomes = f"ipc://{tmp_path}/journal", Counter[str]()

    def follow() -> Follower:
        return Follower(address, "mes1", timeout_s=0.0)

    events = follow()

    def listen() -> list[int]:
        nonlocal events
        try:
            came = [each.seq for each in events.receive_batch()]
        except EventsLostError as error:
            outcomes[type(error).__name__] += 1
        except HeatlineError as error:
            outcomes[type(error).__name__] += 1
            line.has_lost_it()
            if not isinstance(error, MessageError):  # it is refused for good
                events.close()
                events = follow()
        else:
            outcomes["events" if came else "nothing"] += 1
            return came
        return []

    def feed(messages: int) -> None:
        told = 0
        while told < messages:
            told += line.tell()
            listen()

    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(address)
        line = HostileLine(socket, Spoiler(SEED, TOLD))
        require_no_growth(count, feed)
        until(lambda: line.tell_the_truth() or listen() == [1, 2, 3, 4, 5])
        events.close()
    assert min(outcomes[kind] for kind in ("MessageError", "EventsLostError", "events")) > count / 500


def a_listener_hears(address: str) -> bool:
    with Subscriber(address, timeout_s=WITHIN_SECONDS) as events:
        return events.receive() is not None


def a_commander_is_obeyed(address: str) -> bool:
    with Commander(address, 0.5) as line:
        give_up_s = time.monotonic() + WITHIN_SECONDS
        while time.monotonic() < give_up_s:
            with contextlib.suppress(DeliveryError, AccessError, MessageError):
                return line.trigger("top") is not None
    return False


@pytest.mark.parametrize(
    ("name", "is_served", "socket_type"),
    [("events", a_listener_hears, "XPUB"), ("commands", a_commander_is_obeyed, "ROUTER")],
    ids=["events", "commands"],
)
def test_a_client_outlasts_whoever_is_no_line_at_its_address(
    name: SocketName, is_served: Callable[[str], bool], socket_type: str, port: Port, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """After some of what comes then, ZeroMQ connects no more by itself, for ever."""
    monkeypatch.setattr(connection, "ANEW_AFTER_SECONDS", 0.1)
    address, spoiler = f"tcp://127.0.0.1:{port.number}", Spoiler(SEED, PUBLISHED)
    with contextlib.ExitStack() as at_end:
        client = at_end.enter_context(ThreadPoolExecutor(1))
        with sockets.create_server(("127.0.0.1", port.number)) as stranger:
            stranger.settimeout(WITHIN_SECONDS)
            served = client.submit(is_served, address)
            for _ in range(4):
                visitor, _ = stranger.accept()
                with visitor, contextlib.suppress(ConnectionError):
                    visitor.sendall(spoiler.connection(socket_type))
        door = DOORS[name](address, Access(), tmp_path)
        at_end.callback(door.close)
        assert served.result(2 * WITHIN_SECONDS)


def test_a_part_that_is_too_long_does_not_end_listening_for_ever(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "ANEW_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(subscriber, "LARGEST_PART_BYTES", 1 << 16)

    def listen() -> Message | None:
        with Subscriber(address, timeout_s=WITHIN_SECONDS) as events:
            return events.receive()

    def until_subscribed() -> None:
        said = b""
        while said != b"\x01":  # to everything
            assert publishing.poll(WITHIN_MS)
            said = publishing.recv()

    with zmq.Context() as context, context.socket(zmq.XPUB) as publishing, ThreadPoolExecutor(1) as client:
        publishing.setsockopt(zmq.LINGER, 0)
        publishing.bind(address)
        heard = client.submit(listen)
        until_subscribed()
        publishing.send_multipart([b"status", bytes((1 << 16) + 1)])
        until_subscribed()
        publishing.send_multipart(to_frames(wire_examples.STATUS))
        assert heard.result(WITHIN_SECONDS) == wire_examples.STATUS
