"""`make chaos`: no event is lost under faults, each broken promise is found, and no process outlives a run."""

import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.wire.events import Counts
from tests.system.chaos.__main__ import Chaos, faults, measure_chaos, verify
from tests.system.chaos.checks import Checked, Events, Stored, check_durable, check_journal, check_line, check_live
from tests.system.chaos.clients import (
    Began,
    Client,
    ClientPlan,
    Got,
    Item,
    Missed,
    Record,
    StatusReceived,
    head_of,
)
from tests.system.chaos.run import DISK, LINE, Fault

ROOT = Path(__file__).parents[2]
CHAOS = [sys.executable, "-m", "tests.system.chaos"]

FEW = (ClientPlan(name="gateway", kind="Follower", killed=True), ClientPlan(name="screen", kind="Subscriber"))


def test_under_kill_cut_and_full_disk_clients_lose_nothing(bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    plan = [
        Fault(0.1, "cut", "screen", 0.1),
        Fault(0.1, "full", DISK, 0.0),
        Fault(0.2, "killed", "gateway", 0.0),
        Fault(0.3, "killed", LINE, 0.0),
    ]
    found = measure_chaos(bundle, seed=1, seconds=1.5, rate_fps=50, clients=FEW, plan=plan)
    assert faults(found) == []
    has_disk = found.full_disk_noticed is not None
    assert has_disk == ("NO DISK CAN BE MOUNTED" not in capsys.readouterr().err)
    assert found.faults == {"killed": 2, "cut": 1, **({"full": 1} if has_disk else {})}
    assert found.boots == 3, "one before the kill, one after it, one that takes no frames"
    assert found.clients["gateway"].events == found.events > 0
    assert found.clients["screen"].events > 0


@pytest.mark.long
def test_under_all_faults_all_clients_lose_nothing(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    arguments = ["--seconds", "10", "--rate", "60", "--seed", "5", "--out", str(out)]
    done = subprocess.run([*CHAOS, *arguments], cwd=ROOT, text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(out.read_bytes(), type=Chaos)
    assert faults(found) == []
    assert found.faults["killed"] >= 3
    assert len(found.clients) == 8
    assert all(one.events > 0 for one in found.clients.values())


def event(boot: int, type_: str, *, live: bool = False, **fields: Any) -> dict[str, Any]:
    """Return an event that is not yet numbered; `live`: no journal holds it."""
    return {"type": type_, "boot_id": f"boot{boot}", "journal_id": None if live else "1234", **fields}


def frame(boot: int, number: int, *, live: bool = False, **changed: Any) -> dict[str, Any]:
    fields = {"camera": "left", "verdict": "GOOD", "frame_id": number, "frame_number": number, "frames": 1, **changed}
    return event(boot, "verdict", live=live, **{"times": {"captured_at_ns": 1000 * boot + number}, **fields})


def crashed(number: int, frame_id: int, **changed: Any) -> dict[str, Any]:
    """Return boot 2's event of a frame that was in flight when boot 1 was killed."""
    times = {"captured_at_ns": 1000 + frame_id}
    return frame(2, number, frame_id=frame_id, verdict="NO_VERDICT", reason="dropped.crashed", times=times, **changed)


def outage(first_seq: int, last_seq: int) -> dict[str, Any]:
    """Return the journal's report of numbered events that it does not hold."""
    return event(1, "journal", kind="recording", first_seq=first_seq, last_seq=last_seq)


def unrecorded(frames: int, of_boot: str = "boot1") -> dict[str, Any]:
    """Return the journal's report, after a kill, of frames whose events it does not hold."""
    return event(2, "journal", kind="unrecorded", of_boot=of_boot, events=frames)


def numbered(*events: dict[str, Any]) -> list[bytes]:
    """Return headers as a line sends them."""
    last: Counter[str] = Counter()
    of_topic: Counter[tuple[str, str]] = Counter()
    headers = []
    for one in events:
        head = head_of(msgspec.json.encode(one))
        last[head.count] += 1
        numbers = {"seq": last[head.count], "previous_seq": of_topic[head.count, head.topic]}
        headers.append(msgspec.json.encode(one | numbers))
        of_topic[head.count, head.topic] = last[head.count]
    return headers


def events_of(headers: Sequence[bytes]) -> Events:
    """Return the events of a line that sent these headers."""
    heads = [head_of(header) for header in headers]
    stored = [Stored(one.seq, one.topic, header) for one, header in zip(heads, headers, strict=True) if one.journal_id]
    return Events(stored, headers)


STORY = numbered(
    frame(1, 1), frame(1, 2), frame(1, 1, camera="right"), event(1, "alarm"), frame(1, 3, live=True), outage(1, 1),
    frame(1, 4), frame(1, 5, live=True), unrecorded(1), crashed(1, 6, frames=2), frame(2, 3),
)  # fmt: skip
A, B, RIGHT, ALARM, LIVE, OUTAGE, C, KILLED, REPORT, CRASHED, D = STORY
OTHER_BYTES = B.replace(b":2", b": 2")
(FOREIGN,) = numbered(event(7, "alarm", live=True))
LEFT = ("verdict.left.",)


@pytest.mark.parametrize(
    ("came", "broken"),
    [
        ([A, B, C, CRASHED, D], []),
        ([A, B, A, B, C, CRASHED, C, CRASHED, D], []),
        ([A, C, CRASHED, D], ["1 of 4 events did not come: 2 to 2"]),
        ([A, C, B, CRASHED, D], ["1 events came after later ones: 2 to 2"]),
        ([A, OTHER_BYTES, C, CRASHED, D], ["1 events came that are not stored", "did not come"]),
        ([A, B, RIGHT, C, CRASHED, D], ["1 events came without a subscription: 3 to 3"]),
        ([A, B, LIVE, C, CRASHED, D, b"{"], ["2 events came that are not stored"]),
    ],
)
def test_a_durable_consumer_must_get_all_events_of_its_topics_in_order(came: list[bytes], broken: list[str]) -> None:
    found = check_durable(LEFT, came, events_of(STORY), through=8).broken
    assert len(found) == len(broken)
    assert all(words in one for words, one in zip(broken, found, strict=True))


def got(*headers: bytes) -> list[Item]:
    return [Got(at_ns=0, header=msgspec.Raw(header)) for header in headers]


def missed(after_seq: int, through_seq: int, journal_id: str | None = "1234") -> Missed:
    topic = "verdict.left.GOOD"
    return Missed(journal_id=journal_id, boot_id="boot1", topic=topic, after_seq=after_seq, through_seq=through_seq)


STATUS = StatusReceived(boot_id="boot1", counts=Counts(journal_id="1234", journalled={"verdict.left.GOOD": 6}))


@pytest.mark.parametrize(
    ("came", "broken"),
    [
        (got(A, B, LIVE, C), []),
        ([*got(A), missed(1, 2), *got(LIVE, C)], []),
        ([*got(A), Began(), *got(C)], []),
        ([*got(A, B), STATUS], ["1 events of verdict.left.GOOD up to 6 are missing"]),
        ([STATUS, *got(KILLED)], ["1 events of verdict.left.GOOD up to 1 are missing"]),  # a count that began later
        (got(A, C), ["1 events of verdict.left.GOOD up to 2 are missing"]),
        ([*got(A, B), missed(1, 2), *got(C)], ["but all of these events came"]),
        (got(A, A, B), ["came again"]),
        ([*got(A), missed(1, 2), *got(B)], ["after a later event"]),
        (got(A, OTHER_BYTES), ["was not sent like this"]),
        (got(A, B, RIGHT), ["without a subscription"]),
        (got(FOREIGN), ["was not sent like this", "without a subscription"]),
    ],
)
def test_a_live_subscriber_must_report_what_it_missed(came: list[Item], broken: list[str]) -> None:
    found = check_live(LEFT, came, events_of(STORY)).broken
    assert len(found) == len(broken)
    assert all(words in one for words, one in zip(broken, found, strict=True))


def test_a_journal_must_have_no_gap_no_wrong_name_and_all_events_that_were_sent_as_stored() -> None:
    stored = events_of(STORY).stored
    first, second, third, *rest = stored
    assert list(check_line(events_of(STORY))) == []
    for wrong, words in (
        ([first, third, *rest], "3 follows 1"),
        ([first, first, second, third, *rest], "1 follows 1"),
        ([first, second._replace(topic="change"), third, *rest], "is stored as 2 of change"),
        ([first, second._replace(header=second.header.replace(b'"previous_seq":1', b'"previous_seq":0')), third],
         "names 0 as its predecessor, expected 1"),
    ):  # fmt: skip
        assert any(words in one for one in check_journal(Events(wrong, [])))
    assert any("is not stored" in one for one in Events([first], [A, B]).broken)
    assert any("different bytes" in one for one in Events(stored, [OTHER_BYTES]).broken)


@pytest.mark.parametrize(
    ("events", "broken"),
    [
        ([frame(1, 1), frame(1, 3)], "1 frames up to 3 have no event"),
        ([frame(1, 2)], "1 frames up to 2 have no event"),
        ([frame(1, 1), frame(1, 2), frame(1, 2, frame_id=7)], "frame 2 has two events"),
        ([frame(1, 1), crashed(1, 1)], "1 frames were reported again"),
        # Frames without a stored event must be reported, whether a subscriber received their events or not.
        ([frame(1, 1), outage(1, 2), frame(1, 4)], None),
        ([frame(1, 1), outage(1, 2), frame(1, 5)], "3 frames up to 5 have no event"),
        ([frame(1, 1), frame(1, 4), unrecorded(2)], None),
        ([frame(1, 1), frame(1, 4), unrecorded(2, "boot7")], "2 frames up to 4 have no event"),
        ([frame(1, 1, live=True), frame(1, 2, live=True, frames=2), unrecorded(3)], None),
        ([frame(1, 1, live=True), frame(1, 2, live=True, frames=2), unrecorded(2)], "and the journal reports 2"),
        ([frame(1, 1, live=True), event(1, "alarm", live=True), outage(1, 1), event(1, "alarm")], None),
        ([frame(1, 1, live=True), frame(1, 2, live=True), outage(1, 1)], "and the journal reports 1"),
        # The event was sent, but the killed boot had not logged that.
        ([frame(1, 1, live=True), unrecorded(0), crashed(1, 1)], None),
    ],
)
def test_each_frame_has_one_event_or_is_reported(events: list[dict[str, Any]], broken: str | None) -> None:
    found = list(check_line(events_of(numbered(*events))))
    assert len(found) == (broken is not None)
    assert broken is None or broken in found[0]


def test_the_records_of_each_client_are_verified(tmp_path: Path) -> None:
    clients = {plan.name: Client(plan, "", tmp_path) for plan in FEW}
    stored = events_of(STORY).stored
    for name, headers in ("gateway", [A, B, A, B, RIGHT, OUTAGE]), ("screen", STORY[1:]):
        clients[name].record.write_bytes(b'{"type":"unfin')
        with contextlib.closing(Record(clients[name].record)) as record:
            for item in [Began(), *got(*headers)]:
                record.add(item)
    events, checked = verify(stored, [], clients, through=5)
    assert (len(events.live_only), checked["screen"]) == (2, Checked(events=10))
    assert checked["gateway"] == Checked(events=4, again=2, broken=["1 of 5 events did not come: 4 to 4"])
