"""The Modbus bridge beside the contract of all bridges: registers, the mailbox, commands, and who may connect."""

import contextlib
import itertools
import re
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bridge.modbus import registers as known
from heatline.edge.bridge.modbus.bridge import Mailbox
from heatline.edge.bridge.modbus.registers import (
    COMMANDS,
    LINE,
    MAILBOX,
    RESPONSE,
    Command,
    EntryKind,
    Outcome,
    RegisterBank,
    entry,
    register_map,
)
from heatline.edge.delivery.servers import CommandServer
from heatline.edge.wire.commands import Announced, Reason, Selected, Triggered
from heatline.edge.wire.commands import refusal as refused
from heatline.edge.wire.events import CameraState, HandshakeState, VerdictEvent
from tests.edge.bridged_line import BridgedLine, Plc, modbus_served
from tests.edge.followed_line import BUNDLE, DEFECT, GOOD, WITHIN_SECONDS, event, wait_until
from tests.edge.secured import begun, free_port
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.edge.wire_examples import NO_VERDICT
from tests.test_docs import read, rows, section

JOURNAL, OTHER_JOURNAL = "5a6c2b7f7e2e4b0d9f0b6f1a3c4d5e6f", "0123456789abcdef0123456789abcdef"
PLACES = known.IdMap(["top", "side"], ["4711", "4712"])
SEQS = st.integers(0, 2**63 - 1)
TOP, SIDE = known.camera_block(1), known.camera_block(2)


def verdict(seq: int, topic: str = GOOD) -> VerdictEvent:
    made = event(seq, topic, JOURNAL)
    assert isinstance(made, VerdictEvent)
    return made


def test_every_word_of_the_line_has_a_number() -> None:
    protocol = read("docs/protocol.md")
    assert known.RESULT_REASONS.keys() == {reason for reason in rows(section(protocol, "### Reasons")) if "." in reason}
    of_handshake = {key for key, cells in rows(section(protocol, "## Handshake")).items() if len(cells) == 3}
    of_handshake -= {"BUSY", "DEGRADED", "NOT_READY", "READY"}
    assert known.HANDSHAKE_REASONS.keys() == of_handshake | {"stopped", "unreachable"}
    assert known.HANDSHAKE_STATES.keys() == set(get_args(HandshakeState))
    assert known.CAMERA_STATES.keys() == set(get_args(get_type_hints(CameraState)["state"]))
    refusals = set(get_args(Reason)) - {"malformed", "version"}  # faults of the bridge, not of the PLC
    assert {known.refusal(reason) for reason in refusals} == {
        outcome for outcome in Outcome if outcome.name.startswith("LINE_") and outcome is not Outcome.LINE_OTHER
    }
    assert known.refusal("a_new_one") is Outcome.LINE_OTHER
    for codes in (known.RESULT_REASONS, known.HANDSHAKE_REASONS, known.HANDSHAKE_STATES, known.CAMERA_STATES):
        assert len({0, *codes.values()}) == len(codes) + 1


@given(part_id=st.none() | st.text("aZ9- ü€", min_size=1, max_size=known.PART_ID_CHARACTERS + 6))
def test_a_part_id_is_complete_in_its_registers_or_they_are_empty_and_say_why(part_id: str | None) -> None:
    values = known.result_values(msgspec.structs.replace(verdict(1), part_id=part_id), PLACES)
    fits = part_id is not None and part_id.isascii() and len(part_id) <= known.PART_ID_CHARACTERS
    assert values["part_id"] == (part_id.encode() if part_id is not None and fits else b"")
    assert values["part_id_state"] == (0 if part_id is None else 1 if fits else 2)
    assert values["part_id_length"] == len(part_id or "")


@given(seqs=st.sets(SEQS, min_size=1).filter(lambda seqs: len({seq % (2**32 - 1) for seq in seqs}) == len(seqs)))
def test_the_number_of_an_entry_is_its_own_and_never_0(seqs: set[int]) -> None:
    named = [(kind, journal) for kind in EntryKind for journal in (JOURNAL, OTHER_JOURNAL)]
    for seq in seqs:
        assert len({entry(*name, seq, {})["number"] for name in named}) == len(named)
    numbers = {entry(EntryKind.RESULT, JOURNAL, seq, {"frames": seq})["number"] for seq in seqs}
    assert numbers == {entry(EntryKind.RESULT, JOURNAL, seq, {})["number"] for seq in seqs}
    assert len(numbers - {0}) == len(seqs)


