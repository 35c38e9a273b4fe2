"""The checks of a run under faults find each kind of broken promise, and none in a run without."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from heatline.edge.delivery.publisher import Count
from heatline.edge.wire.events import (
    AlarmEvent,
    BundleName,
    CountedEvent,
    JournalEvent,
    Times,
    VerdictEvent,
    header_of,
)
from tests.system.chaos.check_clients import check_bare, check_durable, check_live
from tests.system.chaos.check_line import check_frames, check_journal, check_reports, unreceived_events
from tests.system.chaos.expected import Broken, Expected, Stored
from tests.system.chaos.records import Began, Got, Item, Missed, head_of

JOURNAL = "1234"
EVERYTHING = ("",)


def verdict(number: int, camera: str = "left", boot: str = "boot1", **changed: Any) -> VerdictEvent:
    given: dict[str, Any] = {"verdict": "GOOD", "frames": 1, "frame_id": number, "reason": None, **changed}
    last = given["frame_id"] + given["frames"] - 1 if given["frames"] > 1 else None
    times = Times(captured_at_ns=1000 * int(boot[-1]) + number, captured_monotonic_ns=1)
    return VerdictEvent(
        boot_id=boot, seq=0, camera=camera, last_frame_id=last, frame_number=number, times=times, score_threshold=0,
        evidence_threshold=0, precision="f32", bundle=BundleName(name="darkness", version="1", digest="0" * 64),
        latency_ms=1, acting=True, previous_seq=0, **given,
    )  # fmt: skip


def crashed(number: int, boot: str, frame_id: int, **changed: Any) -> VerdictEvent:
    """Return a boot's event of a frame that was in flight when the boot before was killed."""
    of: dict[str, Any] = {"boot": boot, "frame_id": frame_id, "reason": "dropped.crashed", "verdict": "NO_VERDICT"}
    return verdict(number, **of, **changed)


def alarm() -> AlarmEvent:
    return AlarmEvent(
        boot_id="boot1", seq=0, at_ns=1, line="line", camera="left", alarm="silent", detail="", active=True,
        began_at_ns=1, acting=True, previous_seq=0,
    )  # fmt: skip


def unrecorded(events: int, of_boot: str = "boot1", first_seq: int | None = None) -> JournalEvent:
    """Return the journal's report of events that it does not hold: their numbers, or after a kill only how many."""
    known: dict[str, Any] = {} if first_seq is None else {"first_seq": first_seq, "last_seq": first_seq + events - 1}
    return JournalEvent(
        boot_id="boot3" if first_seq is None else "boot1", seq=0, at_ns=1, line="line", detail="", events=events,
        kind="unrecorded" if first_seq is None else "recording", of_boot=of_boot, previous_seq=0, **known,
    )  # fmt: skip


def counted(events: Sequence[CountedEvent], journal_id: str | None = JOURNAL) -> list[bytes]:
    """Headers as a line sends them."""
    count = Count(journal_id)
    return [header_of(count.next(event)) for event in events]


def stored_of(headers: Sequence[bytes]) -> list[Stored]:
    return [Stored(head_of(header).seq, head_of(header).topic, header) for header in headers]


def expected_of(headers: Sequence[bytes], received: Sequence[bytes] = (), boots: Sequence[str] = ()) -> Expected:
    return Expected({JOURNAL: stored_of(headers)}, received, boots)


def promises(broken: Sequence[Broken]) -> list[str]:
    return [one.promise for one in broken]


def got(headers: Sequence[bytes]) -> list[Item]:
    return [Got(at_ns=0, header=msgspec.Raw(header)) for header in headers]


def missed(topic: str, after_seq: int, through_seq: int, boot: str = "boot1") -> Missed:
    return Missed(at_ns=0, journal_id=JOURNAL, boot_id=boot, topic=topic, after_seq=after_seq, through_seq=through_seq)


# The rules, one by one. The journal holds three verdicts of one camera and one of another.

