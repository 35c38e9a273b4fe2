"""The journal holds what was sent, byte for byte and in one gapless count, whatever happens to process or disk."""

import contextlib
import os
import random
import re
import shutil
import sqlite3
import stat
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from heatline.edge.delivery.follow import FILE_NAME as CONSUMERS_FILE
from heatline.edge.delivery.follow import NOT_KNOWN, Consumers, Position
from heatline.edge.delivery.journal import FILE_NAME, Journal, JournalReader, Record, move_aside
from heatline.edge.delivery.journal_writer import RETRY_SECONDS, JournalWriter
from heatline.edge.delivery.publisher import Numbering
from heatline.edge.errors import DeliveryError, JournalError
from heatline.edge.frames import Watermark
from heatline.edge.wire.events import Counts, JournalEvent, JournalState, Message, StatusEvent
from tests.command import WITHIN_SECONDS
from tests.edge.fault_disks import failing_disk, fill, frozen, make_read_only, make_writable, power_cut, small_disk
from tests.edge.journals import (
    LINE,
    Clocks,
    all_records,
    change,
    counted,
    events_in,
    fails,
    good,
    journal_events,
    make_writer,
    mixed_messages,
    rows_of,
    stored_rows,
)
from tests.edge.wire_examples import ALARM, LOST, STATUS

SUFFIXES = "", "-wal", "-shm"


def record(seq: int, topic: str = "alarm", size: int = 300) -> Record:
    return Record(seq, seq * 10, topic, f"{{{seq}}}".encode().ljust(size), None if seq % 3 else bytes([seq % 256]) * 50)


def records(first: int, last: int) -> list[Record]:
    return [record(seq) for seq in range(first, last + 1)]


def appended(folder: Path, *appended: Record) -> contextlib.closing[Journal]:
    """Open the journal of a folder and append records."""
    journal = Journal(folder, LINE)
    journal.append(appended, {})
    return contextlib.closing(journal)


def read_all(folder: Path) -> list[Record]:
    with JournalReader.open(folder) as reader:
        return all_records(reader)


def test_the_group_may_read_whatever_the_umask(tmp_path: Path) -> None:
    folder, before = tmp_path / "new" / "journal", os.umask(0o077)
    try:
        Journal(folder, LINE).close()
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o750
        with appended(folder, *records(1, 2)):
            assert {stat.S_IMODE((folder / f"{FILE_NAME}{end}").stat().st_mode) for end in SUFFIXES} == {0o640}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    finally:
        os.umask(before)


TOPICS = ["verdict.top.GOOD", "verdict.top", "alarm", "é.ü", "a"]
STORED = [record(seq, random.Random(seq).choice(TOPICS)) for seq in range(1, 31)]
OPTIONS = {
    "topics": st.lists(st.sampled_from(["", "verdict.", "verdict.top.GOOD", "a", "al", "é", "x"]), max_size=3),
    "through_seq": st.none() | st.integers(0, 40),
    "at_most": st.integers(1, 8),
    "at_most_bytes": st.integers(1, 3000),
    "heatmaps": st.booleans(),
}


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, JournalReader]]:
    """Readers of journals, by the number of events that were deleted."""
    with contextlib.ExitStack() as opened:
        found = {}
        for deleted in (0, 1, 17, 30):
            folder = tmp_path_factory.mktemp("journal")
            with appended(folder, *STORED) as journal:
                journal.discard(deleted)
            found[deleted] = opened.enter_context(JournalReader.open(folder))
        yield found


