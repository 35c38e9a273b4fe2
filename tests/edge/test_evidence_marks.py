"""People's marks are stored beside their pictures, and their pictures are deleted last."""

import contextlib
import errno
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.delivery.journal.file import FILE_NAME, database_files
from heatline.edge.delivery.journal.reader import JournalReader
from heatline.edge.delivery.journal.rows import header_crc
from heatline.edge.monitor import review_file, stored_marks
from heatline.edge.monitor.journal_marks import JournalMarks
from heatline.edge.monitor.retention import NoRoomError
from heatline.edge.monitor.review import combine
from heatline.edge.monitor.store import EvidenceStore, room_of
from heatline.edge.wire.events import Message, ReviewEvent
from heatline.edge.wire.marks import MarkKind
from tests.edge.evidences import ALL, DAY_NS, NOON_NS, Clock, frame, mark, names, picture, room, store, writer
from tests.edge.journals import all_records, change, good, make_writer

TOP = "2026-11-28/b007b007-top-{}"


def reviews(folder: Path) -> dict[str, str | None]:
    """The kind of each reviewed picture's review."""
    found = EvidenceStore(folder)
    by_picture = {entry.picture: found.review(entry.picture, entry.day) for entry in found.entries()}
    return {name: review.kind for name, review in by_picture.items() if review is not None}


def test_marks_are_stored_beside_their_picture_in_order_and_once(tmp_path: Path) -> None:
    one = picture(1)
    events = [mark(one, "right", "Ada", 4), mark(one, "false_alarm", "Bob", 7), mark(one, "false_alarm", "Ada", 9)]
    with writer(tmp_path) as into:
        into.write(one)
        into.marks.add(events[:2])
        into.marks.add([events[2], *events])  # read again
        assert into.retention.size_bytes == room(tmp_path)
    stored = review_file.decode_reviews((tmp_path / (TOP.format(1) + ".review.json")).read_bytes())
    assert stored == events
    found = EvidenceStore(tmp_path)
    assert (
        found.review("b007b007-top-1")
        == found.review("b007b007-top-1", "2026-11-28")
        == combine(events)["b007b007-top-1"]
    )
    assert found.review("b007b007-top-2") is None
    assert found.review("b007b007-top-1", "2026-11-29") is None
    assert found.review("../secret") is None


def test_marks_that_come_before_their_picture_wait_for_it(tmp_path: Path) -> None:
    one, other = picture(1), picture(1, at_ns=NOON_NS + DAY_NS)
    with writer(tmp_path) as into:
        into.marks.add([mark(one, "false_alarm")])
        into.write(other)
        assert reviews(tmp_path) == {}, "it is of another day"
        into.write(one)
        assert EvidenceStore(tmp_path).review("b007b007-top-1", "2026-11-28") is not None
        assert into.retention.size_bytes == room(tmp_path)


def test_marks_of_pictures_that_never_come_take_a_bounded_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_marks, "MOST_WAITING", 3)
    pictures = [picture(number) for number in range(6)]
    with writer(tmp_path) as into:
        for number, one in enumerate(pictures):
            into.marks.add([mark(one, seq=number + 1)])
        for one in pictures:
            into.write(one)
    assert sorted(reviews(tmp_path)) == [f"b007b007-top-{number}" for number in (3, 4, 5)]


def test_a_withdrawn_mark_leaves_a_picture_that_nobody_has_reviewed(tmp_path: Path) -> None:
    one = picture(1)
    with writer(tmp_path) as into:
        into.write(one)
        into.marks.add([mark(one, "right", "Ada", 1), mark(one, "right", "Bob", 2)])
        into.marks.add([mark(one, "withdrawn", "Ada", 3)])
        review = EvidenceStore(tmp_path).review("b007b007-top-1")
        assert review is not None
        assert review.reviewers == ["Bob"]
        into.marks.add([mark(one, "withdrawn", "Bob", 4)])
        assert reviews(tmp_path) == {}
        assert len(names(tmp_path)) == 3
        assert into.retention.size_bytes == room(tmp_path)
        assert [entry.picture for entry in EvidenceStore(tmp_path).unreviewed(9)] == ["b007b007-top-1"]


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
            into.marks.add(events[begin:end])
    with writer(folder) as into:  # the recorder starts again, and the journal has deleted its oldest events
        into.marks.add(events[again_from:])
        assert into.retention.size_bytes == room(folder)
    assert EvidenceStore(folder).review("b007b007-top-1") == combine(events).get("b007b007-top-1")


