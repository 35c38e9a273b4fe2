"""Lines that take marks, for tests of the page: the real socket, and a memory that gets the events of the marks."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from heatline.edge.monitor.feed import PictureFeed
from heatline.edge.monitor.marks import mark_of
from heatline.edge.monitor.memory import Memory
from heatline.edge.wire.events import Mark, Message, ReviewEvent, VerdictEvent
from tests.edge.journals import make_writer
from tests.edge.view_pages import verdict

JOURNAL = "journal-1"


def marked(number: int = 1, kind: str = "DEFECT", **what: Any) -> VerdictEvent:
    """A verdict whose frame has a picture."""
    camera = what.get("camera", "top")
    return verdict(number, kind=kind, **({"picture": f"01234567-{camera}-{number}", "frame_hw": (48, 64)} | what))


def review_event(mark: Mark, seq: int, journal_id: str | None = JOURNAL) -> ReviewEvent:
    return ReviewEvent(
        boot_id="boot", seq=seq, at_ns=seq, line="line1", mark=mark, journal_id=journal_id, previous_seq=seq - 1
    )


def review_of(by: str = "Anna", kind: Any = "right", number: int = 1, seq: int = 1, **what: Any) -> ReviewEvent:
    at_xy = [(number, 4)] if kind == "missed" else []
    return review_event(mark_of(marked(number), kind, by, at_xy), seq, **what)


@contextlib.contextmanager
def line_with_marks(
    folder: Path, memory: Memory, *, is_journalled: bool = True, before: Callable[[Mark], None] = lambda _: None
) -> Iterator[tuple[Path, list[Mark]]]:
    """A line that journals each mark in `folder`; its socket, and the marks that came.

    Args:
        before: is given each mark before its event is sent.
    """
    came: list[Mark] = []
    with contextlib.closing(make_writer(folder)) as journal:

        def take(mark: Mark) -> None:
            came.append(msgspec.structs.replace(mark))
            before(mark)
            if is_journalled:
                *_, sent = journal.commit([Message(msgspec.structs.replace(review_event(mark, 0), journal_id=None))])
                assert isinstance(sent.event, ReviewEvent)
                memory.add_review(sent.event)

        feed = PictureFeed(folder / "pictures" / "line")
        feed.on_mark = take
        try:
            yield folder / "pictures" / "line", came
        finally:
            feed.close()
