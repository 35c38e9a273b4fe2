"""Durable consumers: each gets every event once and in order, whatever is killed, restarted, full or slow."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from heatline.edge.delivery.follow import BYTES_UNACKNOWLEDGED
from heatline.edge.delivery.follower import Follower
from heatline.edge.errors import EventsLostError, MessageError, SupersededError
from heatline.edge.wire.following import (
    AckRequest,
    Batch,
    Delivered,
    Following,
    FollowRequest,
    batch_parts,
    request_from,
)
from heatline.edge.wire.requests import to_bytes
from tests.edge.fault_disks import fill, small_disk
from tests.edge.followed_line import ALARM, DEFECT, GOOD, WITHIN_SECONDS, FollowedLine, wait_until


@pytest.fixture
def line(tmp_path: Path) -> Iterator[FollowedLine]:
    with FollowedLine(tmp_path / "journal", f"ipc://{tmp_path}/follow") as line:
        yield line


def follow(line: FollowedLine, name: str = "mes1", **options: Any) -> Follower:
    return Follower(line.address, name, **{"timeout_s": WITHIN_SECONDS, **options})


def take(follower: Follower, count: int) -> list[Delivered]:
    """Receive a number of events, and request no more."""
    received = []
    for _ in range(count):
        event = follower.receive()
        assert event is not None, f"only {len(received)} of {count} came"
        received.append(event)
    return received


def test_at_most_four_mebibytes_and_one_event_are_unacknowledged(line: FollowedLine) -> None:
    events = [event for _ in range(4) for event in line.add(GOOD, png=bytes(3 << 19))]  # 1.5 MiB each
    one, other = line.client(), line.client()
    one.follow(window=1000, heatmaps=True)
    assert [one.batch()[1] for _ in range(3)] == [[event] for event in events[:3]], "two do not fit one batch"
    one.heartbeat()
    one.ack(1)
    assert one.events(1) == events[3:]
    one.heartbeat()
    other.follow("other", heatmaps=True, start="next")
    events = line.add(GOOD) + line.add(GOOD, png=bytes(BYTES_UNACKNOWLEDGED + 1)) + line.add(GOOD)
    assert other.events(2) == events[:2], "an event that is larger than the limit comes by itself"
    other.heartbeat()
    other.ack(events[1].seq)
    assert other.events(1) == events[2:]


def test_a_new_consumer_starts_with_the_first_stored_or_the_next_event(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 5)
    line.journal.discard(2)
    first, following = line.client(), line.client()
    assert first.follow("a").acked_seq == 2
    batch, received = first.batch()
    assert (received, batch.lost_through) == (events[2:], None), "a new consumer has lost nothing"
    assert following.follow("b", start="next").acked_seq == 5
    following.heartbeat()
    later = line.add(ALARM)
    assert following.events(1) == later
    assert line.client().follow("b", client="c2", start="first").acked_seq == 5, "the name is no longer new"
    line.journal.discard(6)
    nothing_left = line.client()
    started = nothing_left.follow("c")
    assert (started.acked_seq, started.first_seq, started.last_seq) == (6, 0, 6)
    later = line.add(GOOD)
    assert nothing_left.batch()[1] == later


def test_events_of_other_topics_are_skipped_and_count_as_acknowledged(line: FollowedLine) -> None:
    events = line.add(GOOD, DEFECT, "verdict.side.DEFECT", ALARM, GOOD)
    one = line.client()
    one.follow(topics=("verdict.top.D", "alarm"))
    batch, received = one.batch()
    assert received == [events[1], events[3]]
    assert (batch.after_seq, batch.through_seq) == (0, 5)
    one.ack(4)
    line.wait_until_on_disk(mes1=5)
    line.add(*[GOOD] * 7)
    one.heartbeat_through(12)
    line.wait_until_on_disk(mes1=12)
    (alarm,) = line.add(ALARM)
    line.add(GOOD)
    assert one.events(1) == [alarm]
    one.heartbeat_through(14)
    assert line.acked() == 12, "while an event is unacknowledged, the position stays before it"
    one.ack(alarm.seq)
    line.wait_until_on_disk(mes1=14)


def test_a_slow_consumer_gets_all_events_in_order(tmp_path: Path) -> None:
    """More batches wait for it than ZeroMQ queues; the others come when it reads."""
    address = f"ipc://{tmp_path}/follow"  # buffers less than TCP
    with FollowedLine(tmp_path / "journal", address) as line:
        late, watcher = line.client(receive_queue=1), line.client()
        late.follow("late", window=1000)
        watcher.follow("watcher", window=1000)
        events = []
        for _ in range(150):
            (one,) = line.add(GOOD, detail="x" * 20_000)
            assert watcher.events(1) == [one]  # each event is a batch of its own
            watcher.ack(one.seq)
            events.append(one)
        assert late.events(150) == events


def test_a_full_disk_stops_neither_serving_nor_acknowledging(address: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk, FollowedLine(disk, address) as line:
        events = line.add(*[GOOD] * 20)
        first = line.client()
        first.follow(window=5)
        assert first.events(5) == events[:5]
        first.ack(1)
        line.wait_until_on_disk(mes1=1)
        fill(disk)
        first.ack(3)
        assert first.events(3) == events[5:8]
        line.restart()
        again, new = line.client(), line.client()
        assert again.follow().acked_seq == 1, "what the disk did not take comes again"
        assert again.events(19) == events[1:]
        new.send(FollowRequest(name="new", client="c"))
        assert new.refused().reason == "unavailable", "its events could be deleted before it gets them"
        (disk / "filler").unlink()
        again.ack(20)
        new.follow("new")
        assert new.events(20) == events
        line.wait_until_on_disk(mes1=20, new=0)
        assert line.consumers.fault is None


def test_invalid_acknowledgements_are_refused_with_the_reason(line: FollowedLine) -> None:
    line.add(*[GOOD] * 5)
    one = line.client()
    one.ack(0)
    assert one.refused().reason == "not_following"
    one.follow(window=2)
    one.events(2)
    for bad, reason, excerpt in [
        ({"seq": 3}, "not_sent", "event 3 .* only events up to 2 were"),
        ({"journal_id": "b" * 32}, "other_journal", line.journal_id),
        ({"name": "mes2"}, "not_following", "does not follow as mes2"),
    ]:
        one.send(AckRequest(**{"name": "mes1", "journal_id": line.journal_id, "seq": 1, **bad}))
        refused = one.refused()
        assert refused.reason == reason
        assert re.search(excerpt, refused.detail)
    assert line.acked() == 0
    one.ack(2)
    one.ack(1)  # an old acknowledgement is ignored
    one.events(2)
    assert line.acked() == 2


def test_a_replaced_journal_is_reported_once_to_each_follower_until_it_is_acknowledged(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 3)
    former = line.journal_id
    with follow(line, "later") as later:
        assert take(later, 3) == events
    line.wait_until_acked(2, "later")
    with follow(line) as follower:
        assert take(follower, 2) == events[:2]
        line.replace_journal()
        (event,) = line.add(DEFECT)
        assert take(follower, 1) == events[2:], "the follower had received it already"
        with pytest.raises(EventsLostError, match=f"{line.journal_id}: events of {former} after event 3") as caught:
            follower.receive()
        lost = caught.value
        assert (lost.journal_id, lost.after_seq, lost.through_seq) == (former, 3, 3)
        line.restart()  # the line does not know that it has reported the other journal
        assert take(follower, 1) == [event]
    for _ in range(2):
        with follow(line, "later") as later, pytest.raises(EventsLostError, match=f"events of {former} after event 2"):
            later.receive()
    with follow(line, "later") as later:
        with pytest.raises(EventsLostError):
            later.receive()
        assert take(later, 1) == [event]
        wait_until(lambda: line.consumers.positions["later"][:2] == (line.journal_id, 0), "the report is acknowledged")
    with follow(line, "later") as later:
        assert take(later, 1) == [event], "the other journal is acknowledged, and the event is not"


def following(**changes: Any) -> bytes:
    content = {"name": "mes1", "acked_seq": 0, "first_seq": 1, "heartbeat_s": 3600.0, **SENT, **changes}
    return to_bytes(Following(**content))


def batch_of(after: int, *seqs: int, **changes: Any) -> list[bytes]:
    batch = Batch(after_seq=after, through_seq=max([after, *seqs]), events=len(seqs), **{**SENT, **changes})
    return batch_parts(batch, [(b'{"type":"x","journal_id":"j","seq":%d}' % seq, None) for seq in seqs])


SENT: dict[str, Any] = {"journal_id": "j", "last_seq": 9}
VIOLATIONS = [
    ([b"nonsense"], "not a reply"),
    ([b'{"type":"following","schema_version":3}'], "update this client"),
    ([b'{"type":"following","schema_version":1}'], "update the line"),
    (batch_of(1, 2), "after event j-1 came, expected one after j-0"),
    (batch_of(0, journal_id="k"), "after event k-0 came, expected one after j-0"),
    ([*batch_of(0, 1), *[b""] * 3000], "a batch of 3003 part"),
]


def test_after_each_protocol_violation_the_same_client_reconnects_and_misses_nothing(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/fake"
    with (
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as line,
        ThreadPoolExecutor(1) as thread,
        Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as follower,
    ):
        line.setsockopt(zmq.LINGER, 0)
        line.setsockopt(zmq.RCVTIMEO, int(WITHIN_SECONDS * 1000))
        line.bind(address)

        def answer_the_next_follow_with(*parts: bytes) -> str:
            while True:
                client, part = line.recv_multipart()
                if isinstance(request := request_from(part), FollowRequest):
                    line.send_multipart([client, following()])
                    line.send_multipart([client, *parts])
                    return request.client

        clients = set()
        for parts, excerpt in VIOLATIONS:
            answered = thread.submit(answer_the_next_follow_with, *parts)
            with pytest.raises(MessageError, match=excerpt):
                follower.receive()
            clients.add(answered.result())
        answered = thread.submit(answer_the_next_follow_with, *batch_of(0, 1, 2))
        assert [event.seq for event in take(follower, 2)] == [1, 2]
        assert {*clients, answered.result()} == {answered.result()}


class RestartsInAnyOrder(RuleBasedStateMachine):
    """A line and its consumer, restarted in any order, compared with a list of the journalled events."""

    @initialize()
    def begin(self) -> None:
        folder = self.make_folder()
        self.line = FollowedLine(folder / "journal", f"ipc://{folder}/follow", heartbeat_s=0.05)
        self.added: list[Delivered] = []
        self.received: list[Delivered] = []
        """Each event once; an event that came to an earlier follower of the name may come again."""
        self.lost_through = 0
        self.events = follow(self.line, window=4)
        wait_until(lambda: "mes1" in self.line.server.states(), "the consumer is registered")

    @rule(topics=st.lists(st.sampled_from([GOOD, DEFECT, ALARM]), min_size=1, max_size=9))
    def add(self, topics: list[str]) -> None:
        self.added += self.line.add(*topics)

    @rule(count=st.integers(1, 9))
    def take(self, count: int) -> None:
        while count and self._reached() < len(self.added):
            count -= 1
            try:
                event = self.events.receive()
            except EventsLostError as lost:
                if lost.through_seq > self.discarded:
                    raise
                self.lost_through = max(self.lost_through, lost.through_seq)
                continue
            except SupersededError:
                # The last request of the follower before may reach a restarted line after the new one's.
                self.restart_the_consumer()
                continue
            assert event == self.added[event.seq - 1]
            if self.received and event.seq <= self.received[-1].seq:
                assert event.seq > self.began_after, "twice from one follower"
                self.began_after = event.seq
            else:
                assert event.seq == max(self._reached(), self.lost_through) + 1, "an event is missing"
                self.received.append(event)
                self.began_after = event.seq

    @rule()
    def acknowledge(self) -> None:
        self.events.acknowledge()

    @rule()
    def restart_the_line(self) -> None:
        self.line.restart()

    @rule()
    def restart_the_consumer(self) -> None:
        self.events.close()
        self.events = follow(self.line, window=4)
        self.began_after = 0

    @rule(count=st.integers(1, 5))
    def discard(self, count: int) -> None:
        self.discarded = min(len(self.added), max(self.discarded, count))
        self.line.journal.discard(self.discarded)

    def teardown(self) -> None:
        if hasattr(self, "line"):
            while self._reached() < len(self.added):
                self.take(9)
            self.events.close()
            self.line.close()

    def _reached(self) -> int:
        return max(self.received[-1].seq if self.received else 0, self.lost_through)

    make_folder: Callable[[], Path]
    began_after = 0
    discarded = 0


@pytest.mark.parametrize("examples", [6, pytest.param(60, marks=pytest.mark.long)])
def test_no_event_is_lost_in_any_order_of_restarts(tmp_path_factory: pytest.TempPathFactory, examples: int) -> None:
    RestartsInAnyOrder.make_folder = staticmethod(lambda: tmp_path_factory.mktemp("life"))
    case = RestartsInAnyOrder.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=12)
    case("runTest").runTest()
