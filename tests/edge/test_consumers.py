"""How far consumers have got is kept: on disks that become full, fail or are read-only, and in files that are hurt."""

import contextlib
import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from edge.delivery.durable.consumers import FILE_NAME, MOST_CONSUMERS, NOT_KNOWN, Consumers, Position
from edge.errors import JournalError
from tests.edge.fault_disks import fail, failing_disk, fill, make_read_only, small_disk

JOURNAL, OTHER = "a" * 32, "b" * 32
Open = Callable[..., Consumers]


@pytest.fixture
def open_(tmp_path: Path) -> Iterator[Open]:
    """Opens consumers of a folder, and closes them at the end."""
    with contextlib.ExitStack() as opened:

        def open_(folder: Path = tmp_path) -> Consumers:
            consumers = Consumers(folder)
            opened.callback(consumers.close)
            return consumers

        yield open_


def acked_on_disk(folder: Path) -> dict[str, int]:
    """What another process finds in the file."""
    with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        return dict(connection.execute("SELECT name, acked_seq FROM consumers"))


def try_at_once(consumers: Consumers) -> None:
    """Write without the pause after a failure."""
    consumers._try_again_s = 0.0
    consumers.write()


def test_what_was_acknowledged_is_there_at_the_next_start(open_: Open, tmp_path: Path) -> None:
    consumers = open_()
    consumers.register("mes1", JOURNAL, 0)
    consumers.register("mes-2.x_Y", JOURNAL, 7)
    consumers.acknowledge("mes1", JOURNAL, 5)
    assert acked_on_disk(tmp_path) == {"mes1": 0, "mes-2.x_Y": 7}, "grouped"
    consumers.write()
    assert acked_on_disk(tmp_path) == {"mes1": 5, "mes-2.x_Y": 7}
    consumers.acknowledge("mes1", JOURNAL, 6)
    consumers.close()
    assert {name: each.acked_seq for name, each in open_().positions().items()} == {"mes1": 6, "mes-2.x_Y": 7}


def test_nothing_that_is_not_on_the_disk_counts_as_acknowledged(open_: Open) -> None:
    """After a crash the consumer begins after what is on the disk: what it needs then must still be there."""
    consumers = open_()
    consumers.register("mes1", JOURNAL, 3)
    consumers.acknowledge("mes1", JOURNAL, 5)
    assert consumers.acked(JOURNAL) == {"mes1": 3}
    consumers.write()
    assert consumers.acked(JOURNAL) == {"mes1": 5}


def test_of_another_journal_nothing_is_acknowledged(open_: Open) -> None:
    consumers = open_()
    consumers.register("mes1", JOURNAL, 3)
    assert consumers.acked(OTHER) == {"mes1": 0}
    consumers.acknowledge("mes1", OTHER, 1)
    consumers.write()
    assert consumers.acked(OTHER) == {"mes1": 1}
    assert consumers.acked(JOURNAL) == {"mes1": 0}


def test_who_is_forgotten_is_gone_at_once(open_: Open, tmp_path: Path) -> None:
    consumers = open_()
    consumers.register("mes1", JOURNAL, 3)
    consumers.forget("mes1")
    assert consumers.positions() == {}
    assert consumers.acked(JOURNAL) == {}
    assert acked_on_disk(tmp_path) == {}
    consumers.acknowledge("mes1", JOURNAL, 4)  # what was on its way still
    consumers.seen("mes1")
    assert consumers.positions() == {}


def test_when_a_consumer_was_heard_of_is_kept(open_: Open) -> None:
    consumers = open_()
    consumers.register("mes1", JOURNAL, 3)
    first = consumers.positions()["mes1"].seen_at_ns
    consumers.seen("mes1")
    later = consumers.positions()["mes1"]
    assert later.seen_at_ns >= first > 10**18
    assert later._replace(seen_at_ns=first) == Position(JOURNAL, 3, first)
    consumers.close()
    assert open_().positions() == {"mes1": later}