@given(cut=st.integers(1, MAILBOX.end - MAILBOX.address - 1), seqs=st.tuples(SEQS, SEQS))
def test_a_read_in_two_requests_is_whole_or_seen_to_be_torn(cut: int, seqs: tuple[int, int]) -> None:
    bank, states, found = RegisterBank(register_map(1), "high_first"), list[Any](), list[int]()
    for seq, begin, end in ((seqs[0], 0, cut), (seqs[1], cut, MAILBOX.end - MAILBOX.address)):
        bank.put(MAILBOX, entry(EntryKind.RESULT, JOURNAL, seq, {}))
        states.append(bank.read(MAILBOX.address, MAILBOX.end - MAILBOX.address))
        found += bank.read(MAILBOX.address + begin, end - begin) or []
    assert found in states or found[0] != found[-1]


def test_the_document_has_the_numbers_of_the_code() -> None:
    document = read("docs/plant-modbus.md")
    for block in (LINE, MAILBOX, COMMANDS, RESPONSE, TOP):
        for name, kind in block.fields.items():
            if name in known.RESULT_FIELDS | known.MEASURED_FIELDS:
                line = rf"{MAILBOX.addresses[name]}  {TOP.addresses[name]}  {name}"
            else:
                line = rf" *{block.addresses[name]}  {block.prefix}_{name}"
            found = re.search(rf"^{line} +{re.escape(kind.name)}", document, re.MULTILINE)
            assert found or name in (known.BEGIN, known.END), name
        assert f"{block.address} to {block.end - 1}\n" in document
    for codes in (known.HANDSHAKE_REASONS, known.RESULT_REASONS, {each.name: each.value for each in Outcome}):
        for word, number in codes.items():
            assert re.search(rf"\b{number}\s+`{word}`", document), word
    assert f"{TOP.address} + {known.CAMERA_STRIDE} " in document


def test_only_the_number_of_the_shown_entry_acknowledges_it_and_one_that_is_written_again_none() -> None:
    bank = RegisterBank(register_map(1), "high_first")
    mailbox = Mailbox(bank)

    def write(number: int) -> bool:
        """Write a number as a PLC does in each cycle; return whether the shown entry is acknowledged."""
        assert bank.write(COMMANDS.addresses["acknowledge"], [number >> 16, number & 0xFFFF])
        return mailbox.acknowledged.is_set()

    last = 0
    for seq in range(1, 4):
        mailbox.acknowledged.clear()
        mailbox.show(entry(EntryKind.RESULT, JOURNAL, seq, {}))
        number = bank.number(MAILBOX, "number")
        assert bank.number(MAILBOX, "seq") == seq
        assert not write(last), "the PLC has not read it yet"
        assert not write(number ^ 1 << 16)
        assert write(number)
        last = number
    mailbox = Mailbox(bank)  # the PLC writes on while the bridge restarts
    mailbox.show(entry(EntryKind.RESULT, JOURNAL, 3, {}))
    assert mailbox.acknowledged.is_set(), "the PLC has it from before the restart"


@dataclass
class Served:
    """A line, its bridge in a process, and a PLC."""

    status: StatusOnlyLine
    port: int
    plc: Plc
    requests: "deque[tuple[Any, Callable[[Any], object]]]"
    """Commands that have reached the line, and how to answer them."""

    def request(self, **expected: object) -> Callable[[Any], object]:
        """Wait for a command at the line; return what answers it."""
        wait_until(lambda: bool(self.requests), "a command reaches the line")
        request, answer = self.requests.popleft()
        assert {name: getattr(request, name) for name in expected} == expected
        return answer

    def ends(self, code: int, outcome: int, frame_number: int = 0) -> None:
        """Check how a command ended, and reset it."""
        values = self.plc.until(RESPONSE, command=code, busy=0)
        assert (values["outcome"], values["frame_number"]) == (outcome, frame_number)
        self.plc.command(0)
        self.plc.until(RESPONSE, command=0, outcome=0)
        assert not self.requests


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, port = tmp_path_factory.mktemp("modbus"), free_port()
    requests: deque[tuple[Any, Callable[[Any], object]]] = deque()
    line = BridgedLine(folder, "modbus", f'listen = "127.0.0.1:{port.number}"\nword_order = "low_first"')
    products = "".join(f'[[products]]\nname = "{name}"\nbundle = "none"\n' for name in PLACES.products)
    tables = f'[commands]\nbind = "ipc://{folder}/commands"\n{products}'
    line.file.write_text(f'product = "4711"\n{line.file.read_text()}{tables}')
    with (
        begun(CommandServer(f"ipc://{folder}/commands", lambda *asked: requests.append(asked))),
        line,
        StatusOnlyLine(line.events, a_status()) as status,
        line.bridge() as bridge,
        Plc(port.number, "little") as plc,
    ):
        plc.until(LINE, is_heard=1)
        yield Served(status, port.number, plc, requests)
        assert bridge.end() == 0
        assert "rror" not in bridge.log(), "what clients send is not logged"


