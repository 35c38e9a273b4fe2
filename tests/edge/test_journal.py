"""The journal's file holds what was appended, byte for byte, whatever happens to the process or the disk."""

import contextlib
import os
import random
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.delivery.journal import FILE_NAME, Journal, Record, move_aside
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.errors import DeliveryError, JournalError
from heatline.edge.frames import Watermark
from tests.command import WITHIN_SECONDS
from tests.edge.fault_disks import fail, failing_disk, fill, make_read_only, make_writable, small_disk
from tests.edge.journals import LINE, all_records, change, fails

SUFFIXES = "", "-wal", "-shm"


def record(seq: int, topic: str = "alarm", size: int = 300) -> Record:
    return Record(seq, seq * 10, topic, f"{{{seq}}}".encode().ljust(size), None if seq % 3 else bytes([seq % 256]) * 50)


def records(first: int, last: int) -> list[Record]:
    return [record(seq) for seq in range(first, last + 1)]


def opened(folder: Path, *appended: Record) -> contextlib.closing[Journal]:
    """Open the journal of a folder and append records."""
    journal = Journal.open(folder, LINE)
    journal.append(appended, {})
    return contextlib.closing(journal)


def read_all(folder: Path) -> list[Record]:
    with JournalReader.open(folder) as reader:
        return all_records(reader)


def test_appended_records_are_there_after_reopening(tmp_path: Path) -> None:
    folder, progress = tmp_path / "not" / "there" / "yet", {"top": Watermark("boot", 7)}
    with opened(folder) as journal:
        journal_id = journal.journal_id
        assert (journal.first_seq, journal.last_seq, journal.topics, journal.progress) == (0, 0, {}, {})
        journal.append([record(1), record(2, "change")], progress)
        journal.append([record(3)], {})
    for reopened in (journal, Journal.open(folder, LINE)):
        assert (reopened.journal_id, reopened.first_seq, reopened.last_seq) == (journal_id, 1, 3)
        assert (reopened.topics, reopened.progress) == ({"alarm": 3, "change": 2}, progress)
        reopened.close()
    with JournalReader.open(folder) as reader:
        assert all_records(reader) == [record(1), record(2, "change"), record(3)]
        assert (reader.journal_id, reader.line) == (journal_id, LINE)
        assert (reader.topics(), reader.progress()) == ({"alarm": 3, "change": 2}, progress)


def test_the_group_may_read_whatever_the_umask(tmp_path: Path) -> None:
    folder, before = tmp_path / "new" / "journal", os.umask(0o077)
    try:
        Journal.open(folder, LINE).close()
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o750
        with opened(folder, *records(1, 2)):
            assert {stat.S_IMODE((folder / f"{FILE_NAME}{end}").stat().st_mode) for end in SUFFIXES} == {0o640}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    finally:
        os.umask(before)


