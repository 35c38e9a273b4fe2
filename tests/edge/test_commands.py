"""Commands over real sockets: who asks is answered, and nobody who asks badly, floods or goes away harms the others."""

import contextlib
import json
import logging
import os
import queue
import re
import socket as sockets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import zmq
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from zmq.utils.monitor import recv_monitor_message

from edge.cli.select import select
from edge.cli.trigger import trigger
from edge.delivery.commander import Commander
from edge.delivery.commands import (
    SCHEMA_VERSION,
    SEND_HIGH_WATER_MARK,
    UNANSWERED_AT_MOST,
    Announced,
    Answer,
    CommandServer,
    Handle,
    Reason,
    Refused,
    Reply,
    Request,
    Selected,
    SelectRequest,
    Triggered,
    TriggerRequest,
    refusal,
    reply_from,
    request_from,
    to_bytes,
)
from edge.delivery.messages import BundleName
from edge.delivery.router import LONGEST_REQUEST_BYTES
from edge.errors import AccessError, CommandRefusedError, DeliveryError, MessageError

WITHIN_SECONDS = 20.0
WITHIN_MS = int(WITHIN_SECONDS * 1000)
DOCUMENT = Path(__file__).parents[2] / "docs" / "commands.md"

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=64)
PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=64)
INT = st.integers(-(2**63), 2**63 - 1)
NAMES: dict[str, Any] = {"request_id": st.none() | ANY_TEXT, "camera": PRINTABLE, "part_id": st.none() | PRINTABLE}
PRODUCT: dict[str, Any] = {"request_id": st.none() | ANY_TEXT, "product": PRINTABLE}
REQUEST = st.builds(TriggerRequest, **NAMES) | st.builds(SelectRequest, **PRODUCT)
REPLY = (
    st.builds(Triggered, frame_id=INT, frame_number=INT, **NAMES)
    | st.builds(Announced, **NAMES)
    | st.builds(Selected, bundle=st.builds(BundleName, name=ANY_TEXT, version=ANY_TEXT, digest=ANY_TEXT), **PRODUCT)
    | st.builds(Refused, request_id=st.none() | ANY_TEXT, reason=ANY_TEXT, detail=ANY_TEXT)
)
PLAIN = TriggerRequest(request_id="r", camera="top", part_id="P-1")
SELECT = SelectRequest(request_id="r", product="4711")
BUNDLE = BundleName(name="boards", version="2026.11", digest="ab" * 32)


# Bytes.


@settings(deadline=None, max_examples=100)
@given(REQUEST)
def test_a_request_that_is_written_is_the_one_that_is_read(request: Request) -> None:
    assert request_from(to_bytes(request)) == request


@settings(deadline=None, max_examples=100)
@given(REPLY)
def test_a_reply_that_is_written_is_the_one_that_is_read(reply: Reply) -> None:
    assert reply_from(to_bytes(reply)) == reply


def changed(change: Callable[[dict[str, Any]], Any], request: Request = PLAIN) -> bytes:
    """A request changed by hand."""
    content = json.loads(to_bytes(request))
    change(content)
    return json.dumps(content).encode()