@given(st.sampled_from([0, 1, 17, 30]), st.integers(0, 40), st.fixed_dictionaries(OPTIONS))
def test_a_page_equals_what_a_simple_reader_finds(
    readers: dict[int, JournalReader], deleted: int, after: int, options: dict[str, Any]
) -> None:
    page = readers[deleted].read(after, **options)
    end = len(STORED) if options["through_seq"] is None else min(options["through_seq"], len(STORED))
    matching = [
        each if options["heatmaps"] else each._replace(heatmap=None)
        for each in STORED[deleted:]
        if after < each.seq <= end
        and any(each.topic.encode().startswith(prefix.encode()) for prefix in options["topics"])
    ]
    count = len(page.records)
    assert page.records == matching[:count]
    assert count <= options["at_most"]
    sizes = [len(each.header) + len(each.heatmap or b"") for each in matching]
    assert count == 1 or sum(sizes[:count]) <= options["at_most_bytes"]
    assert all(each.seq > page.through_seq for each in matching[count:]), "no matching record is missing up to there"
    if count < len(matching):  # only a limit ends a page early
        assert count == options["at_most"] or sum(sizes[: count + 1]) > options["at_most_bytes"]
        assert page.through_seq == page.records[-1].seq
    lost = min(deleted, end)
    assert page.lost_through == (lost if after < lost else None)


def test_a_read_only_or_full_disk_is_read_and_not_written(disk: Path) -> None:
    with appended(disk, *records(1, 50)):
        pass
    make_read_only(disk)
    assert read_all(disk) == records(1, 50)
    for write_it in (lambda: Journal(disk, LINE), lambda: move_aside(disk / FILE_NAME)):
        with fails("failed"):
            write_it()
    make_writable(disk)
    fill(disk)
    for _ in range(2):  # the first attempt leaves files behind
        assert read_all(disk) == records(1, 50)
    with fails("full", match="no room"):
        Journal(disk, LINE)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Folder of a closed journal of several pages, which are all in its main file."""
    folder = tmp_path / "whole"
    with appended(folder, *records(1, 500)):
        pass
    assert sorted(os.listdir(folder)) == [FILE_NAME, "journal.lock"]
    return folder


def overwrite(path: Path, at: int, length: int = 8192) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(random.Random(1).randbytes(length))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut in its head": lambda path: os.truncate(path, 50),
    "cut between pages": lambda path: os.truncate(path, 20_000),
    "garbage in its head": lambda path: overwrite(path, 0, 100),
    "garbage in its first pages": lambda path: overwrite(path, 90, 100_000),
    "no last events": lambda path: change(path.parent, "DELETE FROM events WHERE seq > 490"),
    "no name": lambda path: change(path.parent, "DELETE FROM journal"),
    "no table": lambda path: change(path.parent, "DROP TABLE progress"),
    "a wrong count": lambda path: change(path.parent, "UPDATE topics SET last_seq = 499"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_journal_is_not_appended(whole: Path, damage: Callable[[Path], None]) -> None:
    damage(whole / FILE_NAME)
    with fails("damaged"):
        Journal(whole, LINE).close()


def test_a_gap_or_damage_in_the_middle_is_found_when_a_journal_is_read(tmp_path: Path, whole: Path) -> None:
    change(shutil.copytree(whole, tmp_path / "gap"), "DELETE FROM events WHERE seq = 3")
    with JournalReader.open(tmp_path / "gap") as reader, fails("damaged", match="missing"):
        reader.read(0)
    overwrite(whole / FILE_NAME, (whole / FILE_NAME).stat().st_size // 2, 30_000)
    with fails("damaged"):
        read_all(whole)


WRITER = "heatline.edge.delivery.journal_writer"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not take a busy machine for a hung disk, and do not wait for locks."""
    monkeypatch.setattr(f"{WRITER}.DISK_SECONDS", WITHIN_SECONDS)
    monkeypatch.setattr("heatline.edge.delivery.journal.BUSY_SECONDS", 0.0)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    with small_disk(tmp_path / "disk") as place:
        yield place


