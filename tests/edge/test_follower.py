"""A durable consumer loses no event and gets none twice, whatever is killed and restarted."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from heatline.edge.delivery import follower
from heatline.edge.delivery.follow import Consumers
from heatline.edge.delivery.follower import Follower, forget
from heatline.edge.delivery.reader import JournalReader
from heatline.edge.errors import AccessError, DeliveryError, EventsLostError, MessageError, SupersededError
from heatline.edge.wire.following import (
    AckRequest,
    Batch,
    Delivered,
    Following,
    FollowRequest,
    batch_parts,
    request_from,
)
from heatline.edge.wire.requests import Refused, refuse, to_bytes
from tests.edge.followed_line import ALARM, DEFECT, GOOD, WITHIN_SECONDS, FollowedLine, wait_until
from tests.edge.secured import Secured, free_port


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


def test_iterating_yields_events_in_order_until_the_timeout_and_acknowledges_them(line: FollowedLine) -> None:
    events, received = line.add(*[GOOD, DEFECT, ALARM] * 50), list[Delivered]()
    with follow(line, timeout_s=0.2) as follower:
        wait_until(lambda: received.extend(follower) or len(received) >= 150, "all events came")
        line.wait_until_acked(150)
        events += line.add(GOOD)
        wait_until(lambda: received.extend(follower) or len(received) >= 151, "the iteration can continue")
        assert received == events


# Holding an event.


def test_who_holds_an_event_is_told_that_a_newer_client_has_its_name(
    line: FollowedLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "SECONDS_BETWEEN_ACKS", WITHIN_SECONDS)
    line.add(*[GOOD] * 3)
    with contextlib.ExitStack() as open_:
        older = open_.enter_context(follow(line))
        assert take(older, 3)
        older.hold()
        line.wait_until_acked(2)
        newer_has = take(open_.enter_context(follow(line)), 1)

        def is_refused() -> bool:
            try:
                older.hold()
            except SupersededError:
                return True
            return False

        wait_until(is_refused, "the older one is refused")
        assert [each.seq for each in newer_has] == [3], "what was held was not acknowledged"


def test_holding_an_event_over_a_restart_of_the_line_brings_no_event_twice(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 5)
    with follow(line) as follower:
        received = take(follower, 2)
        line.restart()
        wait_until(lambda: follower.hold() or line.server.states()["mes1"].connected, "it follows again")
        events += line.add(GOOD)
        received += take(follower, 4)
        assert received == events
        line.wait_until_acked(5)


# Acknowledging.


def test_an_event_is_acknowledged_when_the_next_is_requested(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 3)
    with follow(line, window=1) as follower:
        assert take(follower, 2) == events[:2]
        line.wait_until_acked(1)
        assert take(follower, 1) == events[2:]
        line.wait_until_acked(2)


def test_the_last_event_of_an_interrupted_loop_is_not_acknowledged(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 5)

    with contextlib.suppress(ZeroDivisionError), follow(line) as follower:
        for event in follower:
            1 // (3 - event.seq)
    line.wait_until_acked(2)
    with follow(line) as follower:
        assert next(iter(follower)) == events[2]
    with follow(line) as follower:
        assert take(follower, 1) == events[2:3], "it was not acknowledged"
        follower.acknowledge()
    line.wait_until_acked(3)
    with follow(line) as follower:
        assert take(follower, 2) == events[3:]


def test_events_can_be_received_and_acknowledged_in_batches(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 250)
    with follow(line, window=100) as follower:
        received: list[Delivered] = []
        while batch := follower.receive_batch(at_most=60):
            assert 0 < len(batch) <= 60
            assert line.acked() <= len(received), "the batch in hand is not acknowledged"
            received += batch
            if len(received) == 250:
                break
        assert received == events
        follower.acknowledge()
    line.wait_until_acked(250)


def test_a_part_of_a_batch_can_be_acknowledged(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 5)
    with follow(line) as follower:
        batch: list[Delivered] = []
        while len(batch) < 5:
            batch += follower.receive_batch()
        follower.acknowledge(through=events[2])
        line.wait_until_acked(3)
    with follow(line) as follower:
        assert take(follower, 2) == events[3:]


# The line ends and starts.


def test_an_explicit_follower_acknowledges_only_what_it_is_told(line: FollowedLine) -> None:
    added = line.add(GOOD, GOOD, GOOD)
    with Follower(line.address, "mes1", timeout_s=0.2, explicit=True) as events:
        assert [events.receive(), events.receive(), events.receive()] == added
        assert events.receive() is None
        events.acknowledge(added[1])
        line.wait_until_acked(2)
    with Follower(line.address, "mes1") as events:
        assert events.receive() == added[2]


def test_events_that_are_not_settled_come_again_though_the_window_goes_on(line: FollowedLine) -> None:
    added = line.add(*[GOOD] * 5)
    with Follower(line.address, "mes1", timeout_s=WITHIN_SECONDS, window=2, keep_position=True) as events:
        assert take(events, 5) == added
        assert line.acked() == 0
        events.settle(added[1])
        line.wait_until_acked(2)
        events.rewind()
        assert take(events, 3) == added[2:]
        line.restart()
        added += line.add(DEFECT)
        assert take(events, 1) == added[5:]
        events.settle(added[5])
        line.wait_until_acked(6)


def test_a_follower_survives_restarts_of_the_line_without_duplicates(tmp_path: Path) -> None:
    """Also if the line lost an acknowledgement, as it does when it is killed before writing it."""
    address = f"ipc://{tmp_path}/follow"
    with (
        Follower(address, "mes1", timeout_s=WITHIN_SECONDS, window=10) as follower,
        FollowedLine(tmp_path / "journal", address) as line,
    ):
        events = line.add(*[GOOD] * 5)
        received = take(follower, 3)
        line.restart()
        events += line.add(DEFECT, ALARM)
        received += take(follower, 4)
        follower.acknowledge()
        line.wait_until_acked(7)
        line.stop()
        consumers = Consumers(line.folder)
        consumers.acknowledge("mes1", line.journal_id, 1)
        consumers.write()
        line.start()
        assert line.acked() == 1
        events += line.add(DEFECT)
        assert received + take(follower, 1) == events
        wait_until(lambda: line.acked() >= 7, "the events that came again are acknowledged")


LINE = """
import sys, time
from pathlib import Path
from tests.edge.followed_line import DEFECT, GOOD, FollowedLine