REFUSED: list[tuple[bytes, str, str]] = [
    (b"", "malformed", "truncated"),
    (b"trigger", "malformed", "JSON is malformed"),
    (b"null", "malformed", "Expected `object`, got `null`"),
    (b"[]", "malformed", "Expected `object`, got `array`"),
    (b"{}", "malformed", "missing required field `schema_version`"),
    (b'\xef\xbb\xbf{"schema_version":1}', "malformed", "JSON is malformed"),  # a byte order mark
    (b'{"type":"trigger","schema_version":1,"camera":"\xff"}', "malformed", "utf-8"),
    (b'{"type":"trigger","schema_version":1,"camera":"\\udc00"}', "malformed", "surrogate"),  # could not be echoed
    (b'{"x":' + b"[" * 60_000, "malformed", "recursion"),
    (b'{"schema_version":1,"type":"trigger","x":' * 1000, "malformed", ""),
    (changed(lambda r: r.pop("type")), "malformed", "missing required field `type`"),
    (changed(lambda r: r.update(type="selekt")), "malformed", "Invalid value 'selekt'"),
    (changed(lambda r: r.update(type="select")), "malformed", "unknown field `camera`"),  # is it one or the other?
    (changed(lambda r: r.update(type="x" * 60_000)), "malformed", "Invalid value"),
    (changed(lambda r: r.update(type="triggered")), "malformed", "Invalid value"),  # a reply is no request
    (changed(lambda r: r.pop("schema_version")), "malformed", "missing required field `schema_version`"),
    (changed(lambda r: r.update(schema_version="1")), "malformed", "Expected `int`"),
    (changed(lambda r: r.update(schema_version=True)), "malformed", "Expected `int`"),
    (changed(lambda r: r.update(schema_version=0)), "malformed", "Expected `int` >= 1"),
    (b'{"type":"trigger","camera":"a","schema_version":' + b"9" * 60_000 + b"}", "malformed", "out of range"),
    (b'{"type":"trigger","camera":"a","schema_version":' + b"9" * 400 + b"}", "version", "version 999"),
    (changed(lambda r: r.update(schema_version=2)), "version", "schema version 2 came, this line knows up to 1"),
    (changed(lambda r: r.update(schema_version=2, type="eject")), "version", "update heatline"),
    (changed(lambda r: r.pop("camera")), "malformed", "missing required field `camera`"),
    (changed(lambda r: r.update(camera=None)), "malformed", "Expected `str`, got `null` - at `$.camera`"),
    (changed(lambda r: r.update(camera="")), "malformed", "length >= 1 - at `$.camera`"),
    (changed(lambda r: r.update(camera="x" * 65)), "malformed", "length <= 64 - at `$.camera`"),
    (changed(lambda r: r.update(camera="top\n")), "malformed", "printable characters, got 'top\\n' - at `$.camera`"),
    (changed(lambda r: r.update(part_id="")), "malformed", "length >= 1 - at `$.part_id`"),
    (changed(lambda r: r.update(part_id="x" * 65)), "malformed", "length <= 64 - at `$.part_id`"),
    (changed(lambda r: r.update(part_id="P\x1b[2J")), "malformed", "printable characters"),  # would clear a terminal
    (changed(lambda r: r.update(part_id="P\u202e1")), "malformed", "printable characters"),  # would reverse it
    (changed(lambda r: r.update(part_id=7)), "malformed", "Expected `str | null`, got `int` - at `$.part_id`"),
    (changed(lambda r: r.update(part="P-1")), "malformed", "unknown field `part`"),  # its id would be lost in silence
    (changed(lambda r: r.pop("product"), SELECT), "malformed", "missing required field `product`"),
    (changed(lambda r: r.update(product=None), SELECT), "malformed", "Expected `str`, got `null` - at `$.product`"),
    (changed(lambda r: r.update(product=4711), SELECT), "malformed", "Expected `str`, got `int` - at `$.product`"),
    (changed(lambda r: r.update(product=""), SELECT), "malformed", "length >= 1 - at `$.product`"),
    (changed(lambda r: r.update(product="x" * 65), SELECT), "malformed", "length <= 64 - at `$.product`"),
    (changed(lambda r: r.update(product="4711\x1b[2J"), SELECT), "malformed", "printable characters"),
    (changed(lambda r: r.update(camera="top"), SELECT), "malformed", "unknown field `camera`"),  # it is for all cameras
]


@pytest.mark.parametrize(("data", "reason", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_request_is_refused_in_one_short_sentence(data: bytes, reason: str, words: str) -> None:
    reply = request_from(data)
    assert isinstance(reply, Refused)
    assert reply.reason == reason
    assert words in reply.detail
    assert "\n" not in reply.detail
    assert len(to_bytes(reply)) < 1000, "a refusal does not repeat all of a long request"


def test_a_refusal_names_the_request_where_its_id_can_be_read() -> None:
    assert request_from(changed(lambda r: r.update(part=1))).request_id == "r"
    assert request_from(changed(lambda r: r.update(schema_version=2))).request_id == "r"
    assert request_from(b'{"request_id":"r"}').request_id == "r"
    assert request_from(b'{"request_id":"r",').request_id is None
    assert request_from(changed(lambda r: r.update(request_id=5))) == refused_as("malformed", "got `int`")
    assert request_from(changed(lambda r: r.update(request_id="x" * 65))) == refused_as("malformed", "length <= 64")


class refused_as:
    """Equals refusals without a request id, for a reason, with words in their detail."""

    def __init__(self, reason: Reason, words: str) -> None:
        self._reason, self._words = reason, words

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Refused)
            and (other.request_id, other.reason) == (None, self._reason)
            and self._words in other.detail
        )


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=100))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    assert isinstance(request_from(data), Refused)
    with pytest.raises(MessageError):
        reply_from(data)


