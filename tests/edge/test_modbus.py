"""The Modbus bridge beside the contract of all bridges: registers, the mailbox, commands, and who may connect."""

import contextlib
import itertools
import re
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from heatline.edge.bridge.modbus.bridge import Mailbox
from heatline.edge.bridge.modbus.registers import (
    BEGIN,
    CAMERA_STATES,
    CAMERA_STRIDE,
    COMMANDS,
    END,
    HANDSHAKE_REASONS,
    HANDSHAKE_STATES,
    LINE,
    MAILBOX,
    MOST_CAMERAS,
    PART_ID_CHARACTERS,
    RESPONSE,
    RESULT_FIELDS,
    RESULT_REASONS,
    UDINT,
    UINT,
    ULINT,
    Command,
    Entry,
    EntryKind,
    IdMap,
    Kind,
    Outcome,
    RegisterBank,
    camera_block,
    encode,
    refusal,
    register_map,
    result_values,
)
from heatline.edge.bridge.modbus.server import MOST_READ
from heatline.edge.delivery.servers import CommandServer
from heatline.edge.wire.commands import Announced, Reason, Selected, SelectRequest, Triggered, TriggerRequest
from heatline.edge.wire.commands import refusal as refused
from heatline.edge.wire.events import CameraState, HandshakeState, VerdictEvent
from tests.edge.bridged_line import BridgedLine, Plc, modbus_served
from tests.edge.followed_line import BUNDLE, DEFECT, GOOD, WITHIN_SECONDS, event, wait_until
from tests.edge.secured import free_port
from tests.edge.status_only_line import StatusOnlyLine, a_status
from tests.edge.wire_examples import NO_VERDICT
from tests.test_docs import read, rows, section

JOURNAL, OTHER_JOURNAL = "5a6c2b7f7e2e4b0d9f0b6f1a3c4d5e6f", "0123456789abcdef0123456789abcdef"
PLACES = IdMap(["top", "side"], ["4711", "4712"])
SEQS = st.integers(0, 2**63 - 1)
TOP, SIDE = camera_block(1), camera_block(2)


def verdict(seq: int, topic: str = GOOD) -> VerdictEvent:
    made = event(seq, topic, JOURNAL)
    assert isinstance(made, VerdictEvent)
    return made


# Registers.


def test_blocks_do_not_overlap_and_each_fits_one_request() -> None:
    blocks = register_map(MOST_CAMERAS)
    for block, following in itertools.pairwise(blocks):
        assert block.end <= following.address, following.prefix
    assert all(block.end - block.address <= MOST_READ for block in blocks)
    assert blocks[-1].end <= 65536


def test_every_word_of_the_line_has_a_number() -> None:
    protocol = read("docs/protocol.md")
    assert RESULT_REASONS.keys() == {reason for reason in rows(section(protocol, "### Reasons")) if "." in reason}
    of_handshake = {key for key, cells in rows(section(protocol, "## Handshake")).items() if len(cells) == 3}
    of_handshake -= {"BUSY", "DEGRADED", "NOT_READY", "READY"}
    assert HANDSHAKE_REASONS.keys() == of_handshake | {"stopped", "unreachable"}
    assert HANDSHAKE_STATES.keys() == set(get_args(HandshakeState))
    assert CAMERA_STATES.keys() == set(get_args(get_type_hints(CameraState)["state"]))
    known = set(get_args(Reason)) - {"malformed", "version"}  # faults of the bridge, not of the PLC
    assert {refusal(reason) for reason in known} == {
        outcome for outcome in Outcome if outcome.name.startswith("LINE_") and outcome is not Outcome.LINE_OTHER
    }
    assert refusal("a_new_one") is Outcome.LINE_OTHER
    for codes in (RESULT_REASONS, HANDSHAKE_REASONS, HANDSHAKE_STATES, CAMERA_STATES):
        assert len({0, *codes.values()}) == len(codes) + 1


@given(value=st.integers(0, 2**64 - 1), kind=st.sampled_from([UINT, UDINT, ULINT]))
def test_integers_are_big_endian_words_in_the_configured_order(value: int, kind: Kind) -> None:
    expected = value % (1 << 16 * kind.registers)
    words = list(struct.unpack(f">{kind.registers}H", struct.pack(f">{' HI Q'[kind.registers]}", expected)))
    assert encode(kind, value, "high_first") == words
    assert encode(kind, value, "low_first") == words[::-1]