@contextlib.contextmanager
def opened(folder: Path, clocks: Clocks | None = None, *arguments: Any, **options: Any) -> Iterator[JournalWriter]:
    with contextlib.closing(make_writer(folder, clocks, *arguments, **options)) as journal:
        yield journal


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the journal as another process does, so that nothing can be stored."""
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


def tick_after(journal: JournalWriter, clocks: Clocks, after_s: float = RETRY_SECONDS) -> list[Message]:
    """Advance the clock, tick, and return the messages to send."""
    clocks.now_s += after_s
    return journal.tick()


def state_of(journal: JournalWriter) -> JournalState:
    state = journal.state()
    assert state is not None
    return state


def ids(messages: list[Message]) -> set[str | None]:
    return {event.journal_id for event in counted(messages)}


def numbers(messages: list[Message]) -> list[tuple[str | None, int, int | None]]:
    return [(event.journal_id, event.seq, event.previous_seq) for event in counted(messages)]


def statuses(messages: list[Message]) -> list[StatusEvent]:
    return [message.event for message in messages if isinstance(message.event, StatusEvent)]


def journal_kinds(messages: list[Message]) -> list[str]:
    return [event.kind for event in journal_events(messages)]


def test_sent_events_survive_a_power_cut(tmp_path: Path) -> None:
    with failing_disk(tmp_path / "disk") as disk:
        journal = make_writer(disk)
        sent = [message for _ in range(5) for message in journal.commit(mixed_messages(7, png_bytes=100))]
        with power_cut(disk):
            journal.close()
        assert stored_rows(disk) == rows_of(sent)


def test_without_a_journal_each_boot_has_its_own_count() -> None:
    numbering = Numbering()
    sent = numbering.commit([good(), STATUS, ALARM, good()]) + numbering.tick()
    assert numbers(sent) == [(None, 1, 0), (None, 2, 0), (None, 3, 1)]
    assert numbering.state() is None
    (status,) = statuses(sent)
    assert (status.last_seq, status.journal_id, status.journal) == (1, None, None)
    assert status.counts == Counts(journal_id=None, unjournalled={"verdict.top.GOOD": 1})


def test_watermarks_are_known_at_the_next_start(tmp_path: Path, clocks: Clocks) -> None:
    boot_id, lost = LOST.event.boot_id, LOST.event
    with opened(tmp_path, clocks) as journal:
        assert journal.progress == {}
        endless = Message(msgspec.structs.replace(lost, camera="endless", frames=2**63))  # more than SQLite can count
        journal.commit([good("top", 5), good("side", 8), good("top", 6), LOST, endless])
        with locked(tmp_path):
            journal.commit([good("side", 9)])  # in an outage as well
        assert journal_kinds(tick_after(journal, clocks)) == ["recording"]
    for _ in range(2):
        with opened(tmp_path, clocks) as journal:
            last = {"top": lost.frame_number + lost.frames - 1, "side": 9, "endless": 2**63 - 1}
            assert journal.progress == {camera: Watermark(boot_id, number) for camera, number in last.items()}


def test_what_the_boot_before_did_not_record_is_journalled_after_the_outage(tmp_path: Path, clocks: Clocks) -> None:
    """A subscriber may have missed the live event, and a durable consumer never gets it."""
    unrecorded = JournalEvent(
        boot_id="boot", seq=0, previous_seq=0, at_ns=1, line=LINE, kind="unrecorded", detail="2 frames", events=2,
        of_boot="the boot before",
    )  # fmt: skip
    with opened(tmp_path, clocks) as journal:
        journal.commit([good()])
        with locked(tmp_path):
            live = journal.commit([Message(unrecorded)])
        resumed = tick_after(journal, clocks)
        later = journal.commit([good()])
        assert stored_rows(tmp_path)[2:] == rows_of(resumed + later)
    assert journal_kinds(live) == ["live_only", "unrecorded"]
    assert journal_kinds(resumed) == ["recording", "unrecorded"]
    assert numbers(resumed) == [(state_of(journal).journal_id, 3, 1), (state_of(journal).journal_id, 4, 3)]
    assert msgspec.structs.replace(journal_events(resumed)[1], seq=0, previous_seq=0, journal_id=None) == unrecorded


def test_a_writer_recovers_from_a_read_only_disk_at_its_start(disk: Path, clocks: Clocks) -> None:
    with opened(disk, clocks) as journal:
        stored = journal.commit([good("top", 3)])
    make_read_only(disk)
    with opened(disk, clocks) as journal:
        assert journal.progress == {"top": Watermark(good().event.boot_id, 3)}
        (report, *_) = journal_events(journal.commit([good()]))
        assert report.kind == "live_only"
        assert "cannot be used" in report.detail
        assert ids(stored) == {state_of(journal).journal_id}
        make_writable(disk)
        stored += tick_after(journal, clocks) + journal.commit([good()])
        assert journal_kinds(stored) == ["begun", "recording"]
        assert stored_rows(disk) == rows_of(stored)


@contextlib.contextmanager
def hung(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Freeze the disk, and do not wait for it."""
    with frozen(disk), monkeypatch.context() as patch:
        patch.setattr(f"{WRITER}.DISK_SECONDS", 0.05)
        patch.setattr(f"{WRITER}.DISK_SECONDS_AT_START", 0.05)
        yield