@settings(deadline=None, max_examples=200)
@given(request=st.sampled_from([PLAIN, SELECT]), place=st.integers(0, 10**4), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_request_or_a_refusal_and_nothing_else(request: Request, place: int, value: int) -> None:
    data = bytearray(to_bytes(request))
    data[place % len(data)] = value
    came = request_from(bytes(data))
    assert isinstance(came, type(request) | Refused)
    to_bytes(came)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(name=st.sampled_from(["type", *PLAIN.__struct_fields__]), value=JSON)
def test_any_value_in_place_of_a_field_gives_a_request_or_a_refusal_and_nothing_else(name: str, value: object) -> None:
    came = request_from(changed(lambda request: request.update({name: value})))
    assert isinstance(came, Request | Refused)
    to_bytes(came)


def test_fields_that_a_later_line_adds_to_replies_are_ignored_and_reasons_too() -> None:
    assert reply_from(
        b'{"type":"triggered","schema_version":1,"camera":"a","frame_id":1,"frame_number":2,"exposed_at_ns":3}'
    ) == Triggered(camera="a", frame_id=1, frame_number=2)
    later = reply_from(b'{"type":"refused","schema_version":1,"reason":"asleep","detail":"It is night."}')
    assert later == Refused(reason="asleep", detail="It is night.")


def test_a_reply_of_a_newer_version_is_refused() -> None:
    with pytest.raises(MessageError, match="update heatline"):
        reply_from(b'{"type":"triggered","schema_version":2}')


# The socket.


class Desk:
    """A handler that leaves every request, all of them triggers, for the test to answer."""

    def __init__(self) -> None:
        self._asked: queue.Queue[tuple[Request, Answer]] = queue.Queue()

    def __call__(self, request: Request, answer: Answer) -> None:
        self._asked.put((request, answer))

    def next(self) -> tuple[TriggerRequest, Answer]:
        request, answer = self._asked.get(timeout=WITHIN_SECONDS)
        assert isinstance(request, TriggerRequest)
        return request, answer


def done(request: Request, frame_id: int = 1) -> Triggered:
    assert isinstance(request, TriggerRequest)
    return Triggered(camera=request.camera, part_id=request.part_id, frame_id=frame_id, frame_number=frame_id)


def at_once(request: Request, answer: Answer) -> None:
    answer(done(request))


Serve = Callable[[str, Handle], CommandServer]
Connect = Callable[..., "zmq.Socket[bytes]"]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers, and closes them at the end."""
    with contextlib.ExitStack() as started:

        def start(address: str, handle: Handle) -> CommandServer:
            server = CommandServer(address, handle)
            started.callback(server.close)
            server.start()
            return server

        yield start


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connects bare sockets, and closes them at the end."""
    with contextlib.ExitStack() as opened:
        context = opened.enter_context(zmq.Context())

        def connected(address: str, kind: int, messages_kept: int = 0) -> "zmq.Socket[bytes]":
            socket = opened.enter_context(context.socket(kind))
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, messages_kept)  # 0: all
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.RCVTIMEO, WITHIN_MS)
            socket.connect(address)
            return socket

        yield connected


@pytest.fixture(params=["tcp", "ipc"])
def either_address(request: pytest.FixtureRequest, address: str, tmp_path: Path) -> str:
    return address if request.param == "tcp" else f"ipc://{tmp_path}/commands"


def ask(socket: "zmq.Socket[bytes]", request: Request | bytes = PLAIN) -> None:
    socket.send(request if isinstance(request, bytes) else to_bytes(request))


def reply(socket: "zmq.Socket[bytes]") -> Reply:
    return reply_from(socket.recv())


def test_a_req_socket_gets_its_reply(serve: Serve, connect: Connect, either_address: str) -> None:
    serve(either_address, at_once)
    client = connect(either_address, zmq.REQ)
    for number in range(3):
        ask(client, TriggerRequest(request_id=str(number), camera="top", part_id=f"P-{number}"))
        assert reply(client) == Triggered(
            request_id=str(number), camera="top", part_id=f"P-{number}", frame_id=1, frame_number=1
        )


@pytest.mark.parametrize("delimiter", [[], [b""]])
def test_a_dealer_gets_its_reply_with_a_delimiter_if_it_sent_one(
    serve: Serve, connect: Connect, either_address: str, delimiter: list[bytes]
) -> None:
    serve(either_address, at_once)
    client = connect(either_address, zmq.DEALER)
    client.send_multipart([*delimiter, to_bytes(PLAIN)])
    expected = Triggered(request_id="r", camera="top", part_id="P-1", frame_id=1, frame_number=1)
    assert client.recv_multipart() == [*delimiter, to_bytes(expected)]
    client.send_multipart([*delimiter, b"nonsense"])
    *before, came = client.recv_multipart()
    assert before == delimiter
    assert reply_from(came) == refused_as("malformed", "JSON is malformed")


def test_replies_may_come_in_any_order_and_carry_the_id_of_their_request(
    serve: Serve, connect: Connect, address: str
) -> None:
    desk = Desk()
    serve(address, desk)
    client = connect(address, zmq.DEALER)
    for number in range(10):
        ask(client, TriggerRequest(request_id=str(number), camera="top", part_id=f"P-{number}"))
    asked = [desk.next() for _ in range(10)]
    assert [request.part_id for request, _ in asked] == [f"P-{number}" for number in range(10)]
    for request, answer in reversed(asked):
        # Whatever id the handler's reply has: the server knows whose it is.
        answer(Triggered(request_id="else", camera="top", part_id=request.part_id, frame_id=1, frame_number=1))
    came = [reply(client) for _ in range(10)]
    assert [one.request_id for one in came] == [str(number) for number in reversed(range(10))]
    assert [one.part_id for one in came if isinstance(one, Triggered)] == [f"P-{one.request_id}" for one in came]


