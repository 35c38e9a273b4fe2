"""Commands over real sockets: each request gets a reply, and a client that floods or leaves harms no other client."""

import contextlib
import json
import queue
import re
import socket as sockets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest
import zmq
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils.monitor import recv_monitor_message

from heatline.edge.cli.line import select, trigger
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.servers import LONGEST_REQUEST_BYTES, Answer, CommandServer, Handle
from heatline.edge.errors import CommandRefusedError, DeliveryError, MessageError
from heatline.edge.wire.commands import (
    Announced,
    Reason,
    Reply,
    Request,
    Selected,
    SelectRequest,
    Triggered,
    TriggerRequest,
    refusal,
    reply_from,
    request_from,
)
from heatline.edge.wire.events import BundleName
from heatline.edge.wire.requests import SCHEMA_VERSION, Refused, to_bytes
from tests.edge.secured import nothing_left_open

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


@given(REQUEST | REPLY)
def test_a_message_is_read_as_it_was_written(message: Request | Reply) -> None:
    read: Callable[[bytes], Request | Reply] = request_from if isinstance(message, Request) else reply_from
    assert read(to_bytes(message)) == message


def changed(request: Request = PLAIN, omit: str = "", **fields: object) -> bytes:
    """Return a request with changed fields."""
    content = {**json.loads(to_bytes(request)), **fields}
    content.pop(omit, None)
    return json.dumps(content).encode()


REFUSED: list[tuple[bytes, str, str]] = [
    (b"", "malformed", "truncated"),
    (b'\xef\xbb\xbf{"schema_version":2}', "malformed", "JSON is malformed"),  # a byte order mark
    (b'{"type":"trigger","schema_version":2,"camera":"\xff"}', "malformed", "utf-8"),
    (b'{"type":"trigger","schema_version":2,"camera":"\\udc00"}', "malformed", "surrogate"),  # a reply cannot repeat it
    (b'{"x":' + b"[" * 60_000, "malformed", "recursion"),
    (changed(type="select"), "malformed", "unknown field `camera`"),  # fields of both requests
    (changed(type="x" * 60_000), "malformed", "Invalid value"),
    (changed(type="triggered"), "malformed", "Invalid value"),  # a reply, not a request
    (changed(omit="schema_version"), "malformed", "missing required field `schema_version`"),
    (changed(schema_version=True), "malformed", "Expected `int`"),
    (b'{"type":"trigger","camera":"a","schema_version":' + b"9" * 60_000 + b"}", "malformed", "out of range"),
    (b'{"type":"trigger","camera":"a","schema_version":' + b"9" * 400 + b"}", "version", "version 999"),
    (changed(schema_version=3), "version", "version 3 came, this line knows version 2; update the line"),
    (changed(schema_version=1), "version", "version 1 came, this line knows version 2; update the client"),
    (changed(schema_version=3, type="eject"), "version", "update the line"),
    (changed(camera="x" * 65), "malformed", "length <= 64 - at `$.camera`"),
    (changed(camera="top\n"), "malformed", "printable characters, got 'top\\n' - at `$.camera`"),
    (changed(part_id=""), "malformed", "length >= 1 - at `$.part_id`"),
    (changed(part_id="P\x1b[2J"), "malformed", "printable characters"),  # would clear a terminal
    (changed(part_id="P\u202e1"), "malformed", "printable characters"),  # would reverse the terminal's text
    (changed(part="P-1"), "malformed", "unknown field `part`"),  # otherwise the part id would be lost silently
    (changed(SELECT, product="4711\x1b[2J"), "malformed", "printable characters"),
    (changed(SELECT, camera="top"), "malformed", "unknown field `camera`"),  # a selection is for all cameras
]


@pytest.mark.parametrize(("data", "reason", "excerpt"), REFUSED, ids=range(len(REFUSED)))
def test_invalid_requests_are_refused_in_one_short_sentence(data: bytes, reason: str, excerpt: str) -> None:
    reply = request_from(data)
    assert isinstance(reply, Refused)
    assert reply.reason == reason
    assert excerpt.lower() in reply.detail.lower()  # msgspec 0.22 and 0.23 differ in case
    assert "\n" not in reply.detail
    assert len(to_bytes(reply)) < 1000, "a refusal does not repeat all of a long request"


