"""What judges a run under faults: every kind of broken promise is found, and none is made up."""

import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.chaos.records import Began, Got, Head, Heard, Item, Missed, Record, head_of, read_record
from bench.chaos.truth import Broken, Kept, Truth
from bench.chaos.verify_clients import check_bare, check_durable, check_live
from bench.chaos.verify_line import check_frames, check_journal, check_told, unheard_events
from edge.delivery.gaps import Gaps
from edge.delivery.messages import (
    AlarmEvent,
    BundleName,
    CountedEvent,
    Counts,
    JournalEvent,
    Times,
    VerdictEvent,
    event_from,
    header_of,
)
from edge.delivery.numbering import Count

BUNDLE = BundleName(name="darkness", version="1", digest="0" * 64)
JOURNAL = "1234"
EVERYTHING = ("",)


def verdict(
    number: int,
    camera: str = "left",
    verdict: str = "GOOD",
    boot: str = "boot1",
    frames: int = 1,
    frame_id: int | None = None,
    reason: str | None = None,
) -> VerdictEvent:
    frame_id = number if frame_id is None else frame_id
    return VerdictEvent(
        boot_id=boot,
        seq=0,
        camera=camera,
        frame_id=frame_id,
        last_frame_id=frame_id + frames - 1 if frames > 1 else None,
        frame_number=number,
        frames=frames,
        times=Times(captured_at_ns=hash((boot, number)) % 10**9 + 1, captured_monotonic_ns=1),
        verdict=verdict,  # type: ignore[arg-type]
        reason=reason,
        score_threshold=0,
        evidence_threshold=0,
        precision="f32",
        bundle=BUNDLE,
        latency_ms=1,
        acting=True,
    )


def alarm() -> AlarmEvent:
    return AlarmEvent(
        boot_id="boot1",
        seq=0,
        at_ns=1,
        line="line",
        camera="left",
        alarm="silent",
        detail="",
        active=True,
        began_at_ns=1,
        acting=True,
    )


def counted(events: Sequence[CountedEvent], journal_id: str | None = JOURNAL) -> list[bytes]:
    """Headers as a line sends them."""
    count = Count(journal_id)
    return [header_of(count.next(event)) for event in events]


def truth_of(headers: Sequence[bytes], heard: Sequence[bytes] = ()) -> Truth:
    kept = [Kept(head_of(header).seq, head_of(header).topic, header) for header in headers]
    return Truth({JOURNAL: kept}, heard)


def some_events(draw: random.Random, count: int) -> list[CountedEvent]:
    """Of two cameras, with an alarm now and then."""
    number = {"left": 0, "right": 0}
    events: list[CountedEvent] = []
    for _ in range(count):
        if draw.random() < 0.1:
            events.append(alarm())
            continue
        camera = draw.choice(["left", "right"])
        number[camera] += 1
        events.append(verdict(number[camera], camera, draw.choice(["GOOD", "DEFECT"])))
    return events


def promises(broken: Sequence[Broken]) -> set[str]:
    return {one.promise for one in broken}


seeds = st.integers(0, 2**32)
TOPICS = st.sampled_from([("",), ("verdict.left.",), ("verdict.left.DEFECT", "alarm")])


# Durable consumers.


def delivered(draw: random.Random, wanted: Sequence[bytes]) -> list[bytes]:
    """As a consumer gets them that dies and is connected anew, each time from what it had acknowledged."""
    got: list[bytes] = []
    acked = reached = 0
    while acked < len(wanted):
        reached = min(acked + draw.randrange(0, 12), len(wanted))
        got += wanted[acked:reached]
        acked = draw.randrange(acked, reached + 1)
    return got


