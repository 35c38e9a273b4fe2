"""The writer numbers and stores events: one gapless count per journal, and one for events that no journal holds."""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from heatline.edge.delivery.journal import FILE_NAME, Journal
from heatline.edge.delivery.journal_writer import (
    RETRY_SECONDS,
    DiskThread,
    JournalWriter,
)
from heatline.edge.delivery.publisher import Numbering
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.errors import DeliveryError, JournalError
from heatline.edge.frames import Watermark
from heatline.edge.wire.events import Consumer, Counts, JournalEvent, JournalState, Message, StatusEvent
from tests.command import WITHIN_SECONDS
from tests.edge.fault_disks import failing_disk, fill, frozen, make_read_only, make_writable, power_cut, small_disk
from tests.edge.journals import (
    LINE,
    Clocks,
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


# Numbers.


def test_numbers_continue_over_boots_and_name_their_predecessor_in_the_topic(tmp_path: Path) -> None:
    with opened(tmp_path, boot_id="first") as journal:
        first = journal.tick() + journal.commit([good(), ALARM, good()])
    with opened(tmp_path, boot_id="second") as journal:
        second = journal.commit([good(), ALARM, *mixed_messages(3, png_bytes=100)])
        assert stored_rows(tmp_path) == rows_of(first + second)
        assert ids(first + second) == {state_of(journal).journal_id}
    expected = [(1, 0), (2, 0), (3, 0), (4, 2), (5, 4), (6, 3), (7, 5), (8, 0), (9, 0)]
    assert [(seq, before) for _, seq, before in numbers(first + second)] == expected
    assert [(event.kind, event.boot_id) for event in journal_events(first + second)] == [("begun", "first")]


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


def test_a_status_has_the_counts_at_its_position_and_the_consumers(tmp_path: Path) -> None:
    followers = {"mes1": Consumer(acked_seq=3, connected=True)}
    with opened(tmp_path) as journal:
        journal._consumers = lambda: followers
        first, second = statuses(journal.commit([good(), STATUS, ALARM, STATUS]))
        stored = {"journal": 1, "verdict.top.GOOD": 2}
        assert (first.last_seq, first.journal_id) == (2, state_of(journal).journal_id)
        assert first.counts == Counts(journal_id=state_of(journal).journal_id, journalled=stored)
        assert second.last_seq == 3
        assert second.counts == Counts(journal_id=state_of(journal).journal_id, journalled=stored | {"alarm": 3})
        assert second.journal is not None
        assert (second.journal.first_seq, second.journal.last_seq, second.journal.live_only) == (1, 3, None)
        assert (second.journal.consumers, state_of(journal).consumers) == (followers, {})


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


def test_callbacks_run_after_each_commit(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        seen: list[int] = []
        journal.on_commit = lambda: seen.append(len(stored_rows(tmp_path)))
        for messages in ([good()], [STATUS], [good(), good()]):  # a status is not journalled
            journal.commit(messages)
    assert seen == [2, 4]


# Live only.


def test_events_of_an_outage_count_by_boot_and_are_reported_after_it(tmp_path: Path, clocks: Clocks) -> None:
    with opened(tmp_path, clocks) as journal:
        stored = journal.commit([good(), good()])
        with locked(tmp_path):
            unstored = journal.commit([good(), STATUS, ALARM])
            unstored += journal.commit([good("side")])
            unstored += tick_after(journal, clocks)  # a retry that fails is not reported again
            state = state_of(journal)
            assert state.live_only is not None
            assert "locked by another process" in state.live_only
            assert (state.journal_id, state.last_seq, state.unjournalled) == (state_of(journal).journal_id, 3, 4)
        assert journal.tick() == [], "it is not time to try again"
        resumed = tick_after(journal, clocks) + journal.commit([good()])
        assert stored_rows(tmp_path) == rows_of(stored + resumed)
    assert numbers(unstored) == [(None, 1, 0), (None, 2, 0), (None, 3, 0), (None, 4, 0)]
    assert journal_kinds(unstored) == ["live_only"]
    (status,) = statuses(unstored)
    assert (status.last_seq, status.journal_id) == (2, None)
    assert status.counts == Counts(
        journal_id=state_of(journal).journal_id,
        journalled={"journal": 1, "verdict.top.GOOD": 3},
        unjournalled={"journal": 1, "verdict.top.GOOD": 2},
    )
    assert numbers(resumed) == [(state_of(journal).journal_id, 4, 1), (state_of(journal).journal_id, 5, 3)]
    (report,) = journal_events(resumed)
    assert (report.kind, report.events, report.of_boot, report.first_seq, report.last_seq) == (
        "recording", 4, "boot", 1, 4,
    )  # fmt: skip
    assert report.by_topic == {"journal": 1, "verdict.top.GOOD": 1, "alarm": 1, "verdict.side.GOOD": 1}


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


def test_an_outage_is_reported_even_without_events(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a folder")
    with opened(tmp_path / "file" / "journal") as journal:
        assert [journal_kinds(journal.tick()), journal.tick(), state_of(journal).journal_id] == [
            ["live_only"],
            [],
            None,
        ]


def test_free_pages_of_the_journal_are_used_on_a_full_disk(tmp_path: Path) -> None:
    def run(journal: JournalWriter, groups: int) -> None:
        for _ in range(groups):
            assert None not in ids(journal.commit(mixed_messages(20, png_bytes=2000)))
            journal.tick()

    with small_disk(tmp_path / "disk", mib=16) as disk, opened(disk, keep_bytes=2 << 20) as journal:
        run(journal, 100)  # more than its size limit
        fill(disk)
        before = state_of(journal).last_seq
        run(journal, 150)
        assert (state_of(journal).live_only, state_of(journal).last_seq) == (None, before + 3000)
        assert state_of(journal).first_seq > before, "all earlier events were deleted to make room"


@pytest.mark.parametrize("fault", ["full", "read only"])
def test_a_writer_recovers_from_an_unwritable_disk_at_its_start(disk: Path, clocks: Clocks, fault: str) -> None:
    with opened(disk, clocks) as journal:
        stored = journal.commit([good("top", 3)])
    break_disk, repair_disk = (
        (fill, lambda _: (disk / "filler").unlink()) if fault == "full" else (make_read_only, make_writable)
    )
    break_disk(disk)
    with opened(disk, clocks) as journal:
        assert journal.progress == {"top": Watermark(good().event.boot_id, 3)}
        (report, *_) = journal_events(journal.commit([good()]))
        assert report.kind == "live_only"
        assert ("make room on its disk" if fault == "full" else "cannot be used") in report.detail
        assert ids(stored) == {state_of(journal).journal_id}
        repair_disk(disk)
        stored += tick_after(journal, clocks) + journal.commit([good()])
        assert journal_kinds(stored) == ["begun", "recording"]
        assert stored_rows(disk) == rows_of(stored)


@contextlib.contextmanager
def failing_after_storing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    append = Journal.append

    def append_and_fail(self: Journal, *arguments: Any) -> None:
        append(self, *arguments)
        raise JournalError("the disk failed at the very end")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", append_and_fail)
        yield


def test_events_stored_by_a_failed_commit_are_written_again(
    tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "state"
    # With a reader: SQLite copies its log into the file when the last connection closes.
    with opened(folder, clocks) as journal, JournalReader.open(folder):
        stored = journal.commit(mixed_messages(5))
        with failing_after_storing(monkeypatch):
            unstored = journal.commit(mixed_messages(3))
        assert ids(unstored) == {None}
        resumed = tick_after(journal, clocks)
        assert [(event.kind, event.seq, event.events) for event in journal_events(resumed)] == [("recording", 10, 4)]
        assert [topic for _, topic, *_ in stored_rows(folder)[6:9]] == [event.topic for event in counted(unstored)[1:]]
        assert stored_rows(folder)[:6] == rows_of(stored)
        # The failed commit may only have been in the disk's memory; by now the file itself holds it.
        (tmp_path / "copy").mkdir()
        shutil.copy(folder / FILE_NAME, tmp_path / "copy")
        assert len(stored_rows(tmp_path / "copy")) == 9


# Disks that do not answer.


def test_while_a_disk_call_is_late_no_other_call_starts() -> None:
    thread, answers, made = DiskThread(Path("/var/lib/heatline/line1")), threading.Event(), list[int]()
    with fails("hung", match="the disk of /var/lib/heatline/line1 does not answer; check the disk"):
        thread.run(answers.wait, 0)
    assert thread.busy
    with fails("hung"):
        thread.run(lambda: made.append(1), threading.TIMEOUT_MAX)
    assert not thread.close(lambda: made.append(2), 0)
    answers.set()
    wait_until_ended(thread)
    assert made == [2], "the closing call still runs"


def wait_until_ended(disk: DiskThread) -> None:
    assert disk._thread is not None
    disk._thread.join(WITHIN_SECONDS)
    assert not disk._thread.is_alive()


@contextlib.contextmanager
def hung(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Freeze the disk, and do not wait for it."""
    with frozen(disk), monkeypatch.context() as patch:
        patch.setattr(f"{WRITER}.DISK_SECONDS", 0.05)
        patch.setattr(f"{WRITER}.DISK_SECONDS_AT_START", 0.05)
        yield


def wait_until_disk_answers(journal: JournalWriter) -> None:
    last = journal._disk._last
    assert last is not None
    assert not wait([last], WITHIN_SECONDS).not_done


def test_a_hung_disk_delays_no_event_no_start_and_no_end(
    tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        wait_until_ended(ended._disk)  # it closes the file as soon as the disk answers
        with hung(disk, monkeypatch):
            journal = make_writer(disk, clocks)
            assert journal_kinds(journal.commit([good()])) == ["live_only"]
        with contextlib.closing(journal):
            wait_until_disk_answers(journal)
            resumed += tick_after(journal, clocks)
        assert stored_rows(disk)[:6] + stored_rows(disk)[9:] == rows_of(stored + resumed)


# Faults of the program.


def test_an_event_that_cannot_be_encoded_is_sent_live_only(tmp_path: Path, clocks: Clocks) -> None:
    with opened(tmp_path, clocks) as journal:
        stored = journal.commit([good()])
        unstored = journal.commit([good("caf\udce9"), good()])
        stored += tick_after(journal, clocks) + journal.commit([good()])
        assert stored_rows(tmp_path) == rows_of(stored)
    assert ids(unstored) == {None}
    assert "UnicodeEncodeError" in journal_events(unstored)[0].detail
    assert journal_events(stored)[-1].by_topic["verdict.caf?.GOOD"] == 1


def test_a_folder_whose_name_is_not_utf8_can_hold_a_journal(tmp_path: Path, clocks: Clocks) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    with opened(folder, clocks) as journal:
        with locked(folder):
            unstored = journal.commit([good()])
        sent = tick_after(journal, clocks)
        assert stored_rows(folder) == rows_of(sent)
    assert "/caf?/journal.db is locked" in journal_events(unstored)[0].detail


def test_a_failing_callback_delays_no_event(tmp_path: Path, clocks: Clocks, caplog: pytest.LogCaptureFixture) -> None:
    def fail_always(*_: object) -> dict[str, Any]:
        raise RuntimeError("a fault of the program")

    with opened(tmp_path, clocks, keep_bytes=1 << 16) as journal:
        journal._consumers = fail_always
        sent = journal.commit([good(), STATUS]) + journal.commit([good()])
        assert stored_rows(tmp_path) == rows_of(sent)
        journal._acked = fail_always
        journal.commit(mixed_messages(200))
        unstored = tick_after(journal, clocks, 1000) + journal.commit([good()])
        assert ids(unstored) == {None}
    assert sum(record.exc_info is not None for record in caplog.records) == 2, "the fault is not logged each time"


# Damage.


def overwrite(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * 8192)


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


def test_a_journal_damaged_under_a_running_line_is_replaced(tmp_path: Path, clocks: Clocks) -> None:
    with opened(tmp_path, clocks, keep_bytes=4 << 20) as journal:
        journal.commit(mixed_messages(600, png_bytes=50_000))  # more than SQLite's cache, and than the budget
        assert journal._journal is not None
        journal._journal.checkpoint()
        old_id = state_of(journal).journal_id
        for at in range(4096, (tmp_path / FILE_NAME).stat().st_size, 8192):
            overwrite(tmp_path / FILE_NAME, at)
        assert journal_kinds(journal.tick()) == ["live_only"], "the oldest events cannot be deleted"
        resumed = tick_after(journal, clocks) + journal.commit(mixed_messages(5))
        assert state_of(journal).journal_id not in (None, old_id)
        assert journal_kinds(resumed) == ["begun", "recording"]
        assert stored_rows(tmp_path) == rows_of(resumed)
    assert (tmp_path / "journal.db.damaged").exists()


def test_numbers_of_events_that_the_disk_lost_are_not_given_again(
    tmp_path: Path, clocks: Clocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, clocks) as journal:
        journal.commit(mixed_messages(5))
    older = (tmp_path / FILE_NAME).read_bytes()
    with opened(tmp_path, clocks) as journal:
        journal.commit(mixed_messages(5))
        old_id = state_of(journal).journal_id
        with failing_after_storing(monkeypatch):  # the file is closed
            journal.commit([good()])
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


# Retention.


def tick_until_idle(journal: JournalWriter, folder: Path) -> list[Message]:
    """Tick until no event is deleted; return the messages to send."""
    sent: list[Message] = []
    while True:
        before = stored_rows(folder)
        sent += journal.tick()
        if stored_rows(folder) == before:
            return sent


def test_acknowledged_events_are_deleted_first(tmp_path: Path, clocks: Clocks) -> None:
    acked = {"mes1": 900, "mes2": 500}
    with opened(tmp_path, clocks, acked, keep_bytes=1 << 20) as journal:
        journal.commit(mixed_messages(2000))
        journal.tick()
        assert (state_of(journal).discarded, state_of(journal).last_seq) == (0, 2001)
        assert 1 < state_of(journal).first_seq <= 501


def test_unacknowledged_events_are_deleted_and_counted(
    tmp_path: Path, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    acked, sent = dict[str, int](), list[Message]()
    with opened(tmp_path, clocks, acked, keep_bytes=1 << 20) as journal:
        acked |= {"mes1": 10, "mes2": 5_000}
        for _ in range(30):
            sent += journal.commit(mixed_messages(100))
            sent += tick_after(journal, clocks, 0.05)
        sent += tick_until_idle(journal, tmp_path)
        state = state_of(journal)
        assert state.size_bytes <= 1 << 20
        assert 0 < state.discarded == state.first_seq - 1 - 10
        assert journal_kinds(sent) == ["begun"]
    assert f"to {state.first_seq - 1} were deleted to make room; not all reached mes1" in caplog.text


def test_retention_frees_space_in_steps_until_it_suffices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatline.edge.delivery.journal.BYTES_AT_ONCE", 10_000)
    with opened(tmp_path, keep_bytes=1 << 20) as journal:
        for _ in range(20):
            assert None not in ids(journal.commit(mixed_messages(20, png_bytes=50_000))), "one step would not suffice"


# Any order of events and faults.

BUDGET = 100 << 10


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
        self.journal = make_writer(
            self.folder, self.clocks, self.acked, boot_id=f"boot {self.boots}", keep_bytes=BUDGET
        )

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
AnyOrderOfFaults.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=30)
TestAnyOrderOfFaults = AnyOrderOfFaults.TestCase