def test_a_refusal_has_the_request_id_if_it_is_readable() -> None:
    for readable in (changed(part=1), changed(schema_version=3), b'{"request_id":"r"}'):
        assert request_from(readable).request_id == "r"
    for data, excerpt in ((changed(request_id=5), "got `int`"), (changed(request_id="x" * 65), "length <= 64")):
        refused = request_from(data)
        assert isinstance(refused, Refused)
        assert refused.request_id is None
        assert excerpt in refused.detail


def test_new_fields_and_reasons_are_accepted_and_other_versions_are_refused() -> None:
    assert reply_from(
        b'{"type":"triggered","schema_version":2,"camera":"a","frame_id":1,"frame_number":2,"exposed_at_ns":3}'
    ) == Triggered(camera="a", frame_id=1, frame_number=2)
    later = reply_from(b'{"type":"refused","schema_version":2,"reason":"asleep","detail":"It is night."}')
    assert later == Refused(reason="asleep", detail="It is night.")
    for version, side in ((1, "the line"), (3, "this client")):
        with pytest.raises(MessageError, match=f"version {version} came, this client knows version 2; update {side}"):
            reply_from(b'{"type":"triggered","schema_version":%d}' % version)


# The socket.


class PendingTriggers:
    """Handler that queues every trigger until the test answers it."""

    def __init__(self) -> None:
        self._requests: queue.Queue[tuple[Request, Answer]] = queue.Queue()

    def __call__(self, request: Request, answer: Answer) -> None:
        self._requests.put((request, answer))

    def next(self) -> tuple[TriggerRequest, Answer]:
        request, answer = self._requests.get(timeout=WITHIN_SECONDS)
        assert isinstance(request, TriggerRequest)
        return request, answer

    def answer_next(self, frame_id: int = 1) -> TriggerRequest:
        request, answer = self.next()
        answer(triggered_reply(request, frame_id))
        return request


def triggered_reply(request: Request, frame_id: int = 1) -> Triggered:
    assert isinstance(request, TriggerRequest)
    # Not the request's id: the server sets it.
    return Triggered(
        request_id="else", camera=request.camera, part_id=request.part_id, frame_id=frame_id, frame_number=frame_id
    )


def answer_at_once(request: Request, answer: Answer) -> None:
    answer(triggered_reply(request))


class Line:
    """Command socket of a line: starts its server, connects clients, and closes all of them at the end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._opened = contextlib.ExitStack()
        self._context = self._opened.enter_context(zmq.Context())
        self.close = self._opened.close

    def serve(self, handle: Handle) -> CommandServer:
        server = CommandServer(self.address, handle)
        self._opened.callback(server.close)
        server.start()
        return server

    def connect(self, kind: int, receive_queue: int = 0) -> "zmq.Socket[bytes]":
        """Return a connected bare socket whose receive queue holds so many messages; 0 is any number."""
        socket = self._opened.enter_context(self._context.socket(kind))
        for option, value in ((zmq.LINGER, 0), (zmq.RCVHWM, receive_queue), (zmq.SNDHWM, 0), (zmq.RCVTIMEO, WITHIN_MS)):
            socket.setsockopt(option, value)
        socket.connect(self.address)
        return socket

    def commander(self, timeout_s: float = WITHIN_SECONDS) -> Commander:
        return self._opened.enter_context(Commander(self.address, timeout_s))


@pytest.fixture
def line(address: str) -> Iterator[Line]:
    with contextlib.closing(Line(address)) as opened:
        yield opened


@pytest.fixture(params=["tcp", "ipc"])
def either_line(request: pytest.FixtureRequest, address: str, tmp_path: Path) -> Iterator[Line]:
    """A line on TCP and a line on ipc, which bind in different ways."""
    with contextlib.closing(Line(address if request.param == "tcp" else f"ipc://{tmp_path}/commands")) as opened:
        yield opened


@pytest.fixture
def pending(line: Line) -> PendingTriggers:
    """Handler of the line's server."""
    pending = PendingTriggers()
    line.serve(pending)
    return pending