@settings(max_examples=100, deadline=None)
@given(seeds, TOPICS)
def test_a_consumer_that_dies_again_and_again_and_gets_all_from_where_it_was_breaks_no_promise(
    seed: int, topics: tuple[str, ...]
) -> None:
    draw = random.Random(seed)
    headers = counted(some_events(draw, 40))
    wanted = [header for header in headers if head_of(header).topic.startswith(topics)]
    got = delivered(draw, wanted)
    found = check_durable("mes", topics, got, truth_of(headers))
    assert found.broken == []
    assert (found.events, found.duplicates) == (len(wanted), len(got) - len(wanted))


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_an_event_that_a_consumer_never_got_is_found_wherever_it_was(seed: int) -> None:
    draw = random.Random(seed)
    headers = counted(some_events(draw, 30))
    lost = draw.choice(headers)
    got = [header for header in delivered(draw, headers) if header != lost]
    found = check_durable("mes", EVERYTHING, got, truth_of(headers))
    assert promises(found.broken) == {"lost"}
    (one,) = found.broken
    assert one.who == "mes"
    assert f"1 of 30 events did not come: {JOURNAL}-{head_of(lost).seq}" in one.what


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_an_event_that_comes_for_the_first_time_after_a_later_one_is_found(seed: int) -> None:
    draw = random.Random(seed)
    headers = counted(some_events(draw, 30))
    at = draw.randrange(0, 29)
    got = [*headers[:at], headers[at + 1], headers[at], *headers[at + 2 :]]
    found = check_durable("mes", EVERYTHING, got, truth_of(headers))
    assert promises(found.broken) == {"order"}
    assert f"{JOURNAL}-{at + 1} came after {JOURNAL}-{at + 2}" in found.broken[0].what


@settings(max_examples=100, deadline=None)
@given(seeds, st.booleans())
def test_other_bytes_under_one_key_are_found_the_first_time_and_the_second(seed: int, second: bool) -> None:
    draw = random.Random(seed)
    headers = counted(some_events(draw, 30))
    at = draw.randrange(0, 30)
    other = headers[at].replace(b'"schema_version":1', b'"schema_version": 1')
    got = [*headers[: at + second], other, *headers[at + 1 :]]
    found = check_durable("mes", EVERYTHING, got, truth_of(headers))
    assert promises(found.broken) == ({"bytes"} if second else {"bytes", "lost"})


def test_what_the_journal_does_not_hold_and_what_was_not_asked_for_is_found() -> None:
    headers = counted([verdict(1), verdict(1, "right")])
    (foreign,) = counted([verdict(7)], "5678")
    (unjournalled,) = counted([verdict(8)], None)
    got = [*headers, foreign, unjournalled, b"{", b'{"type":"verdict"}']
    found = check_durable("mes", ("verdict.left.",), got, truth_of(headers))
    assert [one.promise for one in found.broken] == ["unasked", "unknown", "unknown", "unknown", "unknown"]


def test_what_was_lost_is_told_by_runs() -> None:
    headers = counted([verdict(number) for number in range(1, 21)])
    got = [header for header in headers if head_of(header).seq not in (3, 4, 5, 9, 11, 13, 14)]
    (broken,) = check_durable("mes", EVERYTHING, got, truth_of(headers)).broken
    assert broken.what == ("7 of 20 events did not come: 1234-3 to 5, 1234-9, 1234-11 and 1 more runs")


def test_a_second_journal_follows_the_first() -> None:
    first, second = counted([verdict(1), verdict(2)], "1234"), counted([verdict(3), verdict(4)], "5678")
    kept = {
        name: [Kept(head_of(one).seq, head_of(one).topic, one) for one in headers]
        for name, headers in {"1234": first, "5678": second}.items()
    }
    assert check_durable("mes", EVERYTHING, [*first, *second], Truth(kept, [])).broken == []
    assert promises(check_durable("mes", EVERYTHING, [*second, *first], Truth(kept, [])).broken) == {"order"}


# Live subscribers.


