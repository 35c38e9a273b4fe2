"""People's marks are stored beside their pictures, and their pictures are deleted last."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.delivery.journal import FILE_NAME, database_files
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.errors import InputError
from heatline.edge.monitor.marks import Review, combine
from heatline.edge.monitor.recorder import EvidenceWriter, room_of
from heatline.edge.monitor.store import INDEX, JUDGED, EvidenceStore
from heatline.edge.wire.events import MarkKind, Message, ReviewEvent
from tests.edge.evidences import ALL, DAY_NS, NOON_NS, Clock, frame, mark, names, picture, room, store, writer
from tests.edge.journals import all_records, change, good, make_writer

DAY, NAME = "2026-11-28", "b007b007-top-1"


def reviews(folder: Path) -> dict[str, str | None]:
    """The kind of each reviewed picture's review."""
    by_picture = {entry.picture: entry.review for entry in EvidenceStore(folder).entries()}
    return {name: review.kind for name, review in by_picture.items() if review is not None}


def review_of_one(folder: Path) -> Review | None:
    entry = EvidenceStore(folder).find(NAME, DAY)
    assert entry is not None
    return entry.review


def marks_in(folder: Path) -> int:
    """The number of marks in a store's index."""
    with contextlib.closing(sqlite3.connect(folder / INDEX)) as index:
        return int(index.execute("SELECT count(*) FROM marks").fetchone()[0])


def add(into: EvidenceWriter, *events: ReviewEvent) -> None:
    """Copy marks as of one journal."""
    into.add_marks(events, "j1", max((event.seq for event in events), default=0))


def test_marks_are_stored_in_order_and_once(tmp_path: Path) -> None:
    one = picture(1)
    events = [mark(one, "right", "Ada", 4), mark(one, "false_alarm", "Bob", 7), mark(one, "false_alarm", "Ada", 9)]
    with writer(tmp_path) as into:
        into.write(one)
        add(into, *events[:2])
        add(into, events[2], *events)  # read again
    assert review_of_one(tmp_path) == combine(events)[NAME]
    assert marks_in(tmp_path) == 3


def test_marks_that_come_before_their_picture_wait_for_it(tmp_path: Path) -> None:
    one, other = picture(1), picture(1, at_ns=NOON_NS + DAY_NS)
    with writer(tmp_path) as into:
        add(into, mark(one, "false_alarm"))
        into.write(other)
        assert reviews(tmp_path) == {}, "it is of another day"
        into.write(one)
    assert [entry.day for entry in EvidenceStore(tmp_path).entries(is_reviewed=True)] == [DAY]


def test_marks_of_pictures_that_never_come_are_deleted_for_their_age(tmp_path: Path) -> None:
    clock = Clock()
    with writer(tmp_path, replace(ALL, keep_s=86400.0), clock) as into:
        add(into, mark(picture(1)))
        into.tidy()
        assert marks_in(tmp_path) == 1
        clock.pass_(2 * 86400)
        into.tidy()
    assert marks_in(tmp_path) == 0


def test_a_withdrawn_mark_leaves_a_picture_that_nobody_has_reviewed(tmp_path: Path) -> None:
    one = picture(1)
    found = EvidenceStore(tmp_path)
    with writer(tmp_path) as into:
        into.write(one)
        add(into, mark(one, "right", "Ada", 1), mark(one, "right", "Bob", 2))
        add(into, mark(one, "withdrawn", "Ada", 3))
        review = review_of_one(tmp_path)
        assert review is not None
        assert review.by == ["Bob"]
        assert found.unreviewed(9) == ([], 0)
        add(into, mark(one, "withdrawn", "Bob", 4))
        assert reviews(tmp_path) == {}
    assert [entry.picture for entry in found.entries(is_reviewed=False)] == [NAME]
    assert found.unreviewed(9)[1] == 1


EVENTS = st.lists(
    st.tuples(st.sampled_from(["Ada", "Bob"]), st.sampled_from(["right", "false_alarm", "missed", "withdrawn"])),
    max_size=8,
)