line = FollowedLine(Path(sys.argv[1]), sys.argv[2])
print("there", flush=True)
while True:
    line.add(GOOD, DEFECT)
    time.sleep(0.002)
"""


@contextlib.contextmanager
def running_line(folder: Path, address: str) -> Iterator["subprocess.Popen[str]"]:
    """A line in a process of its own that journals continuously and is killed at the end."""
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


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_killed_line_loses_no_event(tmp_path: Path, address: str, kills: int) -> None:
    """All journalled events come, in order and once."""
    folder = tmp_path / "journal"
    received: list[Delivered] = []
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS, window=20) as follower:
        for kill in range(kills):
            with running_line(folder, address):
                received += take(follower, 1 + 30 * kill)
        with FollowedLine(folder, address), JournalReader.open(folder) as reader:
            records = reader.read(0, at_most=10**6, at_most_bytes=1 << 40).records
            received += take(follower, len(records) - len(received))
            assert [(event.seq, event.header) for event in received] == [(each.seq, each.header) for each in records]


# Losses.


def test_a_loss_is_reported_once_to_each_follower_until_it_is_acknowledged(line: FollowedLine) -> None:
    events = line.add(*[GOOD] * 6)
    with follow(line, "later", window=1) as later:
        take(later, 1)
    with follow(line, window=1) as follower:
        assert take(follower, 1) == events[:1]
        line.journal.discard(4)
        with pytest.raises(EventsLostError, match=r"events after 1 up to 4 of journal .* were deleted") as caught:
            follower.receive()
        lost = caught.value
        assert (lost.journal_id, lost.after_seq, lost.through_seq) == (line.journal_id, 1, 4)
        line.restart()  # the line does not know that it has reported the loss
        assert take(follower, 2) == events[4:]
    for _ in range(2):
        with follow(line, "later") as later, pytest.raises(EventsLostError):
            later.receive()
    with follow(line, "later") as later:
        with pytest.raises(EventsLostError):
            later.receive()
        assert take(later, 1) == events[4:5]
        line.wait_until_acked(4, "later")
    with follow(line, "later") as later:
        assert take(later, 2) == events[4:], "the loss is acknowledged, and the event is not"


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
        line.stop()
        (line.folder / "consumers.json").rename(line.folder / "elsewhere")
        line.replace_journal()
        line.start()
        events = line.add(DEFECT)
        with pytest.raises(EventsLostError, match="began another journal"):
            follower.receive()
        assert take(follower, 1) == events, "the follower notices it even if the line has lost its consumers"
    line.stop()
    (line.folder / "elsewhere").rename(line.folder / "consumers.json")
    line.start()
    for _ in range(2):
        with follow(line, "later") as later, pytest.raises(EventsLostError, match=f"events of {former} after event 2"):
            later.receive()
    with follow(line, "later") as later:
        with pytest.raises(EventsLostError):
            later.receive()
        assert take(later, 1) == events
        wait_until(lambda: line.consumers.positions["later"][:2] == (line.journal_id, 0), "the report is acknowledged")
    with follow(line, "later") as later:
        assert take(later, 1) == events, "the other journal is acknowledged, and the event is not"


# Refusals.


def test_requests_that_a_line_refuses_are_final(line: FollowedLine, tmp_path: Path) -> None:
    options: dict[str, Any]
    for name, options in [("mes 1", {}), ("m\udcff", {}), ("mes1", {"window": 1001}), ("mes1", {"start": "last"})]:
        with (
            Follower(line.address, name, timeout_s=WITHIN_SECONDS, **options) as refused,
            pytest.raises(DeliveryError, match=r"refuses .* \(malformed\): this is not a request") as caught,
        ):
            refused.receive()
        assert "\n" not in str(caught.value)
    with pytest.raises(DeliveryError, match=r"refuses \(malformed\)"):
        forget(line.address, "mes 1")
    for bad in ("tcp://127.0.0.1", "smoke://signals", ""):
        with pytest.raises(DeliveryError, match="is not an address to connect to"):
            Follower(bad, "mes1")
        with pytest.raises(DeliveryError, match="is not an address to connect to"):
            forget(bad, "mes1")


# A line that breaks the protocol.


class FakeLine:
    """A ROUTER socket that sends only what the test requests."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, int(WITHIN_SECONDS * 1000))
        self.socket.bind(address)
        self.client = b""

    def receive_request(self) -> Any:
        self.client, part = self.socket.recv_multipart()
        return request_from(part)

    def send(self, *parts: bytes) -> None:
        self.socket.send_multipart([self.client, *parts])

    def follow(self, acked_seq: int = 0, heartbeat_s: float = 3600.0) -> FollowRequest:
        """Answer the next follow request."""
        while not isinstance(request := self.receive_request(), FollowRequest):
            pass
        self.send(to_bytes(following(acked_seq=acked_seq, heartbeat_s=heartbeat_s)))
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
    ([b"nonsense"], "not a reply of a line"),
    ([b'{"type":"following","schema_version":3}'], "update this client"),
    ([b'{"type":"following","schema_version":1}'], "update the line"),
    ([b'{"type":"forgotten","schema_version":2,"name":"mes1"}'], "not a reply to a consumer that follows"),
    ([to_bytes(following(name="mes2"))], "follows 'mes2', expected 'mes1'"),
    (batch_of(1, [2]), "after event j-1 came, expected one after j-0"),
    (batch_of(0, [], journal_id="k"), "after event k-0 came, expected one after j-0"),
    ([*batch_of(0, [1]), *[b""] * 3000], "a batch of 3003 part"),
]