@given(part_id=st.none() | st.text("aZ9- ü€", min_size=1, max_size=PART_ID_CHARACTERS + 6))
def test_a_part_id_is_complete_in_its_registers_or_they_are_empty_and_say_why(part_id: str | None) -> None:
    values = result_values(msgspec.structs.replace(verdict(1), part_id=part_id), PLACES)
    fits = part_id is not None and part_id.isascii() and len(part_id) <= PART_ID_CHARACTERS
    assert values["part_id"] == (part_id.encode() if part_id is not None and fits else b"")
    assert values["part_id_state"] == (0 if part_id is None else 1 if fits else 2)
    assert values["part_id_length"] == len(part_id or "")


@given(seq=SEQS, other=SEQS, kind=st.sampled_from(EntryKind), journal=st.sampled_from([JOURNAL, OTHER_JOURNAL]))
def test_the_number_of_an_entry_is_its_own_and_never_0(seq: int, other: int, kind: EntryKind, journal: str) -> None:
    number = Entry(kind, journal, seq, {}).number
    assert 0 < number < 2**32
    assert number == Entry(kind, journal, seq, {"frames": 1}).number
    if (other - seq) % (2**32 - 1):
        assert number != Entry(kind, journal, other, {}).number
    for another in EntryKind:
        assert another == kind or number != Entry(another, journal, seq, {}).number
    assert number != Entry(kind, "f" * 32, seq, {}).number


@given(
    cuts=st.sets(st.integers(1, MAILBOX.end - MAILBOX.address - 1), max_size=4),
    updates=st.lists(st.lists(SEQS.map(lambda seq: Entry(EntryKind.RESULT, JOURNAL, seq, {})), max_size=2), max_size=5),
)
def test_a_read_in_several_requests_is_whole_or_seen_to_be_torn(
    cuts: set[int], updates: Sequence[Sequence[Entry]]
) -> None:
    bank, size = RegisterBank(register_map(1), "high_first"), MAILBOX.end - MAILBOX.address
    bank.put(MAILBOX, Entry(EntryKind.LOST, JOURNAL, 0, {}).registers())
    states = [bank.read(MAILBOX.address, size)]
    found: list[int] = []
    for at, (begin, end) in enumerate(itertools.pairwise([0, *sorted(cuts), size])):
        found += bank.read(MAILBOX.address + begin, end - begin) or []
        for entry in updates[at] if at < len(updates) else []:
            bank.put(MAILBOX, entry.registers())
            states.append(bank.read(MAILBOX.address, size))
    first, last = (MAILBOX.addresses[name] - MAILBOX.address for name in (BEGIN, END))
    if found[first] == found[last]:
        assert found in states


def test_the_document_has_the_numbers_of_the_code() -> None:
    document = read("docs/plant-modbus.md")
    for block in (LINE, MAILBOX, COMMANDS, RESPONSE, TOP):
        for name, kind in block.fields.items():
            if name in RESULT_FIELDS:
                line = rf"{MAILBOX.addresses[name]}  {TOP.addresses[name]}  {name}"
            else:
                line = rf" *{block.addresses[name]}  {block.prefix}_{name}"
            assert name in (BEGIN, END) or re.search(rf"^{line} +{re.escape(kind.name)}", document, re.MULTILINE), name
        assert f"{block.address} to {block.end - 1}\n" in document
    for codes in (HANDSHAKE_REASONS, RESULT_REASONS, {each.name: each.value for each in Outcome}):
        for word, number in codes.items():
            assert re.search(rf"\b{number}\s+`{word}`", document), word
    assert f"{TOP.address} + {CAMERA_STRIDE} " in document


# The mailbox.