def send_request(socket: "zmq.Socket[bytes]", request: Request | bytes = PLAIN) -> None:
    socket.send(request if isinstance(request, bytes) else to_bytes(request))


def numbered(number: object, camera: str = "top") -> TriggerRequest:
    return TriggerRequest(request_id=str(number), camera=camera, part_id=f"P-{number}")


def reply(socket: "zmq.Socket[bytes]") -> Reply:
    return reply_from(socket.recv())


def kind_of(data: bytes) -> str:
    """Return the reason of a refusal, or the type of another reply."""
    received = reply_from(data)
    return received.reason if isinstance(received, Refused) else type(received).__name__.lower()


def reason(socket: "zmq.Socket[bytes]") -> str:
    return kind_of(socket.recv())


def test_a_reply_has_a_delimiter_if_the_request_had_one(either_line: Line) -> None:
    either_line.serve(answer_at_once)
    requester, dealer = either_line.connect(zmq.REQ), either_line.connect(zmq.DEALER)
    for number in range(3):
        send_request(requester, numbered(number))
        expected = msgspec.structs.replace(triggered_reply(numbered(number)), request_id=str(number))
        assert reply(requester) == expected
        for delimiter in ([], [b""]):
            dealer.send_multipart([*delimiter, to_bytes(numbered(number))])
            assert dealer.recv_multipart() == [*delimiter, to_bytes(expected)]


def test_answers_from_many_threads_reach_the_right_clients(line: Line) -> None:
    pending = PendingTriggers()
    server = line.serve(pending)
    clients = [line.connect(zmq.DEALER) for _ in range(4)]
    for number in range(25):
        for index, client in enumerate(clients):
            send_request(client, numbered(f"{index}-{number}", f"camera{index}"))
    requests = [pending.next() for _ in range(100)]
    for index in range(4):
        part_ids = [request.part_id for request, _ in requests if request.camera == f"camera{index}"]
        assert part_ids == [f"P-{index}-{number}" for number in range(25)]
    with ThreadPoolExecutor(8) as threads:
        for frame_id, (request, answer) in enumerate(reversed(requests)):
            threads.submit(answer, triggered_reply(request, frame_id))
    frame_ids = set()
    for index, client in enumerate(clients):
        received = [one for one in (reply(client) for _ in range(25)) if isinstance(one, Triggered)]
        assert {one.request_id for one in received} == {f"{index}-{number}" for number in range(25)}
        assert all(one.part_id == f"P-{one.request_id}" for one in received)
        frame_ids |= {one.frame_id for one in received}
    assert frame_ids == set(range(100))
    server.close()


def test_only_the_first_valid_answer_is_sent(line: Line, pending: PendingTriggers) -> None:
    client = line.connect(zmq.DEALER)
    for expected in (1, 2):
        send_request(client)
        request, answer = pending.next()
        with pytest.raises(UnicodeEncodeError):  # in the server's thread, the error would end all commands
            answer(refusal("no_frame", "\udcff"))
        answer(triggered_reply(request, expected))
        answer(triggered_reply(request, 99))
        answer(refusal("no_frame", "It came too late."))
        received = reply(client)
        assert isinstance(received, Triggered)
        assert received.frame_id == expected