def wait_until_disk_answers(journal: JournalWriter) -> None:
    assert not wait([journal._disk._last], WITHIN_SECONDS).not_done


def test_a_hung_disk_delays_no_event_or_end(tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch) -> None:
    with failing_disk(tmp_path / "disk") as disk:
        with opened(disk, clocks) as journal:
            stored = journal.commit(mixed_messages(5))
            with hung(disk, monkeypatch):
                unstored = journal.commit(mixed_messages(3))
                assert journal._disk.busy
                unstored += journal.commit([good("side")])
                for _ in range(3):
                    assert tick_after(journal, clocks) == []
                assert f"the disk of {disk} does not answer" in str(state_of(journal).live_only)
            wait_until_disk_answers(journal)
            resumed = tick_after(journal, clocks) + journal.commit(mixed_messages(5))
        assert ids(unstored) == {None}
        assert [(event.kind, event.seq, event.events) for event in journal_events(resumed)] == [("recording", 10, 5)]
        # The late call stored three of them.
        assert [topic for _, topic, *_ in stored_rows(disk)[6:9]] == [event.topic for event in counted(unstored)[1:4]]
        with hung(disk, monkeypatch):
            ended = make_writer(disk, clocks)
            assert journal_kinds(ended.commit([good()])) == ["live_only"]
            ended.close()
        wait_until_disk_answers(ended)  # it closes the file as soon as the disk answers
        with hung(disk, monkeypatch):
            journal = make_writer(disk, clocks)
            assert journal_kinds(journal.commit([good()])) == ["live_only"]
        with contextlib.closing(journal):
            wait_until_disk_answers(journal)
            resumed += tick_after(journal, clocks)
        assert stored_rows(disk)[:6] + stored_rows(disk)[9:] == rows_of(stored + resumed)


def test_an_event_that_cannot_be_encoded_is_sent_live_only(tmp_path: Path, clocks: Clocks) -> None:
    with opened(tmp_path, clocks) as journal:
        stored = journal.commit([good()])
        unstored = journal.commit([good("caf\udce9"), good()])
        stored += tick_after(journal, clocks) + journal.commit([good()])
        assert stored_rows(tmp_path) == rows_of(stored)
    assert ids(unstored) == {None}
    assert "UnicodeEncodeError" in journal_events(unstored)[0].detail
    assert journal_events(stored)[-1].by_topic["verdict.caf?.GOOD"] == 1