@given(EVENTS, st.lists(st.integers(0, 8), max_size=4), st.integers(0, 8))
def test_however_events_are_read_the_last_marks_count(
    tmp_path_factory: pytest.TempPathFactory, marks: list[tuple[str, str]], cuts: list[int], again_from: int
) -> None:
    folder, one = tmp_path_factory.mktemp("evidence"), picture(1, image=frame(1, (8, 8)))
    events = [mark(one, kind, by, seq) for seq, (by, kind) in enumerate(marks, 1)]  # type: ignore[arg-type]
    with writer(folder) as into:
        into.write(one)
        for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(events)], strict=True):
            add(into, *events[begin:end])
    with writer(folder) as into:  # the recorder starts again, and the journal has deleted its oldest events
        add(into, *events[again_from:])
    found, review = EvidenceStore(folder), combine(events).get(NAME)
    assert review_of_one(folder) == review
    assert len(list(found.entries(is_reviewed=True))) == (review is not None)


def test_a_deleted_picture_leaves_no_marks(tmp_path: Path) -> None:
    one, two = picture(1), picture(2, at_ns=NOON_NS + 1)
    with writer(tmp_path) as into:
        for each in (one, two):
            into.write(each)
        add(into, mark(one, seq=1), mark(two, seq=2))
    with writer(tmp_path, replace(ALL, keep_bytes=room(tmp_path) - 1)) as into:
        into.tidy()
        assert names(tmp_path) == [f"{DAY}/b007b007-top-2{end}" for end in (".heatmap.png", ".png")]
        assert reviews(tmp_path) == {"b007b007-top-2": "right"}
    assert marks_in(tmp_path) == 1


# What nobody has reviewed.


def test_the_newest_unreviewed_verdicts_are_found(tmp_path: Path) -> None:
    pictures = [
        picture(1, "GOOD"),
        picture(2, "DEFECT", at_ns=NOON_NS + 1),
        picture(3, "NO_VERDICT", at_ns=NOON_NS + 2),
        picture(4, "DEFECT", camera="side", at_ns=NOON_NS + DAY_NS),
        picture(5, "DEFECT", at_ns=NOON_NS + 3),
    ]
    found = store(tmp_path, *pictures)
    with writer(tmp_path) as into:
        add(into, mark(pictures[4]))

    def numbers(limit: int = 9, verdicts: Sequence[str] = JUDGED, **filters: object) -> list[int]:
        entries = found.entries(limit=limit, verdicts=verdicts, is_reviewed=False, **filters)  # type: ignore[arg-type]
        return [entry.event.frame_number for entry in entries]

    assert numbers() == [4, 2, 1]
    assert numbers(2) == [4, 2]
    assert numbers(0) == []
    assert numbers(verdicts=("GOOD",)) == [1]
    assert numbers(verdicts=()) == []
    assert numbers(camera="top") == [2, 1]
    entries, count = found.unreviewed(2)
    assert ([entry.event.frame_number for entry in entries], count) == ([4, 2], 3)
    entries, count = found.unreviewed(9, {"b007b007-top-2": True, "b007b007-top-5": False, "other": True})
    assert ([entry.event.frame_number for entry in entries], count) == ([4, 5, 1], 3)


# Retention.

STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "mark", "withdraw", "wait"]), st.integers(0, 30)), max_size=16
)


def test_age_deletes_no_reviewed_picture(tmp_path: Path) -> None:
    clock = Clock()
    with writer(tmp_path, replace(ALL, keep_s=86400.0), clock) as into:
        for number in (1, 2, 3):
            into.write(picture(number, at_ns=NOON_NS + number))
        add(into, mark(picture(2, at_ns=NOON_NS + 2)))
        clock.pass_(40 * 86400)
        into.tidy()
    assert [entry.event.frame_number for entry in EvidenceStore(tmp_path).entries()] == [2]