def listened(
    draw: random.Random, headers: Sequence[bytes], topics: tuple[str, ...], boot: str = "boot1"
) -> tuple[list[Item], int]:
    """As a subscriber hears them that joins at some point and to whom runs are lost on the way, and how many were.

    What it tells of its gaps is had from the counts: it is welcomed when it joins, and a status now and then and at the
    end says how far they are.
    """
    gaps, items = Gaps(topics), list[Item]([Began(at_ns=0)])
    counts: dict[str | None, dict[str, int]] = {JOURNAL: {}, None: {}}
    lost, losing = 0, False
    joins = draw.randrange(len(headers) // 2)

    def as_counted() -> Counts:
        return Counts(journal_id=JOURNAL, journalled=dict(counts[JOURNAL]), unjournalled=dict(counts[None]))

    def hear_status() -> None:
        told = as_counted()
        add(gaps.counts(told, boot))
        items.append(Heard(at_ns=0, boot_id=boot, counts=told))

    def add(found: Sequence[object]) -> None:
        for gap in found:
            items.append(Missed(at_ns=0, **{name: getattr(gap, name) for name in Missed.__struct_fields__[1:]}))

    for at, header in enumerate(headers):
        event = event_from(header)
        assert isinstance(event, CountedEvent)
        if at == joins:
            assert gaps.counts(as_counted(), boot) == []
        counts[event.journal_id][event.topic] = event.seq
        if at < joins:
            continue
        losing = draw.random() < (0.7 if losing else 0.15)
        if event.topic.startswith(topics):
            if losing:
                lost += 1
            else:
                new, gap = gaps.event(event)
                assert new
                add([gap] if gap else [])
                items.append(Got(at_ns=0, header=msgspec.Raw(header)))
        if draw.random() < 0.1 and not losing:
            hear_status()
    hear_status()
    return items, lost


@settings(max_examples=200, deadline=None)
@given(seeds, TOPICS, st.integers(0, 20))
def test_a_subscriber_that_knows_its_gaps_breaks_no_promise(
    seed: int, topics: tuple[str, ...], unjournalled: int
) -> None:
    """And how many events it misses in them is what was lost on the way, after the first contact."""
    draw = random.Random(seed)
    events = some_events(draw, 60)
    kept, live_only = counted(events[unjournalled:]), counted(events[:unjournalled], None)
    headers = [*kept[:20], *live_only, *kept[20:]]
    items, lost = listened(draw, headers, topics)
    found = check_live("screen", topics, items, truth_of(kept, live_only))
    assert found.broken == []
    assert found.events == sum(isinstance(item, Got) for item in items)
    assert found.gaps == sum(isinstance(item, Missed) for item in items)
    assert found.missed == lost


@settings(max_examples=200, deadline=None)
@given(seeds, TOPICS)
def test_a_gap_that_a_subscriber_does_not_tell_of_is_found(seed: int, topics: tuple[str, ...]) -> None:
    draw = random.Random(seed)
    headers = counted(some_events(draw, 80))
    items, _ = listened(draw, headers, topics)
    contact = next(item for item in items if isinstance(item, Got | Heard))
    since = head_of(contact.header).seq if isinstance(contact, Got) else 0
    gaps = [item for item in items[items.index(contact) :] if isinstance(item, Missed) and item.through_seq > since]
    assume(gaps)
    silent, truth = draw.choice(gaps), truth_of(headers)
    found = check_live("screen", topics, [item for item in items if item is not silent], truth)
    assert [one.promise for one in found.broken] == ["gap"]
    assert str(silent.topic) in found.broken[0].what


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_an_event_that_is_taken_from_a_subscriber_is_found(seed: int) -> None:
    draw = random.Random(seed)
    headers = counted(some_events(draw, 60))
    items, _ = listened(draw, headers, EVERYTHING)
    got = [item for item in items if isinstance(item, Got)]
    taken = draw.choice(got[1:])
    found = check_live("screen", EVERYTHING, [item for item in items if item is not taken], truth_of(headers))
    assert [one.promise for one in found.broken] == ["gap"]
    assert f"{JOURNAL}-{head_of(taken.header).seq}" in found.broken[0].what


def test_a_subscriber_that_says_it_misses_what_came_is_found() -> None:
    headers = counted([verdict(1), verdict(2), verdict(3)])
    items: list[Item] = [Got(at_ns=0, header=msgspec.Raw(header)) for header in headers]
    items.insert(
        2,
        Missed(at_ns=0, journal_id=JOURNAL, boot_id="boot1", topic="verdict.left.GOOD", after_seq=0, through_seq=2),
    )
    assert promises(check_live("screen", EVERYTHING, items, truth_of(headers)).broken) == {"gap"}


def test_events_that_come_to_a_subscriber_twice_late_in_other_bytes_unasked_or_made_up_are_found() -> None:
    headers = counted([verdict(1), verdict(2), verdict(3), verdict(1, "right")])
    truth = truth_of(headers)

    def broken(*got: bytes) -> set[str]:
        items = [Got(at_ns=0, header=msgspec.Raw(header)) for header in got]
        return promises(check_live("screen", ("verdict.left.",), items, truth).broken)

    assert broken(*headers[:3]) == set()
    assert broken(headers[0], headers[0], *headers[1:3]) == {"order"}
    assert broken(headers[0], headers[2], headers[1]) == {"order"}
    assert broken(headers[0], headers[1].replace(b":2", b": 2"), headers[2]) == {"bytes"}
    assert broken(*headers) == {"unasked"}
    (foreign,) = counted([verdict(9)], "5678")
    assert broken(foreign) == {"unknown"}


def test_a_subscriber_that_was_started_anew_knows_nothing_of_what_came_before() -> None:
    headers = counted([verdict(number) for number in range(1, 11)])
    got = [Got(at_ns=0, header=msgspec.Raw(header)) for header in headers]
    truth = truth_of(headers)
    assert check_live("screen", EVERYTHING, [*got[:3], Began(at_ns=0), *got[6:]], truth).broken == []
    assert promises(check_live("screen", EVERYTHING, [*got[:3], *got[6:]], truth).broken) == {"gap"}


def test_events_of_a_boot_that_died_are_known_to_be_missing_from_what_the_journal_tells_of_it() -> None:
    kept = counted(
        [verdict(1), verdict(1, boot="boot3"), unrecorded(2, "boot2"), verdict(2, boot="boot3")],
    )
    unheld = counted([verdict(1, boot="boot2"), verdict(2, boot="boot2")], None)
    truth = Truth(truth_of(kept).journals, unheld, ["boot1", "boot2", "boot3"])
    got = [Got(at_ns=0, header=msgspec.Raw(header)) for header in kept]
    found = check_live("screen", EVERYTHING, got, truth)
    assert (found.broken, found.beyond) == ([], 2)
    knows = Missed(at_ns=0, journal_id=JOURNAL, boot_id="boot3", topic="journal", after_seq=0, through_seq=3)
    missed_it = check_live("screen", EVERYTHING, [*got[:2], knows, got[3]], truth)
    assert (missed_it.broken, missed_it.beyond) == ([], 2), "it knows that it missed something of that"
    told_nothing = check_live("screen", EVERYTHING, [*got[:2], got[3]], truth)
    assert [one.what for one in told_nothing.broken if "a boot that died" in one.what] != []
    filtered = check_live("lamp", ("verdict.left.",), [*got[:2], got[3]], truth)
    assert (filtered.broken, filtered.beyond) == ([], 2), "it cannot know"
    assert check_live("late", EVERYTHING, got[1:], truth).beyond == 0, "before its first contact"


def test_an_event_that_is_told_live_as_journalled_and_that_no_journal_holds_is_found() -> None:
    headers = counted([verdict(1), verdict(2)])
    assert truth_of(headers, headers).broken == []
    assert [(one.who, one.promise) for one in truth_of(headers[:1], headers).broken] == [("journal", "unknown")]
    other = headers[1].replace(b":2", b": 2")
    assert [(one.who, one.promise) for one in truth_of(headers, [other]).broken] == [("live", "bytes")]


SAID = [
    "silence: nothing is inspected",
    "3 left 3 GOOD",
    "4 left 4 GOOD",
    "missed: verdict.left.GOOD after 4 up to 6",
    "7 left 7 GOOD",
    "1 left 99 GOOD",
    "8 left 8 GOOD",
    "9 alarm no frame came",
]
"""By the client of docs/protocol.md, of eight verdicts of which the first two came before it, and one live alone."""


def test_what_the_documented_client_prints_is_held_against_the_journal() -> None:
    truth = truth_of(counted([*(verdict(number) for number in range(1, 9)), alarm()]))
    found = check_bare("bare", SAID, truth)
    assert (found.broken, found.events, found.gaps, found.missed) == ([], 5, 1, 2)
    silent = check_bare("bare", [line for line in SAID if not line.startswith("missed")], truth)
    assert [(one.promise, one.what) for one in silent.broken] == [
        ("gap", "2 events of verdict.left.GOOD did not come, and it does not know: 1234-5 to 6")
    ]
    live_alone = check_bare("bare", [*SAID, "2 left 2 GOOD"], truth)
    assert live_alone.broken == [], "a number of a boot that began its own count"


# The journal.


def test_a_journal_that_counts_on_and_holds_what_it_says_breaks_no_promise() -> None:
    assert check_journal(truth_of(counted(some_events(random.Random(1), 50)))) == []
    assert check_journal(truth_of(counted(some_events(random.Random(1), 50))[20:])) == [], "retention takes the oldest"


@pytest.mark.parametrize("what", ["left out", "twice", "of another topic", "of another event", "after another"])
def test_a_journal_at_odds_with_itself_is_found(what: str) -> None:
    headers = counted([verdict(1), verdict(2), alarm(), verdict(3)])
    kept = [Kept(head_of(header).seq, head_of(header).topic, header) for header in headers]
    match what:
        case "left out":
            del kept[1]
        case "twice":
            kept.insert(1, kept[1])
        case "of another topic":
            kept[2] = msgspec.structs.replace(kept[2], topic="change")
        case "of another event":
            kept[2] = msgspec.structs.replace(kept[2], header=headers[3])
        case "after another":
            kept[3] = msgspec.structs.replace(
                kept[3], header=kept[3].header.replace(b'"previous_seq":2', b'"previous_seq":1')
            )
    assert promises(check_journal(Truth({JOURNAL: kept}, []))) == {"journal"}


# Frames.


def frames_broken(headers: Sequence[bytes], heard: Sequence[bytes] = ()) -> list[str]:
    truth = truth_of(headers, heard)
    return [one.what for one in check_frames(truth, unheard_events(truth))]


def test_frames_that_are_all_told_once_in_runs_and_over_a_kill_break_no_promise() -> None:
    headers = counted(
        [
            verdict(1),
            verdict(1, "right"),
            verdict(2, frames=5),
            verdict(7),
            verdict(1, boot="boot2", frame_id=8, reason="dropped.crashed", verdict="NO_VERDICT"),
            verdict(2, boot="boot2", frame_id=9, frames=2, reason="dropped.crashed", verdict="NO_VERDICT"),
            verdict(4, boot="boot2", frame_id=1),
            verdict(1, boot="boot3", frame_id=2, reason="dropped.crashed", verdict="NO_VERDICT"),
            verdict(2, boot="boot3", frame_id=1),
        ]
    )
    assert frames_broken(headers) == []


def test_a_frame_that_is_not_told_is_found() -> None:
    assert frames_broken(counted([verdict(1), verdict(3)])) == ["boot boot1, camera left: frame number 3 follows 1"]
    assert len(frames_broken(counted([verdict(2)]))) == 1
    crashed = verdict(1, boot="boot2", frame_id=4, reason="dropped.crashed", verdict="NO_VERDICT")
    (what,) = frames_broken(counted([verdict(1), verdict(2), crashed]))
    assert "after frame 2 was told, 4 is the first that was in flight" in what


def test_a_frame_that_is_told_twice_is_found() -> None:
    once = verdict(1)
    again = msgspec.structs.replace(once, boot_id="boot2", reason="dropped.crashed", verdict="NO_VERDICT")
    assert any("frame 1 is told by" in what for what in frames_broken(counted([once, again])))
    assert len(frames_broken(counted([verdict(1), msgspec.structs.replace(verdict(1), times=verdict(2).times)]))) == 1


def test_a_frame_that_went_out_live_alone_and_was_in_flight_for_all_that_is_known_may_be_told_again() -> None:
    unheld = counted([verdict(2), verdict(3)], None)
    in_flight = verdict(1, boot="boot3", frame_id=3, reason="dropped.crashed", verdict="NO_VERDICT")
    kept = counted([verdict(1), unrecorded(1), in_flight])
    assert frames_broken(kept, unheld) == []
    assert check_told(truth_of(kept, unheld)) == []
    assert promises(check_told(truth_of(kept[:2], unheld))) == {"told"}


def kept_again(first_seq: int, last_seq: int, boot: str = "boot1") -> JournalEvent:
    """The journal's word of events that it does not hold."""
    return JournalEvent(
        boot_id=boot,
        seq=0,
        at_ns=1,
        line="line",
        what="recording",
        detail="",
        events=last_seq - first_seq + 1,
        of_boot=boot,
        first_seq=first_seq,
        last_seq=last_seq,
    )


def unrecorded(frames: int, boot: str = "boot1") -> JournalEvent:
    """The same after a kill."""
    return JournalEvent(
        boot_id="boot3", seq=0, at_ns=1, line="line", what="unrecorded", detail="", events=frames, of_boot=boot
    )


def test_frames_whose_events_no_journal_holds_count_as_told_where_they_were_heard() -> None:
    events = [verdict(number) for number in range(1, 8)]
    unheld = counted(events[2:5], None)
    for told in (kept_again(1, 3), unrecorded(3)):
        kept = counted([*events[:2], told, *events[5:]])
        assert frames_broken(kept, unheld) == []
        assert frames_broken(kept, []) == [], "one gap for three events that nobody heard"
    assert len(frames_broken(counted([*events[:2], *events[5:]]), [])) == 1, "nothing says that there were any"
    of_another = counted([*events[:2], kept_again(1, 3, "boot7"), *events[5:]])
    assert len(frames_broken(of_another, [])) == 1


def test_a_journal_that_does_not_say_what_it_does_not_hold_is_found() -> None:
    unheld = counted([verdict(1), verdict(2, frames=3), alarm(), verdict(5)], None)
    for enough in ([kept_again(1, 4)], [unrecorded(5)], [kept_again(1, 2), unrecorded(1)]):
        assert check_told(truth_of(counted(enough), unheld)) == []
    for too_few in ([kept_again(1, 3)], [unrecorded(4)], [unrecorded(5, "boot7")], [kept_again(1, 2)], [verdict(4)]):
        assert promises(check_told(truth_of(counted(too_few), unheld))) == {"told"}


# What clients write.


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=5), st.integers(0, 60))
def test_a_record_holds_what_was_added_by_all_lives_but_for_a_line_that_a_kill_cut_off(
    tmp_path_factory: pytest.TempPathFactory, names: list[bytes], cut_off: int
) -> None:
    path = tmp_path_factory.mktemp("records") / "record"
    headers = [msgspec.json.encode({"type": "x", "boot_id": name.hex(), "other": 1.0}) for name in names]
    with Record(path) as record:
        for header in headers:
            record.add(Got(at_ns=1, header=msgspec.Raw(header)))
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"type":"got","at_ns":1,"header":{"type":"x","boot_id":"of a line that is cut off"}}'[:cut_off])
    assert [bytes(item.header) for item in read_record(path) if isinstance(item, Got)] == headers
    with Record(path) as record:
        record.add(Began(at_ns=2))
    assert path.read_bytes() == whole + msgspec.json.encode(Began(at_ns=2)) + b"\n"


def test_a_header_is_read_as_the_line_writes_it() -> None:
    header = header_of(verdict(7, frames=3, reason="dropped.overload", verdict="NO_VERDICT"))
    head = head_of(header)
    event = event_from(header)
    assert isinstance(event, VerdictEvent)
    shared = set(Head.__struct_fields__) & set(VerdictEvent.__struct_fields__) - {"times"}
    assert len(shared) >= 11
    assert {name: getattr(head, name) for name in shared} == {name: getattr(event, name) for name in shared}
    assert (head.type, head.topic, head.count) == ("verdict", event.topic, "boot boot1")
    assert head.times["captured_at_ns"] == event.times.captured_at_ns