def test_the_state_of_line_and_cameras_is_copied_and_a_heartbeat_is_never_0(served: Served) -> None:
    status = a_status()
    line = served.plc.until(LINE, heartbeat=status.handshake.heartbeat % 65535 + 1, boot_id=status.boot_id)
    assert line.items() >= {"map_version": 1, "product": 1, "products": 2, "cameras": 2, "is_simulated": 0}.items()
    account, top = status.ledger["top"], served.plc.read(TOP)
    bins = {"dropped": sum(account.dropped.values()), "failed": sum(account.failed.values())}
    counts = {name: getattr(account, name) for name in ("captured", "inspected", "in_flight")}
    assert top.items() >= {"state": 2, **counts, **bins}.items()
    newer = msgspec.structs.replace(status.handshake, state="DEGRADED", reason="a_new_reason", heartbeat=65535)
    served.status.status = a_status(handshake=newer, acting=False)
    served.plc.until(LINE, heartbeat=1, state=3, state_reason=65535, is_simulated=1)
    served.status.status = a_status(state="STOPPED", handshake=msgspec.structs.replace(newer, heartbeat=3))
    served.plc.until(LINE, state_reason=5, is_heard=0, state=4)
    served.status.status = status
    served.plc.until(LINE, is_heard=1)


def test_the_newest_verdict_of_each_camera_is_shown_until_it_may_be_old(served: Served) -> None:
    live, last, plc = itertools.count(1), dict[str, int](), served.plc
    cameras = dict.fromkeys(PLACES.cameras, a_status().cameras["top"])
    status = a_status(cameras=cameras, ledger=dict.fromkeys(cameras, a_status().ledger["top"]))
    served.status.status = status

    def send(topic: str, **what: object) -> VerdictEvent:
        sent = msgspec.structs.replace(verdict(next(live), topic), previous_seq=last.get(topic, 0), **what)
        served.status.send(sent)
        last[topic] = sent.seq
        return sent

    results = plc.until(TOP, seq=send(GOOD).seq)["results"]
    defect = send(DEFECT)
    captured_s, captured_ms = divmod(defect.times.captured_at_ns // 10**6, 1000)
    told = {"part_id": defect.part_id, "journal_id": JOURNAL, "captured_s": captured_s, "captured_ms": captured_ms}
    plc.until(TOP, seq=defect.seq, verdict=2, results=results + 1, **told)
    reason = NO_VERDICT.event.reason or ""
    send("verdict.side.NO_VERDICT", reason=reason, product="4712", acting=False, frames=70_000)
    plc.until(SIDE, verdict=3, reason=known.RESULT_REASONS[reason], product=2, is_simulated=1, frames=70_000)
    send("verdict.side.NO_VERDICT", reason="failed.new")
    plc.until(SIDE, reason=65535, product=0)
    dead = msgspec.structs.replace(cameras["side"], state="DEAD")
    served.status.status = status = msgspec.structs.replace(status, cameras={**cameras, "side": dead})
    plc.until(SIDE, "no verdict stays of a camera that is dead, but its counters", verdict=0, results=2)
    assert plc.read(TOP)["verdict"] == 2
    counts = msgspec.structs.replace(status.counts, unjournalled={**last, GOOD: next(live)})
    served.status.status = msgspec.structs.replace(status, counts=counts, boot_id=defect.boot_id)
    plc.until(TOP, "a verdict was missed, so the shown one is old", verdict=0)
    served.status.status = a_status()


def test_a_command_is_executed_once_echoed_and_reset_by_the_plc(served: Served) -> None:
    plc = served.plc
    for _ in range(3):  # a PLC writes its registers in each cycle
        plc.command(Command.TRIGGER, camera=1, product=2, part_id=b"P-1")
    answer = served.request(camera="top", part_id="P-1")
    plc.until(RESPONSE, busy=1, command=0)
    answer(Triggered(camera="top", part_id="P-1", frame_id=7, frame_number=70_001))
    plc.until(RESPONSE, command=1, camera=1, product=2)
    plc.command(Command.SELECT, product=2)
    assert plc.read(RESPONSE)["command"] == Command.TRIGGER, "another command without a 0 before it is not executed"
    served.ends(Command.TRIGGER, Outcome.DONE, 70_001)
    for code, arguments, expected, reply, outcome in [
        (Command.SELECT, {"product": 2}, {"product": "4712"}, Selected(product="4712", bundle=BUNDLE), Outcome.DONE),
        (Command.TRIGGER, {"camera": 2}, {"part_id": None}, Announced(camera="side"), Outcome.ANNOUNCED),
        (Command.TRIGGER, {"camera": 1}, {}, refused("camera_dead", "it is gone"), Outcome.LINE_CAMERA_DEAD),
    ]:
        plc.command(code, **arguments)
        served.request(**expected)(reply)
        served.ends(code, outcome)


def test_a_command_written_while_one_that_was_given_up_is_executed_is_refused(served: Served) -> None:
    plc, late = served.plc, Triggered(camera="top", frame_id=7, frame_number=1)
    for is_written in (True, False):
        plc.command(Command.TRIGGER, camera=1)
        answer = served.request()
        plc.command(0)
        plc.until(RESPONSE, busy=1)
        if is_written:
            plc.command(Command.TRIGGER, camera=2)
        answer(late)
        if is_written:
            served.ends(Command.TRIGGER, Outcome.LINE_BUSY)
    plc.until(RESPONSE, "the late answer is not taken for that of the next", busy=0, command=0, outcome=0)


def test_a_wrong_argument_ends_a_command_before_it_reaches_the_line(served: Served) -> None:
    wrong: list[tuple[int, Outcome, dict[str, Any]]] = [
        (77, Outcome.UNKNOWN_COMMAND, {}),
        (Command.TRIGGER, Outcome.UNKNOWN_CAMERA, {"camera": 0}),
        (Command.TRIGGER, Outcome.UNKNOWN_CAMERA, {"camera": 3}),
        (Command.SELECT, Outcome.UNKNOWN_PRODUCT, {"product": 0}),
        (Command.TRIGGER, Outcome.BAD_PART_ID, {"camera": 1, "part_id": b"P", "length": 65}),
        (Command.TRIGGER, Outcome.BAD_PART_ID, {"camera": 1, "part_id": b"P", "length": 2}),
        (Command.TRIGGER, Outcome.BAD_PART_ID, {"camera": 1, "part_id": b"\xff"}),
    ]
    for code, outcome, arguments in wrong:
        served.plc.command(code, **arguments)
        served.ends(code, outcome)


NO_FUNCTION, NO_ADDRESS, BAD_VALUE = 1, 2, 3


def request(function: int, *words: int, transaction: int = 1, data: bytes = b"") -> bytes:
    pdu = bytes([function]) + struct.pack(f">{len(words)}H", *words) + data
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, 1) + pdu


