"""A durable consumer loses nothing, and gets nothing twice: whatever ends, is killed and begins again."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from edge.delivery.durable import follower
from edge.delivery.durable.consumers import MOST_CONSUMERS, Consumers
from edge.delivery.durable.follow_server import FollowServer
from edge.delivery.durable.follower import Follower, forget
from edge.delivery.durable.following import (
    AckRequest,
    Batch,
    Delivered,
    Following,
    FollowRequest,
    Refused,
    batch_parts,
    refusal,
    request_from,
    to_bytes,
)
from edge.delivery.journal.journal import Journal
from edge.delivery.journal.reader import JournalReader
from edge.errors import AccessError, DeliveryError, EventsLostError, MessageError
from tests.edge.followed_line import ALARM, DEFECT, GOOD, WITHIN_SECONDS, FollowedLine, append_one, wait_until
from tests.edge.secured import Secured, free_port


@pytest.fixture
def line(tmp_path: Path) -> Iterator[FollowedLine]:
    with FollowedLine(tmp_path / "journal", f"ipc://{tmp_path}/follow") as line:
        yield line


def follow(line: FollowedLine, name: str = "mes1", **wanted: Any) -> Follower:
    return Follower(line.address, name, **{"timeout_s": WITHIN_SECONDS, **wanted})


def take(events: Follower, count: int) -> list[Delivered]:
    """The next events; what comes after them is not asked for."""
    came = []
    for _ in range(count):
        event = events.receive()
        assert event is not None, f"only {len(came)} of {count} came"
        came.append(event)
    return came


def acked(line: FollowedLine, name: str = "mes1") -> int:
    return line.consumers.positions()[name].acked_seq


def test_events_come_as_journalled_and_in_order_until_none_comes_in_time(line: FollowedLine) -> None:
    told = line.tell(*[GOOD, DEFECT, ALARM] * 50)
    with follow(line, timeout_s=0.5) as events:
        assert list(events) == told
        told += line.tell(GOOD)
        assert list(events) == told[-1:]
        assert list(events) == []


def test_topics_and_heatmaps_come_as_asked_for(line: FollowedLine) -> None:
    told = line.tell(GOOD, DEFECT, ALARM, png=b"picture")
    with follow(line, topics=[DEFECT], heatmaps=True) as events:
        assert take(events, 1) == [told[1]]
    with follow(line, "other", topics=["alarm", DEFECT]) as events:
        assert [(event.seq, event.png, event.topic) for event in take(events, 2)] == [
            (2, None, DEFECT),
            (3, None, ALARM),
        ]


def test_a_new_name_may_start_with_the_next_event(line: FollowedLine) -> None:
    line.tell(GOOD)
    with follow(line, start="next", timeout_s=0.3) as events:
        assert list(events) == []
        told = line.tell(DEFECT)
        assert list(events) == told


# Acknowledging.


def test_an_event_is_acknowledged_when_the_next_is_asked_for(line: FollowedLine) -> None:
    told = line.tell(*[GOOD] * 3)
    with follow(line, window=1) as events:
        assert take(events, 2) == told[:2]
        wait_until(lambda: acked(line) == 1, "the first is done")
        assert take(events, 1) == told[2:]
        wait_until(lambda: acked(line) == 2, "the second is done")


def test_what_was_in_hand_when_the_loop_was_left_is_not_acknowledged_and_what_was_done_before_is(
    line: FollowedLine,
) -> None:
    told = line.tell(*[GOOD] * 5)

    def fail_at_the_third() -> None:
        with follow(line) as events:
            for event in events:
                if event.seq == 3:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_at_the_third()
    wait_until(lambda: acked(line) == 2, "what was done was acknowledged at the end")
    with follow(line) as events:
        for event in events:
            assert event == told[2]
            break
    with follow(line) as events:
        assert take(events, 1) == told[2:3], "nobody said that it was done"
        events.acknowledge()
    wait_until(lambda: acked(line) == 3, "it was said")
    with follow(line) as events:
        assert take(events, 2) == told[3:]


def test_many_may_be_taken_and_acknowledged_at_a_time(line: FollowedLine) -> None:
    told = line.tell(*[GOOD] * 250)
    with follow(line, window=100) as events:
        came: list[Delivered] = []
        for batch in events.batches(at_most=60):
            assert 0 < len(batch) <= 60
            assert acked(line) <= len(came), "the one in hand is not done"
            came += batch
            if len(came) == 250:
                break
        assert came == told
        events.acknowledge()
    wait_until(lambda: acked(line) == 250, "all are done")


def test_an_acknowledgement_is_not_kept_back_while_nothing_comes(line: FollowedLine) -> None:
    line.tell(*[GOOD] * 3)
    with follow(line, timeout_s=0.2) as events:
        assert len(list(events)) == 3
        wait_until(lambda: acked(line) == 3, "it was told before waiting")


# The line ends and begins.


def test_it_may_be_begun_before_the_line(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/follow"
    with (
        Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as events,
        FollowedLine(tmp_path / "journal", address) as line,
    ):
        told = line.tell(GOOD)
        assert take(events, 1) == told


def test_it_outlives_the_line_and_nothing_comes_twice(line: FollowedLine) -> None:
    told = line.tell(*[GOOD] * 5)
    with follow(line, window=10) as events:
        came = take(events, 3)
        for _ in range(2):
            line.stop()
            line.start()
            told += line.tell(DEFECT, ALARM)
            came += take(events, len(told) - len(came))
        assert came == told
        events.acknowledge()
        wait_until(lambda: acked(line) == len(told), "what came again is acknowledged")


def test_where_the_line_forgot_an_acknowledgement_nothing_comes_twice(line: FollowedLine) -> None:
    told = line.tell(*[GOOD] * 4)
    journal_id = line.journal.journal_id
    with follow(line) as events:
        came = take(events, 4)
        events.acknowledge()
        wait_until(lambda: acked(line) == 4, "it came")
        line.stop()
        line.consumers.acknowledge("mes1", journal_id, 1)
        consumers = Consumers(line.folder)
        consumers.acknowledge("mes1", journal_id, 1)  # as it would be on the disk, had the line been killed then
        consumers.close()
        line.start()
        assert acked(line) == 1
        told += line.tell(DEFECT)
        assert came + take(events, 1) == told
        wait_until(lambda: acked(line) >= 4, "what came again was done already")


LINE = """
import sys, time
from pathlib import Path
from tests.edge.followed_line import DEFECT, GOOD, FollowedLine