def test_of_very_many_marks_the_newest_are_stored_and_no_reviewer_displaces_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(review_file, "MOST_EVENTS", 3)
    events = [mark(picture(1), by=f"reviewer {seq}", seq=seq) for seq in range(1, 6)]
    assert review_file.merge_reviews(events[:4], events[3:]) == events[2:]
    many = [events[0], *(mark(picture(1), seq=seq) for seq in range(2, 7))]
    assert review_file.merge_reviews(many[:3], many[3:]) == [many[0], many[-1]]
    former = [mark(picture(1), seq=9, journal="j0")]
    assert review_file.merge_reviews(former, events[:1]) == [*former, *events[:1]], "a former journal comes first"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it holds no marks of a picture"),
        (b"\xff\xfe", "it holds no marks of a picture"),
        (b'{"schema_version": 9, "events": []}', "it has schema version 9, this heatline knows version 1"),
        (b'{"schema_version": 1, "events": [{"type": "alarm"}]}', "it holds no marks of a picture"),
        (bytes(review_file.LARGEST_BYTES + 1), "it cannot be read (it is larger than 4,194,304 bytes)"),
    ],
)
def test_damaged_marks_are_no_review_and_are_written_again_from_the_journal(
    tmp_path: Path, data: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = picture(1)
    found = store(tmp_path, one)
    path = tmp_path / (TOP.format(1) + ".review.json")
    path.write_bytes(data)
    assert found.review("b007b007-top-1") is None
    assert f"b007b007-top-1.review.json is left out: {reason}" in caplog.text
    if len(data) > review_file.LARGEST_BYTES:
        return
    with writer(tmp_path) as into:
        into.marks.add([mark(one)])
    assert reviews(tmp_path) == {"b007b007-top-1": "right"}


def test_marks_that_cannot_be_written_keep_no_others_and_are_written_later(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = tmp_path / "evidence"
    one, two = picture(1), picture(2)
    with writer(folder) as into:
        into.write(one)
        into.write(two)
        link = folder / (TOP.format(1) + ".review.json")
        link.symlink_to(secret)
        into.marks.add([mark(one, seq=1), mark(two, seq=2)])
        assert reviews(folder) == {"b007b007-top-2": "right"}
        link.unlink()
        into.marks.add([])
        assert reviews(folder) == {"b007b007-top-1": "right", "b007b007-top-2": "right"}
    assert secret.read_text() == "secret"


def test_an_entry_that_the_disk_cannot_find_keeps_no_other_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = picture(1), picture(2)
    exists = Path.exists

    def failing(path: Path) -> bool:
        if path.name == "b007b007-top-1.json":
            raise OSError(errno.EIO, "Input/output error")
        return exists(path)

    with writer(tmp_path) as into:
        into.write(one)
        into.write(two)
        with monkeypatch.context() as broken:
            broken.setattr(Path, "exists", failing)
            into.marks.add([mark(one, seq=1), mark(two, seq=2)])
        assert reviews(tmp_path) == {"b007b007-top-2": "right"}
        into.marks.add([])
        assert reviews(tmp_path) == {"b007b007-top-1": "right", "b007b007-top-2": "right"}


def test_a_deleted_entry_leaves_no_marks_and_orphans_are_swept(tmp_path: Path) -> None:
    one, two = picture(1), picture(2, at_ns=NOON_NS + 1)
    with writer(tmp_path) as into:
        for each in (one, two):
            into.write(each)
            into.marks.add([mark(each)])
    (tmp_path / (TOP.format(1) + ".json")).unlink()
    half = tmp_path / (TOP.format(2) + ".review.json.new")
    half.write_text("half")
    with writer(tmp_path) as into:
        assert names(tmp_path) == [TOP.format(2) + end for end in (".heatmap.png", ".json", ".png", ".review.json")]
        into.retention.make_room(ALL.keep_bytes, None)
    assert [path.name for path in tmp_path.iterdir()] == ["evidence.lock"]


# What nobody has reviewed.


def test_the_newest_unreviewed_verdicts_are_found_without_reading_the_reviewed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = [
        picture(1, "GOOD"),
        picture(2, "DEFECT", at_ns=NOON_NS + 1),
        picture(3, "NO_VERDICT", at_ns=NOON_NS + 2),
        picture(4, "DEFECT", camera="side", at_ns=NOON_NS + DAY_NS),
        picture(5, "DEFECT", at_ns=NOON_NS + 3),
    ]
    found = store(tmp_path, *pictures)
    with writer(tmp_path) as into:
        into.marks.add([mark(pictures[4])])
    (tmp_path / (TOP.format(5) + ".json")).write_text("not read")
    (tmp_path / (TOP.format(5) + ".review.json")).write_text("not read")

    def numbers(limit: int = 9, **filters: object) -> list[int]:
        return [entry.event.frame_number for entry in found.unreviewed(limit, **filters)]  # type: ignore[arg-type]

    assert numbers() == [4, 2, 1]
    assert numbers(2) == [4, 2]
    assert numbers(0) == []
    assert numbers(verdicts=("GOOD",)) == [1]
    assert numbers(verdicts=("NO_VERDICT",)) == []
    assert numbers(camera="top") == [2, 1]
    assert caplog.text == ""


# Retention.

STEPS = st.lists(
    st.tuples(st.sampled_from(["write", "write", "mark", "withdraw", "wait"]), st.integers(0, 30)), max_size=16
)


def test_age_deletes_no_reviewed_picture(tmp_path: Path) -> None:
    clock = Clock()
    with writer(tmp_path, replace(ALL, keep_s=86400.0), clock) as into:
        for number in (1, 2, 3):
            into.write(picture(number, at_ns=NOON_NS + number))
        into.marks.add([mark(picture(2, at_ns=NOON_NS + 2))])
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
        clock.pass_(3600)  # the clock is trusted after a while
        for number, (step, value) in enumerate(steps, 1):
            clock.pass_(1)
            chosen = sorted(model)[value % len(model)] if model else None
            if step == "write":
                side = 8 + 4 * value
                one = picture(number, at_ns=clock.wall_ns, image=frame(number, (side, side)))
                name = str(one.event.picture)
                pictures[name] = one
                with contextlib.suppress(NoRoomError):
                    into.write(one)
                    size = sum(room_of(file.stat().st_size) for file in folder.glob(f"*/{name}.*"))
                    expect(size)
                    model[name] = one.event.times.captured_at_ns, size, False
            elif step == "wait":
                clock.pass_(value * 7200)
            elif chosen is not None:
                at_ns, size, _ = model[chosen]
                kind = "right" if step == "mark" else "withdrawn"
                into.marks.add([mark(pictures[chosen], kind, seq=number)])  # type: ignore[arg-type]
                after = step == "mark"
                file = next(folder.glob(f"*/{chosen}.review.json"), None)
                assert (file is not None) == after
                frame_size = sum(room_of(each.stat().st_size) for each in folder.glob(f"*/{chosen}.*") if each != file)
                model[chosen] = at_ns, frame_size + (room_of(file.stat().st_size) if file else 0), after
            clock.pass_(601)
            into.tidy()
            expect(0)
            assert {entry.picture for entry in EvidenceStore(folder).entries()} == set(model)
            assert into.retention.size_bytes == room(folder) == sum(size for _, size, _ in model.values())
            assert into.retention.oldest_at_ns == min((at_ns for at_ns, _, _ in model.values()), default=None)
    with writer(folder, limits, clock) as again:
        assert again.retention.entries == len(model)


# The journal.


def marked(number: int, kind: MarkKind = "right") -> Message:
    """A mark as a line publishes it, not yet numbered."""
    return Message(msgspec.structs.replace(mark(picture(number), kind, seq=0), journal_id=None))


def numbers_of(events: list[ReviewEvent]) -> list[int]:
    """The frame's number of each mark."""
    return [int(event.mark.picture.rpartition("-")[2]) for event in events]


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[JournalMarks]:
    with contextlib.closing(JournalMarks(folder)) as marks:
        yield marks


def test_marks_are_read_once_from_a_journal_that_is_written_meanwhile(tmp_path: Path) -> None:
    with reading(tmp_path) as marks:
        assert marks.read() == [], "there is no journal yet"
        with contextlib.closing(make_writer(tmp_path)) as journal:
            sent = journal.commit([good(), marked(1), good(), marked(2), good()])
            first = marks.read()
            assert numbers_of(first) == [1, 2]
            assert [event.seq for event in first] == [m.event.seq for m in sent if isinstance(m.event, ReviewEvent)]
            with JournalReader.open(tmp_path) as reader:
                assert {event.journal_id for event in first} == {reader.journal_id}
            assert (marks.read(), marks.more) == ([], False)
            journal.commit([good(), marked(3)])
            assert numbers_of(marks.read()) == [3]
        assert marks.read() == [], "the line has ended"
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([marked(4)])
            assert numbers_of(marks.read()) == [4]


def test_a_long_journal_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatline.edge.delivery.journal.reader.SCANNED_AT_MOST", 4)
    with contextlib.closing(make_writer(tmp_path)) as journal, reading(tmp_path) as marks:
        journal.commit([*(marked(number) for number in range(1, 9)), *(good() for _ in range(9)), marked(9)])
        parts = [numbers_of(marks.read())]
        while marks.more:
            parts.append(numbers_of(marks.read()))
    assert [number for part in parts for number in part] == [*range(1, 10)]
    assert len(parts) > 3


def test_another_journal_is_read_from_its_beginning(tmp_path: Path) -> None:
    with reading(tmp_path) as marks:
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([good(), good(), marked(1)])
            assert numbers_of(marks.read()) == [1]
        for file in database_files(tmp_path / FILE_NAME):
            file.unlink(missing_ok=True)
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([marked(2)])
            assert marks.read() == [], "it notices that the file was replaced"
            assert numbers_of(marks.read()) == [2]


def test_a_damaged_mark_is_left_out_and_those_around_it_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(make_writer(tmp_path)) as journal:
        journal.commit([marked(1), good(), marked(2), good(), marked(3)])
    change(tmp_path, "UPDATE events SET header = x'00' WHERE topic = 'review' AND seq = 4")
    with reading(tmp_path) as marks:
        found = marks.read()
        while marks.more:
            found += marks.read()
    assert numbers_of(found) == [1, 3]
    assert "a mark is left out" in caplog.text


@pytest.mark.parametrize("data", [b"", b"no journal", bytes(8192)])
def test_what_is_no_journal_is_logged_once_and_read_once_it_is_one(
    tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE_NAME).write_bytes(data)
    with reading(tmp_path) as marks:
        for _ in range(3):
            assert (marks.read(), marks.more) == ([], False)
        assert caplog.text.count("marks of people are not read") == 1
        (tmp_path / FILE_NAME).unlink()
        with contextlib.closing(make_writer(tmp_path)) as journal:
            journal.commit([marked(1)])
            assert numbers_of(marks.read()) == [1]


def test_a_mark_of_another_schema_version_is_left_out(tmp_path: Path) -> None:
    with contextlib.closing(make_writer(tmp_path)) as journal:
        journal.commit([marked(1), marked(2)])
    with JournalReader.open(tmp_path) as reader:
        first = next(one for one in all_records(reader) if one.topic == "review")
    other = first._replace(header=first.header.replace(b'"schema_version":2', b'"schema_version":9'))
    change(
        tmp_path,
        "UPDATE events SET header = ?, header_crc = ? WHERE seq = ?",
        *(other.header, header_crc(other), other.seq),
    )
    with reading(tmp_path) as marks:
        assert numbers_of(marks.read()) == [2]
