"""The mailbox's hand-shake: no result is lost, whatever the PLC writes and whoever is restarted."""

import threading
from collections import deque

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from heatline.edge.bridge.modbus.bridge import Mailbox
from heatline.edge.bridge.modbus.registers import COMMANDS, LINE, MAILBOX, Entry, EntryKind, RegisterBank, register_map
from tests.edge.test_modbus_registers import JOURNAL, OTHER_JOURNAL

ACKNOWLEDGE = COMMANDS.addresses["acknowledge"]


def result(seq: int, journal_id: str = JOURNAL) -> Entry:
    return Entry(EntryKind.RESULT, journal_id, seq, {"verdict": 1})


def words(number: int) -> list[int]:
    return [number >> 16, number & 0xFFFF]


class Bridge:
    """A mailbox and its registers, without threads."""

    def __init__(self) -> None:
        self.bank = RegisterBank(register_map(1), "high_first")
        self.mailbox = Mailbox(self.bank)

    def show(self, entry: Entry) -> None:
        self.mailbox.acknowledged.clear()
        self.mailbox.show(entry)

    @property
    def shown(self) -> tuple[int, int]:
        """Kind and number."""
        return self.bank.number(MAILBOX, "kind"), self.bank.number(MAILBOX, "number")

    def acknowledge(self, number: int) -> None:
        assert self.bank.write(ACKNOWLEDGE, words(number))


def test_the_next_result_is_shown_after_the_acknowledgement_only() -> None:
    bridge, first, second = Bridge(), result(1), result(2)
    bridge.show(first)
    assert bridge.shown == (EntryKind.RESULT, first.number)
    for wrong in (0, second.number, first.number ^ 0x10000):
        bridge.acknowledge(wrong)
        assert bridge.shown == (EntryKind.RESULT, first.number)
        assert not bridge.mailbox.acknowledged.is_set()
    bridge.acknowledge(0)
    bridge.bank.write(ACKNOWLEDGE, words(first.number)[:1])
    assert not bridge.mailbox.acknowledged.is_set(), "half of a number"
    bridge.bank.write(ACKNOWLEDGE + 1, words(first.number)[1:])
    assert bridge.mailbox.acknowledged.is_set()
    assert bridge.shown == (EntryKind.NONE, 0)
    assert bridge.bank.number(MAILBOX, "acknowledged") == first.number
    assert bridge.bank.number(MAILBOX, "verdict") == 0
    bridge.show(second)
    assert bridge.shown == (EntryKind.RESULT, second.number), "the number of the first one acknowledges no other"
    assert not bridge.mailbox.acknowledged.is_set()


def test_a_number_that_the_plc_still_writes_acknowledges_the_same_result_after_a_restart() -> None:
    bridge = Bridge()
    bridge.acknowledge(result(7).number)
    bridge.show(result(7))
    assert bridge.mailbox.acknowledged.is_set()
    bridge.show(result(7, OTHER_JOURNAL))
    assert not bridge.mailbox.acknowledged.is_set(), "a new journal counts from 1 on, and its results are others"


def test_a_loss_waits_for_the_plc_and_is_counted() -> None:
    bridge = Bridge()
    for n, kind in enumerate((EntryKind.LOST, EntryKind.RESULT, EntryKind.UNRECORDED)):
        entry = Entry(kind, JOURNAL, n, {})
        bridge.show(entry)
        bridge.acknowledge(0)
        assert not bridge.mailbox.acknowledged.is_set()
        bridge.acknowledge(entry.number)
    assert bridge.bank.number(LINE, "losses") == 2


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
        self.start()

    def start(self) -> None:
        self.bridge = Bridge()
        self.held: Entry | None = None

    @rule(count=st.integers(1, 3))
    def journal_events(self, count: int) -> None:
        for _ in range(count):
            self.made += 1
            self.journal.append(result(self.made))

    @rule()
    def feed(self) -> None:
        """Take a step of the thread that follows the journal."""
        if self.held is not None and self.bridge.mailbox.acknowledged.is_set():
            self.acknowledged.append(self.held.seq)
            assert self.journal.popleft() is self.held
            self.held = None
        if self.held is None and self.journal:
            self.held = self.journal[0]
            self.bridge.show(self.held)

    @rule()
    def plc_reads_and_stores(self) -> None:
        kind, number = self.bridge.shown
        if kind == EntryKind.RESULT and number != self.writes:
            self.stored.append(self.bridge.bank.number(MAILBOX, "seq"))
            self.writes = number

    @rule()
    def plc_writes(self) -> None:
        self.bridge.acknowledge(self.writes)

    @rule(number=st.integers(0, 2**32 - 1))
    def another_client_writes(self, number: int) -> None:
        if number != self.bridge.shown[1]:
            self.bridge.acknowledge(number)

    @rule()
    def bridge_is_killed(self) -> None:
        self.start()

    @invariant()
    def no_result_is_lost_or_stored_twice(self) -> None:
        assert self.stored == list(range(1, len(self.stored) + 1))
        assert self.acknowledged == list(range(1, len(self.acknowledged) + 1))
        assert len(self.acknowledged) <= len(self.stored)


TestHandshake = Handshake.TestCase


def test_who_waits_for_an_acknowledgement_is_woken() -> None:
    bridge = Bridge()
    bridge.show(result(1))
    waiting = threading.Thread(target=bridge.mailbox.acknowledged.wait)
    waiting.start()
    bridge.acknowledge(result(1).number)
    waiting.join(30)
    assert not waiting.is_alive()