def test_a_failing_handler_gives_a_fault_logged_once_and_serving_continues(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_for_some(request: Request, answer: Answer) -> None:
        assert isinstance(request, TriggerRequest)
        if request.part_id == "answered":
            answer(triggered_reply(request))
        if request.part_id != "fine":
            raise ZeroDivisionError("boom")
        answer(triggered_reply(request))

    line.serve(fail_for_some)
    client = line.connect(zmq.REQ)
    reasons = []
    for part_id in ("bad", "bad", "answered", "bad", "fine"):
        send_request(client, TriggerRequest(camera="top", part_id=part_id))
        reasons.append(reason(client))
    assert reasons == ["fault", "fault", "triggered", "fault", "triggered"]
    logged = [record for record in caplog.records if record.name == "heatline.edge.delivery.servers"]
    assert len(logged) == 1, "a client that causes faults could fill the disk"
    assert "boom" in caplog.text


def test_every_message_gets_exactly_one_reply(line: Line) -> None:
    line.serve(answer_at_once)
    client, plain = line.connect(zmq.DEALER), to_bytes(PLAIN)
    for parts, expected in [
        *(([*delimiter, plain], "triggered") for delimiter in ([], [b""])),
        *((parts, "malformed") for parts in ([b""], [b"", b""], [b"", b"x"], [plain, b""], [plain, plain])),
        *((parts, "malformed") for parts in ([b"", plain, b""], [b"", b"", plain], [b"x", plain], [b"x"] * 1000)),
    ]:
        client.send_multipart(parts)
        *before, received = client.recv_multipart()
        assert before == ([b""] if len(parts) > 1 and parts[0] == b"" else [])
        assert kind_of(received) == expected
        assert not client.poll(0)


def test_a_client_that_sends_an_oversized_request_is_disconnected_alone(line: Line) -> None:
    line.serve(answer_at_once)
    large, other = line.connect(zmq.DEALER), line.connect(zmq.REQ)
    padding = LONGEST_REQUEST_BYTES - len(to_bytes(PLAIN))
    send_request(large, to_bytes(PLAIN) + b" " * padding)  # the longest request that is accepted
    assert reason(large) == "triggered"
    with large.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor:
        send_request(large, to_bytes(PLAIN) + b" " * (padding + 1))
        assert monitor.poll(WITHIN_MS), "the client is still connected"
        recv_monitor_message(monitor)
        large.disable_monitor()
    for client in (other, large):  # `large` reconnects by itself
        send_request(client)
        assert reason(client) == "triggered"


def test_a_silent_or_closed_client_does_not_block_other_clients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CommandServer, "send_high_water_mark", 100)
    pending, count, long_refused = PendingTriggers(), 3000, changed(**{"x" * 1000: 1})
    with contextlib.closing(Line(f"ipc://{tmp_path}/commands")) as line:  # buffers less than TCP
        line.serve(pending)
        gone, silent, client = line.connect(zmq.DEALER), line.connect(zmq.DEALER, 1), line.connect(zmq.REQ)
        send_request(gone)
        request_of_gone, answer_to_gone = pending.next()
        gone.close()
        for _ in range(count):
            send_request(silent, long_refused)
        send_request(silent)
        pending.next()  # by now all requests before it are refused
        answer_to_gone(triggered_reply(request_of_gone))
        send_request(client)
        pending.answer_next()
        assert reason(client) == "triggered"
        replies = 0
        while silent.poll(50):
            silent.recv()
            replies += 1
        assert replies < count


# Starting and stopping.


def test_closing_refuses_waiting_requests_and_ignores_later_answers(line: Line) -> None:
    pending = PendingTriggers()
    server = line.serve(pending)
    pipelining, plain = line.connect(zmq.DEALER), line.connect(zmq.REQ)
    for number in range(30):
        send_request(pipelining, numbered(number))
    requests = [pending.next() for _ in range(30)]
    send_request(plain)
    requests.append(pending.next())
    requests[3][1](triggered_reply(requests[3][0]))  # answered before the server closes
    server.close()
    for request, answer in requests:
        answer(triggered_reply(request))
    received = [reply(pipelining) for _ in range(30)]
    assert {one.request_id for one in received} == {str(number) for number in range(30)}
    assert [one.request_id for one in received if isinstance(one, Triggered)] == ["3"]
    assert {one.reason for one in [*received, reply(plain)] if isinstance(one, Refused)} == {"stopping"}
    assert not pipelining.poll(0)