@given(STEPS, st.integers(16, 80), st.integers(1, 3))
def test_reviewed_pictures_are_deleted_last_and_never_for_their_age(
    tmp_path_factory: pytest.TempPathFactory, steps: Sequence[tuple[str, int]], keep_kib: int, keep_days: int
) -> None:
    folder, clock = tmp_path_factory.mktemp("evidence"), Clock()
    limits = replace(ALL, keep_bytes=keep_kib << 10, keep_s=keep_days * 86400.0)
    model: dict[str, tuple[int, int, bool]] = {}
    """Of each picture that must be there: time of capture, room, whether it is reviewed."""
    pictures = {}

    def expect(size_bytes: int) -> None:
        """Delete what the limits forbid, the slow way."""
        for name in [name for name, (at_ns, _, reviewed) in model.items() if not reviewed]:
            if model[name][0] < clock.wall_ns - keep_days * DAY_NS:
                del model[name]
        while sum(size for _, size, _ in model.values()) + size_bytes > limits.keep_bytes:
            del model[min(model, key=lambda name: (model[name][2], model[name][0]))]

    with writer(folder, limits, clock) as into:
        for number, (step, value) in enumerate(steps, 1):
            clock.pass_(1)
            chosen = sorted(model)[value % len(model)] if model else None
            if step == "write":
                side = 8 + 4 * value
                one = picture(number, at_ns=clock.wall_ns, image=frame(number, (side, side)))
                name = str(one.event.picture)
                pictures[name] = one
                with contextlib.suppress(InputError):
                    into.write(one)
                    size = sum(room_of(file.stat().st_size) for file in folder.glob(f"*/{name}.*"))
                    expect(size)
                    model[name] = one.event.times.captured_at_ns, size, False
            elif step == "wait":
                clock.pass_(value * 7200)
            elif chosen is not None:
                at_ns, size, _ = model[chosen]
                add(into, mark(pictures[chosen], "right" if step == "mark" else "withdrawn", seq=number))
                model[chosen] = at_ns, size, step == "mark"
            clock.pass_(601)
            into.tidy()
            expect(0)
            assert {entry.picture for entry in EvidenceStore(folder).entries()} == set(model)
            assert into.state().size_bytes == room(folder) == sum(size for _, size, _ in model.values())
            assert into.state().oldest_at_ns == min((at_ns for at_ns, _, _ in model.values()), default=None)
    with writer(folder, limits, clock) as again:
        assert again.state().stored == len(model)


# The journal.


def marked(number: int, kind: MarkKind = "right") -> Message:
    """A mark as a line publishes it, not yet numbered."""
    return Message(msgspec.structs.replace(mark(picture(number), kind, seq=0), journal_id=None))


@contextlib.contextmanager
def reading(folder: Path) -> Iterator["Reading"]:
    with writer(folder / "evidence") as into:
        for number in range(1, 10):
            into.write(picture(number, image=frame(number, (8, 8))))
        yield Reading(folder, into)


class Reading:
    """A store that copies the marks of a journal."""

    def __init__(self, folder: Path, into: EvidenceWriter) -> None:
        self.folder, self.into = folder, into

    def read(self) -> list[int]:
        """Read the journal; return the numbers of all frames with a mark."""
        with JournalReader.open(self.folder) as journal:
            self.into.read_marks(journal)
        return sorted(int(name.rpartition("-")[2]) for name in reviews(self.folder / "evidence"))


def test_marks_are_read_once_from_a_journal_that_is_written_meanwhile(tmp_path: Path) -> None:
    with reading(tmp_path) as marks:
        with contextlib.closing(make_writer(tmp_path)) as journal:
            sent = journal.commit([good(), marked(1), good(), marked(2), good()])
            assert marks.read() == [1, 2]
            times = [each.event.at_ns for each in sent if isinstance(each.event, ReviewEvent)]
            assert review_of_one(tmp_path / "evidence").at_ns in times  # type: ignore[union-attr]
            assert marks.read() == [1, 2]
            journal.commit([good(), marked(3)])
            assert marks.read() == [1, 2, 3]
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([marked(4)])
            assert marks.read() == [1, 2, 3, 4]


def test_another_journal_is_read_from_its_beginning_and_the_marks_of_the_former_stay(tmp_path: Path) -> None:
    with reading(tmp_path) as marks:
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([good(), good(), marked(1)])
            assert marks.read() == [1]
        for file in database_files(tmp_path / FILE_NAME):
            file.unlink(missing_ok=True)
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([marked(2)])
            assert marks.read() == [1, 2]


def test_a_damaged_mark_is_left_out_and_those_around_it_are_read(tmp_path: Path) -> None:
    with contextlib.closing(make_writer(tmp_path)) as journal:
        journal.commit([marked(1), good(), marked(2), good(), marked(3)])
    change(tmp_path, "UPDATE events SET header = x'00' WHERE topic = 'review' AND seq = 4")
    with reading(tmp_path) as marks:
        assert marks.read() == [1, 3]


def test_a_mark_of_another_schema_version_is_left_out(tmp_path: Path) -> None:
    with contextlib.closing(make_writer(tmp_path)) as journal:
        journal.commit([marked(1), marked(2)])
    with JournalReader.open(tmp_path) as reader:
        first = next(one for one in all_records(reader) if one.topic == "review")
    other = first._replace(header=first.header.replace(b'"schema_version":2', b'"schema_version":9'))
    change(tmp_path, "UPDATE events SET header = ? WHERE seq = ?", other.header, other.seq)
    with reading(tmp_path) as marks:
        assert marks.read() == [2]