class Handshake(RuleBasedStateMachine):
    """A journal, a bridge and a PLC that stores each number once; each may be restarted at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.journal: deque[Entry] = deque()
        """What the line has not been told to be acknowledged."""
        self.made = 0
        self.acknowledged: list[int] = []
        self.stored: list[int] = []
        self.writes = 0
        """What the PLC writes in each cycle."""
        self.bridge_is_killed()

    @rule()
    def bridge_is_killed(self) -> None:
        self.bank = RegisterBank(register_map(1), "high_first")
        self.mailbox = Mailbox(self.bank)
        self.held: Entry | None = None

    @rule(count=st.integers(1, 3))
    def journal_events(self, count: int) -> None:
        for _ in range(count):
            self.made += 1
            kind = EntryKind.LOST if self.made % 5 == 0 else EntryKind.RESULT
            self.journal.append(Entry(kind, JOURNAL, self.made, {"verdict": 1}))

    @rule()
    def feed(self) -> None:
        """Take a step of the thread that follows the journal."""
        if self.held is not None and self.mailbox.acknowledged.is_set():
            self.acknowledged.append(self.held.seq)
            assert self.journal.popleft() is self.held
            self.held = None
        if self.held is None and self.journal:
            self.held = self.journal[0]
            self.mailbox.acknowledged.clear()
            self.mailbox.show(self.held)

    @rule()
    def plc_reads_and_stores(self) -> None:
        kind, number = (self.bank.number(MAILBOX, name) for name in ("kind", "number"))
        assert (kind == 0) == (number == 0)
        if kind and number != self.writes:
            self.stored.append(self.bank.number(MAILBOX, "seq"))
            self.writes = number

    @rule()
    def plc_writes(self) -> None:
        self.write(self.writes)

    @rule(number=st.integers(0, 2**32 - 1))
    def another_client_writes(self, number: int) -> None:
        if number != self.bank.number(MAILBOX, "number"):
            self.write(number)

    def write(self, number: int) -> None:
        assert self.bank.write(COMMANDS.addresses["acknowledge"], [number >> 16, number & 0xFFFF])

    @invariant()
    def no_result_is_lost_or_stored_twice(self) -> None:
        assert self.stored == list(range(1, len(self.stored) + 1))
        assert self.acknowledged == list(range(1, len(self.acknowledged) + 1))
        assert len(self.acknowledged) <= len(self.stored)


TestHandshake = Handshake.TestCase


# A bridge, whose line answers commands when the test says so.


@dataclass
class Served:
    """A line, its bridge in a process, and a PLC."""

    line: BridgedLine
    status: StatusOnlyLine
    port: int
    plc: Plc
    requests: "deque[tuple[Any, Callable[[Any], object]]]"
    """Commands that have reached the line, and how to answer them."""

    def request(self) -> tuple[Any, Callable[[Any], object]]:
        wait_until(lambda: bool(self.requests), "a command reaches the line")
        return self.requests.popleft()

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
    commands = CommandServer(f"ipc://{folder}/commands", lambda request, answer: requests.append((request, answer)))
    commands.start()
    line = BridgedLine(folder, "modbus", f'listen = "127.0.0.1:{port.number}"\nword_order = "low_first"')
    products = "".join(f'[[products]]\nname = "{name}"\nbundle = "none"\n' for name in PLACES.products)
    tables = f'[commands]\nbind = "ipc://{folder}/commands"\n{products}'
    line.file.write_text(f'product = "4711"\n{line.file.read_text()}{tables}')
    with (
        contextlib.closing(commands),
        line,
        StatusOnlyLine(line.events, a_status()) as status,
        line.bridge() as bridge,
        Plc(port.number, "little") as plc,
    ):
        plc.until(LINE, is_heard=1)
        yield Served(line, status, port.number, plc, requests)
        assert bridge.end() == 0
        assert "rror" not in bridge.log, "what clients send is not logged"


def test_the_state_of_line_and_cameras_is_copied_and_a_heartbeat_never_goes_on_alone(served: Served) -> None:
    status = a_status()
    line = served.plc.until(LINE, heartbeat=status.handshake.heartbeat % 65535 + 1)
    assert (line["map_version"], line["product"], line["products"], line["cameras"]) == (1, 1, 2, 2)
    assert (line["is_simulated"], line["boot_id"]) == (0, status.boot_id)
    account, top = status.ledger["top"], served.plc.read(TOP)
    assert [top[name] for name in ("state", "captured", "inspected", "dropped", "failed", "in_flight")] == [
        2, account.captured, account.inspected, sum(account.dropped.values()), sum(account.failed.values()),
        account.in_flight,
    ]  # fmt: skip
    assert served.plc.read(SIDE)["state"] == 4
    newer = msgspec.structs.replace(status.handshake, state="DEGRADED", reason="a_new_reason", heartbeat=65535)
    served.status.status = a_status(handshake=newer, acting=False)
    line = served.plc.until(LINE, heartbeat=1)  # never 0
    assert (line["state"], line["state_reason"], line["is_simulated"]) == (3, 65535, 1)
    served.status.status = a_status(state="STOPPED", handshake=msgspec.structs.replace(newer, heartbeat=3))
    line = served.plc.until(LINE, state_reason=5)
    assert (line["is_heard"], line["state"]) == (0, 4)
    served.status.status = status
    served.plc.until(LINE, is_heard=1)


def test_the_newest_verdict_of_each_camera_is_shown_until_it_may_be_old(served: Served) -> None:
    live, last = itertools.count(1), dict[str, int]()
    cameras = dict.fromkeys(PLACES.cameras, a_status().cameras["top"])
    served.status.status = a_status(cameras=cameras, ledger=dict.fromkeys(cameras, a_status().ledger["top"]))

    def send(topic: str, **what: object) -> VerdictEvent:
        sent = msgspec.structs.replace(verdict(next(live), topic), previous_seq=last.get(topic, 0), **what)
        served.status.send(sent)
        last[topic] = sent.seq
        return sent

    results = served.plc.until(TOP, seq=send(GOOD).seq)["results"]
    defect = send(DEFECT)
    shown = served.plc.until(TOP, seq=defect.seq)
    assert (shown["verdict"], shown["part_id"], shown["journal_id"]) == (2, defect.part_id, JOURNAL)
    assert (shown["captured_s"], shown["captured_ms"]) == divmod(defect.times.captured_at_ns // 10**6, 1000)
    assert shown["results"] == results + 1
    assert isinstance(NO_VERDICT.event, VerdictEvent)
    send("verdict.side.NO_VERDICT", reason=NO_VERDICT.event.reason, product="4712", acting=False, frames=70_000)
    shown = served.plc.until(SIDE, verdict=3)
    assert (shown["product"], shown["is_simulated"], shown["frames"]) == (2, 1, 70_000)
    assert shown["reason"] == RESULT_REASONS[NO_VERDICT.event.reason or ""]
    send("verdict.side.NO_VERDICT", reason="failed.new")
    assert served.plc.until(SIDE, reason=65535)["product"] == 0
    dead = msgspec.structs.replace(cameras["side"], state="DEAD")
    served.status.status = msgspec.structs.replace(served.status.status, cameras={**cameras, "side": dead})
    assert served.plc.until(SIDE, verdict=0)["results"] > 0, "counters stay"
    assert served.plc.read(TOP)["verdict"] == 2
    counts = msgspec.structs.replace(a_status().counts, unjournalled={**last, GOOD: next(live)})
    served.status.status = msgspec.structs.replace(served.status.status, counts=counts, boot_id=defect.boot_id)
    served.plc.until(TOP, "a verdict was missed, so the shown one is old", verdict=0)
    served.status.status = a_status()


# Commands.


def test_a_command_is_executed_once_echoed_and_reset_by_the_plc(served: Served) -> None:
    plc = served.plc
    for _ in range(3):  # a PLC writes its registers in each cycle
        plc.command(Command.TRIGGER, camera=1, product=2, part_id=b"P-1")
    request, answer = served.request()
    assert isinstance(request, TriggerRequest)
    assert (request.camera, request.part_id) == ("top", "P-1")
    assert (plc.read(RESPONSE)["busy"], plc.read(RESPONSE)["command"]) == (1, 0)
    answer(Triggered(camera="top", part_id="P-1", frame_id=7, frame_number=70_001))
    values = plc.until(RESPONSE, command=1)
    assert (values["camera"], values["product"]) == (1, 2)
    plc.command(Command.SELECT, product=2)
    assert plc.read(RESPONSE)["command"] == Command.TRIGGER, "another command without a 0 before it is not executed"
    served.ends(Command.TRIGGER, Outcome.DONE, 70_001)
    plc.command(Command.SELECT, product=2)
    request, answer = served.request()
    assert isinstance(request, SelectRequest)
    assert request.product == "4712"
    answer(Selected(product="4712", bundle=BUNDLE))
    served.ends(Command.SELECT, Outcome.DONE)
    plc.command(Command.TRIGGER, camera=2)
    request, answer = served.request()
    assert (request.camera, request.part_id) == ("side", None)
    answer(Announced(camera="side"))
    served.ends(Command.TRIGGER, Outcome.ANNOUNCED)
    plc.command(Command.TRIGGER, camera=1)
    served.request()[1](refused("camera_dead", "it is not there"))
    served.ends(Command.TRIGGER, Outcome.LINE_CAMERA_DEAD)


def test_a_command_written_while_one_that_was_given_up_is_executed_is_refused(served: Served) -> None:
    plc = served.plc
    plc.command(Command.TRIGGER, camera=1)
    _, answer = served.request()
    plc.command(0)
    assert plc.read(RESPONSE)["busy"] == 1, "still being executed"
    plc.command(Command.TRIGGER, camera=2)
    answer(Triggered(camera="top", frame_id=7, frame_number=1))
    served.ends(Command.TRIGGER, Outcome.LINE_BUSY)
    plc.command(Command.TRIGGER, camera=1)
    _, answer = served.request()
    plc.command(0)
    answer(Triggered(camera="top", frame_id=7, frame_number=2))
    values = plc.until(RESPONSE, busy=0)
    assert (values["command"], values["outcome"]) == (0, 0), "it is not taken for the answer of the next command"


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ({"code": 77}, Outcome.UNKNOWN_COMMAND),
        ({"code": Command.TRIGGER, "camera": 0}, Outcome.UNKNOWN_CAMERA),
        ({"code": Command.TRIGGER, "camera": 3}, Outcome.UNKNOWN_CAMERA),
        ({"code": Command.SELECT, "product": 0}, Outcome.UNKNOWN_PRODUCT),
        ({"code": Command.TRIGGER, "camera": 1, "part_id": b"P", "length": 65}, Outcome.BAD_PART_ID),
        ({"code": Command.TRIGGER, "camera": 1, "part_id": b"P", "length": 2}, Outcome.BAD_PART_ID),
        ({"code": Command.TRIGGER, "camera": 1, "part_id": b"P\n1"}, Outcome.BAD_PART_ID),
        ({"code": Command.TRIGGER, "camera": 1, "part_id": b"\xff"}, Outcome.BAD_PART_ID),
    ],
)
def test_a_wrong_argument_ends_a_command_before_it_reaches_the_line(
    served: Served, what: dict[str, Any], outcome: Outcome
) -> None:
    served.plc.command(**what)
    served.ends(what["code"], outcome)


# Requests and connections.

NO_FUNCTION, NO_ADDRESS, BAD_VALUE = 1, 2, 3


def request(function: int, *words: int, transaction: int = 1, unit: int = 1, data: bytes = b"") -> bytes:
    pdu = bytes([function]) + struct.pack(f">{len(words)}H", *words) + data
    return struct.pack(">HHHB", transaction, 0, len(pdu) + 1, unit) + pdu


READ_LINE = request(4, LINE.address, LINE.end - LINE.address)


def connected(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), WITHIN_SECONDS, (source, 0))


def reply_to(client: socket.socket, data: bytes = READ_LINE) -> tuple[int, int, bytes]:
    """Send a request; return transaction, unit, and function code with what follows."""
    client.sendall(data)
    with client.makefile("rb") as received:
        transaction, protocol, length, unit = struct.unpack(">HHHB", received.read(7))
        assert protocol == 0
        return transaction, unit, received.read(length - 1)


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (request(6, LINE.addresses["heartbeat"], 1), NO_ADDRESS),
        (request(6, RESPONSE.addresses["outcome"], 0), NO_ADDRESS),
        (request(16, COMMANDS.end - 1, 2, data=b"\x04\1\1\1\1"), NO_ADDRESS),  # its last register is not a command's
        (request(23, 0, 1, LINE.address, 1, data=b"\x02\0\0"), NO_ADDRESS),
        (request(4, LINE.end - 1, 2), NO_ADDRESS),
        (request(4, 65535, 2), NO_ADDRESS),
        (request(4, 0, 0), BAD_VALUE),
        (request(4, 0, 126), BAD_VALUE),
        (request(16, COMMANDS.address, 2, data=b"\x02\0\0"), BAD_VALUE),
        (request(3, 0), BAD_VALUE),
        (request(1, 0, 1), NO_FUNCTION),
        (request(99), NO_FUNCTION),
    ],
)
def test_what_cannot_be_done_has_the_exception_of_the_standard_and_changes_nothing(
    served: Served, sent: bytes, code: int
) -> None:
    with connected(served.port) as client:
        assert reply_to(client, sent)[2] == bytes([sent[7] | 0x80, code])
        assert reply_to(client, request(3, COMMANDS.end - 1, 1))[2] == b"\x03\x02\0\0", "the connection stays usable"


def test_both_functions_read_every_unit_is_answered_and_what_is_written_is_read_in_one_request(served: Served) -> None:
    client = served.plc.client
    size = COMMANDS.end - COMMANDS.address
    both = client.readwrite_registers(read_address=205, read_count=2, write_address=205, values=[1, 2], device_id=1)
    assert both.registers == [1, 2]
    client.write_register(205, 0, device_id=1)
    for unit in (0, 9, 255):
        by_input = client.read_input_registers(COMMANDS.address, count=size, device_id=unit)
        assert by_input.registers == client.read_holding_registers(COMMANDS.address, count=size, device_id=1).registers
    served.plc.write(206, [0])


def test_requests_that_arrive_together_or_in_pieces_are_answered_in_order(served: Served) -> None:
    with connected(served.port) as client:
        client.sendall(b"".join(request(6, 205, n % 9, transaction=n) for n in range(1, 301)))
        with client.makefile("rb") as received:
            assert [struct.unpack(">H", received.read(12)[:2])[0] for _ in range(300)] == list(range(1, 301))
        client.sendall(READ_LINE[:5])
        assert reply_to(client, READ_LINE[5:])[2][0] == 4


def test_a_client_that_sends_garbage_or_floods_and_reads_nothing_concerns_no_other(served: Served) -> None:
    other_protocol = struct.pack(">HHHB", 1, 7, 6, 1) + READ_LINE[7:]
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 400, b"\xff" * 20, b"\0\1\0\0\0\1\1\4", other_protocol):
        with connected(served.port) as client:
            client.sendall(garbage)
            assert is_closed(client)
    with socket.socket() as client:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            client.setsockopt(socket.SOL_SOCKET, option, 4096)
        client.connect(("127.0.0.1", served.port))
        client.settimeout(0.2)
        with contextlib.suppress(TimeoutError):  # its requests are not even received any more
            for _ in range(1000):
                client.sendall(READ_LINE * 1000)
            pytest.fail("the server takes requests without end")
        for n in range(20):
            served.plc.acknowledge(n)
            assert served.plc.read(COMMANDS)["acknowledge"] == n


def test_a_connection_that_is_silent_or_does_not_read_is_closed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatline.edge.bridge.modbus.server.IDLE_SECONDS", 0.1)
    with modbus_served(address) as port:
        for begun in (b"", READ_LINE[:9]):
            with connected(port) as client:
                client.sendall(begun)
                assert is_closed(client)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            with contextlib.suppress(ConnectionError):
                for _ in range(2000):
                    client.sendall(request(4, MAILBOX.address, MAILBOX.end - MAILBOX.address) * 100)
            reset = select.poll()
            reset.register(client, 0)  # errors are always reported
            assert reset.poll(WITHIN_SECONDS * 1000)


def test_an_address_with_many_connections_gives_one_up_to_another_and_takes_none(address: str) -> None:
    """So who attacks from a client's own address ends it, which the document names as a limit."""
    assert "**whoever connects from a client's address can disconnect that client**" in read("docs/security.md")
    with modbus_served(address, max_connections=3) as port, contextlib.ExitStack() as open_:

        def client(source: int) -> socket.socket:
            return open_.enter_context(connected(port, f"127.0.0.{source}"))

        many = [client(3) for _ in range(3)]
        for each in many:
            reply_to(each)
        served = [many[1]]
        for source, closed in ((2, 0), (3, 1), (4, 2)):  # its own oldest one, too
            served.append(client(source))
            reply_to(served[-1])
            assert is_closed(many[closed])
        refused = client(5)
        refused.sendall(READ_LINE)
        assert is_closed(refused), "the others have one each"
        for each in served[1:]:
            reply_to(each)


def test_only_allowed_addresses_may_connect() -> None:
    port = free_port()
    host = port.reached.removeprefix("tcp://").rpartition(":")[0]
    if host == "127.0.0.1":
        pytest.skip("this machine has no address but loopback")
    for allow, is_served in (["10.255.255.255"], False), ([f"{host}/32"], True):
        with modbus_served(port.bound, allow=allow) as number:
            with socket.create_connection((host, number), WITHIN_SECONDS) as client:
                assert reply_to(client)[2][0] == 4 if is_served else is_closed(client)
            with connected(number) as own:
                assert reply_to(own)[2][0] == 4, "this machine's own programs"