line = FollowedLine(Path(sys.argv[1]), sys.argv[2])
print("there", flush=True)
while True:
    line.tell(GOOD, DEFECT)
    time.sleep(0.002)
"""


@contextlib.contextmanager
def running_line(folder: Path, address: str) -> Iterator["subprocess.Popen[str]"]:
    """A line in a process of its own that journals as fast as it can; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", LINE, str(folder), address],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "there\n"
            yield process
        finally:
            process.kill()


def test_a_line_that_is_killed_at_any_time_loses_nothing(tmp_path: Path, address: str) -> None:
    """All that it has journalled comes, as journalled, in order and once."""
    folder = tmp_path / "journal"
    came: list[Delivered] = []
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS, window=20) as events:
        for killed_after in (1, 30, 111):
            with running_line(folder, address):
                came += take(events, killed_after)
        line = FollowedLine(folder, address)
        with line, JournalReader.open(folder) as reader:
            last_seq = reader.last_seq
            journalled = reader.read(0, at_most=10**6, at_most_bytes=1 << 40).records
            while came[-1].seq < last_seq:
                came += take(events, 1)
            assert last_seq >= 142
            assert [(event.seq, event.header) for event in came] == [(each.seq, each.header) for each in journalled]


# What is lost.


def test_events_that_are_gone_are_told_once_and_it_goes_on(line: FollowedLine) -> None:
    told = line.tell(*[GOOD] * 6)
    with follow(line, window=1) as events:
        assert take(events, 1) == told[:1]
        line.journal.discard(4)
        with pytest.raises(EventsLostError, match=r"events after 1 up to 4 of journal .* were deleted") as caught:
            events.receive()
        lost = caught.value
        assert (lost.journal_id, lost.after_seq, lost.through_seq) == (line.journal.journal_id, 1, 4)
        line.stop()
        line.start()  # which does not know that it was told
        assert take(events, 2) == told[4:]


def test_a_loss_that_nobody_took_notice_of_is_told_again(line: FollowedLine) -> None:
    told = line.tell(*[GOOD] * 6)
    with follow(line, window=1) as events:
        take(events, 1)
    line.journal.discard(4)
    for _ in range(2):
        with follow(line) as events, pytest.raises(EventsLostError):
            events.receive()
    with follow(line) as events:
        with pytest.raises(EventsLostError):
            events.receive()
        assert take(events, 1) == told[4:5]
    with follow(line) as events:
        assert take(events, 2) == told[4:]


