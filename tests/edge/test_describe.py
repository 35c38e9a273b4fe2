"""Events in words and as rows of a journal."""

import pytest
from msgspec.structs import replace

from heatline.edge import describe
from heatline.edge.describe import columns_of, describe_consumer, describe_event, describe_journal, local_time, utc
from heatline.edge.wire.events import ReviewEvent, StatusEvent, VerdictEvent
from tests.edge.wire_examples import GOLDEN, GOOD, JOURNAL_STATUS


@pytest.mark.parametrize("name", GOLDEN)
def test_every_event_has_words_and_a_row(name: str) -> None:
    event = GOLDEN[name].event
    told, row = describe_event(event), dict(zip(describe.COLUMNS, columns_of(event, 7, "a.b", 10**18), strict=True))
    assert (row["seq"], row["type"], row["journalled_at"]) == (7, "a", "2001-09-09T01:46:40.000000Z")
    assert told.what
    assert told.colour in ("green", "yellow", "red", "default")
    if isinstance(event, ReviewEvent):
        assert (told.what, row["verdict"], row["detail"]) == (event.mark.kind, event.mark.verdict, told.detail)
        place = (645, 470) if name == "review-areas" else (*event.mark.at_xy, (None, None))[0]
        assert (row["peak_x"], row["peak_y"]) == place
    if isinstance(event, StatusEvent):
        assert (told.subject, told.what) == ("status", event.state)
    if isinstance(event, VerdictEvent):
        assert (told.what, row["regions"]) == (event.verdict, len(event.regions))


def test_a_run_of_frames_and_its_part_are_named() -> None:
    run = replace(GOOD.event, source=None, frame_id=5, last_frame_id=7, frames=3, part_id="p1")
    assert describe_event(run).subject == "5 to 7 (3) [p1]"
    assert describe_event(replace(run, frame_id=None, frames=1, part_id=None)).subject == "none"


def test_a_time_that_no_calendar_has_is_no_error() -> None:
    assert (local_time(2**70, "%H"), utc(2**70)) == ("?", "")


def test_a_journal_tells_what_it_holds_and_who_lost_events() -> None:
    journal = JOURNAL_STATUS.event.journal
    assert "it cannot be read" in describe_journal(replace(journal, journal_id=None))
    assert "no event, up to 9" in describe_journal(replace(journal, first_seq=0, last_seq=9))
    held = replace(journal, first_seq=5, last_seq=9)
    consumer = replace(journal.consumers["mes1"], acked_seq=2, connected=True)
    assert describe_consumer(consumer, held).startswith("connected; 5 events behind, and 2 are lost: start it")
    away = replace(consumer, connected=False, seen_at_ns=None, acked_seq=9)
    assert describe_consumer(away, held) == "away; 0 events behind"