@pytest.mark.parametrize(("parts", "excerpt"), VIOLATIONS, ids=range(len(VIOLATIONS)))
def test_a_protocol_violation_is_a_message_error_and_the_follower_reconnects(
    fake: tuple[FakeLine, str], parts: list[bytes], excerpt: str
) -> None:
    line, address = fake
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as follower:
        first = line.follow()
        line.send(*parts)
        with pytest.raises(MessageError, match=excerpt):
            follower.receive()
        answering = threading.Thread(target=lambda: (line.follow(), line.send(*batch_of(0, [1, 2]))))
        answering.start()
        assert [event.seq for event in take(follower, 2)] == [1, 2]
        answering.join()
        assert first.client == follower._request.client, "it is the same client"


def test_a_refusal_with_an_unknown_reason_is_final(fake: tuple[FakeLine, str]) -> None:
    line, address = fake
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as follower:
        line.receive_request()
        line.send(to_bytes(Refused(reason="asleep", detail="it is night")))
        for _ in range(2):
            with pytest.raises(DeliveryError, match=r"refuses mes1 \(asleep\): it is night"):
                follower.receive()


def test_a_temporary_refusal_is_retried_and_logged_once(
    fake: tuple[FakeLine, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = list(follower.PAUSE_SECONDS)
    monkeypatch.setattr(follower, "PAUSE_SECONDS", dict.fromkeys(reasons, 0.01))
    line, address = fake

    def answer() -> None:
        for reason in reasons:
            line.receive_request()
            line.send(to_bytes(refuse(reason, "a while")))
        line.follow()
        line.send(to_bytes(refuse("other_journal", "an old acknowledgement came late")))
        line.send(*batch_of(0, [1]))

    answering = threading.Thread(target=answer)
    answering.start()
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as events:
        assert take(events, 1)[0].seq == 1
    answering.join()
    assert len([record for record in caplog.records if record.name == "heatline.edge.delivery.follower"]) == 1


def test_after_silence_the_same_client_follows_again_and_logs_once(
    fake: tuple[FakeLine, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follower, "HEARTBEAT_SECONDS", 0.05)
    caplog.set_level(logging.INFO)
    line, address = fake
    names, connections, done = set(), list[bytes](), threading.Event()

    def answer_the_first_and_the_fourth() -> None:
        while not done.is_set():
            if not line.socket.poll(10) or not isinstance(request := line.receive_request(), FollowRequest):
                continue
            names.add(request.client)
            connections.append(line.client)
            if len(connections) == 1:
                line.send(to_bytes(following(heartbeat_s=0.05)))
            elif len(connections) >= 4:
                line.send(to_bytes(following()))
                line.send(*batch_of(0, [1]))

    answering = threading.Thread(target=answer_the_first_and_the_fourth)
    answering.start()
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS) as events:
        assert take(events, 1)[0].seq == 1
    done.set()
    answering.join()
    assert len(names) == 1
    assert len(set(connections)) == len(connections) >= 4
    logged = [record.levelname for record in caplog.records if record.name == "heatline.edge.delivery.follower"]
    assert logged == ["WARNING", "INFO"]


def test_acknowledgements_are_grouped(fake: tuple[FakeLine, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "SECONDS_BETWEEN_ACKS", 1e9)  # only the number of events counts
    line, address = fake
    with Follower(address, "mes1", timeout_s=WITHIN_SECONDS, window=100) as events:
        line.follow()
        line.send(*batch_of(0, list(range(1, 101))))
        take(events, 100)
        events.acknowledge()
        seqs: list[int] = []
        while 100 not in seqs:
            request = line.receive_request()
            assert isinstance(request, AckRequest)
            seqs.append(request.seq)
        assert seqs == sorted(set(seqs))
        assert len(seqs) <= 4


# Keys.


def test_a_client_without_the_follow_role_gets_an_access_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "HEARTBEAT_SECONDS", 0.1)
    secured, port = Secured(tmp_path), free_port()
    allowed, listener = secured.client("follow"), secured.client("listen")
    with FollowedLine(tmp_path / "journal", port.bound, access=secured.access()) as line:
        events = line.add(ALARM)
        with Follower(port.reached, "mes1", timeout_s=WITHIN_SECONDS, keys=allowed) as follows:
            assert take(follows, 1) == events
        with Follower(port.reached, "mes1", timeout_s=WITHIN_SECONDS, keys=listener) as refused:
            for _ in range(2):
                with pytest.raises(AccessError, match="closed the connection"):
                    refused.receive()
        with pytest.raises(AccessError, match="closed the connection"):
            forget(port.reached, "mes1", timeout_s=0.5)
        line.wait_until_gone()
        forget(port.reached, "mes1", keys=allowed)


# Forgetting and closing.


def test_forgetting_without_a_valid_reply_is_an_error(fake: tuple[FakeLine, str], tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match=r"did not reply within 0\.05 s"):
        forget(f"ipc://{tmp_path}/nobody", "mes1", timeout_s=0.05)
    line, address = fake
    answering = threading.Thread(target=lambda: (line.receive_request(), line.send(to_bytes(following()))))
    answering.start()
    with pytest.raises(MessageError, match="not a reply to a forget request"):
        forget(address, "mes1", timeout_s=WITHIN_SECONDS)
    answering.join()


def test_a_closed_follower_leaves_nothing_open(line: FollowedLine) -> None:
    line.add(GOOD)
    with follow(line) as follower:  # the line opens the journal
        take(follower, 1)
    line.wait_until_gone()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        follower = follow(line)
        take(follower, 1)
        follower.close()
        follower.close()
    with pytest.raises(DeliveryError):
        Follower("tcp://127.0.0.1", "mes1")
    wait_until(lambda: set(os.listdir("/proc/self/fd")) <= before, "descriptors are closed")


# Any order of restarts.


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
            assert event is not None
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
def test_no_event_is_lost_unreported_in_any_order_of_restarts(
    tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    RestartsInAnyOrder.make_folder = staticmethod(lambda: tmp_path_factory.mktemp("life"))
    case = RestartsInAnyOrder.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=12)
    case("runTest").runTest()
