"""The positions of consumers are stored, also on full, failing and read-only disks and after damage to the file."""

import contextlib
import logging
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from edge.delivery.durable.consumers import FILE_NAME, MOST_CONSUMERS, NOT_KNOWN, Consumers, Position
from edge.errors import JournalError
from tests.edge.fault_disks import fail, failing_disk, fill, make_read_only, make_writable, small_disk

JOURNAL, OTHER = "a" * 32, "b" * 32
Open = Callable[..., Consumers]
Disk = Callable[[Path], contextlib.AbstractContextManager[Path]]


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    """Factory of a folder's consumers, which are closed at the end."""
    with contextlib.ExitStack() as opened:

        def open_(folder: Path = tmp_path) -> Consumers:
            consumers = Consumers(folder)
            opened.callback(consumers.close)
            return consumers

        yield open_


@pytest.fixture
def consumers(open_: Open) -> Consumers:
    """Consumers with one entry, which has acknowledged event 1."""
    consumers = open_()
    consumers.register("mes1", JOURNAL, 1)
    return consumers


@contextlib.contextmanager
def file_in(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the file as another process does."""
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as connection:
        yield connection


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the file as another process does."""
    with file_in(folder) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def acked_on_disk(folder: Path) -> dict[str, int]:
    with file_in(folder) as connection:
        return dict(connection.execute("SELECT name, acked_seq FROM consumers"))


def write_at_once(consumers: Consumers) -> None:
    """Write without the pause after a failure."""
    consumers._try_again_s = 0.0
    consumers.write()


def test_only_acknowledgements_on_disk_count(consumers: Consumers, tmp_path: Path) -> None:
    """After a crash the consumer continues after what is on the disk: the events after that must still exist."""
    consumers.acknowledge("mes1", JOURNAL, 5)
    assert (consumers.positions()["mes1"].acked_seq, consumers.acked(JOURNAL), acked_on_disk(tmp_path)) == (
        5, {"mes1": 1}, {"mes1": 1},
    )  # fmt: skip
    consumers.write()
    assert (consumers.acked(JOURNAL), acked_on_disk(tmp_path)) == ({"mes1": 5}, {"mes1": 5})
    assert consumers._connection is not None
    assert consumers._connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: each commit is on the disk"


def test_the_time_of_a_consumers_last_message_is_stored(consumers: Consumers, open_: Open) -> None:
    first = consumers.positions()["mes1"].seen_at_ns
    consumers.seen("mes1")
    later = consumers.positions()["mes1"]
    assert later.seen_at_ns >= first > 10**18
    assert later._replace(seen_at_ns=first) == Position(JOURNAL, 1, first)
    consumers.close()
    assert open_().positions() == {"mes1": later}


class Model(RuleBasedStateMachine):
    """Consumers compared with two dictionaries, of the memory and of the disk, over restarts."""

    names = Bundle("names")

    @initialize(target=names)
    def start(self) -> str:
        self.folder = self.make_folder()
        self.consumers = Consumers(self.folder)
        self.memory: dict[str, tuple[str, int]] = {}
        self.disk: dict[str, tuple[str, int]] = {}
        return "mes1"

    @rule(target=names, name=st.text("ab.-_9", min_size=1, max_size=3))
    def name(self, name: str) -> str:
        return name

    @rule(name=names, journal=st.sampled_from([JOURNAL, OTHER]), seq=st.integers(0, 2**63 - 1))
    def register(self, name: str, journal: str, seq: int) -> None:
        if name not in self.memory:
            self.consumers.register(name, journal, seq)
            self.memory[name] = self.disk[name] = journal, seq

    @rule(name=names, journal=st.sampled_from([JOURNAL, OTHER]), seq=st.integers(0, 2**63 - 1))
    def acknowledge(self, name: str, journal: str, seq: int) -> None:
        self.consumers.acknowledge(name, journal, seq)
        self.consumers.seen(name)
        if name in self.memory:
            self.memory[name] = journal, seq

    @rule(name=names)
    def forget(self, name: str) -> None:
        self.consumers.forget(name)
        self.memory.pop(name, None)
        self.disk.pop(name, None)

    @rule()
    def write(self) -> None:
        self.consumers.write()
        self.disk = dict(self.memory)

    @rule()
    def restart(self) -> None:
        self.consumers.close()
        self.consumers = Consumers(self.folder)
        self.disk = dict(self.memory)

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "memory"):
            assert {name: each[:2] for name, each in self.consumers.positions().items()} == self.memory
            assert acked_on_disk(self.folder) == {name: seq for name, (_, seq) in self.disk.items()}
            assert self.consumers.acked(JOURNAL) == {
                name: seq if journal == JOURNAL else 0 for name, (journal, seq) in self.disk.items()
            }
            assert self.consumers.fault is None

    def teardown(self) -> None:
        if hasattr(self, "consumers"):
            self.consumers.close()

    make_folder: Callable[[], Path]