def test_answers_of_many_threads_reach_those_who_asked(serve: Serve, connect: Connect, address: str) -> None:
    desk = Desk()
    server = serve(address, desk)
    clients = [connect(address, zmq.DEALER) for _ in range(4)]
    for number in range(50):
        for which, client in enumerate(clients):
            ask(client, TriggerRequest(request_id=str(number), camera=f"camera{which}", part_id=f"{which}-{number}"))
    with ThreadPoolExecutor(8) as threads:
        for frame_id in range(200):
            request, answer = desk.next()
            threads.submit(answer, done(request, frame_id))
    frame_ids = set()
    for which, client in enumerate(clients):
        came = [reply(client) for _ in range(50)]
        assert {one.part_id for one in came if isinstance(one, Triggered)} == {f"{which}-{n}" for n in range(50)}
        assert {one.request_id for one in came} == {str(number) for number in range(50)}
        frame_ids |= {one.frame_id for one in came if isinstance(one, Triggered)}
    assert frame_ids == set(range(200))
    server.close()
    assert server.counts() == {"triggered": 200}


def test_only_the_first_answer_is_sent(serve: Serve, connect: Connect, address: str) -> None:
    desk = Desk()
    serve(address, desk)
    client = connect(address, zmq.DEALER)
    for expected in (1, 2):
        ask(client)
        request, answer = desk.next()
        answer(done(request, expected))
        answer(done(request, 99))
        answer(refusal("no_frame", "It came too late."))
        came = reply(client)
        assert isinstance(came, Triggered)
        assert came.frame_id == expected


def test_an_answer_that_cannot_be_said_fails_where_it_is_made(serve: Serve, connect: Connect, address: str) -> None:
    """Not in the server's thread, where it would end all commands."""
    desk = Desk()
    serve(address, desk)
    client = connect(address, zmq.REQ)
    ask(client)
    request, answer = desk.next()
    with pytest.raises(UnicodeEncodeError):
        answer(refusal("no_frame", "\udcff"))
    answer(done(request))
    assert isinstance(reply(client), Triggered)


