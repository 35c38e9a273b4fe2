"""Commands over real sockets: each request gets a reply, and a client that floods or leaves harms no other client."""

import contextlib
import json
import queue
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.auth import ClientKeys, fingerprint, read_key_pair
from heatline.edge.delivery.client import Commander
from heatline.edge.delivery.servers import Answer, CommandServer, Handle
from heatline.edge.errors import DeliveryError, MessageError
from heatline.edge.wire.commands import (
    Announced,
    Reply,
    Request,
    Selected,
    Triggered,
    TriggerRequest,
    refusal,
    reply_from,
)
from heatline.edge.wire.events import BundleName
from heatline.edge.wire.requests import Refused, to_bytes
from tests.command import WITHIN_SECONDS, complaint, heatline, successful
from tests.edge.lines import running, write_line_with
from tests.edge.secured import WITHIN_MS, free_port, until
from tests.test_docs import blocks, read, section

PLAIN = TriggerRequest(request_id="r", camera="top", part_id="P-1")
BUNDLE = BundleName(name="boards", version="2026.11", digest="ab" * 32)


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

    def commander(self) -> Commander:
        return self._opened.enter_context(Commander(self.address, WITHIN_SECONDS))


@pytest.fixture
def line(address: str) -> Iterator[Line]:
    with contextlib.closing(Line(address)) as opened:
        yield opened


def send_request(socket: "zmq.Socket[bytes]", request: Request = PLAIN) -> None:
    socket.send(to_bytes(request))


def kind_of(data: bytes) -> str:
    """Return the reason of a refusal, or the type of another reply."""
    received = reply_from(data)
    return received.reason if isinstance(received, Refused) else type(received).__name__.lower()


def test_a_failing_handler_is_logged_once_and_serving_goes_on(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    def fail_for_some(request: Request, answer: Answer) -> None:
        part_id = triggered_reply(request).part_id
        if part_id != "bad":
            answer(triggered_reply(request))
        if part_id != "fine":
            raise ZeroDivisionError("boom")

    line.serve(fail_for_some)
    client = line.connect(zmq.REQ)
    reasons = []
    for part_id in ("bad", "answered", "bad", "fine"):
        send_request(client, TriggerRequest(camera="top", part_id=part_id))
        reasons.append(kind_of(client.recv()))
    assert reasons == ["fault", "triggered", "fault", "triggered"]
    logged = [record for record in caplog.records if record.name == "heatline.edge.delivery.servers"]
    assert len(logged) == 1, "a client that causes faults could fill the disk"
    assert "boom" in caplog.text


def test_every_message_gets_exactly_one_reply(line: Line) -> None:
    line.serve(lambda request, answer: answer(triggered_reply(request)))
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


def test_a_silent_or_closed_client_blocks_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CommandServer, "send_high_water_mark", 100)
    pending, count, long_refused = PendingTriggers(), 3000, b'{"type":"trigger","' + b"x" * 1000 + b'":1}'
    with contextlib.closing(Line(f"ipc://{tmp_path}/commands")) as line:  # buffers less than TCP
        line.serve(pending)
        gone, silent, client = line.connect(zmq.DEALER), line.connect(zmq.DEALER, 1), line.connect(zmq.REQ)
        send_request(gone)
        request_of_gone, answer_to_gone = pending.next()
        gone.close()
        for _ in range(count):
            silent.send(long_refused)
        send_request(silent)
        pending.next()  # by now all requests before it are refused
        answer_to_gone(triggered_reply(request_of_gone))
        send_request(client)
        pending.answer_next()
        assert kind_of(client.recv()) == "triggered"
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
        send_request(pipelining, TriggerRequest(request_id=str(number), camera="top"))
    requests = [pending.next() for _ in range(30)]
    send_request(plain)
    requests.append(pending.next())
    requests[3][1](triggered_reply(requests[3][0]))  # answered before the server closes
    server.close()
    for request, answer in requests:
        answer(triggered_reply(request))
    received = [reply_from(pipelining.recv()) for _ in range(30)]
    assert {one.request_id for one in received} == {str(number) for number in range(30)}
    assert [one.request_id for one in received if isinstance(one, Triggered)] == ["3"]
    assert {one.reason for one in [*received, reply_from(plain.recv())] if isinstance(one, Refused)} == {"stopping"}
    assert not pipelining.poll(0)


def test_a_reply_to_another_command_is_a_message_error(line: Line) -> None:
    """Otherwise a client could believe in a trigger or a selection that did not happen."""
    other: list[Reply] = [Triggered(camera="top", frame_id=1, frame_number=1), Selected(product="1", bundle=BUNDLE)]
    line.serve(lambda _, answer: answer(other.pop(0)))
    commander = line.commander()
    with pytest.raises(MessageError, match="not a reply to a SelectRequest"):
        commander.select("4711")
    with pytest.raises(MessageError, match="not a reply to a TriggerRequest"):
        commander.trigger("top")