def test_binding_an_address_in_use_fails_and_leaves_its_owner_served(either_line: Line) -> None:
    either_line.serve(answer_at_once)
    with pytest.raises(DeliveryError, match=r"another line may use it.*commands\.bind") as caught:
        either_line.serve(PendingTriggers())
    assert "\n" not in str(caught.value)
    client = either_line.connect(zmq.REQ)
    send_request(client)
    assert reason(client) == "triggered"


def test_a_closed_server_leaves_nothing_open_and_frees_its_address(either_line: Line) -> None:
    CommandServer(either_line.address, PendingTriggers()).close()
    with nothing_left_open():
        for _ in range(3):
            server = either_line.serve(PendingTriggers())
            server.close()
            server.close()
        for bad in ("tcp://127.0.0.1:x", "ipc:///nowhere/at/all"):
            with pytest.raises(DeliveryError, match="cannot be bound"):
                CommandServer(bad, PendingTriggers()).start()


def test_ipv6_loopback_can_be_bound() -> None:
    with sockets.socket(sockets.AF_INET6) as holder:
        holder.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        try:
            holder.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
        with contextlib.closing(Line(f"tcp://[::1]:{holder.getsockname()[1]}")) as line:
            line.serve(answer_at_once)
            assert isinstance(line.commander().trigger("top"), Triggered)


# The client.


def test_a_commander_refuses_invalid_names(line: Line) -> None:
    line.serve(answer_at_once)
    commander = line.commander()
    for bad in ("4711\udcff", "4711\n", "", "x" * 65, "x" * 100_000):
        for act in (commander.select, partial(commander.trigger, "top")):
            with pytest.raises(CommandRefusedError) as caught:
                act(bad)
            assert caught.value.reason == "malformed"
    assert isinstance(commander.trigger("top", "P-1"), Triggered)


def test_a_reply_to_another_command_is_a_message_error(line: Line) -> None:
    """Otherwise a client could believe in a trigger or a selection that did not happen."""
    other: list[Reply] = [Triggered(camera="top", frame_id=1, frame_number=1), Selected(product="1", bundle=BUNDLE)]
    line.serve(lambda _, answer: answer(other.pop(0)))
    commander = line.commander()
    with pytest.raises(MessageError, match="not a reply to a selection"):
        commander.select("4711")
    with pytest.raises(MessageError, match="not a reply to a trigger"):
        commander.trigger("top")


def test_a_trigger_that_reaches_no_line_is_not_sent_later(line: Line) -> None:
    """Otherwise the trigger would fire for another part."""
    pending, commander = PendingTriggers(), line.commander(0.05)
    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(DeliveryError, match="was not reached within"):
            commander.trigger("top", "P-1")
        line.serve(pending)
        commander.timeout_s = WITHIN_SECONDS
        pending_reply = thread.submit(commander.trigger, "top", "P-2")
        assert pending.answer_next().part_id == "P-2"
        pending_reply.result()


def test_a_late_reply_does_not_answer_the_next_command(line: Line, pending: PendingTriggers) -> None:
    commander = line.commander()
    with ThreadPoolExecutor(1) as thread:
        connected = thread.submit(commander.trigger, "top", "P-0")
        pending.answer_next()
        connected.result()
        commander.timeout_s = 0.05
        with pytest.raises(DeliveryError, match="may have executed the command"):
            commander.trigger("top", "P-1")
        commander.timeout_s = WITHIN_SECONDS
        pending_reply = thread.submit(commander.trigger, "top", "P-2")
        assert pending.answer_next(1).part_id == "P-1"
        assert pending.answer_next(2).part_id == "P-2"
        assert pending_reply.result() == Triggered(
            request_id="3", camera="top", part_id="P-2", frame_id=2, frame_number=2
        )


def test_an_invalid_address_is_a_delivery_error() -> None:
    for bad in ("tcp://127.0.0.1", "smoke://signals"):
        with pytest.raises(DeliveryError, match="is not an address to connect to"):
            Commander(bad)


# The commands.