def test_a_journal_damaged_at_the_start_is_moved_aside(disk: Path, clocks: Clocks) -> None:
    with opened(disk, clocks) as journal:
        journal.commit(mixed_messages(20))
        old_id = state_of(journal).journal_id
    overwrite(disk / FILE_NAME, 0)
    make_read_only(disk)
    with opened(disk, clocks) as journal:  # until it can be moved aside, events are sent live only
        assert journal_kinds(journal.commit([good()])) == ["live_only"]
        make_writable(disk)
        sent = tick_after(journal, clocks) + journal.commit(mixed_messages(3))
        assert stored_rows(disk) == rows_of(sent)
        assert state_of(journal).journal_id != old_id
    assert [(event.kind, event.seq) for event in journal_events(sent)] == [("begun", 1), ("recording", 2)]
    assert "is damaged" in journal_events(sent)[0].detail
    assert "journal.db.damaged" in journal_events(sent)[0].detail
    assert (disk / "journal.db.damaged").exists()


def test_numbers_of_events_that_the_disk_lost_are_not_given_again(tmp_path: Path, clocks: Clocks) -> None:
    with opened(tmp_path, clocks) as journal:
        journal.commit(mixed_messages(5))
    older = (tmp_path / FILE_NAME).read_bytes()
    with opened(tmp_path, clocks) as journal:
        journal.commit(mixed_messages(5))
        old_id = state_of(journal).journal_id
        journal.commit([good("caf\udce9")])  # it cannot be encoded, so the file is closed
        (tmp_path / FILE_NAME).write_bytes(older)
        assert tick_after(journal, clocks) == []
        sent = tick_after(journal, clocks) + journal.commit(mixed_messages(5))
        assert state_of(journal).journal_id not in (None, old_id)
        assert "ends with event 6, and held event 11" in journal_events(sent)[0].detail
        assert stored_rows(tmp_path) == rows_of(sent)