def test_any_series_of_changes_is_stored(tmp_path_factory: pytest.TempPathFactory) -> None:
    Model.make_folder = staticmethod(lambda: tmp_path_factory.mktemp("consumers"))
    case = Model.TestCase
    case.settings = settings(stateful_step_count=15)
    case("runTest").runTest()


def test_threads_may_acknowledge_while_another_writes(open_: Open, tmp_path: Path) -> None:
    consumers = open_()
    names = [f"mes{number}" for number in range(4)]
    for name in names:
        consumers.register(name, JOURNAL, 0)

    def acknowledge(name: str) -> None:
        for seq in range(1, 101):
            consumers.acknowledge(name, JOURNAL, seq)
            assert consumers.acked(JOURNAL)[name] <= seq

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(acknowledge, name) for name in names]
        while not all(each.done() for each in running):
            consumers.write()
    assert [each.result() for each in running] == [None] * 4
    consumers.write()
    assert acked_on_disk(tmp_path) == dict.fromkeys(names, 100)


# Disks.


@pytest.mark.parametrize("kind", [small_disk, failing_disk], ids=["tmpfs", "ext4"])
def test_acknowledgements_and_new_consumers_are_stored_on_a_full_disk(kind: Disk, tmp_path: Path, open_: Open) -> None:
    """Otherwise a full disk could never be freed: unacknowledged events must stay. ext4 allocates late."""
    with kind(tmp_path / "disk") as disk:
        consumers = open_(disk)
        fill(disk)
        consumers.register("mes1", JOURNAL, 0)
        for seq in (1, 250, 70_000, 2**40, 2**62):  # of each length that an integer has in the file
            consumers.acknowledge("mes1", JOURNAL, seq)
            consumers.write()
            assert (consumers.fault, acked_on_disk(disk)) == (None, {"mes1": seq})
        names = ["mes1", *(f"{number:064}" for number in range(MOST_CONSUMERS - 1))]
        for name in names[1:]:  # as many as are allowed, with the longest names
            consumers.register(name, JOURNAL, 2**62)
        for name in names:
            consumers.acknowledge(name, OTHER, 2**62 + 1)
        consumers.write()
        assert (consumers.fault, acked_on_disk(disk)) == (None, dict.fromkeys(names, 2**62 + 1))
        consumers.forget("mes1")
        consumers.close()
        reopened = open_(disk)
        assert (reopened.fault, reopened.positions().keys()) == (None, set(names[1:]))
        reopened.acknowledge(names[1], OTHER, 2**62 + 2)
        reopened.close()
        assert acked_on_disk(disk)[names[1]] == 2**62 + 2