def test_neither_a_trigger_that_was_given_up_nor_its_late_reply_concerns_the_next_part(line: Line) -> None:
    pending, commander = PendingTriggers(), line.commander()

    def give_up(part_id: str, sentence: str) -> None:
        commander.timeout_s = 0.05
        with pytest.raises(DeliveryError, match=sentence):
            commander.trigger("top", part_id)
        commander.timeout_s = WITHIN_SECONDS

    with ThreadPoolExecutor(1) as thread:
        give_up("P-0", "was not reached within")
        line.serve(pending)
        reply = thread.submit(commander.trigger, "top", "P-1")
        assert pending.answer_next().part_id == "P-1"
        reply.result()
        give_up("P-2", "may have executed the command")
        reply = thread.submit(commander.trigger, "top", "P-3")
        assert (pending.answer_next(1).part_id, pending.answer_next(2).part_id) == ("P-2", "P-3")
        assert (reply.result().part_id, reply.result().frame_id) == ("P-3", 2)


def test_the_documented_client_works(line: Line) -> None:
    (client,) = blocks(section(read("docs/commands.md"), "## A client"), "python")
    assert len(client.splitlines()) < 25
    replies: list[Reply] = [
        Triggered(camera="top", frame_id=65535, frame_number=1),
        Announced(camera="top"),
        refusal("no_frame", "no frame came within 1 s"),
    ]
    line.serve(lambda _, answer: answer(replies.pop(0)))
    shown = subprocess.check_output([sys.executable, "-c", client, line.address, "top", "P-1", "P-2", "P-3"], text=True)
    assert shown == "P-1 triggered 65535\nP-2 announced None\nP-3 REFUSED no_frame no frame came within 1 s\n"


ACCESS_DENIED = 21


def typed(*arguments: str | Path) -> str:
    """Return what a successful command prints."""
    return successful(heatline(*arguments)).stdout


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

    # Without a key or an allowed client, the line does not run, and its message says what to do.
    refused = complaint(heatline("run", file))
    assert complaint(heatline("check", file)) == refused
    assert "make one with heatline keys new /etc/heatline/keys/line.key" in refused
    keys.mkdir()
    typed("keys", "new", keys / "line.key")
    secured = f'{file.read_text()}\n[security]\nkey = "{keys}/line.key"\n'
    file.write_text(secured.replace("wait_for_subscriber_s = 60\n", ""))
    nobody = heatline("run", file)
    assert nobody.returncode == ACCESS_DENIED
    assert "allow one with heatline keys allow" in complaint(nobody)
    typed("keys", "new", mes)
    typed("keys", "allow", f"{mes}.pub", "--allowed", keys / "allowed", "--role", "listen")

    own = read_key_pair(keys / "line.key")
    options = ["--key", mes, "--line-key", keys / "line.key.pub"]
    listen = ["watch", events, "--count", "1", "--json"]
    trigger = ["trigger", commands, "side", "--part-id", "P-1", "--json"]
    follow = ["follow", journal, "--name", "mes", "--count", "1"]

    def refusal_of(*arguments: str | Path) -> str:
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
        return json.loads(printed[-1])

    with running(file, events, keys=ClientKeys(own, own.public)) as service:
        service.until_inspected()
        assert heatline("status", file).returncode != ACCESS_DENIED, "the line's own machine needs no other key"
        until(lambda: "closed the connection: it requires keys" in refusal_of(*listen))
        assert served(*listen)["type"] in ("verdict", "status", "alarm")
        typed("keys", "allow", f"{mes}.pub", "--allowed", keys / "allowed", "--role", "command", "--role", "follow")
        triggered = served(*trigger)
        assert (triggered["type"], triggered["part_id"]) == ("triggered", "P-1")
        assert served(*follow)["seq"] == 1
        known = fingerprint(read_key_pair(mes).public)
        listed = json.loads(typed("keys", "list", "--allowed", keys / "allowed", "--json"))
        assert listed == {"keys": [{"name": "mes", "fingerprint": known, "roles": ["listen", "follow", "command"]}]}
        typed("keys", "revoke", "mes", "--allowed", keys / "allowed")
        assert "has no key 'mes'" in complaint(heatline("keys", "revoke", "mes", "--allowed", keys / "allowed"))
        until(lambda: "your key is not allowed there" in refusal_of(*listen, *options))  # in a moment
        service.until_inspected()
        received = service.end()
    assert "events.auth" in received.last.refused