READ_LINE = request(4, LINE.address, LINE.end - LINE.address)


def connected(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), WITHIN_SECONDS, (source, 0))


def reply_to(client: socket.socket, data: bytes = READ_LINE) -> bytes:
    """Send a request; return function code and what follows."""
    client.sendall(data)
    with client.makefile("rb") as received:
        return received.read(struct.unpack(">HHHB", received.read(7))[2] - 1)


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_what_cannot_be_done_has_the_exception_of_the_standard_and_changes_nothing(served: Served) -> None:
    with connected(served.port) as client:
        for sent, code in [
            (request(6, LINE.addresses["heartbeat"], 1), NO_ADDRESS),
            (request(16, COMMANDS.end - 1, 2, data=b"\x04\1\1\1\1"), NO_ADDRESS),  # its last one is not a command's
            (request(23, 0, 1, LINE.address, 1, data=b"\x02\0\0"), NO_ADDRESS),
            (request(4, LINE.end - 1, 2), NO_ADDRESS),
            (request(4, 0, 0), BAD_VALUE),
            (request(4, 0, 126), BAD_VALUE),
            (request(16, COMMANDS.address, 2, data=b"\x02\0\0"), BAD_VALUE),
            (request(16, COMMANDS.end - 1, 1, data=b"\x04\0\1"), BAD_VALUE),  # its byte count is wrong
            (request(3, 0), BAD_VALUE),
            (request(99), NO_FUNCTION),
        ]:
            assert reply_to(client, sent) == bytes([sent[7] | 0x80, code])
            assert reply_to(client, request(3, COMMANDS.end - 1, 1)) == b"\x03\x02\0\0", "it stays as it was"
        other_protocol = struct.pack(">HHHB", 1, 7, 6, 1) + READ_LINE[7:]
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 20, b"\0\1\0\0\0\1\1\4", other_protocol):
            with connected(served.port) as other:
                other.sendall(garbage)
                assert is_closed(other)
        assert reply_to(client)[0] == 4, "only its own connection is closed"