def test_a_disk_full_from_the_start_registers_no_consumer_until_it_has_room(
    tmp_path: Path, open_: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        for _ in range(2):
            consumers = open_(disk)
            assert "no room" in (consumers.fault or "")
            with pytest.raises(JournalError, match="no room"):
                consumers.register("mes1", JOURNAL, 0)
            assert consumers.acked(JOURNAL) == consumers.positions() == {}, "without a file there is no consumer"
        assert [record.levelname for record in caplog.records] == ["ERROR"] * 2, "each object logs it once"
        filler.unlink()
        write_at_once(consumers)
        assert (consumers.fault, consumers.positions()) == (None, {})
        consumers.register("mes1", JOURNAL, 0)
        assert acked_on_disk(disk) == {"mes1": 0}
        consumers.close()


@pytest.mark.parametrize("kind", [small_disk, failing_disk], ids=["read-only", "failing"])
def test_changes_wait_in_memory_until_the_disk_can_be_written(
    kind: Disk, tmp_path: Path, open_: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with kind(tmp_path / "disk") as disk:
        consumers = open_(disk)
        consumers.register("mes1", JOURNAL, 1)
        if kind is failing_disk:
            fail(disk)  # while the file is open
        else:
            consumers.close()
            make_read_only(disk)
            consumers = open_(disk)
            assert consumers.positions()["mes1"].acked_seq == 1, "the file can be read"
        consumers.acknowledge("mes1", JOURNAL, 2)
        consumers.write()
        write_at_once(consumers)
        assert "cannot be written" in (consumers.fault or "")
        assert (consumers.positions()["mes1"].acked_seq, consumers.acked(JOURNAL)) == (2, {"mes1": 1})
        with pytest.raises(JournalError, match="cannot be written"):
            consumers.register("mes2", JOURNAL, 0)
        with pytest.raises(JournalError, match="cannot be written"):
            consumers.forget("mes1")
        assert consumers.positions().keys() == {"mes1"}
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        if kind is small_disk:
            make_writable(disk)
            write_at_once(consumers)
            assert (consumers.fault, acked_on_disk(disk)) == (None, {"mes1": 2})
            assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
        consumers.close()


def test_acknowledgements_wait_while_another_process_locks_the_file(consumers: Consumers, tmp_path: Path) -> None:
    with locked(tmp_path):
        consumers.acknowledge("mes1", JOURNAL, 2)
        consumers.write()
        assert "locked by another process" in (consumers.fault or "")
    consumers._try_again_s = float("inf")
    consumers.write()
    assert acked_on_disk(tmp_path) == {"mes1": 1}, "writing pauses after a failure"
    write_at_once(consumers)
    assert (consumers.fault, acked_on_disk(tmp_path)) == (None, {"mes1": 2})


def test_until_the_file_is_read_no_event_counts_as_acknowledged(
    consumers: Consumers, open_: Open, tmp_path: Path
) -> None:
    consumers.close()
    with locked(tmp_path):
        reopened = open_()
        assert reopened.acked(JOURNAL) == {NOT_KNOWN: 0}
        with pytest.raises(JournalError, match="locked by another process"):
            reopened.positions()
        with pytest.raises(JournalError, match="locked by another process"):
            reopened.register("mes1", JOURNAL, 9)
    write_at_once(reopened)
    assert (reopened.fault, reopened.acked(JOURNAL)) == (None, {"mes1": 1})


# Files.


def replace_value(path: Path) -> None:
    with file_in(path.parent) as connection:
        connection.execute("PRAGMA journal_mode = PERSIST")
        connection.execute("UPDATE consumers SET acked_seq = 'many'")


def overwrite(at: int, data: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data)

    return change


no_database, no_table = overwrite(0, b"not SQLite at all"), overwrite(16384, b"\xff" * 400)
"""The first bytes of a page are its type."""


@pytest.mark.parametrize("damage", [no_database, no_table, replace_value], ids=["header", "page", "value"])
def test_a_damaged_file_is_moved_aside_and_its_consumers_are_lost(
    consumers: Consumers, open_: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    consumers.close()
    assert not consumers.lost_consumers
    damage(tmp_path / FILE_NAME)
    reopened = open_()
    assert (reopened.positions(), reopened.fault, reopened.lost_consumers) == ({}, None, True)
    for end in ("", "-journal"):  # otherwise SQLite could apply the old journal to the new file
        assert (tmp_path / f"{FILE_NAME}.damaged{end}").stat().st_size > 0
    (record,) = caplog.records
    assert re.search("is damaged.*the first event in the journal", record.getMessage())
    reopened.register("mes1", JOURNAL, 0)
    reopened.close()
    assert open_().lost_consumers, "until the damaged file is deleted"
    (tmp_path / f"{FILE_NAME}.damaged").unlink()
    assert not open_().lost_consumers


def test_a_file_damaged_while_in_use_is_written_again_from_memory(consumers: Consumers, tmp_path: Path) -> None:
    consumers.register("mes2", JOURNAL, 6)
    no_database(tmp_path / FILE_NAME)
    consumers.acknowledge("mes1", JOURNAL, 7)
    consumers.write()  # notices the damage
    write_at_once(consumers)
    assert (consumers.fault, consumers.acked(JOURNAL)) == (None, {"mes1": 7, "mes2": 6})
    assert acked_on_disk(tmp_path).items() >= {"mes1": 7, "mes2": 6}.items()


def test_a_file_of_a_newer_version_is_not_changed(consumers: Consumers, open_: Open, tmp_path: Path) -> None:
    consumers.close()
    with file_in(tmp_path) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(JournalError, match="of version 2, this heatline knows up to 1"):
        open_().positions()
    assert (tmp_path / FILE_NAME).read_bytes() == before


KILLED = """
import sys
from pathlib import Path
from edge.delivery.durable.consumers import Consumers

consumers = Consumers(Path(sys.argv[1]))
consumers.register("mes1", "a" * 32, 0)
for seq in range(1, 10**9):
    consumers.acknowledge("mes1", "a" * 32, seq)
    consumers.write()
    print(seq, flush=True)
"""


def test_written_acknowledgements_survive_a_kill(open_: Open, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(17)]
        process.kill()
        lines += process.stdout.readlines()
    written = int([line for line in lines if line.endswith("\n")][-1])
    consumers = open_()
    assert consumers.positions()["mes1"].acked_seq in (written, written + 1)
    assert (consumers.fault, consumers.lost_consumers) == (None, False)