def test_trigger_and_select_send_their_arguments_and_print_the_reply(line: Line) -> None:
    requests: list[Request] = []

    def handle(request: Request, answer: Answer) -> None:
        requests.append(request)
        if isinstance(request, SelectRequest):
            answer(Selected(product=request.product, bundle=BUNDLE))
        else:
            answer(Announced(camera="side") if request.camera == "side" else triggered_reply(request, 7))

    line.serve(handle)

    def output_of(command: click.Command, *arguments: str) -> str:
        shown = CliRunner().invoke(command, [line.address, *arguments])
        assert shown.exit_code == 0, shown.output
        return shown.output

    assert output_of(trigger, "top", "--part-id", "P-1") == "top: frame 7, number 7 since the line's start, part P-1\n"
    assert output_of(trigger, "side") == "side: no part id waits for the next trigger\n"
    assert output_of(select, "4711") == "product 4711 is active, with bundle boards 2026.11 (abababababab)\n"
    assert requests == [
        TriggerRequest(request_id="1", camera="top", part_id="P-1"),
        TriggerRequest(request_id="1", camera="side"),
        SelectRequest(request_id="1", product="4711"),
    ]
    assert json.loads(output_of(trigger, "top", "--timeout", "20", "--json"))["frame_number"] == 7
    report = json.loads(output_of(select, "4711", "--timeout", "20", "--json"))
    assert (report["type"], report["product"], report["bundle"]["version"]) == ("selected", "4711", "2026.11")


def test_a_refused_command_prints_the_reason_and_has_its_exit_code(line: Line) -> None:
    line.serve(lambda _, answer: answer(refusal("busy", "5 triggers wait; ask more slowly")))
    for command in (trigger, select):
        refused = CliRunner().invoke(command, [line.address, "top"]).exception
        assert isinstance(refused, CommandRefusedError)
        assert (refused.exit_code, refused.reason) == (15, "busy")
        assert str(refused) == "the line refuses (busy): 5 triggers wait; ask more slowly"


# The document.


def section(heading: str) -> str:
    level = heading.count("#")
    below = f"\n{DOCUMENT.read_text()}".partition(f"\n{heading}\n")[2]
    assert below, heading
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def test_every_reason_and_this_schema_version_are_documented() -> None:
    documented = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", section("### Refused"), flags=re.MULTILINE)
    assert documented == list(get_args(Reason))
    assert f"**schema version {SCHEMA_VERSION}**" in DOCUMENT.read_text()


def test_the_documented_exchange_matches_the_wire_format() -> None:
    messages = re.findall(r"^```json\n(.*?)\n```$", section("## A worked exchange"), flags=re.MULTILINE | re.DOTALL)
    kinds = []
    for text in map(str.encode, messages):
        is_request = json.loads(text)["type"] in ("trigger", "select")
        written = request_from(text) if is_request else reply_from(text)
        kinds.append("refused" if is_request and isinstance(written, Refused) else "request" if is_request else "reply")
        if kinds[-1] != "refused":
            assert to_bytes(written) == text
    assert kinds == ["request", "request", "reply", "reply", "refused", "reply", *["request", "reply"] * 2]
    assert request_from(messages[4].encode()) == reply_from(messages[5].encode())


def test_the_documented_client_works(line: Line) -> None:
    (client,) = re.findall(r"^```python\n(.*?)^```$", section("## A client"), flags=re.MULTILINE | re.DOTALL)
    assert len(client.splitlines()) < 25

    def handle(request: Request, answer: Answer) -> None:
        assert isinstance(request, TriggerRequest)
        replies: dict[str | None, Reply] = {
            "P-1": triggered_reply(request, 65535),
            "P-2": Announced(camera=request.camera, part_id=request.part_id),
        }
        answer(replies.get(request.part_id, refusal("no_frame", "no frame came within 1 s")))

    line.serve(handle)
    shown = subprocess.run(
        [sys.executable, "-c", client, line.address, "top", "P-1", "P-2", "P-3"],
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