HEADERS = counted([verdict(1), verdict(2), verdict(3), verdict(1, "right")])
A, B, C, RIGHT = HEADERS
OTHER_BYTES = B.replace(b":2", b": 2")
(FOREIGN,) = counted([verdict(7)], "5678")
(UNJOURNALLED,) = counted([verdict(8)], None)
KNOWS = missed("verdict.left.GOOD", 1, 2)


@pytest.mark.parametrize(
    ("came", "broken"),
    [
        ([A, B, C], []),
        ([A, B, A, B, C], []),
        ([A, C], ["lost"]),
        ([A, C, B], ["order"]),
        ([A, OTHER_BYTES, C], ["bytes", "lost"]),
        ([A, B, OTHER_BYTES, C], ["bytes"]),
        ([A, B, C, RIGHT], ["unsubscribed"]),
        ([A, B, C, FOREIGN, UNJOURNALLED, b"{"], ["unknown"] * 3),
    ],
)
def test_a_durable_consumer_must_get_all_events_of_its_topics_in_order(came: list[bytes], broken: list[str]) -> None:
    found = check_durable("mes", ("verdict.left.",), came, expected_of(HEADERS))
    assert promises(found.broken) == broken


@pytest.mark.parametrize(
    ("came", "broken"),
    [
        (got([A, B, C]), []),
        ([*got([A]), KNOWS, *got([C])], []),
        ([*got([A]), Began(at_ns=0), *got([C])], []),
        (got([A, C]), ["gap"]),
        ([*got([A, B]), KNOWS, *got([C])], ["gap"]),
        (got([A, A, B, C]), ["order"]),
        (got([A, C, B]), ["order"]),
        (got([A, OTHER_BYTES, C]), ["bytes"]),
        (got([A, B, C, RIGHT]), ["unsubscribed"]),
        (got([FOREIGN]), ["unknown"]),
    ],
)
def test_a_live_subscriber_must_report_what_it_missed(came: list[Item], broken: list[str]) -> None:
    assert promises(check_live("screen", ("verdict.left.",), came, expected_of(HEADERS)).broken) == broken


def test_a_subscriber_must_receive_the_journals_report_of_a_killed_boot() -> None:
    kept = counted([verdict(1), verdict(1, boot="boot3"), unrecorded(2, "boot2"), verdict(2, boot="boot3")])
    unheld = counted([verdict(1, boot="boot2"), verdict(2, boot="boot2")], None)
    expected = expected_of(kept, unheld, ["boot1", "boot2", "boot3"])
    items = got(kept)
    for came in (items, [*items[:2], missed("journal", 0, 3, "boot3"), items[3]]):
        found = check_live("screen", EVERYTHING, came, expected)
        assert (found.broken, found.beyond) == ([], 2)
    silent = check_live("screen", EVERYTHING, [*items[:2], items[3]], expected)
    assert any("a killed boot" in one.what for one in silent.broken)
    assert check_live("lamp", ("verdict.left.",), [*items[:2], items[3]], expected).broken == [], "not subscribed"


def test_the_documented_client_is_checked_by_its_output() -> None:
    """Two of eight verdicts were sent before it connected, it reports two as missed, and one more was live only."""
    expected = expected_of(counted([*(verdict(number) for number in range(1, 9)), alarm()]))
    output = ["3 left 3 GOOD", "4 left 4 GOOD", "missed: verdict.left.GOOD after 4 up to 6", "7 left 7 GOOD",
            "1 left 99 GOOD", "8 left 8 GOOD", "9 alarm no frame came"]  # fmt: skip
    found = check_bare("bare", output, expected)
    assert (found.broken, found.events, found.gaps, found.missed) == ([], 5, 1, 2)
    (silent,) = check_bare("bare", [line for line in output if "missed" not in line], expected).broken
    assert silent.what == "2 events of verdict.left.GOOD did not come, and no gap was reported: 1234-5 to 6"