class Model(RuleBasedStateMachine):
    """Consumers beside a dictionary of them, through any number of restarts."""

    names = Bundle("names")

    @initialize(target=names)
    def start(self) -> str:
        self.folder = self.make_folder()
        self.consumers = Consumers(self.folder)
        self.told: dict[str, tuple[str, int]] = {}
        return "mes1"

    @rule(target=names, name=st.text("ab.-_9", min_size=1, max_size=3))
    def name(self, name: str) -> str:
        return name

    @rule(name=names, journal=st.sampled_from([JOURNAL, OTHER]), seq=st.integers(0, 2**63 - 1))
    def register(self, name: str, journal: str, seq: int) -> None:
        if name not in self.told:
            self.consumers.register(name, journal, seq)
            self.told[name] = journal, seq

    @rule(name=names, journal=st.sampled_from([JOURNAL, OTHER]), seq=st.integers(0, 2**63 - 1))
    def acknowledge(self, name: str, journal: str, seq: int) -> None:
        self.consumers.acknowledge(name, journal, seq)
        if name in self.told:
            self.told[name] = journal, seq

    @rule(name=names)
    def forget(self, name: str) -> None:
        self.consumers.forget(name)
        self.told.pop(name, None)

    @rule()
    def write(self) -> None:
        self.consumers.write()
        assert self.consumers.acked(JOURNAL) == {
            name: seq if journal == JOURNAL else 0 for name, (journal, seq) in self.told.items()
        }

    @rule()
    def restart(self) -> None:
        self.consumers.close()
        self.consumers = Consumers(self.folder)

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "told"):
            assert {name: each[:2] for name, each in self.consumers.positions().items()} == self.told
            assert self.consumers.fault is None

    def teardown(self) -> None:
        if hasattr(self, "consumers"):
            self.consumers.close()

    make_folder: Callable[[], Path]


def test_whatever_is_done_in_whatever_order_is_kept(tmp_path_factory: pytest.TempPathFactory) -> None:
    Model.make_folder = staticmethod(lambda: tmp_path_factory.mktemp("consumers"))
    case = Model.TestCase
    case.settings = settings(deadline=None, max_examples=40, stateful_step_count=15)
    case("runTest").runTest()


