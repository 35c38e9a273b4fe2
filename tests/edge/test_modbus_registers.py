"""The register map: addresses, numbers and values, and reads that are torn."""

import itertools
import struct
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bridge.modbus.registers import (
    BEGIN,
    CAMERA_STATES,
    CAMERA_STRIDE,
    END,
    FIRST_CAMERA_ADDRESS,
    HANDSHAKE_REASONS,
    HANDSHAKE_STATES,
    MAILBOX,
    MOST_CAMERAS,
    PART_ID_CHARACTERS,
    RESULT_REASONS,
    UDINT,
    UINT,
    ULINT,
    Entry,
    EntryKind,
    IdMap,
    Kind,
    Outcome,
    RegisterBank,
    encode,
    entry_of,
    lost_entry,
    refusal,
    register_map,
    result_values,
)
from heatline.edge.bridge.modbus.server import MOST_READ
from heatline.edge.errors import ConfigError, EventsLostError
from heatline.edge.wire.commands import Reason
from heatline.edge.wire.events import CameraState, HandshakeState, JournalEvent, VerdictEvent, header_of
from heatline.edge.wire.following import Delivered
from tests.edge.followed_line import event
from tests.edge.wire_examples import DEFECT, NO_VERDICT
from tests.test_docs import read, rows, section

JOURNAL, OTHER_JOURNAL = "5a6c2b7f7e2e4b0d9f0b6f1a3c4d5e6f", "0123456789abcdef0123456789abcdef"
PLACES = IdMap(["top", "side"], ["4711", "4712"])
SEQS = st.integers(0, 2**63 - 1)


# The map.


def test_blocks_do_not_overlap_and_each_fits_one_request() -> None:
    blocks = register_map(MOST_CAMERAS)
    for block, following in itertools.pairwise(blocks):
        assert block.end <= following.address, following.prefix
    assert all(block.end - block.address <= MOST_READ for block in blocks)
    assert blocks[-1].end <= 65536
    names = [f"{block.prefix}_{name}" for block in blocks for name in block.fields]
    assert len(set(names)) == len(names)
    with pytest.raises(ConfigError, match="101 cameras, and the register map has room for 100"):
        register_map(MOST_CAMERAS + 1)


def test_every_word_of_the_line_has_a_number() -> None:
    protocol = read("docs/protocol.md")
    reasons = {reason for reason in rows(section(protocol, "### Reasons")) if "." in reason}
    assert RESULT_REASONS.keys() == reasons
    of_handshake = {key for key, cells in rows(section(protocol, "## Handshake")).items() if len(cells) == 3}
    of_handshake -= {"BUSY", "DEGRADED", "NOT_READY", "READY"}
    assert HANDSHAKE_REASONS.keys() == of_handshake | {"stopped", "unreachable"}
    assert HANDSHAKE_STATES.keys() == set(get_args(HandshakeState))
    assert CAMERA_STATES.keys() == set(get_args(get_type_hints(CameraState)["state"]))
    for codes in (RESULT_REASONS, HANDSHAKE_REASONS, HANDSHAKE_STATES, CAMERA_STATES):
        assert len(set(codes.values())) == len(codes)
        assert 0 not in codes.values()


def test_every_refusal_of_a_command_has_an_outcome() -> None:
    known = set(get_args(Reason)) - {"malformed", "version"}  # faults of the bridge, not of the PLC
    assert {refusal(reason) for reason in known} == {
        outcome for outcome in Outcome if outcome.name.startswith("LINE_") and outcome is not Outcome.LINE_OTHER
    }
    assert refusal("a_new_one") is refusal(None) is Outcome.LINE_OTHER


def test_the_document_has_the_tables_of_the_code() -> None:
    document = read("docs/plant-modbus.md")
    for block in register_map(1):
        offset = FIRST_CAMERA_ADDRESS if block.prefix == "camera1" else 0
        for name, kind in block.fields.items():
            assert f"| {block.addresses[name] - offset} | `{block.prefix}_{name}` | {kind.name} | " in document
    for codes in (HANDSHAKE_REASONS, RESULT_REASONS, {each.name: each.value for each in Outcome}):
        for word, number in codes.items():
            assert f"| {number} | `{word}` |\n" in document
    assert f"{FIRST_CAMERA_ADDRESS} + {CAMERA_STRIDE} " in document


# Values.


@given(value=st.integers(0, 2**64 - 1), kind=st.sampled_from([UINT, UDINT, ULINT]))
def test_integers_are_big_endian_words_in_the_configured_order(value: int, kind: Kind) -> None:
    letter = {1: "H", 2: "I", 4: "Q"}[kind.registers]
    expected = value % (1 << 16 * kind.registers)
    words = list(struct.unpack(f">{kind.registers}H", struct.pack(f">{letter}", expected)))
    assert encode(kind, value, "high_first") == words
    assert encode(kind, value, "low_first") == words[::-1]


def test_the_word_order_is_that_of_integers_only() -> None:
    for name, value in (("part_id", b"P-4711"), ("journal_id", bytes(range(16)))):
        field = MAILBOX.fields[name]
        assert encode(field, value, "low_first") == encode(field, value, "high_first")