def test_another_journal_is_told_once_and_followed_from_its_begin(line: FollowedLine) -> None:
    told = line.tell(*[GOOD] * 3)
    former = line.journal.journal_id
    with follow(line) as events:
        assert take(events, 2) == told[:2]
        line.begin_another_journal()
        now = line.journal.journal_id
        told += line.tell(DEFECT)
        assert take(events, 1) == told[2:3], "it was there already"
        with pytest.raises(EventsLostError, match=f"began another journal, {now}: what {former} held after") as caught:
            events.receive()
        lost = caught.value
        assert (lost.journal_id, lost.after_seq, lost.through_seq) == (former, 3, 3)
        line.stop()
        line.start()  # which does not know that it was told
        assert take(events, 1) == told[3:]
        line.stop()
        line.start()
        told += line.tell(GOOD)
        assert take(events, 1) == told[4:]
    with follow(line) as events:
        assert take(events, 1) == told[4:]


def test_another_journal_is_told_to_one_that_comes_later(line: FollowedLine) -> None:
    told = line.tell(*[GOOD] * 3)
    former = line.journal.journal_id
    with follow(line) as events:
        assert take(events, 3) == told
    wait_until(lambda: acked(line) == 2, "what was done")
    line.begin_another_journal()
    told = line.tell(GOOD)
    for _ in range(2):
        with follow(line) as events, pytest.raises(EventsLostError, match=f"what {former} held after event 2"):
            events.receive()
    with follow(line) as events:
        with pytest.raises(EventsLostError):
            events.receive()
        assert take(events, 1) == told
    with follow(line) as events:
        assert take(events, 1) == told, "it acknowledged that it knows of the other journal, and not the event"


def test_another_journal_is_told_also_where_the_line_forgot_who_followed(line: FollowedLine) -> None:
    line.tell(GOOD)
    with follow(line) as events:
        take(events, 1)
        line.stop()
        (line.folder / "consumers.db").unlink()
        line.begin_another_journal()
        line.start()
        told = line.tell(DEFECT)
        with pytest.raises(EventsLostError, match="began another journal"):
            events.receive()
        assert take(events, 1) == told


# Refusals.


def test_of_two_of_one_name_the_older_ends(line: FollowedLine) -> None:
    told = line.tell(GOOD)
    with follow(line) as older:
        assert take(older, 1) == told
        with follow(line) as newer:
            assert take(newer, 1) == told
            for _ in range(2):
                with pytest.raises(DeliveryError, match=r"refuses mes1 \(superseded\): a newer client follows as mes1"):
                    older.receive()
            told += line.tell(GOOD)
            assert take(newer, 1) == told[1:]


