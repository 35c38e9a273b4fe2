"""Reviews that the page remembers, and the queue of frames that nobody has reviewed."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.monitor import queue, reviews
from heatline.edge.monitor.entry import EvidenceEntry
from heatline.edge.monitor.held_picture import PictureMemory
from heatline.edge.monitor.queue import ReviewQueue
from heatline.edge.monitor.review import combine
from heatline.edge.monitor.reviews import Reviews
from heatline.edge.monitor.store import EvidenceStore
from tests.edge.reviewed import marked, review_of
from tests.edge.test_view_api import stored
from tests.edge.view_pages import NS, Clock, page, picture

NAME = "01234567-top-1"

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["Anna", "Ben"]),
        st.sampled_from(["right", "false_alarm", "missed", "withdrawn"]),
        st.sampled_from([1, 2]),
    ),
    max_size=8,
)


@given(EVENTS, st.randoms(use_true_random=False))
def test_events_in_any_order_and_twice_make_the_reviews_of_the_journal(events: Any, order: Any) -> None:
    journal = [review_of(by, kind, number, seq) for seq, (by, kind, number) in enumerate(events, 1)]
    came = journal + journal[:2]
    order.shuffle(came)
    found = Reviews()
    for event in came:
        found.add(event)
    expected = combine(journal)
    for name in (NAME, "01234567-top-2"):
        state, review = found.of(name), expected.get(name)
        assert (state is None) == (review is None)
        if state is not None and review is not None:
            assert (state.kind, state.truth, state.by) == (review.kind, review.truth, review.reviewers)
            assert [mark.at_xy for mark in state.marks] == [mark.at_xy for mark in review.marks]


def test_stored_marks_count_unless_the_page_knows_newer_ones() -> None:
    found, former = Reviews(), combine([review_of("Anna"), review_of("Ben", "false_alarm")])[NAME]
    state = found.of(NAME, former)
    assert state is not None
    assert (state.by, state.kind, state.at_ns) == (["Anna", "Ben"], None, None)
    found.add(review_of("Anna", "withdrawn", seq=7))
    state = found.of(NAME, former)
    assert state is not None
    assert (state.by, state.kind) == (["Ben"], "false_alarm")
    found.add(review_of("Ben", "withdrawn", seq=8))
    assert found.of(NAME, former) is None


def test_marks_that_no_journal_holds_do_not_count_and_pictures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reviews, "MOST_PICTURES", 3)
    found = Reviews()
    found.add(review_of(journal_id=None))
    assert found.of(NAME) is None
    for number in range(1, 6):
        found.add(review_of(number=number, seq=number))
    assert [found.of(f"01234567-top-{number}") is not None for number in range(1, 6)] == [False] * 2 + [True] * 3
    monkeypatch.setattr(reviews, "MOST_REVIEWERS", 2)
    for seq, name in enumerate("abc", 9):
        found.add(review_of(by=name, number=5, seq=seq))
    review = found.of("01234567-top-5")
    assert review is not None
    assert review.by == ["b", "c"]


def test_a_reader_gets_each_changed_picture_once() -> None:
    found = Reviews()
    found.add(review_of(seq=1))
    start = found.news_after(0).cursor
    for number, seq in ((2, 2), (3, 3), (2, 4)):
        found.add(review_of(number=number, seq=seq))
    news = found.news_after(start)
    assert news.pictures == ["01234567-top-2", "01234567-top-3"]
    assert found.news_after(news.cursor).pictures == []


def at(seconds: int) -> Any:
    clock = Clock()
    clock.now_s += seconds
    return marked(1, clock=clock).times


class CountingStore(EvidenceStore):
    """A store that counts which entries are read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.was_read: list[str] = []

    def read(self, day: str, picture: str) -> EvidenceEntry | None:
        self.was_read.append(picture)
        return super().read(day, picture)


def store_of(folder: Path, *frames: tuple[int, str]) -> CountingStore:
    """A store of frames: number, which is also the day of capture and its second, and verdict."""
    for number, kind in frames:
        add(folder, number, kind)
    return CountingStore(folder)


def add(folder: Path, number: int, kind: str = "DEFECT", at_s: int | None = None) -> None:
    times = at(number * 86401 if at_s is None else at_s)
    what = {"kind": kind, "frame_number": number, "times": times, "picture": f"01234567-top-{number}"}
    stored(folder, np.zeros((48, 64, 3), np.uint8), **what)


def numbers(found: queue.Queue) -> list[int]:
    return [row.frame_number for row in found.rows]


