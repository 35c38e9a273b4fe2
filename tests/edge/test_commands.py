"""Commands over real sockets: each request gets a reply, and a client that floods or leaves harms no other client."""

import contextlib
import json
import queue
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest
import zmq

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.auth import ClientKeys, read_key_pair
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.servers import Answer, CommandServer, Handle
from heatline.edge.errors import DeliveryError, MessageError
from heatline.edge.wire.commands import (
    Announced,
    Reason,
    Reply,
    Request,
    Selected,
    Triggered,
    TriggerRequest,
    refusal,
    reply_from,
    request_from,
)
from heatline.edge.wire.events import BundleName
from heatline.edge.wire.requests import SCHEMA_VERSION, Refused, to_bytes
from tests.command import WITHIN_SECONDS, complaint, heatline
from tests.edge.lines import running, write_line_with
from tests.edge.secured import free_port, until

WITHIN_MS = int(WITHIN_SECONDS * 1000)
DOCUMENT = Path(__file__).parents[2] / "docs" / "commands.md"
PLAIN = TriggerRequest(request_id="r", camera="top", part_id="P-1")
BUNDLE = BundleName(name="boards", version="2026.11", digest="ab" * 32)


def changed(request: Request = PLAIN, omit: str = "", **fields: object) -> bytes:
    """Return a request with changed fields."""
    content = {**json.loads(to_bytes(request)), **fields}
    content.pop(omit, None)
    return json.dumps(content).encode()


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


STATES = {0, 16, 17}
"""Exit codes of `heatline status` for a line that answers and inspects; a busy machine may not keep up."""

REFUSED_CODE, ACCESS_DENIED = 15, 21


def typed(*arguments: str | Path) -> str:
    """Return what a successful command prints."""
    result = heatline(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_reachable_line_needs_a_key_and_serves_allowed_clients(tmp_path: Path, bundle: Bundle) -> None:
    ports = [free_port() for _ in range(3)]
    events, commands, journal = (port.reached for port in ports)
    cameras = {
        "top": {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 10.0},
        "side": {"kind": "pattern", "draw_size": [230, 230], "trigger": "software"},
    }
    tables = f'[commands]\nbind = "{ports[1].bound}"\n\n[journal]\nbind = "{ports[2].bound}"\nfolder = "state"'
    file = write_line_with(tmp_path, bundle.path, ports[0].bound, cameras, tables)
    keys, mes = tmp_path / "keys", tmp_path / "mes.key"

    def read_advice(sentence: str, pattern: str) -> list[str]:
        """Return the parts of an advised command, with the paths of this machine."""
        sentence = sentence.replace("/etc/heatline/keys", str(keys))
        found = re.search(pattern, sentence.replace("CLIENT.key.pub", f"{mes}.pub"))
        assert found is not None, sentence
        return list(found.groups())

    # Without a key or an allowed client, the line does not run, and its message says what to do.
    refused = heatline("run", file)
    assert refused.returncode == 3
    assert complaint(heatline("check", file)) == complaint(refused)
    command_line, key, table = read_advice(
        complaint(refused), r"make one with heatline (.*?), give it .*? and set (key = .*?) under (\[security\])"
    )
    keys.mkdir()
    typed(*shlex.split(command_line))
    file.write_text(f"{file.read_text()}\n{table}\n{key}\n".replace("wait_for_subscriber_s = 60\n", ""))
    nobody = heatline("check", file)
    assert nobody.returncode == ACCESS_DENIED
    (command_line,) = read_advice(complaint(nobody), "allow one with heatline (.*)")
    typed("keys", "new", mes)
    typed(*shlex.split(command_line))

    own = read_key_pair(keys / "line.key")
    options = ["--key", mes, "--line-key", keys / "line.key.pub"]
    listen = ["watch", events, "--count", "1", "--json"]
    trigger = ["trigger", commands, "side", "--part-id", "P-1", "--json"]
    follow = ["follow", journal, "--name", "mes", "--count", "1"]

    def refusal(*arguments: str | Path) -> str:
        refused = heatline(*arguments, "--timeout", "0.3")
        return complaint(refused) if refused.returncode == ACCESS_DENIED else ""

    def served(*arguments: str | Path) -> dict[str, object]:
        """Return what a command prints once it has access: the line reads its lists again after a moment."""
        printed: list[str] = []

        def is_served() -> bool:
            result = heatline(*arguments, *options)
            printed.append(result.stdout)
            return result.returncode == 0

        until(is_served)
        found: dict[str, object] = json.loads(printed[-1])
        return found

    with running(file, events, keys=ClientKeys(own, own.public)) as service:
        service.until_inspected()
        assert heatline("status", file).returncode in STATES, "the line's own machine needs no other key"
        for command in (listen, trigger, follow):
            assert "closed the connection: it requires keys" in refusal(*command)
        assert heatline("status", events, *options).returncode in STATES
        assert served(*listen)["type"] in ("verdict", "status", "alarm")
        assert "your key is not allowed there" in refusal(*trigger, *options)
        allow = ["keys", "allow", f"{mes}.pub", "--allowed", keys / "allowed"]
        typed(*allow, "--role", "command", "--role", "follow")
        triggered = served(*trigger)
        assert (triggered["type"], triggered["part_id"]) == ("triggered", "P-1")
        assert served(*follow)["seq"] == 1
        typed("keys", "revoke", "mes", "--allowed", keys / "allowed")
        until(lambda: "your key is not allowed there" in refusal(*listen, *options))
        service.until_inspected()
        received = service.end()
    assert {"events.auth", "commands.auth"} <= received.last.refused.keys()
