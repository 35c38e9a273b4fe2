"""Remembers what people say of verdicts, and recognises a mark that is journalled."""

import threading
from collections import OrderedDict, deque
from concurrent.futures import Future
from itertools import islice
from typing import NamedTuple

import msgspec

from heatline.edge.monitor.review import Review, Truth
from heatline.edge.wire.events import ReviewEvent
from heatline.edge.wire.marks import Mark, MarkKind

MOST_PICTURES = 20_000
"""Pictures whose marks are remembered. The oldest are forgotten; the evidence store has their marks, too."""
MOST_REVIEWERS = 100
"""Of one picture: anyone may enter any name."""
MOST_NEWS = 200


class OneMark(msgspec.Struct, frozen=True, kw_only=True):
    """The mark of one reviewer."""

    by: str
    kind: MarkKind
    at_xy: list[tuple[int, int]]
    """Where the missed defects are, px of the frame."""
    at_ns: int | None
    """UTC, ns since 1970; null: it is not known any more."""


class ReviewState(msgspec.Struct, frozen=True, kw_only=True):
    """What all reviewers of a frame say of its verdict."""

    kind: MarkKind | None
    """Null: they contradict each other."""
    truth: Truth | None
    """Null likewise."""
    by: list[str]
    at_ns: int | None
    """Of the last mark."""
    marks: list[OneMark]
    """The last one of each reviewer, oldest first."""


class ReviewNews(NamedTuple):
    """Pictures whose marks have changed."""

    pictures: list[str]
    cursor: int
    """Read on from here."""


class Reviews:
    """The marks of a line's verdicts. The collector writes them, any thread may read them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: OrderedDict[str, dict[str, ReviewEvent]] = OrderedDict()
        """The last event of each reviewer, by picture; also of a reviewer who took the mark back."""
        self._expected: dict[str, Future[ReviewEvent]] = {}
        self._news: deque[str] = deque(maxlen=MOST_NEWS)
        self._added = 0

    def expect(self, mark_id: str) -> "Future[ReviewEvent]":
        """Return what will hold the event of a mark. Call `forget` if it is not wanted any more."""
        with self._lock:
            return self._expected.setdefault(mark_id, Future())

    def forget(self, mark_id: str) -> None:
        """Stop to expect a mark."""
        with self._lock:
            self._expected.pop(mark_id, None)

    def add(self, event: ReviewEvent) -> None:
        """Remember a mark. One that no journal holds does not count: nobody finds it later."""
        with self._lock:
            expected = self._expected.pop(event.mark.id, None)
            if event.journal_id is not None and self._replace(event):
                self._news.append(event.mark.picture)
                self._added += 1
        if expected is not None and expected.set_running_or_notify_cancel():
            expected.set_result(event)

    def _replace(self, event: ReviewEvent) -> bool:
        """Put an event in place of the reviewer's former one; return False if it is the older one."""
        mark = event.mark
        by_reviewer = self._events.setdefault(mark.picture, {})
        self._events.move_to_end(mark.picture)
        former = by_reviewer.get(mark.by)
        if former is not None and former.journal_id == event.journal_id and former.seq >= event.seq:
            return False
        by_reviewer.pop(mark.by, None)
        by_reviewer[mark.by] = event
        if len(by_reviewer) > MOST_REVIEWERS:
            del by_reviewer[next(iter(by_reviewer))]
        if len(self._events) > MOST_PICTURES:
            self._events.popitem(last=False)
        return True

    def of(self, picture: str, stored: Review | None = None) -> ReviewState | None:
        """Return the review of a picture; None: nobody has reviewed it.

        Args:
            stored: its review in the evidence store. Marks that are remembered here are newer.
        """
        with self._lock:
            events = list(self._events.get(picture, {}).values())
        if stored is None and not events:
            return None
        marks: dict[str, tuple[Mark, int | None]] = {}
        for mark in stored.marks if stored is not None else ():
            marks[mark.by] = mark, None
        for event in sorted(events, key=lambda each: each.at_ns):
            marks.pop(event.mark.by, None)
            if event.mark.kind != "withdrawn":
                marks[event.mark.by] = event.mark, event.at_ns
        return _state(list(marks.values()))

    def news_after(self, cursor: int) -> ReviewNews:
        """Return the pictures whose marks have changed, each once. Of very many, the oldest are left out."""
        with self._lock:
            new = min(self._added - cursor, len(self._news))
            pictures = list(dict.fromkeys(islice(self._news, len(self._news) - new, None)))
            return ReviewNews(pictures, self._added)


def _state(marks: list[tuple[Mark, int | None]]) -> ReviewState | None:
    if not marks:
        return None
    review = Review(tuple(mark for mark, _ in marks))
    return ReviewState(
        kind=review.kind,
        truth=review.truth,
        by=review.reviewers,
        at_ns=marks[-1][1],
        marks=[OneMark(by=mark.by, kind=mark.kind, at_xy=mark.at_xy, at_ns=at_ns) for mark, at_ns in marks],
    )