def test_a_handler_that_fails_is_told_and_logged_once_and_the_next_request_is_handled(
    serve: Serve, connect: Connect, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_for_some(request: Request, answer: Answer) -> None:
        assert isinstance(request, TriggerRequest)
        if request.part_id == "answered":
            answer(done(request))
        if request.part_id != "fine":
            raise ZeroDivisionError("boom")
        answer(done(request))

    serve(address, fail_for_some)
    client = connect(address, zmq.REQ)
    kinds = []
    for part_id in ("bad", "bad", "answered", "bad", "fine"):
        ask(client, TriggerRequest(camera="top", part_id=part_id))
        came = reply(client)
        kinds.append(came.reason if isinstance(came, Refused) else "triggered")
    assert kinds == ["fault", "fault", "triggered", "fault", "triggered"]
    logged = [record for record in caplog.records if record.name == "edge.delivery.commands"]
    assert len(logged) == 1, "whoever can bring a fault about could fill the disk with it"
    assert "boom" in caplog.text


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator["zmq.Socket[bytes]"]:
    """A client of one server for many examples."""
    address = f"ipc://{tmp_path_factory.mktemp('commands')}/socket"
    server = CommandServer(address, at_once)
    server.start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.setsockopt(zmq.LINGER, 0)
        client.setsockopt(zmq.RCVTIMEO, WITHIN_MS)
        client.connect(address)
        yield client
    server.close()


@settings(deadline=None, max_examples=100)
@given(parts=st.lists(st.just(b"") | st.just(to_bytes(PLAIN)) | st.binary(max_size=60), min_size=1, max_size=5))
def test_every_message_gets_one_reply_whatever_it_is(lasting: "zmq.Socket[bytes]", parts: list[bytes]) -> None:
    lasting.send_multipart(parts)
    came = lasting.recv_multipart()
    delimiter = [b""] if len(parts) > 1 and parts[0] == b"" else []
    assert came[:-1] == delimiter
    one = reply_from(came[-1])
    if parts == [*delimiter, to_bytes(PLAIN)]:
        assert isinstance(one, Triggered)
    else:
        assert isinstance(one, Refused)
        assert one.reason == "malformed"
    assert not lasting.poll(0)


def test_bad_messages_are_counted_and_leave_few_lines_in_the_log(
    serve: Serve, connect: Connect, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(address, at_once)
    client = connect(address, zmq.DEALER)
    for _ in range(50):
        ask(client, b"nonsense")
        client.send_multipart([b"x"] * 1000)
    ask(client, changed(lambda request: request.update(schema_version=2)))
    ask(client)
    for _ in range(102):
        client.recv()
    server.close()
    assert server.counts() == {"malformed": 100, "version": 1, "triggered": 1}
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("edge")]
    assert [line.partition(": ")[0] for line in logged[:2]] == [
        "refused (commands.malformed)",
        "refused (commands.version)",
    ]
    assert len(logged) < 10, "sums, now and then"


def test_who_sends_too_much_is_hung_up_on_and_others_are_not(serve: Serve, connect: Connect, address: str) -> None:
    serve(address, at_once)
    large, other = connect(address, zmq.DEALER), connect(address, zmq.REQ)
    padding = LONGEST_REQUEST_BYTES - len(to_bytes(PLAIN))
    ask(large, to_bytes(PLAIN) + b" " * padding)  # the longest that is let in
    assert isinstance(reply(large), Triggered)
    with large.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
        ask(large, to_bytes(PLAIN) + b" " * (padding + 1))
        assert monitor.poll(WITHIN_MS), "nobody hung up"
        recv_monitor_message(monitor)
        large.disable_monitor()
    ask(other)
    assert isinstance(reply(other), Triggered)
    ask(large)  # connects again by itself
    assert isinstance(reply(large), Triggered)


def test_bytes_that_are_no_zeromq_harm_nobody(serve: Serve, connect: Connect, address: str) -> None:
    serve(address, at_once)
    host, _, port = address.removeprefix("tcp://").partition(":")
    with sockets.create_connection((host, int(port)), WITHIN_SECONDS) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: line\r\n\r\n" * 10)
        client = connect(address, zmq.REQ)
        ask(client)
        assert isinstance(reply(client), Triggered)


def test_a_client_that_has_gone_costs_nothing(serve: Serve, connect: Connect, either_address: str) -> None:
    desk = Desk()
    serve(either_address, desk)
    gone, client = connect(either_address, zmq.DEALER), connect(either_address, zmq.REQ)
    for _ in range(20):
        ask(gone)
    asked = [desk.next() for _ in range(20)]
    gone.close()
    ask(client)
    for request, answer in [*asked, desk.next()]:
        answer(done(request))
    assert isinstance(reply(client), Triggered)


def test_a_client_that_reads_no_replies_misses_some_and_keeps_nobody_waiting(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    desk = Desk()
    address = f"ipc://{tmp_path}/commands"  # keeps less on its way than TCP
    serve(address, desk)
    silent, client = connect(address, zmq.DEALER, 1), connect(address, zmq.REQ)
    count = 3 * SEND_HIGH_WATER_MARK
    long_refused = changed(lambda request: request.update({"x" * 1000: 1}))
    for _ in range(count):
        ask(silent, long_refused)
    ask(silent)
    desk.next()  # so all before it are refused already
    for _ in range(3):
        ask(client)
        request, answer = desk.next()
        answer(done(request))
        assert isinstance(reply(client), Triggered)
    replies = 0
    while silent.poll(50):
        silent.recv()
        replies += 1
    assert replies < count


def test_beyond_a_thousand_unanswered_requests_others_are_refused_as_busy(
    serve: Serve, connect: Connect, address: str
) -> None:
    desk = Desk()
    serve(address, desk)
    flooder, client = connect(address, zmq.DEALER), connect(address, zmq.REQ)
    for number in range(UNANSWERED_AT_MOST + 200):
        ask(flooder, TriggerRequest(request_id=str(number), camera="top"))
    refused = [reply(flooder) for _ in range(200)]
    assert {one.reason for one in refused if isinstance(one, Refused)} == {"busy"}
    assert [one.request_id for one in refused] == [str(UNANSWERED_AT_MOST + number) for number in range(200)]
    ask(client)
    one = reply(client)
    assert isinstance(one, Refused)
    assert one.reason == "busy"

    for _ in range(UNANSWERED_AT_MOST):
        request, answer = desk.next()
        answer(done(request))
    answered = [reply(flooder) for _ in range(UNANSWERED_AT_MOST)]
    assert all(isinstance(one, Triggered) for one in answered)
    assert [one.request_id for one in answered] == [str(number) for number in range(UNANSWERED_AT_MOST)]
    ask(client)
    request, answer = desk.next()
    answer(done(request))
    assert isinstance(reply(client), Triggered)


# Starting and stopping.


def test_closing_refuses_all_that_wait_and_ignores_what_is_answered_afterwards(
    serve: Serve, connect: Connect, either_address: str
) -> None:
    desk = Desk()
    server = serve(either_address, desk)
    pipelining, plain = connect(either_address, zmq.DEALER), connect(either_address, zmq.REQ)
    for number in range(30):
        ask(pipelining, TriggerRequest(request_id=str(number), camera="top"))
    asked = [desk.next() for _ in range(30)]
    ask(plain)
    asked.append(desk.next())
    asked[3][1](done(asked[3][0]))  # answered just in time
    server.close()
    for request, answer in asked:
        answer(done(request))
    came = [reply(pipelining) for _ in range(30)]
    assert {one.request_id for one in came} == {str(number) for number in range(30)}
    assert [one.request_id for one in came if isinstance(one, Triggered)] == ["3"]
    assert {one.reason for one in [*came, reply(plain)] if isinstance(one, Refused)} == {"stopping"}
    assert not pipelining.poll(0)


def test_an_address_in_use_is_a_delivery_error_and_stays_with_its_owner(
    serve: Serve, connect: Connect, either_address: str
) -> None:
    serve(either_address, at_once)
    with pytest.raises(DeliveryError, match=r"is another line using it.*commands\.bind") as caught:
        serve(either_address, Desk())
    assert "\n" not in str(caught.value)
    client = connect(either_address, zmq.REQ)
    ask(client)
    assert isinstance(reply(client), Triggered)


@pytest.mark.parametrize("bad", ["tcp://127.0.0.1:x", "ipc:///nowhere/at/all", "tcp://[::1]:x"])
def test_an_address_that_is_none_is_a_delivery_error(serve: Serve, bad: str) -> None:
    with pytest.raises(DeliveryError, match="cannot be bound"):
        serve(bad, Desk())


@pytest.mark.parametrize("open_to_others", ["tcp://192.0.2.1:5557", "tcp://*:5557", "smoke://x", ""])
def test_an_address_that_others_may_reach_is_not_bound_without_a_key(serve: Serve, open_to_others: str) -> None:
    with pytest.raises(AccessError, match=r"commands\.bind is .*, and the line has no key"):
        serve(open_to_others, Desk())


def test_a_closed_server_leaves_no_descriptor_and_no_thread_and_its_address_free(
    serve: Serve, either_address: str
) -> None:
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        serve(either_address, Desk()).close()
    with pytest.raises(DeliveryError):
        serve("tcp://127.0.0.1:x", Desk())
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_closing_twice_or_without_a_start_is_fine(address: str) -> None:
    server = CommandServer(address, Desk())
    server.close()
    server.start()
    server.close()
    server.close()
    assert not server._thread.is_alive()


def test_ipv6_loopback_can_be_bound(serve: Serve) -> None:
    try:
        with sockets.socket(sockets.AF_INET6) as probe:
            probe.bind(("::1", 0))
            address = f"tcp://[::1]:{probe.getsockname()[1]}"
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    serve(address, at_once)
    with Commander(address, WITHIN_SECONDS) as line:
        assert isinstance(line.trigger("top"), Triggered)


# The client.


def test_a_commander_triggers_and_is_told_the_frame(serve: Serve, either_address: str) -> None:
    desk = Desk()
    serve(either_address, desk)

    def answer_both() -> None:
        request, answer = desk.next()
        answer(done(request, 7))
        request, answer = desk.next()
        answer(Announced(camera=request.camera, part_id=request.part_id))

    with ThreadPoolExecutor(1) as line_thread, Commander(either_address, WITHIN_SECONDS) as line:
        answering = line_thread.submit(answer_both)
        triggered = line.trigger("top", "P-1")
        announced = line.trigger("side")
        answering.result()
    assert triggered == Triggered(request_id="1", camera="top", part_id="P-1", frame_id=7, frame_number=7)
    assert announced == Announced(request_id="2", camera="side", part_id=None)


def test_a_commander_selects_and_is_told_what_is_in_force(serve: Serve, either_address: str) -> None:
    asked: list[Request] = []

    def handle(request: Request, answer: Answer) -> None:
        asked.append(request)
        answer(Selected(product="4711", bundle=BUNDLE))

    serve(either_address, handle)
    with Commander(either_address, WITHIN_SECONDS) as line:
        assert line.select("4711") == Selected(request_id="1", product="4711", bundle=BUNDLE)
    assert asked == [SelectRequest(request_id="1", product="4711")]


@pytest.mark.parametrize("unsayable", ["4711\udcff", "4711\n", "", "x" * 65])
def test_a_product_that_cannot_be_one_is_not_asked_for(serve: Serve, address: str, unsayable: str) -> None:
    serve(address, Desk())  # would leave it unanswered
    with Commander(address, WITHIN_SECONDS) as line, pytest.raises(CommandRefusedError) as caught:
        line.select(unsayable)
    assert caught.value.reason == "malformed"


def test_a_reply_to_something_else_is_a_message_error(serve: Serve, address: str) -> None:
    """Else a part might be taken for triggered, or a product for selected, that is not."""
    other: list[Reply] = [Triggered(camera="top", frame_id=1, frame_number=1), Selected(product="1", bundle=BUNDLE)]
    serve(address, lambda _, answer: answer(other.pop(0)))
    with Commander(address, WITHIN_SECONDS) as line:
        with pytest.raises(MessageError, match="no reply to a selection"):
            line.select("4711")
        with pytest.raises(MessageError, match="no reply to a trigger"):
            line.trigger("top")


def test_a_commander_that_is_refused_says_why(serve: Serve, address: str) -> None:
    serve(address, lambda _, answer: answer(refusal("unknown_camera", "there is no camera tip; there are top, side")))
    with (
        Commander(address, WITHIN_SECONDS) as line,
        pytest.raises(CommandRefusedError, match="there are top, side") as caught,
    ):
        line.trigger("tip")
    assert caught.value.reason == "unknown_camera"


@pytest.mark.parametrize("unsayable", ["P\udcff", "P\n1"])
def test_a_part_id_that_cannot_be_sent_is_refused_like_one_that_can(serve: Serve, address: str, unsayable: str) -> None:
    serve(address, at_once)
    with Commander(address, WITHIN_SECONDS) as line:
        for bad in (unsayable, "x" * 65):
            with pytest.raises(CommandRefusedError) as caught:
                line.trigger("top", bad)
            assert caught.value.reason == "malformed"
        assert isinstance(line.trigger("top", "P-1"), Triggered)


def test_a_line_that_is_not_there_is_a_delivery_error_and_a_later_one_is_not_triggered_for_it(
    serve: Serve, address: str
) -> None:
    """Else a trigger would fire for another part."""
    desk = Desk()
    with Commander(address, 0.05) as line, ThreadPoolExecutor(1) as thread:
        with pytest.raises(DeliveryError, match="was not reached within"):
            line.trigger("top", "P-1")
        serve(address, desk)
        line.timeout_s = WITHIN_SECONDS
        asking = thread.submit(line.trigger, "top", "P-2")
        request, answer = desk.next()
        answer(done(request))
        asking.result()
    assert request.part_id == "P-2"


def test_a_late_reply_is_not_taken_for_the_next_one(serve: Serve, address: str) -> None:
    desk = Desk()
    serve(address, desk)
    with Commander(address, WITHIN_SECONDS) as line, ThreadPoolExecutor(1) as thread:
        connected = thread.submit(line.trigger, "top", "P-0")
        request, answer = desk.next()
        answer(done(request))
        connected.result()
        line.timeout_s = 0.05
        with pytest.raises(DeliveryError, match="may have done what it was asked"):
            line.trigger("top", "P-1")
        line.timeout_s = WITHIN_SECONDS
        asking = thread.submit(line.trigger, "top", "P-2")
        while (asked := desk.next())[0].part_id != "P-2":  # the late one first
            asked[1](done(asked[0], 1))
        asked[1](done(asked[0], 2))
        assert asking.result() == Triggered(request_id="3", camera="top", part_id="P-2", frame_id=2, frame_number=2)


def test_a_commander_outlives_the_line_it_commands(serve: Serve, either_address: str) -> None:
    with Commander(either_address, WITHIN_SECONDS) as line:
        for _ in range(3):
            server = serve(either_address, at_once)
            line.timeout_s = WITHIN_SECONDS
            assert isinstance(line.trigger("top"), Triggered)
            server.close()
            line.timeout_s = 0.05
            with pytest.raises(DeliveryError, match=r"was not reached|did not reply"):  # noticed in time, or not yet
                line.trigger("top")


def test_what_is_no_line_is_a_message_error(connect: Connect, address: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as other:
        other.setsockopt(zmq.LINGER, 0)
        other.bind(address)
        with Commander(address, WITHIN_SECONDS) as line, ThreadPoolExecutor(1) as thread:
            asking = thread.submit(line.trigger, "top")
            assert other.poll(WITHIN_MS)
            other.send_multipart([other.recv_multipart()[0], b"hello"])
            with pytest.raises(MessageError, match="no reply of a line"):
                asking.result()


@pytest.mark.parametrize("bad", ["tcp://127.0.0.1", "smoke://signals", ""])
def test_a_commander_of_an_address_that_is_none_is_a_delivery_error(bad: str) -> None:
    with pytest.raises(DeliveryError, match="is no address to connect to"):
        Commander(bad)


# The command.


def test_the_command_says_what_came_of_it(serve: Serve, address: str) -> None:
    def handle(request: Request, answer: Answer) -> None:
        assert isinstance(request, TriggerRequest)
        answer(Announced(camera="side", part_id=request.part_id) if request.camera == "side" else done(request, 7))

    serve(address, handle)
    run = CliRunner().invoke
    assert (
        run(trigger, [address, "top", "--part-id", "P-1"]).output
        == "top: frame 7, number 7 since the line's start, part P-1\n"
    )
    assert run(trigger, [address, "side"]).output == "side: no part id waits for the next trigger\n"
    shown = run(trigger, [address, "top", "--timeout", "20", "--json"])
    assert json.loads(shown.output)["frame_number"] == 7
    assert shown.exit_code == 0


def test_the_command_to_select_says_what_is_in_force(serve: Serve, address: str) -> None:
    serve(address, lambda _, answer: answer(Selected(product="4711", bundle=BUNDLE)))
    shown = CliRunner().invoke(select, [address, "4711"])
    assert (shown.exit_code, shown.output) == (
        0,
        "product 4711 is in force, with bundle boards 2026.11 (abababababab)\n",
    )
    report = json.loads(CliRunner().invoke(select, [address, "4711", "--timeout", "20", "--json"]).output)
    assert (report["type"], report["product"], report["bundle"]["version"]) == ("selected", "4711", "2026.11")


def test_a_selection_that_is_refused_ends_with_the_same_exit_code(serve: Serve, address: str) -> None:
    serve(address, lambda _, answer: answer(refusal("unusable", "4711.bundle: model.onnx was changed or damaged")))
    refused = CliRunner().invoke(select, [address, "4711"]).exception
    assert isinstance(refused, CommandRefusedError)
    assert (refused.exit_code, refused.reason) == (15, "unusable")
    assert str(refused) == "the line refuses (unusable): 4711.bundle: model.onnx was changed or damaged"


def test_a_command_that_is_refused_ends_with_an_exit_code_of_its_own(serve: Serve, address: str) -> None:
    serve(address, lambda _, answer: answer(refusal("busy", "5 triggers wait; ask more slowly")))
    refused = CliRunner().invoke(trigger, [address, "top"]).exception
    assert isinstance(refused, CommandRefusedError)
    assert refused.exit_code == 15
    assert str(refused) == "the line refuses (busy): 5 triggers wait; ask more slowly"


# The document.


def section(heading: str) -> str:
    level = heading.count("#")
    below = f"\n{DOCUMENT.read_text()}".partition(f"\n{heading}\n")[2]
    assert below, heading
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("## Trigger", TriggerRequest),
        ("## Select", SelectRequest),
        ("### Triggered", Triggered),
        ("### Announced", Announced),
        ("### Selected", Selected),
        ("### Refused", Refused),
    ],
)
def test_every_field_is_documented_with_its_default(heading: str, kind: type[msgspec.Struct]) -> None:
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|([^|]*)\|[^|]+\|$", section(heading), flags=re.MULTILINE)
    table = {name: (kind.strip(), default.strip()) for name, kind, default in rows}
    assert table.pop("type") == (f'`"{kind.__struct_config__.tag}"`', "")
    assert {name: default for name, (_, default) in table.items()} == {
        field.name: "" if field.required else json.dumps(field.default) for field in msgspec.structs.fields(kind)
    }


def test_every_reason_is_documented() -> None:
    documented = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", section("### Refused"), flags=re.MULTILINE)
    assert documented == list(get_args(Reason))


def test_the_worked_exchange_is_what_goes_over_the_wire() -> None:
    messages = re.findall(r"^```json\n(.*?)\n```$", section("## A worked exchange"), flags=re.MULTILINE | re.DOTALL)
    kinds = []
    for text in messages:
        came = request_from(text.encode())
        if json.loads(text)["type"] in ("trigger", "select"):
            kinds.append("refused" if isinstance(came, Refused) else "request")
            written: Request | Reply = came
        else:
            written = reply_from(text.encode())
            kinds.append("reply")
        if kinds[-1] != "refused":
            assert to_bytes(written) == text.encode()
    assert kinds == ["request", "request", "reply", "reply", "refused", "reply", *["request", "reply"] * 2]
    assert request_from(messages[4].encode()) == reply_from(messages[5].encode())


def test_the_client_of_the_document_works(serve: Serve, address: str) -> None:
    (client,) = re.findall(r"^```python\n(.*?)^```$", section("## A client"), flags=re.MULTILINE | re.DOTALL)
    assert len(client.splitlines()) < 25

    def handle(request: Request, answer: Answer) -> None:
        assert isinstance(request, TriggerRequest)
        replies: dict[str | None, Reply] = {
            "P-1": done(request, 65535),
            "P-2": Announced(camera=request.camera, part_id=request.part_id),
        }
        answer(replies.get(request.part_id, refusal("no_frame", "no frame came within 1 s")))

    serve(address, handle)
    shown = subprocess.run(
        [sys.executable, "-c", client, address, "top", "P-1", "P-2", "P-3"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert shown.stdout.splitlines() == [
        "P-1 triggered 65535",
        "P-2 announced None",
        "P-3 REFUSED no_frame no frame came within 1 s",
    ]


def test_the_document_is_of_this_schema_version() -> None:
    assert f"**schema version {SCHEMA_VERSION}**" in DOCUMENT.read_text()
