"""The positions of consumers are stored, or wait in memory on full, failing and read-only disks."""

import contextlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from heatline.edge.delivery.follow import (
    FILE_NAME,
    NOT_KNOWN,
    Consumers,
    Position,
)
from heatline.edge.errors import JournalError
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
            opened.callback(consumers.write)
            return consumers

        yield open_


@pytest.fixture
def consumers(open_: Open) -> Consumers:
    """Consumers with one entry, which has acknowledged event 1."""
    consumers = open_()
    consumers.register("mes1", JOURNAL, 1)
    return consumers


def acked_on_disk(folder: Path) -> dict[str, int]:
    path = folder / FILE_NAME
    data = path.read_bytes() if path.exists() else b"{}"
    return {name: each.acked_seq for name, each in msgspec.json.decode(data, type=dict[str, Position]).items()}


def test_only_acknowledgements_on_disk_count(
    consumers: Consumers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash the consumer continues after what is on the disk: the events after that must still exist."""
    consumers.acknowledge("mes1", JOURNAL, 5)
    assert (consumers.positions["mes1"].acked_seq, consumers.acked(JOURNAL), acked_on_disk(tmp_path)) == (
        5, {"mes1": 1}, {"mes1": 1},
    )  # fmt: skip
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    consumers.write()
    assert (consumers.acked(JOURNAL), acked_on_disk(tmp_path), len(synced)) == ({"mes1": 5}, {"mes1": 5}, 2)


def test_the_time_of_a_consumers_last_message_is_stored(consumers: Consumers, open_: Open) -> None:
    first = consumers.positions["mes1"].seen_at_ns
    consumers.seen("mes1")
    later = consumers.positions["mes1"]
    assert later.seen_at_ns >= first > 10**18
    assert later._replace(seen_at_ns=first) == Position(JOURNAL, 1, first)
    consumers.write()
    assert open_().positions == {"mes1": later}


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
            self.memory[name] = journal, seq
            self.disk = dict(self.memory)

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
        self.disk = dict(self.memory)

    @rule()
    def write(self) -> None:
        self.consumers.write()
        self.disk = dict(self.memory)

    @rule()
    def restart(self) -> None:
        self.consumers.write()
        self.consumers = Consumers(self.folder)
        self.disk = dict(self.memory)

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "memory"):
            assert {name: each[:2] for name, each in self.consumers.positions.items()} == self.memory
            assert acked_on_disk(self.folder) == {name: seq for name, (_, seq) in self.disk.items()}
            assert self.consumers.acked(JOURNAL) == {
                name: seq if journal == JOURNAL else 0 for name, (journal, seq) in self.disk.items()
            }
            assert self.consumers.fault is None

    def teardown(self) -> None:
        if hasattr(self, "consumers"):
            self.consumers.write()

    make_folder: Callable[[], Path]


def test_any_series_of_changes_is_stored(tmp_path_factory: pytest.TempPathFactory) -> None:
    Model.make_folder = staticmethod(lambda: tmp_path_factory.mktemp("consumers"))
    case = Model.TestCase
    case.settings = settings(stateful_step_count=15)
    case("runTest").runTest()


# Disks.


def test_a_disk_full_from_the_start_registers_no_consumer_until_it_has_room(
    tmp_path: Path, open_: Open, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        filler = fill(disk)
        consumers = open_(disk)
        for _ in range(2):
            with pytest.raises(JournalError, match="no room"):
                consumers.register("mes1", JOURNAL, 0)
            assert consumers.acked(JOURNAL) == consumers.positions == {}
        assert [record.levelname for record in caplog.records] == ["ERROR"], "it is logged once"
        filler.unlink()
        consumers.register("mes1", JOURNAL, 0)
        assert (consumers.fault, acked_on_disk(disk)) == (None, {"mes1": 0})
        consumers.write()


def test_acknowledgements_wait_in_memory_until_a_full_disk_has_room(tmp_path: Path, open_: Open) -> None:
    with small_disk(tmp_path / "disk") as disk:
        consumers = open_(disk)
        consumers.register("mes1", JOURNAL, 1)
        filler = fill(disk)
        consumers.acknowledge("mes1", JOURNAL, 2)
        consumers.write()
        assert "no room" in (consumers.fault or "")
        assert (consumers.positions["mes1"].acked_seq, consumers.acked(JOURNAL)) == (2, {"mes1": 1})
        assert acked_on_disk(disk) == {"mes1": 1}, "after a crash, event 2 comes again"
        filler.unlink()
        consumers.write()
        assert acked_on_disk(disk) == {"mes1": 2}


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
            consumers.write()
            make_read_only(disk)
            consumers = open_(disk)
            assert consumers.positions["mes1"].acked_seq == 1, "the file can be read"
        consumers.acknowledge("mes1", JOURNAL, 2)
        consumers.write()
        consumers.write()
        cannot = "cannot be (written|used)"
        assert re.search(cannot, consumers.fault or "")
        assert (consumers.positions["mes1"].acked_seq, consumers.acked(JOURNAL)) == (2, {"mes1": 1})
        with pytest.raises(JournalError, match=cannot):
            consumers.register("mes2", JOURNAL, 0)
        with pytest.raises(JournalError, match=cannot):
            consumers.forget("mes1")
        assert consumers.positions.keys() == {"mes1"}
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        if kind is small_disk:
            make_writable(disk)
            consumers.write()
            assert (consumers.fault, acked_on_disk(disk)) == (None, {"mes1": 2})
            assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
        consumers.write()


@pytest.mark.parametrize("is_damaged", [False, True], ids=["unreadable", "damaged"])
def test_until_the_file_is_read_no_event_counts_as_acknowledged(
    consumers: Consumers, open_: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, is_damaged: bool
) -> None:
    """As on a disk that fails, and on a read-only one from which a damaged file cannot be moved aside."""
    obstacle = tmp_path / (f"{FILE_NAME}.damaged" if is_damaged else FILE_NAME)
    (tmp_path / FILE_NAME).rename(tmp_path / "elsewhere")
    obstacle.mkdir()
    if is_damaged:
        (tmp_path / FILE_NAME).write_bytes(b"{")
    reopened = open_()
    reopened.write()
    assert (reopened.acked(JOURNAL), reopened.positions) == ({NOT_KNOWN: 0}, {})
    for change in (lambda: reopened.register("mes1", JOURNAL, 9), lambda: reopened.forget("mes1")):
        with pytest.raises(JournalError, match="cannot be used"):
            change()
    assert [record.levelname for record in caplog.records] == ["ERROR"], "it is logged once"
    obstacle.rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / FILE_NAME)
    reopened.write()
    assert (reopened.fault, reopened.acked(JOURNAL)) == (None, {"mes1": 1})


# Files.


@pytest.mark.parametrize("damaged", [b"something else" * 999, bytes(999), b""], ids=["other", "zeros", "cut"])
def test_a_damaged_file_is_moved_aside_and_its_consumers_are_lost(
    consumers: Consumers, open_: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    consumers.write()
    (tmp_path / FILE_NAME).write_bytes(damaged)
    reopened = open_()
    assert (reopened.positions, reopened.fault) == ({}, None)
    (record,) = caplog.records
    assert re.search("was damaged.*all consumers are new", record.getMessage())
    assert (tmp_path / f"{FILE_NAME}.damaged").read_bytes() == damaged
    assert reopened.has_lost_names


KILLED = """
import sys
from pathlib import Path
from heatline.edge.delivery.follow import Consumers

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
    assert consumers.positions["mes1"].acked_seq in (written, written + 1)
    assert consumers.fault is None