def test_every_commit_is_synchronous(tmp_path: Path) -> None:
    """Where a disk can be mounted, test_journal_writer.py cuts its power."""
    with opened(tmp_path) as journal:
        run = journal._connection.execute
        assert [run(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")] == ["wal", 2]


def test_events_that_do_not_follow_the_last_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path, *records(1, 3)) as journal:
        for wrong in ([record(3)], [record(5)], [record(4), record(6)]):
            with pytest.raises(ValueError, match="cannot follow event 3"):
                journal.append(wrong, {})
        journal.append(records(4, 5), {})


def test_counts_survive_the_deletion_of_events(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.append([record(1, "change"), *records(2, 9)], {"top": Watermark("boot", 3)})
        journal.discard(4)
        assert journal.first_seq == 5
        journal.discard(9)
        assert (journal.first_seq, journal.last_seq) == (0, 9)
    with opened(tmp_path) as journal:
        assert (journal.first_seq, journal.last_seq) == (0, 9)
        assert (journal.topics, journal.progress) == ({"alarm": 9, "change": 1}, {"top": Watermark("boot", 3)})
        journal.append(records(10, 10), {})
        assert (journal.first_seq, journal.last_seq) == (10, 10)


def test_the_size_is_that_of_the_pages_in_use(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        empty = journal.size_bytes
        journal.append([record(seq, size=10_000) for seq in range(1, 101)], {})
        full = journal.size_bytes
        assert 1_000_000 < full - empty < 1_400_000
        journal.discard(90)
        assert journal.size_bytes < full - 900_000


def test_a_journal_belongs_to_one_line(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(DeliveryError, match="in use by another running line"):
        Journal.open(tmp_path, LINE)
    with fails("foreign", match="is the journal of line line1, not of other; give each line its own"):
        Journal.open(tmp_path, "other")
    with opened(tmp_path):
        pass


# Reading.


TOPIC = st.sampled_from(["verdict.top.GOOD", "verdict.top", "alarm", "é.ü", "a"])
OPTIONS = {
    "topics": st.lists(st.sampled_from(["", "verdict.", "verdict.top.GOOD", "a", "al", "é", "x"]), max_size=3),
    "through_seq": st.none() | st.integers(0, 40),
    "at_most": st.integers(1, 8),
    "at_most_bytes": st.integers(1, 3000),
    "heatmaps": st.booleans(),
}


@given(st.lists(TOPIC, min_size=1, max_size=30), st.integers(0, 30), st.integers(0, 40), st.fixed_dictionaries(OPTIONS))
def test_a_page_equals_what_a_simple_reader_finds(
    tmp_path_factory: pytest.TempPathFactory, topics: list[str], deleted: int, after: int, options: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    stored = [record(seq, topic) for seq, topic in enumerate(topics, start=1)]
    with opened(folder, *stored) as journal:
        journal.discard(deleted)
    with JournalReader.open(folder) as reader:
        page = reader.read(after, **options)
    shutil.rmtree(folder)
    end = len(topics) if options["through_seq"] is None else min(options["through_seq"], len(topics))
    matching = [
        each if options["heatmaps"] else each._replace(heatmap=None)
        for each in stored[deleted:]
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


def test_a_filter_without_matches_is_read_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatline.edge.delivery.reader.SCANNED_AT_MOST", 10)
    with opened(tmp_path, *records(1, 25)), JournalReader.open(tmp_path) as reader:
        steps = [reader.read(after, topics=["change"]) for after in (0, 10, 20)]
    assert [(step.records, step.through_seq) for step in steps] == [([], 10), ([], 20), ([], 25)]


def test_readers_read_while_the_journal_is_written(tmp_path: Path) -> None:
    stop, seen, wrong = threading.Event(), threading.Semaphore(0), []

    def read() -> None:
        with JournalReader.open(tmp_path) as reader:
            after = 0
            while not (stop.is_set() and after == reader.range()[1]):
                page = reader.read(after, heatmaps=True, at_most=7)
                if page.records != records(after + 1, page.through_seq):
                    wrong.append(page)
                after = page.through_seq
                seen.release()

    with opened(tmp_path, *records(1, 5)) as journal:
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for first in range(6, 200, 5):
            journal.append(records(first, first + 4), {})
            assert seen.acquire(timeout=WITHIN_SECONDS)
        stop.set()
        for thread in threads:
            thread.join(WITHIN_SECONDS)
            assert not thread.is_alive()
    assert wrong == []


def test_a_reader_notices_that_its_journal_was_replaced(tmp_path: Path) -> None:
    with opened(tmp_path, *records(1, 5)) as journal, JournalReader.open(tmp_path) as reader:
        move_aside(journal.path)
        with fails("replaced"):
            reader.read(0)


# Disks that are full, read-only, or fail.


def append_until_full(journal: Journal) -> str:
    """Append until the journal is full; return the reason."""
    while True:
        try:
            journal.append(records(journal.last_seq + 1, journal.last_seq + 5), {})
        except JournalError as error:
            if error.kind != "full":
                raise
            return str(error)


def test_a_full_disk_takes_whole_groups_or_nothing_and_stays_readable(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, opened(disk, *records(1, 5)) as journal:
        filler = fill(disk)
        assert "make room on its disk" in append_until_full(journal)
        last = journal.last_seq
        assert read_all(disk) == records(1, last)
        filler.unlink()
        journal.reload_state()
        assert journal.last_seq == last
        journal.append(records(last + 1, last + 5), {})


def test_a_read_only_or_full_disk_is_read_and_not_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with opened(disk, *records(1, 50)):
            pass
        make_read_only(disk)
        assert read_all(disk) == records(1, 50)
        for write_it in (lambda: Journal.open(disk, LINE), lambda: move_aside(disk / FILE_NAME)):
            with fails("failed"):
                write_it()
        make_writable(disk)
        fill(disk)
        for _ in range(2):  # the first attempt leaves files behind
            assert read_all(disk) == records(1, 50)
        with fails("full", match="no room"):
            Journal.open(disk, LINE)


def test_a_reader_without_a_writer_notices_a_new_writer(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with opened(disk, *records(1, 50)):
            pass
        filler = fill(disk)
        with JournalReader.open(disk) as reader:
            filler.unlink()
            with opened(disk, *records(51, 52)), fails("replaced"):
                reader.read(0)
        assert read_all(disk) == records(1, 52)


def test_a_failing_disk_is_not_reported_as_damage(tmp_path: Path) -> None:
    with failing_disk(tmp_path / "disk") as disk:
        with opened(disk, *records(1, 50)) as journal:
            fail(disk)
            with fails("failed"):
                journal.append(records(51, 52), {})
        with fails("failed"), opened(disk, *records(51, 52)):
            pass
        assert read_all(disk) == records(1, 50)


# Damage.


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Folder of a closed journal of several pages, which are all in its main file."""
    folder = tmp_path / "whole"
    with opened(folder, *records(1, 500)):
        pass
    assert sorted(os.listdir(folder)) == [FILE_NAME, "journal.lock"]
    return folder


def overwrite(folder: Path, at: int, length: int) -> None:
    with (folder / FILE_NAME).open("r+b") as file:
        file.seek(at)
        file.write(random.Random(1).randbytes(length))


STATEMENTS = (
    "DELETE FROM events WHERE seq > 490",
    "DELETE FROM journal",
    "DROP TABLE progress",
    "UPDATE topics SET last_seq = 499",
)
DAMAGES: dict[str, Callable[[Path], None]] = {
    **{f"cut at {n}": lambda folder, n=n: os.truncate(folder / FILE_NAME, n) for n in (50, 4096, 20_000)},
    "garbage in its head": lambda folder: overwrite(folder, 0, 100),
    "garbage in its first pages": lambda folder: overwrite(folder, 90, 100_000),
    **{statement: lambda folder, statement=statement: change(folder, statement) for statement in STATEMENTS},
}


def test_a_truncated_or_inconsistent_journal_is_damaged(tmp_path: Path, whole: Path) -> None:
    for number, (name, damage) in enumerate(DAMAGES.items()):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        damage(folder)
        with fails("damaged"):
            Journal.open(folder, LINE).close()
            pytest.fail(f"it was opened: {name}")


def test_damage_in_the_middle_is_found_when_it_is_read(tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "gap")
    change(tmp_path / "gap", "DELETE FROM events WHERE seq = 3")
    with JournalReader.open(tmp_path / "gap") as reader, fails("damaged", match="missing"):
        reader.read(0)
    overwrite(whole, (whole / FILE_NAME).stat().st_size // 2, 30_000)
    with fails("damaged"):
        read_all(whole)


def test_a_new_journal_ignores_the_log_of_a_deleted_one(tmp_path: Path) -> None:
    with opened(tmp_path / "it", *records(1, 5)):
        shutil.copytree(tmp_path / "it", tmp_path / "copy")
    folder = tmp_path / "copy"
    (folder / FILE_NAME).unlink()
    assert (folder / f"{FILE_NAME}-wal").stat().st_size
    with opened(folder, *records(1, 1)):
        pass
    assert read_all(folder) == records(1, 1)


def write(folder: Path, text: str) -> None:
    for end in SUFFIXES:
        (folder / f"{FILE_NAME}{end}").write_text(text)


def test_the_newest_damaged_journal_is_kept(tmp_path: Path) -> None:
    aside = tmp_path / f"{FILE_NAME}.damaged"
    for text in ("older", "newer"):
        write(tmp_path, text)
        assert move_aside(tmp_path / FILE_NAME) == aside
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"{aside.name}{end}": "newer" for end in SUFFIXES
    }
    (tmp_path / FILE_NAME).write_text("without side files")
    move_aside(tmp_path / FILE_NAME)
    assert list(tmp_path.iterdir()) == [aside]