def test_many_threads_may_acknowledge_while_one_writes(open_: Open, tmp_path: Path) -> None:
    consumers = open_()
    names = [f"mes{number}" for number in range(4)]
    for name in names:
        consumers.register(name, JOURNAL, 0)

    def acknowledge(name: str) -> None:
        for seq in range(1, 301):
            consumers.acknowledge(name, JOURNAL, seq)
            assert consumers.acked(JOURNAL)[name] <= seq

    threads = [threading.Thread(target=acknowledge, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        consumers.write()
    consumers.write()
    assert acked_on_disk(tmp_path) == dict.fromkeys(names, 300)


# Disks.


@pytest.fixture(params=[small_disk, failing_disk], ids=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with request.param(tmp_path / "disk") as place:
        yield place


def test_on_a_disk_that_has_become_full_acknowledgements_and_new_consumers_are_kept(disk: Path, open_: Open) -> None:
    """Else a full disk could not even be made room on: what nobody acknowledges must stay."""
    consumers = open_(disk)
    consumers.register("mes1", JOURNAL, 0)
    fill(disk)
    for seq in (1, 250, 70_000, 2**40, 2**62):  # of whatever length in the file
        consumers.acknowledge("mes1", JOURNAL, seq)
        consumers.write()
        assert consumers.fault is None
        assert acked_on_disk(disk) == {"mes1": seq}
    names = ["mes1", *(f"{number:064}" for number in range(MOST_CONSUMERS - 1))]
    for name in names[1:]:  # of the longest names, as many as there may be
        consumers.register(name, JOURNAL, 2**62)
    for name in names:
        consumers.acknowledge(name, OTHER, 2**62 + 1)
    consumers.write()
    assert consumers.fault is None
    assert acked_on_disk(disk) == dict.fromkeys(names, 2**62 + 1)
    consumers.forget("mes1")
    consumers.close()
    again = open_(disk)
    assert (again.fault, again.positions().keys()) == (None, set(names[1:]))
    again.acknowledge(names[1], OTHER, 2**62 + 2)
    again.write()
    assert acked_on_disk(disk)[names[1]] == 2**62 + 2


def test_a_file_that_no_consumer_is_in_yet_has_its_room_already(disk: Path, open_: Open) -> None:
    consumers = open_(disk)
    fill(disk)
    consumers.register("mes1", JOURNAL, 0)
    consumers.acknowledge("mes1", JOURNAL, 1)
    consumers.write()
    assert (consumers.fault, acked_on_disk(disk)) == (None, {"mes1": 1})


def test_on_a_disk_that_was_full_from_the_beginning_nobody_is_registered_until_there_is_room(
    disk: Path, open_: Open, caplog: pytest.LogCaptureFixture
) -> None:
    filler = fill(disk)
    consumers = open_(disk)
    assert "no room" in (consumers.fault or "")
    with pytest.raises(JournalError, match="no room"):
        consumers.register("mes1", JOURNAL, 0)
    assert consumers.acked(JOURNAL) == consumers.positions() == {}, "there was no file: nobody is in it"
    again = open_(disk)
    assert (again.positions(), "no room" in (again.fault or "")) == ({}, True)
    filler.unlink()
    try_at_once(consumers)
    assert (consumers.fault, consumers.positions()) == (None, {})
    consumers.register("mes1", JOURNAL, 0)
    assert acked_on_disk(disk) == {"mes1": 0}
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2, "said once by each, whatever is tried"


def test_what_a_failing_disk_does_not_take_is_kept_in_memory_and_said(
    tmp_path: Path, open_: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with failing_disk(tmp_path / "disk") as disk:
        consumers = open_(disk)
        consumers.register("mes1", JOURNAL, 1)
        fail(disk)
        consumers.acknowledge("mes1", JOURNAL, 2)
        consumers.write()
        try_at_once(consumers)
        assert "cannot be written" in (consumers.fault or "")
        assert consumers.positions()["mes1"].acked_seq == 2
        assert consumers.acked(JOURNAL) == {"mes1": 1}
        with pytest.raises(JournalError, match="cannot be written"):
            consumers.register("mes2", JOURNAL, 0)
        with pytest.raises(JournalError, match="cannot be written"):
            consumers.forget("mes1")
        assert consumers.positions().keys() == {"mes1"}
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        consumers.close()


def test_a_disk_that_can_be_written_again_gets_what_it_missed(
    tmp_path: Path, open_: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with small_disk(tmp_path / "disk") as disk:
        consumers = open_(disk)
        consumers.register("mes1", JOURNAL, 1)
        consumers.close()
        make_read_only(disk)
        consumers = open_(disk)
        assert consumers.positions()["mes1"].acked_seq == 1, "it can be read"
        consumers.acknowledge("mes1", JOURNAL, 2)
        try_at_once(consumers)
        assert "cannot be written" in (consumers.fault or "")
        assert acked_on_disk(disk) == {"mes1": 1}
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        try_at_once(consumers)
        assert (consumers.fault, acked_on_disk(disk)) == (None, {"mes1": 2})
        assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
        consumers.close()


def test_a_file_that_somebody_else_holds_is_waited_for_without_blocking_others(open_: Open, tmp_path: Path) -> None:
    consumers = open_()
    consumers.register("mes1", JOURNAL, 1)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        consumers.acknowledge("mes1", JOURNAL, 2)
        consumers.write()
        assert "held by somebody else" in (consumers.fault or "")
        other.execute("ROLLBACK")
    try_at_once(consumers)
    assert (consumers.fault, acked_on_disk(tmp_path)) == (None, {"mes1": 2})


def test_while_a_file_cannot_be_read_all_that_is_there_may_be_somebodys(open_: Open, tmp_path: Path) -> None:
    before = open_()
    before.register("mes1", JOURNAL, 1)
    before.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        consumers = open_()
        assert consumers.acked(JOURNAL) == {NOT_KNOWN: 0}
        with pytest.raises(JournalError, match="held by somebody else"):
            consumers.positions()
        with pytest.raises(JournalError, match="held by somebody else"):
            consumers.register("mes1", JOURNAL, 9)
        other.execute("ROLLBACK")
    try_at_once(consumers)
    assert (consumers.fault, consumers.acked(JOURNAL)) == (None, {"mes1": 1})


def test_after_a_failure_the_disk_is_left_alone_for_a_while(open_: Open, tmp_path: Path) -> None:
    consumers = open_()
    consumers.register("mes1", JOURNAL, 1)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        consumers.acknowledge("mes1", JOURNAL, 2)
        consumers.write()
        other.execute("ROLLBACK")
    consumers._try_again_s = float("inf")
    consumers.write()
    assert acked_on_disk(tmp_path) == {"mes1": 1}


# Files.


def hurt(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


NO_DATABASE = (0, b"not SQLite at all")
NO_TABLE = (16384, b"\xff" * 400)
"""Its first bytes say what is on the page."""


@pytest.mark.parametrize("where", [NO_DATABASE, NO_TABLE], ids=["header", "page"])
def test_a_damaged_file_is_moved_aside_and_who_comes_again_misses_nothing(
    open_: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: tuple[int, bytes]
) -> None:
    consumers = open_()
    consumers.register("mes1", JOURNAL, 5)
    consumers.close()
    assert not consumers.lost_some
    hurt(tmp_path / FILE_NAME, *where)
    again = open_()
    assert (again.positions(), again.fault) == ({}, None)
    assert again.lost_some
    for end in ("", "-journal"):  # else SQLite might take what is beside it for the new one's
        assert (tmp_path / f"{FILE_NAME}.damaged{end}").stat().st_size > 0
    (said,) = caplog.records
    assert said.levelname == "ERROR"
    assert "is damaged" in said.getMessage()
    assert "the first event that is kept" in said.getMessage()
    again.register("mes1", JOURNAL, 0)
    again.close()
    assert open_().lost_some, "until somebody deletes it"
    (tmp_path / f"{FILE_NAME}.damaged").unlink()
    assert not open_().lost_some


def test_a_file_that_is_damaged_while_it_is_used_is_written_anew_from_memory(open_: Open, tmp_path: Path) -> None:
    consumers = open_()
    consumers.register("mes1", JOURNAL, 5)
    consumers.register("mes2", JOURNAL, 6)
    hurt(tmp_path / FILE_NAME, *NO_DATABASE)
    consumers.acknowledge("mes1", JOURNAL, 7)
    consumers.write()  # finds it
    try_at_once(consumers)
    assert (consumers.fault, acked_on_disk(tmp_path)) == (None, {"mes1": 7, "mes2": 6})


@pytest.mark.parametrize("other_file", [False, True])
def test_a_file_that_is_deleted_or_replaced_while_it_is_used_is_written_anew_from_memory(
    open_: Open, tmp_path: Path, other_file: bool
) -> None:
    consumers = open_()
    consumers.register("mes1", JOURNAL, 5)
    (tmp_path / FILE_NAME).unlink()
    if other_file:
        other = open_(tmp_path / "other")
        other.register("mes9", OTHER, 1)
        other.close()
        (tmp_path / "other" / FILE_NAME).rename(tmp_path / FILE_NAME)
    consumers.acknowledge("mes1", JOURNAL, 7)
    consumers.write()
    assert consumers.fault is None
    assert acked_on_disk(tmp_path)["mes1"] == 7


def test_values_of_another_kind_are_damage(open_: Open, tmp_path: Path) -> None:
    open_().close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as connection:
        connection.execute("INSERT INTO consumers VALUES ('mes1', 'a', 'many', 0)")
    assert open_().positions() == {}


def test_a_file_of_a_newer_version_is_left_as_it_is(open_: Open, tmp_path: Path) -> None:
    consumers = open_()
    consumers.register("mes1", JOURNAL, 5)
    consumers.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as connection:
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


@pytest.mark.parametrize("after", [1, 17, 60])
def test_what_was_written_outlives_a_kill_at_any_time(open_: Open, tmp_path: Path, after: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(after)]
        process.kill()
        said += process.stdout.readlines()
    written = int([line for line in said if line.endswith("\n")][-1])
    consumers = open_()
    assert consumers.positions()["mes1"].acked_seq in (written, written + 1)
    assert consumers.fault is None
    assert not consumers.lost_some