def test_a_foreign_or_newer_journal_stops_the_start(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.commit(mixed_messages(5))
        with pytest.raises(DeliveryError, match="give each line its own"):
            make_writer(tmp_path)
    change(tmp_path, "UPDATE journal SET schema_version = 3")
    change(tmp_path, "ALTER TABLE journal RENAME COLUMN line TO something_else")
    with fails("foreign", match="version 3, this heatline knows version 2; use the heatline that wrote it"):
        make_writer(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [FILE_NAME, "journal.lock"], "nothing is moved aside"


BUDGET = 100 << 10


@pytest.mark.parametrize("acked", [1, 2])
def test_what_all_consumers_acknowledged_is_deleted_first_and_what_one_lacks_is_counted(
    tmp_path: Path, clocks: Clocks, acked: int
) -> None:
    with opened(tmp_path, clocks, {"slow": acked, "fast": 10_000}, keep_bytes=BUDGET) as journal:
        while (before := state_of(journal)).size_bytes <= BUDGET:
            journal.commit(mixed_messages(5, png_bytes=3000))
        assert before.first_seq == 1
        tick_after(journal, clocks, 0)
        assert (state_of(journal).first_seq, state_of(journal).discarded) == (acked + 1, 0)
        tick_after(journal, clocks, 0)
        assert (state_of(journal).first_seq or 0) == state_of(journal).discarded + acked + 1 > acked + 1


class AnyOrderOfFaults(RuleBasedStateMachine):
    """A line's events over boots and faults, compared with lists."""

    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name)
        self.clocks, self.acked = Clocks(), dict[str, int]()
        self.boots = 0
        self.counts: dict[str | None, list[Message]] = defaultdict(list)
        """All sent messages by their count; under None, this boot's messages that no journal holds."""
        self.accounted_for = 0
        """Number of this boot's unjournalled events that the journal has reported as missing."""
        self.discarded = 0
        self.locks = contextlib.ExitStack()
        self.boot()

    def boot(self) -> None:
        self.boots += 1
        self.counts[None], self.accounted_for, self.discarded = [], 0, 0
        self.journal = make_writer(self.folder, self.clocks, self.acked, boot_id=f"boot{self.boots}", keep_bytes=BUDGET)

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.locks.close()
            self.journal.close()
            self.place.cleanup()

    @property
    def state(self) -> JournalState:
        return state_of(self.journal)

    # Steps.

    @rule(count=st.integers(0, 40), png_bytes=st.sampled_from([0, 3000, 20_000]), status=st.booleans())
    def commit(self, count: int, png_bytes: int, status: bool) -> None:
        messages = [*mixed_messages(count, png_bytes), *([STATUS] if status else [])]
        sent = self.check_retention(lambda: self.journal.commit(messages))
        ours = [message.event.topic for message in messages]
        assert [message.event.topic for message in sent][len(sent) - len(ours) :] == ours

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 11.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.check_retention(lambda: tick_after(self.journal, self.clocks, seconds))

    @rule(name=st.sampled_from("ab"), share=st.floats(0, 1))
    def a_consumer_acknowledges(self, name: str, share: float) -> None:
        self.acked[name] = max(self.acked.get(name, 0), int(share * self.state.last_seq))

    @rule(name=st.sampled_from("ab"))
    def a_consumer_is_forgotten(self, name: str) -> None:
        self.acked.pop(name, None)

    @precondition(lambda self: (self.folder / FILE_NAME).exists())
    @rule()
    def another_process_locks_the_journal(self) -> None:
        self.locks.close()
        with contextlib.suppress(sqlite3.OperationalError):
            self.locks.enter_context(locked(self.folder))

    @rule()
    def the_lock_ends(self) -> None:
        self.locks.close()

    @rule(dies=st.booleans())
    def the_service_restarts(self, dies: bool) -> None:
        """Restart, and add the events that closing itself has journalled."""
        if dies and self.journal._journal is not None:  # a killed process writes nothing more
            self.journal._journal.close()
            self.journal._journal = None
        if dies:
            self.journal._disk.close(lambda: None, WITHIN_SECONDS)
        else:
            self.journal.close()
        self.locks.close()
        self.boot()
        known = self.counts[self.state.journal_id]
        for event in events_in(self.folder):
            if event.seq > len(known):  # type: ignore[union-attr]
                assert event.kind == "begun"  # type: ignore[union-attr]
                known.append(Message(event))

    # Invariants.

    def add_to_counts(self, sent: list[Message]) -> None:
        """Check that each event continues its count and its topic, and add it."""
        for message in sent:
            for event in counted([message]):
                count = self.counts[event.journal_id]
                before = [each.event.seq for each in count if each.event.topic == event.topic]  # type: ignore[union-attr]
                assert (event.seq, event.previous_seq) == (len(count) + 1, before[-1] if before else 0)
                count.append(message)
        for event in journal_events(sent):
            if event.kind == "recording":
                unreported = self.counts[None][self.accounted_for :]
                assert event.events == len(unreported)
                assert event.by_topic == Counter(message.event.topic for message in unreported)
                if unreported:
                    assert (event.first_seq, event.last_seq) == (self.accounted_for + 1, len(self.counts[None]))
                self.accounted_for = len(self.counts[None])

    def check_retention(self, step: Callable[[], list[Message]]) -> list[Message]:
        """Take a step; check that it deletes only acknowledged events, unless there is no room."""
        before, acked = self.state, min(self.acked.values(), default=None)
        sent = step()
        after = self.state
        if after.journal_id != before.journal_id:
            self.discarded += after.discarded - before.discarded
        else:
            first = after.first_seq or after.last_seq + 1
            was_first = before.first_seq or before.last_seq + 1
            unacked = 0 if acked is None else max(0, first - max(was_first, acked + 1))
            if unacked:
                assert was_first > acked, "events that all consumers acknowledged are deleted first"
                assert before.size_bytes > BUDGET - BUDGET // 16  # one part in 16 is for events meanwhile
            self.discarded += unacked
            assert after.discarded == self.discarded
        self.add_to_counts(sent)
        return sent

    @precondition(lambda self: self.state.live_only is None)
    @rule()
    def the_line_is_idle(self) -> None:
        """Check that all due events are deleted."""
        for _ in range(20):
            self.time_passes(0)
        self.time_passes(1)
        if self.state.live_only is None:
            assert self.state.size_bytes <= BUDGET

    @invariant()
    def the_journal_holds_what_was_sent(self) -> None:
        state = self.state
        if state.live_only is None:
            assert self.accounted_for == len(self.counts[None])
            sent = rows_of(self.counts[state.journal_id])
            assert state.last_seq == len(sent)
            assert stored_rows(self.folder) == sent[(state.first_seq or len(sent) + 1) - 1 :]


EXAMPLES = min(100, settings().max_examples)  # each example boots a line many times on a real disk
AnyOrderOfFaults.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=20)
TestAnyOrderOfFaults = AnyOrderOfFaults.TestCase
JOURNAL, OTHER = "a" * 32, "b" * 32