def test_a_name_too_many_is_a_delivery_error(line: FollowedLine) -> None:
    for number in range(MOST_CONSUMERS):
        line.consumers.register(f"mes{number}", line.journal.journal_id, 0)
    with follow(line, "one-more") as events, pytest.raises(DeliveryError, match="forget one that is no more"):
        events.receive()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("", {}),
        ("mes 1", {}),
        ("mes1\n", {}),
        ("x" * 65, {}),
        ("m\udcff", {}),
        ("mes1", {"window": 0}),
        ("mes1", {"window": 1001}),
        ("mes1", {"topics": []}),
        ("mes1", {"topics": ["x" * 201]}),
        ("mes1", {"start": "last"}),
    ],
)
def test_what_no_line_would_take_is_not_even_asked(tmp_path: Path, name: str, wanted: dict[str, Any]) -> None:
    with pytest.raises(DeliveryError, match="no line would take that") as caught:
        Follower(f"ipc://{tmp_path}/nobody", name, **wanted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", ["tcp://127.0.0.1", "smoke://signals", ""])
def test_an_address_that_is_none_is_a_delivery_error(bad: str) -> None:
    with pytest.raises(DeliveryError, match="is no address to connect to"):
        Follower(bad, "mes1")
    with pytest.raises(DeliveryError, match="is no address to connect to"):
        forget(bad, "mes1")


def test_a_line_without_a_journal_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(follower.PAUSE_SECONDS, "unavailable", 0.01)
    address, folder = f"ipc://{tmp_path}/follow", tmp_path / "journal"
    consumers = Consumers(folder)
    server = FollowServer(address, folder, consumers)
    server.start()
    try:
        with Follower(address, "mes1", timeout_s=0.3) as events:
            assert events.receive() is None
            assert "there is no journal" in caplog.text
            with contextlib.closing(Journal.open(folder, "line1")) as journal:
                server.wake()
                events._timeout_s = WITHIN_SECONDS
                while events._journal_id is None:
                    events._take_next(time.monotonic() + WITHIN_SECONDS)
                assert events._journal_id == journal.journal_id
    finally:
        server.close()
        consumers.close()
    said = [record for record in caplog.records if record.name == "edge.delivery.durable.follower"]
    assert len(said) == 1, "however often it is refused"


# What a line should not do.


class FakeLine:
    """A ROUTER socket that says what the test says."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, int(WITHIN_SECONDS * 1000))
        self.socket.bind(address)
        self.client = b""

    def asked(self) -> Any:
        self.client, part = self.socket.recv_multipart()
        return request_from(part)

    def say(self, *parts: bytes) -> None:
        self.socket.send_multipart([self.client, *parts])

    def follow(self, acked_seq: int = 0, heartbeat_s: float = 3600.0) -> FollowRequest:
        """Answer who follows."""
        while not isinstance(request := self.asked(), FollowRequest):
            pass
        self.say(to_bytes(following(acked_seq=acked_seq, heartbeat_s=heartbeat_s)))
        return request


def following(**changes: Any) -> Following:
    content: dict[str, Any] = {
        "name": "mes1", "journal_id": "j", "acked_seq": 0, "first_seq": 1, "last_seq": 9, "heartbeat_s": 3600.0,
    }  # fmt: skip
    return Following(**{**content, **changes})


def batch_of(after: int, seqs: list[int], **changes: Any) -> list[bytes]:
    content = {"journal_id": "j", "after_seq": after, "through_seq": max([after, *seqs]), "last_seq": 2**40}
    batch = Batch(**{**content, "events": len(seqs), **changes})
    return batch_parts(batch, [(b'{"type":"x","journal_id":"j","seq":%d}' % seq, None) for seq in seqs])


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[tuple[FakeLine, str]]:
    address = f"ipc://{tmp_path}/fake"
    with zmq.Context() as context:
        fake = FakeLine(context, address)
        with fake.socket:
            yield fake, address


VIOLATIONS = [
    ([b"nonsense"], "no reply of a line"),
    ([b'{"type":"following","schema_version":2}'], "update heatline"),
    ([b'{"type":"forgotten","schema_version":1,"name":"mes1"}'], "no answer to a consumer that follows"),
    ([to_bytes(following(name="mes2"))], "follows 'mes2', and 'mes1' was asked for"),
    (batch_of(1, [2]), "after event j-1 came, expected one after j-0"),
    (batch_of(0, [1], journal_id="k"), "came after 0"),
    (batch_of(0, [], journal_id="k"), "after event k-0 came, expected one after j-0"),
    (batch_of(0, [2, 1]), "came after 2"),
    (batch_of(0, [1])[:-1], "a batch of 2 part"),
    ([*batch_of(0, [1]), *[b""] * 3000], "a batch of 2002 part"),
]


@pytest.mark.parametrize(("parts", "words"), VIOLATIONS, ids=range(len(VIOLATIONS)))
def test_what_is_not_of_the_protocol_is_a_message_error_and_it_follows_again(
    fake: tuple[FakeLine, str], parts: list[bytes], words: str
) -> None:
    line, address = fake
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as events:
        first = line.follow()
        line.say(*parts)
        with pytest.raises(MessageError, match=words):
            events.receive()
        line_thread = threading.Thread(target=lambda: (line.follow(), line.say(*batch_of(0, [1, 2]))))
        line_thread.start()
        assert [event.seq for event in take(events, 2)] == [1, 2]
        line_thread.join()
        assert first.client == events._request.client, "it is the same client"


def test_a_batch_before_the_line_has_answered_is_a_message_error(fake: tuple[FakeLine, str]) -> None:
    line, address = fake
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as events:
        line.asked()
        line.say(*batch_of(0, [1]))
        with pytest.raises(MessageError, match="expected one after None-0"):
            events.receive()


def test_a_refusal_for_a_reason_that_is_new_ends_it(fake: tuple[FakeLine, str]) -> None:
    line, address = fake
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as events:
        line.asked()
        line.say(to_bytes(Refused(reason="asleep", detail="it is night")))
        with pytest.raises(DeliveryError, match=r"\(asleep\): it is night"):
            events.receive()


@pytest.mark.parametrize("reason", ["unavailable", "busy", "not_following"])
def test_after_a_refusal_that_may_pass_it_follows_again(
    fake: tuple[FakeLine, str], monkeypatch: pytest.MonkeyPatch, reason: Any
) -> None:
    monkeypatch.setitem(follower.PAUSE_SECONDS, reason, 0.01)
    line, address = fake

    def refuse_three_times() -> None:
        for _ in range(3):
            line.asked()
            line.say(to_bytes(refusal(reason, "a while")))
        line.follow()
        line.say(*batch_of(0, [1]))

    answering = threading.Thread(target=refuse_three_times)
    answering.start()
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as events:
        assert take(events, 1)[0].seq == 1
    answering.join()


def test_that_an_acknowledgement_came_too_late_for_a_journal_does_no_harm(fake: tuple[FakeLine, str]) -> None:
    line, address = fake
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as events:
        line.follow()
        line.say(to_bytes(refusal("other_journal", "it is another one")))
        line.say(*batch_of(0, [1]))
        assert take(events, 1)[0].seq == 1


@pytest.mark.long
def test_silence_makes_it_follow_again_as_the_same_client_and_is_said_once(
    fake: tuple[FakeLine, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    line, address = fake
    names, connections = set(), set()

    def answer_the_first_and_the_last() -> None:
        for heartbeat_s in (0.05, None, None, 3600.0):
            request = line.asked()
            names.add(request.client)
            connections.add(line.client)
            if heartbeat_s is not None:
                line.say(to_bytes(following(heartbeat_s=heartbeat_s)))
        line.say(*batch_of(0, [1]))

    answering = threading.Thread(target=answer_the_first_and_the_last)
    answering.start()
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as events:
        assert take(events, 1)[0].seq == 1
    answering.join()
    assert (len(names), len(connections)) == (1, 4)
    said = [record.levelname for record in caplog.records if record.name == "edge.delivery.durable.follower"]
    assert said == ["WARNING", "INFO"]


def test_acknowledgements_are_grouped(fake: tuple[FakeLine, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "SECONDS_BETWEEN_ACKS", 1e9)  # the clock shall not tell
    line, address = fake
    with Follower(address, "mes1", timeout_s=0.3, window=100) as events:
        line.follow()
        line.say(*batch_of(0, list(range(1, 101))))
        assert len(list(events)) == 100
        seqs = []
        while line.socket.poll(500):
            request = line.asked()
            assert isinstance(request, AckRequest)
            seqs.append(request.seq)
        assert seqs == sorted(set(seqs))
        assert seqs[-1] == 100
        assert len(seqs) <= 4


def test_events_of_types_to_come_are_handed_on(fake: tuple[FakeLine, str]) -> None:
    line, address = fake
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as events:
        line.follow()
        line.say(*batch_of(0, [1]))
        (event,) = take(events, 1)
        assert json.loads(event.header) == {"type": "x", "journal_id": "j", "seq": 1}
        assert (event.key, event.topic) == ("j-1", "x")
        with pytest.raises(MessageError):
            _ = event.event


# Keys.


@pytest.mark.long
def test_who_is_not_allowed_to_follow_is_told_and_who_is_follows(tmp_path: Path) -> None:
    secured, port, folder = Secured(tmp_path), free_port(), tmp_path / "journal"
    allowed, listener = secured.client("follow"), secured.client("listen")
    consumers = Consumers(folder)
    server = FollowServer(port.bound, folder, consumers, access=secured.access())
    server.start()
    try:
        with contextlib.closing(Journal.open(folder, "line1")) as journal:
            append_one(journal)
            with Follower(port.reached, "mes1", timeout_s=WITHIN_SECONDS, keys=allowed) as events:
                assert take(events, 1)[0].seq == 1
            with Follower(port.reached, "mes1", timeout_s=WITHIN_SECONDS, keys=listener) as events:
                for _ in range(2):
                    with pytest.raises(AccessError, match="hung up"):
                        events.receive()
            with pytest.raises(AccessError, match="hung up"):
                forget(port.reached, "mes1", timeout_s=0.5)
            forget(port.reached, "mes1", keys=allowed)
    finally:
        server.close()
        consumers.close()


# Forgetting, ending.


def test_a_consumer_can_be_forgotten(line: FollowedLine) -> None:
    line.tell(GOOD)
    with follow(line) as events:
        take(events, 1)
        with pytest.raises(DeliveryError, match="end it first"):
            forget(line.address, "mes1")
    wait_until(lambda: not line.server.states()["mes1"].connected, "it is noticed")
    forget(line.address, "mes1")
    assert line.consumers.positions() == {}
    with pytest.raises(DeliveryError, match="there is no consumer mes1"):
        forget(line.address, "mes1")
    with pytest.raises(DeliveryError, match="no line would take that"):
        forget(line.address, "mes 1")


def test_nobody_who_could_forget_is_a_delivery_error(fake: tuple[FakeLine, str], tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"did not reply within 0\.05 s"):
        forget(f"ipc://{tmp_path}/nobody", "mes1", timeout_s=0.05)
    line, address = fake
    answering = threading.Thread(target=lambda: (line.asked(), line.say(to_bytes(following()))))
    answering.start()
    with pytest.raises(MessageError, match="no reply to that"):
        forget(address, "mes1", timeout_s=WITHIN_SECONDS)
    answering.join()


def test_a_closed_follower_leaves_nothing_open(line: FollowedLine) -> None:
    line.tell(GOOD)
    with follow(line) as events:
        take(events, 1)
    wait_until(lambda: not line.server.states()["mes1"].connected, "its connection is closed at the line, too")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        events = follow(line)
        take(events, 1)
        events.close()
        events.close()
    with pytest.raises(DeliveryError):
        Follower("tcp://127.0.0.1", "mes1")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "descriptors are closed")


# Whatever happens.


class Life(RuleBasedStateMachine):
    """A line and its consumer, both ended and begun again in any order, beside a list of what was journalled."""

    @initialize()
    def begin(self) -> None:
        folder = self.make_folder()
        self.line = FollowedLine(folder / "journal", f"ipc://{folder}/follow", heartbeat_s=0.05)
        self.told: list[Delivered] = []
        self.came: list[Delivered] = []
        """Each once: what came to an earlier follower of the name may come again."""
        self.lost_through = 0
        self.events = follow(self.line, window=4)
        wait_until(lambda: "mes1" in self.line.server.states(), "from now on all is kept for it")

    @rule(topics=st.lists(st.sampled_from([GOOD, DEFECT, ALARM]), min_size=1, max_size=9))
    def tell(self, topics: list[str]) -> None:
        self.told += self.line.tell(*topics)

    @rule(count=st.integers(1, 9))
    def take(self, count: int) -> None:
        while count and self._reached() < len(self.told):
            count -= 1
            try:
                event = self.events.receive()
            except EventsLostError as lost:
                if lost.through_seq > self.discarded:
                    raise
                self.lost_through = max(self.lost_through, lost.through_seq)
                continue
            except DeliveryError as error:
                # The last words of the follower before, to a line that had just begun, may reach it after ours.
                if "superseded" not in str(error):
                    raise
                self.restart_the_consumer()
                continue
            assert event is not None
            assert event == self.told[event.seq - 1]
            if self.came and event.seq <= self.came[-1].seq:
                assert event.seq > self.began_after, "twice from one follower"
                self.began_after = event.seq
            else:
                assert event.seq == max(self._reached(), self.lost_through) + 1, "one was left out"
                self.came.append(event)
                self.began_after = event.seq

    @rule()
    def acknowledge(self) -> None:
        self.events.acknowledge()

    @rule()
    def restart_the_line(self) -> None:
        self.line.stop()
        self.line.start()

    @rule()
    def restart_the_consumer(self) -> None:
        self.events.close()
        self.events = follow(self.line, window=4)
        self.began_after = 0

    @rule(count=st.integers(1, 5))
    def discard(self, count: int) -> None:
        self.discarded = min(len(self.told), max(self.discarded, count))
        self.line.journal.discard(self.discarded)

    def teardown(self) -> None:
        if hasattr(self, "line"):
            while self._reached() < len(self.told):
                self.take(9)
            self.events.close()
            self.line.stop()
            self.line.journal.close()

    def _reached(self) -> int:
        return max(self.came[-1].seq if self.came else 0, self.lost_through)

    make_folder: Callable[[], Path]
    began_after = 0
    discarded = 0


@pytest.mark.long
def test_whatever_ends_and_begins_in_whatever_order_nothing_is_lost_in_silence(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    Life.make_folder = staticmethod(lambda: tmp_path_factory.mktemp("life"))
    case = Life.TestCase
    case.settings = settings(deadline=None, max_examples=40, stateful_step_count=12)
    case("runTest").runTest()