def test_every_unit_and_each_of_many_requests_is_answered_in_order(served: Served) -> None:
    client = served.plc.client
    both = client.readwrite_registers(read_address=205, read_count=2, write_address=205, values=[1, 2], device_id=9)
    assert both.registers == [1, 2], "what is written is read in the same request"
    served.plc.write(205, [0, 0])
    with connected(served.port) as each:
        each.sendall(b"".join(request(6, 205, n % 9, transaction=n) for n in range(1, 301)))
        with each.makefile("rb") as received:
            assert [struct.unpack(">H", received.read(12)[:2])[0] for _ in range(300)] == list(range(1, 301))
        each.sendall(READ_LINE[:5])
        assert reply_to(each, READ_LINE[5:])[0] == 4, "a request in two pieces"


def test_a_silent_connection_is_closed_and_one_that_floods_and_reads_nothing_delays_no_other(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatline.edge.bridge.modbus.server.IDLE_SECONDS", 0.3)
    with modbus_served(address) as port, connected(port) as silent, connected(port) as half:
        half.sendall(READ_LINE[:9])
        assert is_closed(silent)
        assert is_closed(half)
    with modbus_served(address) as port, connected(port) as client:
        client.settimeout(0.1)

        def is_closed_to_a_flood() -> bool:
            try:
                for _ in range(1000):
                    client.sendall(READ_LINE * 1000)
            except ConnectionError:
                return True
            except TimeoutError:  # its requests are not even received any more
                return False
            pytest.fail("the server takes requests without end")

        is_closed_to_a_flood()
        with connected(port) as other:
            for _ in range(20):
                reply_to(other)
        wait_until(is_closed_to_a_flood, "a connection that does not read is closed")


def test_an_address_with_many_connections_gives_one_up_to_another_and_takes_none(address: str) -> None:
    """So who attacks from a client's own address ends it, which the document names as a limit."""
    assert "**whoever connects from a client's address can disconnect that client**" in read("docs/security.md")
    with modbus_served(address, max_connections=3) as port, contextlib.ExitStack() as open_:
        clients = [open_.enter_context(connected(port, "127.0.0.3")) for _ in range(3)]
        for client in clients:
            reply_to(client)
        for source, closed in (("127.0.0.2", 0), ("127.0.0.3", 1), ("127.0.0.4", 2)):  # its own oldest one, too
            clients.append(open_.enter_context(connected(port, source)))
            reply_to(clients[-1])
            assert is_closed(clients[closed])
        refused = open_.enter_context(connected(port, "127.0.0.5"))
        refused.sendall(READ_LINE)
        assert is_closed(refused), "the others have one each"
        for client in clients[3:]:
            reply_to(client)


def test_only_allowed_addresses_may_connect() -> None:
    port = free_port()
    host = port.reached.removeprefix("tcp://").rpartition(":")[0]
    if host == "127.0.0.1":
        pytest.skip("this machine has no address but loopback")
    for allow, is_served in (["10.255.255.255"], False), ([f"{host}/32"], True):
        with (
            modbus_served(port.bound, allow=allow) as number,
            socket.create_connection((host, number), WITHIN_SECONDS) as client,
            connected(number) as own,
        ):
            assert reply_to(client)[0] == 4 if is_served else is_closed(client)
            assert reply_to(own)[0] == 4, "this machine's own programs"