@pytest.fixture
def consumers(tmp_path: Path) -> Consumers:
    """Consumers with one entry, which has acknowledged event 1."""
    consumers = Consumers(tmp_path)
    consumers.register("mes1", JOURNAL, 1)
    return consumers


def acked_on_disk(folder: Path) -> dict[str, int]:
    path = folder / CONSUMERS_FILE
    data = path.read_bytes() if path.exists() else b"{}"
    return {name: each.acked_seq for name, each in msgspec.json.decode(data, type=dict[str, Position]).items()}


def test_acknowledgements_on_disk_count(consumers: Consumers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash the consumer continues after what is on the disk: the events after that must still exist."""
    consumers.acknowledge("mes1", JOURNAL, 5)
    assert (consumers.positions["mes1"].acked_seq, consumers.acked(JOURNAL), acked_on_disk(tmp_path)) == (
        5, {"mes1": 1}, {"mes1": 1},
    )  # fmt: skip
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    consumers.write()
    assert (consumers.acked(JOURNAL), acked_on_disk(tmp_path), len(synced)) == ({"mes1": 5}, {"mes1": 5}, 2)


@pytest.mark.parametrize("is_damaged", [False, True], ids=["unreadable", "damaged"])
def test_until_the_file_is_read_no_event_counts_as_acknowledged(
    consumers: Consumers, tmp_path: Path, caplog: pytest.LogCaptureFixture, is_damaged: bool
) -> None:
    """As on a disk that fails, and on a read-only one from which a damaged file cannot be moved aside."""
    obstacle = tmp_path / (f"{CONSUMERS_FILE}.damaged" if is_damaged else CONSUMERS_FILE)
    (tmp_path / CONSUMERS_FILE).rename(tmp_path / "elsewhere")
    obstacle.mkdir()
    if is_damaged:
        (tmp_path / CONSUMERS_FILE).write_bytes(b"{")
    reopened = Consumers(tmp_path)
    reopened.write()
    assert (reopened.acked(JOURNAL), reopened.positions) == ({NOT_KNOWN: 0}, {})
    for act in (lambda: reopened.register("mes1", JOURNAL, 9), lambda: reopened.forget("mes1")):
        with pytest.raises(JournalError, match="cannot be used"):
            act()
    assert [record.levelname for record in caplog.records] == ["ERROR"], "it is logged once"
    obstacle.rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / CONSUMERS_FILE)
    reopened.write()
    assert (reopened.fault, reopened.acked(JOURNAL)) == (None, {"mes1": 1})


@pytest.mark.parametrize("damaged", [b"something else" * 999, bytes(999), b""], ids=["other", "zeros", "cut"])
def test_a_damaged_file_is_moved_aside_and_its_consumers_are_lost(
    consumers: Consumers, tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    consumers.write()
    (tmp_path / CONSUMERS_FILE).write_bytes(damaged)
    reopened = Consumers(tmp_path)
    assert (reopened.positions, reopened.fault) == ({}, None)
    (record,) = caplog.records
    assert re.search("was damaged.*all consumers are new", record.getMessage())
    assert (tmp_path / f"{CONSUMERS_FILE}.damaged").read_bytes() == damaged
    assert reopened.has_lost_names