STORED = stored_of(counted([verdict(1), verdict(2), alarm(), verdict(3)]))
SHIFTED = msgspec.structs.replace(STORED[3], header=STORED[3].header.replace(b'"previous_seq":2', b'"previous_seq":1'))


@pytest.mark.parametrize(
    ("stored", "broken"),
    [
        (STORED, False),
        (STORED[2:], False),  # retention deletes the oldest
        ([STORED[0], *STORED[2:]], True),
        ([STORED[0], *STORED], True),
        ([*STORED[:2], msgspec.structs.replace(STORED[2], topic="change"), STORED[3]], True),
        ([*STORED[:2], msgspec.structs.replace(STORED[2], header=STORED[3].header), STORED[3]], True),
        ([*STORED[:3], SHIFTED], True),
    ],
)
def test_a_journal_must_have_no_gap_and_no_wrong_topic(stored: list[Stored], broken: bool) -> None:
    assert set(promises(check_journal(Expected({JOURNAL: stored}, [])))) == ({"journal"} if broken else set())


def test_events_that_are_sent_live_as_journalled_must_be_in_the_journal() -> None:
    assert expected_of([A, B], [A, B]).broken == []
    assert promises(expected_of([A], [A, B]).broken) == ["unknown"]
    assert promises(expected_of([A, B], [OTHER_BYTES]).broken) == ["bytes"]


FIVE = [verdict(number) for number in range(1, 6)]
AGAIN = msgspec.structs.replace(verdict(1), boot_id="boot2", reason="dropped.crashed", verdict="NO_VERDICT")


@pytest.mark.parametrize(
    ("events", "received", "broken"),
    [
        ([verdict(1), verdict(1, "right"), verdict(2, frames=5), verdict(7), crashed(1, "boot2", 8),
          crashed(2, "boot2", 9, frames=2), verdict(4, boot="boot2", frame_id=1)], [], 0),
        ([verdict(1), verdict(3)], [], 1),
        ([verdict(2)], [], 1),
        ([verdict(1), verdict(2), crashed(1, "boot2", 4)], [], 1),
        ([verdict(1), AGAIN], [], 1),
        ([verdict(1), msgspec.structs.replace(verdict(1), times=verdict(2).times)], [], 1),
        # Frames of live-only events count if a subscriber received them, or if the journal reports them.
        ([*FIVE[:1], unrecorded(3, first_seq=1), *FIVE[4:]], FIVE[1:4], 0),
        ([*FIVE[:1], unrecorded(3), *FIVE[4:]], [], 0),
        ([*FIVE[:1], *FIVE[4:]], [], 1),
        ([*FIVE[:1], unrecorded(3, "boot7"), *FIVE[4:]], [], 1),
        # The events were sent, but the killed boot had not logged that.
        ([verdict(1), unrecorded(1), crashed(1, "boot3", 3)], [verdict(2), verdict(3)], 0),
    ],
)  # fmt: skip
def test_each_frame_must_be_reported_once_over_all_boots(
    events: list[CountedEvent], received: list[CountedEvent], broken: int
) -> None:
    expected = expected_of(counted(events), counted(received, None))
    assert len(check_frames(expected, unreceived_events(expected))) == broken


def test_the_journal_must_report_how_many_events_it_does_not_hold() -> None:
    unheld = counted([verdict(1), verdict(2, frames=3), alarm(), verdict(5)], None)
    for enough in ([unrecorded(4, first_seq=1)], [unrecorded(5)], [unrecorded(2, first_seq=1), unrecorded(1)]):
        assert check_reports(expected_of(counted(enough), unheld)) == []
    for too_few in ([unrecorded(3, first_seq=1)], [unrecorded(4)], [unrecorded(5, "boot7")], [verdict(4)]):
        assert set(promises(check_reports(expected_of(counted(too_few), unheld)))) == {"report"}
