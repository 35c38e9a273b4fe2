"""Reviews that the page remembers, and the queue of frames that nobody has reviewed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.monitor import memory
from heatline.edge.monitor.marks import combine
from heatline.edge.monitor.memory import Memory
from heatline.edge.monitor.store import EvidenceStore
from tests.edge.evidences import writer
from tests.edge.reviewed import marked, review_of
from tests.edge.test_view_api import stored
from tests.edge.view_pages import Clock, Page, page, picture

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
    found = Memory()
    for event in came:
        found.add_review(event)
    expected = combine(journal)
    for name in (NAME, "01234567-top-2"):
        state, review = found.review_of(name), expected.get(name)
        assert (state is None) == (review is None)
        if state is not None and review is not None:
            assert state == review


def test_stored_reviews_count_until_a_mark_comes() -> None:
    found, former = Memory(), combine([review_of("Anna", seq=1), review_of("Ben", "false_alarm", seq=2)])[NAME]
    assert found.review_of(NAME, former) == former
    found.add_review(review_of("Anna", seq=7))
    state = found.review_of(NAME, former)
    assert state is not None
    assert (state.by, state.kind) == (["Anna"], "right")
    found.add_review(review_of("Anna", "withdrawn", seq=8))
    assert found.review_of(NAME, former) is None


def test_marks_that_no_journal_holds_do_not_count_and_pictures_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_PICTURES", 3)
    found = Memory()
    found.add_review(review_of(journal_id=None))
    assert found.review_of(NAME) is None
    for number in range(1, 6):
        found.add_review(review_of(number=number, seq=number))
    names = [f"01234567-top-{number}" for number in range(1, 6)]
    assert [name for name in names if found.review_of(name) is not None] == names[2:]
    assert {name for name, reviewed in found.marked().items() if reviewed} == {*names[2:]}


def at(seconds: int) -> Any:
    clock = Clock()
    clock.now_s += seconds
    return marked(1, clock=clock).times


def add(folder: Path, number: int, kind: str = "DEFECT") -> None:
    """Store a frame: its number is also the day of its capture, and the second."""
    what = {"kind": kind, "frame_number": number, "times": at(number * 86401), "picture": f"01234567-top-{number}"}
    stored(folder, np.zeros((48, 64, 3), np.uint8), **what)


def queued(served: Page, limit: int = 50) -> tuple[list[int], int]:
    """The frames to review that a page answers with, and the number of all."""
    answer = served.get(f"/api/review?limit={limit}").json
    return [row["frame_number"] for row in answer["rows"]], answer["count"]


def test_the_queue_has_the_newest_first_and_empties(tmp_path: Path) -> None:
    for number, kind in ((1, "DEFECT"), (2, "GOOD"), (3, "NO_VERDICT"), (4, "DEFECT")):
        add(tmp_path, number, kind)
    known = Memory()
    with page(known, store=EvidenceStore(tmp_path)) as served:
        assert queued(served) == ([4, 2, 1], 3)
        assert served.get("/api/review").json["rows"][0]["picture"] == "01234567-top-4"
        assert queued(served, 1) == ([4], 3)
        known.add_review(review_of(number=4, seq=1))
        add(tmp_path, 5)
        assert queued(served) == ([5, 2, 1], 3)
        with writer(tmp_path) as into:  # the recorder reads the mark in the journal
            into.add_marks([review_of(number=4, seq=1)], "journal-1", 1)
        assert queued(served) == ([5, 2, 1], 3)
        (gone,) = tmp_path.glob("*/*-2.png")
        gone.unlink()
        assert queued(served)[0] == [5, 1], "a frame that cannot be shown"
        for seq, number in enumerate((1, 2, 5), 2):
            known.add_review(review_of(number=number, seq=seq))
        assert queued(served) == ([], 0)
        for number in (1, 4):  # the recorder has read a mark of one of them
            known.add_review(review_of(number=number, kind="withdrawn", seq=9 + number))
        assert queued(served) == ([4, 1], 2)
        assert served.get("/api/review?limit=0").status == 400


def test_without_a_store_the_defects_in_memory_can_be_reviewed() -> None:
    known = Memory()
    for number, kind in ((1, "DEFECT"), (2, "GOOD"), (3, "DEFECT")):
        known.add_picture(picture(marked(number, kind, times=at(number))))
    with page(known) as served:
        assert queued(served) == ([3, 1], 2)
        known.add_review(review_of(number=3))
        assert queued(served) == ([1], 1)


def test_a_store_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with page(store=EvidenceStore(tmp_path / "file")) as served:
        assert "cannot be read" in served.get("/api/review").json["error"]