@given(part_id=st.none() | st.text("aZ9- ü€", min_size=1, max_size=PART_ID_CHARACTERS + 6))
def test_a_part_id_is_complete_in_its_registers_or_they_are_empty_and_say_why(part_id: str | None) -> None:
    shown = event(1, "verdict.top.GOOD", JOURNAL)
    assert isinstance(shown, VerdictEvent)
    values = result_values(msgspec.structs.replace(shown, part_id=part_id), PLACES)
    assert values["part_id_length"] == len(part_id or "")
    words = encode(MAILBOX.fields["part_id"], values["part_id"], "high_first")
    held = struct.pack(f">{len(words)}H", *words).rstrip(b"\0")
    fits = part_id is not None and part_id.isascii() and len(part_id) <= PART_ID_CHARACTERS
    assert held == (part_id.encode() if part_id is not None and fits else b"")
    assert values["part_id_state"] == (0 if part_id is None else 1 if fits else 2)


def test_a_result_has_the_numbers_of_its_event() -> None:
    defect, no_verdict = DEFECT.event, NO_VERDICT.event
    assert isinstance(defect, VerdictEvent)
    assert isinstance(no_verdict, VerdictEvent)
    values = result_values(defect, PLACES)
    assert (values["verdict"], values["reason"], values["regions"]) == (2, 0, len(defect.regions))
    captured = values["captured_s"], values["captured_ms"]
    assert captured == divmod(defect.times.captured_at_ns // 1_000_000, 1000)
    values = result_values(msgspec.structs.replace(no_verdict, acting=False, product="4712"), PLACES)
    assert (values["verdict"], values["is_simulated"], values["product"]) == (3, 1, 2)
    assert no_verdict.reason is not None
    assert values["reason"] == RESULT_REASONS[no_verdict.reason]
    assert result_values(msgspec.structs.replace(no_verdict, reason="failed.new"), PLACES)["reason"] == 65535
    assert result_values(defect, IdMap(["other"], []))["product"] == 0


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


def journalled(**what: Any) -> Delivered:
    made = JournalEvent(
        boot_id=OTHER_JOURNAL, seq=9, previous_seq=0, at_ns=1, line="line1", journal_id=JOURNAL, detail="", **what
    )
    return Delivered(JOURNAL, 9, header_of(made))


def test_losses_are_entries_of_their_own() -> None:
    lost = lost_entry(EventsLostError("lost", journal_id=JOURNAL, after_seq=3, through_seq=8)).registers()
    assert (lost["kind"], lost["lost_after"], lost["seq"], lost["verdict"]) == (EntryKind.LOST, 3, 8, 0)
    counted = {"verdict.top.GOOD": 3, "verdict.top.DEFECT": 1, "alarm": 5}
    entry = entry_of(journalled(kind="recording", events=9, by_topic=counted), PLACES)
    assert entry is not None
    assert (entry.kind, entry.registers()["frames"]) == (EntryKind.UNRECORDED, 4)
    assert entry_of(journalled(kind="unrecorded", events=2), PLACES) is not None
    for harmless in (
        journalled(kind="recording", events=0),
        journalled(kind="recording", events=1, by_topic={"alarm": 1}),
        journalled(kind="begun"),
    ):
        assert entry_of(harmless, PLACES) is None


def test_an_event_that_the_bridge_does_not_understand_is_not_left_out() -> None:
    header = b'{"type":"verdict","schema_version":99,"journal_id":"%s","seq":9}' % JOURNAL.encode()
    entry = entry_of(Delivered(JOURNAL, 9, header), PLACES)
    assert entry is not None
    assert (entry.kind, entry.registers()["seq"], entry.registers()["verdict"]) == (EntryKind.UNREADABLE, 9, 0)


# Torn reads.


@given(
    cuts=st.sets(st.integers(1, MAILBOX.end - MAILBOX.address - 1), max_size=4),
    updates=st.lists(st.lists(SEQS.map(lambda seq: Entry(EntryKind.RESULT, JOURNAL, seq, {})), max_size=2), max_size=5),
)
def test_a_read_in_several_requests_is_whole_or_seen_to_be_torn(
    cuts: set[int], updates: Sequence[Sequence[Entry]]
) -> None:
    bank = RegisterBank(register_map(1), "high_first")
    bank.put(MAILBOX, Entry(EntryKind.LOST, JOURNAL, 0, {}).registers())
    states = [bank.read(MAILBOX.address, MAILBOX.end - MAILBOX.address)]
    found: list[int] = []
    edges = [0, *sorted(cuts), MAILBOX.end - MAILBOX.address]
    for at, (begin, end) in enumerate(itertools.pairwise(edges)):
        found += bank.read(MAILBOX.address + begin, end - begin) or []
        for entry in updates[at] if at < len(updates) else []:
            bank.put(MAILBOX, entry.registers())
            states.append(bank.read(MAILBOX.address, MAILBOX.end - MAILBOX.address))
    first, last = (MAILBOX.addresses[name] - MAILBOX.address for name in (BEGIN, END))
    if found[first] == found[last]:
        assert found in states


def test_the_sequence_changes_with_the_block_and_wraps_past_0() -> None:
    bank = RegisterBank(register_map(1), "high_first")
    bank.put(MAILBOX, {"frames": 0})
    assert bank.number(MAILBOX, BEGIN) == 0, "nothing changed"
    for n in range(1, 65537):
        bank.put(MAILBOX, {"frames": n})
        if n < 3:
            assert bank.number(MAILBOX, BEGIN) == bank.number(MAILBOX, END) == n
    assert bank.number(MAILBOX, BEGIN) == bank.number(MAILBOX, END) == 1