def test_the_queue_has_the_newest_first_and_empties_and_reads_each_entry_once(tmp_path: Path) -> None:
    store = store_of(tmp_path, (1, "DEFECT"), (2, "GOOD"), (3, "NO_VERDICT"), (4, "DEFECT"))
    known = Reviews()
    waiting = ReviewQueue(known, PictureMemory(), store)
    found = waiting.unreviewed(50)
    assert (numbers(found), found.count, found.complete) == ([4, 2, 1], 3, True)
    assert [row.picture for row in found.rows] == ["evidence"] * 3
    assert (numbers(waiting.unreviewed(1)), waiting.unreviewed(1).count) == ([4], 3)
    known.add(review_of(number=4, seq=1))
    add(tmp_path, 5)
    assert numbers(waiting.unreviewed(50)) == [5, 2, 1]
    assert sorted(store.was_read) == [f"01234567-top-{number}" for number in (1, 2, 3, 4, 5)]
    (entry,) = tmp_path.glob("*/*-2.json")
    entry.unlink()
    for seq, number in enumerate((1, 5), 2):
        known.add(review_of(number=number, seq=seq))
    found = waiting.unreviewed(50)
    assert (numbers(found), found.count, found.complete) == ([], 0, True)
    known.add(review_of(number=1, kind="withdrawn", seq=9))
    assert numbers(waiting.unreviewed(50)) == [1]


def test_a_day_is_listed_again_only_if_its_folder_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, (1, "DEFECT"))
    (day,) = tmp_path.iterdir()
    os.utime(day, (1e9, 1e9))
    listed: list[Path] = []  # with the store itself, where Python 3.13 lists days by scandir
    scandir = os.scandir
    monkeypatch.setattr(queue.os, "scandir", lambda folder: (listed.append(Path(folder)), scandir(folder))[1])
    waiting = ReviewQueue(Reviews(), PictureMemory(), store)
    assert [numbers(waiting.unreviewed(50)) for _ in range(3)] == [[1]] * 3
    assert listed.count(day) == 1
    add(tmp_path, 2, at_s=86402)
    assert numbers(waiting.unreviewed(50)) == [2, 1]
    assert set(listed) <= {day, tmp_path}


def test_a_large_store_is_read_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "READ_AT_ONCE", 2)
    store = store_of(tmp_path, *((number, "DEFECT") for number in range(1, 6)))
    waiting = ReviewQueue(Reviews(), PictureMemory(), store)
    found = [waiting.unreviewed(50) for _ in range(3)]
    assert [(each.count, each.complete) for each in found] == [(2, False), (4, False), (5, True)]
    assert numbers(found[0]) == [5, 4]
    monkeypatch.setattr(queue, "MOST_QUEUED", 3)
    assert (waiting.unreviewed(50).count, waiting.unreviewed(50).complete) == (3, False)


def test_frames_that_cannot_be_shown_are_left_out_so_that_the_list_empties(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(tmp_path, *((number, "DEFECT") for number in (1, 2, 3)))
    (gone,), (cut,) = (tmp_path.glob(f"*/01234567-top-{number}.png") for number in (1, 2))
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-20])
    waiting = ReviewQueue(Reviews(), PictureMemory(), store)
    assert numbers(waiting.unreviewed(50)) == [3]
    assert caplog.text.count("its frame is missing or not whole") == 2


def test_without_a_store_the_defects_in_memory_can_be_reviewed(tmp_path: Path) -> None:
    held, known = PictureMemory(), Reviews()
    for number, kind in ((1, "DEFECT"), (2, "GOOD"), (3, "DEFECT")):
        held.add(picture(marked(number, kind, times=at(number))))
    waiting = ReviewQueue(known, held, None)
    assert numbers(waiting.unreviewed(50)) == [3, 1]
    known.add(review_of(number=3))
    assert numbers(waiting.unreviewed(50)) == [1]


def test_the_queue_is_served_and_a_store_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    store = store_of(tmp_path / "evidence", (1, "DEFECT"))
    with page(store=store) as served:
        answer = served.get("/api/review?limit=5").json
        assert (answer["count"], answer["complete"], answer["rows"][0]["id"]) == (1, True, NAME)
        assert answer["rows"][0]["at_ns"] == at(86401).captured_at_ns
        assert answer["rows"][0]["at_ns"] % NS == 0
        assert served.get("/api/review?limit=0").status == 400
    (tmp_path / "file").write_bytes(b"")
    with page(store=EvidenceStore(tmp_path / "file")) as served:
        assert "cannot be read" in served.get("/api/review").json["error"]
