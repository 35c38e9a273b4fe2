"""A live listener knows what it missed, that the line was started again, and that it is silent. Real sockets."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from edge.delivery.client.follower import Follower
from edge.delivery.client.gap_detector import Gap
from edge.delivery.client.subscriber import LineLost, NewBoot, Notice, Received, Subscriber
from edge.delivery.durable.consumers import Consumers
from edge.delivery.durable.follow_server import FollowServer
from edge.delivery.journal.journal import Journal
from edge.delivery.publisher import Publisher
from edge.errors import EventsLostError
from edge.wire.events import Message, StatusEvent, VerdictEvent
from tests.command import WITHIN_SECONDS
from tests.edge.journals import change, defect, good, journalling
from tests.edge.wire_examples import ALARM, GOOD, HANDSHAKE

DEFECTS = "verdict.top.DEFECT"


class Line:
    """Publishes what it journals, except while it is cut off; serves its journal."""

    def __init__(self, place: Path, journal: bool) -> None:
        self.address, self.served = f"ipc://{place}/events", f"ipc://{place}/journal"
        self.journal = journalling(place / "state" if journal else None, boot_id=GOOD.event.boot_id)
        self._server: FollowServer | None = None
        if journal:
            self._server = FollowServer(self.served, place / "state", Consumers(place / "state"))
            self._server.start()
            self._server.on_damaged.append(self.journal.distrust)
            self.journal.on_commit.append(self._server.wake)
        self._publish()

    def _publish(self) -> None:
        self.publisher = Publisher(self.address, self.journal)
        self.publisher.start()

    def tell(self, *messages: Message) -> None:
        for message in messages:
            self.publisher.send(message)

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[Callable[..., None]]:
        """Publish nothing; what is yielded journals messages meanwhile: only one thread at a time may."""
        self.publisher.close()
        yield lambda *messages: self.journal.commit(messages) and None
        self._publish()

    @contextlib.contextmanager
    def telling_its_status(self) -> Iterator[None]:
        """Again and again, as lines do."""
        stop = threading.Event()

        def tell() -> None:
            while not stop.wait(0.01):
                self.tell(Message(HANDSHAKE.event))

        thread = threading.Thread(target=tell)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @contextlib.contextmanager
    def heard(self, topic: str = "") -> Iterator[Subscriber]:
        """A listener that hears what is told from here on."""
        with Subscriber(self.address, topics=[topic], timeout_s=WITHIN_SECONDS) as events:
            assert self.publisher.wait_for_subscriber(WITHIN_SECONDS)
            self.tell(Message(HANDSHAKE.event), defect(number=0))
            until(events, 0)
            yield events

    def close(self) -> None:
        self.publisher.close()
        if self._server is not None:
            self._server.close()
        self.journal.close()


@pytest.fixture
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Line]:
    """One that keeps a journal; as a parameter, False: one that keeps none."""
    made = Line(tmp_path, getattr(request, "param", True))
    yield made
    made.close()


def next_of(events: Subscriber) -> Received:
    heard = events.receive()
    assert heard is not None, "nothing came any more"
    return heard


def until(events: Subscriber, frame_number: int) -> list[int | Notice]:
    """The frame numbers that come, up to one, and what is said between them."""
    came: list[int | Notice] = []
    while not came or came[-1] != frame_number:
        match next_of(events):
            case Message(event=VerdictEvent(frame_number=number)):
                came.append(number)
            case Gap() | NewBoot() | LineLost() as notice:
                came.append(notice)
    return came


def numbered(*numbers: int) -> Sequence[Message]:
    return [good(number=number) for number in numbers]


def test_an_event_is_sent_only_after_it_is_on_disk(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    went_ahead = threading.Event()
    append = Journal.append

    def slow_append(*of: object) -> None:
        went_ahead.wait(0.2)
        append(*of)  # type: ignore[arg-type]
        order.append("on disk")

    def happened(what: str) -> None:
        order.append(what)
        went_ahead.set()

    monkeypatch.setattr("edge.delivery.journal.disk_file.DISK_SECONDS", WITHIN_SECONDS)
    with line.heard() as events:
        monkeypatch.setattr(Journal, "append", slow_append)
        line.publisher.send(good(number=1), lambda: happened("sent"))
        assert until(events, 1) == [1]
        happened("heard")
    line.publisher.close()
    assert (order[0], sorted(order[1:])) == ("on disk", ["heard", "sent"])


def next_notice(events: Subscriber) -> Notice:
    while isinstance(heard := next_of(events), Message):
        assert isinstance(heard.event, StatusEvent)
    return heard


def gap(line: Line, topic: str, after_seq: int, through_seq: int) -> Gap:
    return Gap(line.journal.journal_id, GOOD.event.boot_id, topic, after_seq, through_seq)


def test_the_next_status_reveals_events_missed_while_disconnected(line: Line) -> None:
    with line.heard() as events:
        line.tell(*numbered(1, 2))
        assert until(events, 2) == [1, 2]
        first = line.journal.counts().journalled[GOOD.event.topic]
        with line.cut_off() as journal:
            journal(*numbered(3, 4), ALARM)
        with line.telling_its_status():
            said = {next_notice(events) for _ in range(2)}
        assert said == {gap(line, GOOD.event.topic, first, first + 2), gap(line, ALARM.event.topic, 0, first + 3)}
        line.tell(*numbered(5))
        assert until(events, 5) == [5], "it is said once"


def test_a_gap_comes_before_the_next_event_of_its_topic(line: Line) -> None:
    with line.heard() as events:
        line.tell(*numbered(1))
        until(events, 1)
        first = line.journal.counts().journalled[GOOD.event.topic]
        with line.cut_off() as journal:
            journal(*numbered(2, 3))
        while not line.publisher.wait_for_subscriber(0.05):
            events._socket.poll(0)  # ZeroMQ subscribes again only as its socket is used
        line.tell(*numbered(4))
        assert until(events, 4) == [gap(line, GOOD.event.topic, first, first + 2), 4]


def test_a_subscriber_to_one_topic_gets_gaps_of_that_topic_only(line: Line) -> None:
    with line.heard(topic=DEFECTS) as events:
        last = line.journal.counts().journalled[DEFECTS]
        line.tell(*numbered(*range(2, 9)), defect(number=9))
        assert until(events, 9) == [9], "what it did not subscribe to is no gap"
        with line.cut_off() as journal:
            journal(*numbered(10, 11, 20), defect(number=21), *numbered(22))
        with line.telling_its_status():
            assert next_of(events) == gap(line, DEFECTS, last + 8, last + 12)
            line.tell(defect(number=23))
            heard = next_of(events)
        assert isinstance(heard, Message)
        assert heard.event.topic == DEFECTS


@pytest.mark.parametrize("line", [False], indirect=True)
def test_gaps_are_reported_without_a_journal(line: Line) -> None:
    with line.heard() as events:
        line.tell(*numbered(1))
        until(events, 1)
        with line.cut_off() as journal:
            journal(*numbered(2))
        with line.telling_its_status():
            said = next_notice(events)
        assert said == Gap(None, GOOD.event.boot_id, GOOD.event.topic, 2, 3)


def test_a_slow_subscriber_gets_a_gap_for_each_dropped_event(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """More than waits for one listener anywhere: in the line, in the system, in the listener."""
    monkeypatch.setattr("edge.delivery.publisher.SEND_HIGH_WATER_MARK", 10)
    monkeypatch.setattr("edge.delivery.publisher.SECONDS_BETWEEN_COMMITS", 0.0)
    with contextlib.closing(Line(tmp_path, journal=True)) as line, line.heard() as events:
        count = 1500
        before = line.journal.counts().journalled[DEFECTS]
        padded = [msgspec.structs.replace(each.event, detail="x" * 2000) for each in numbered(*range(1, count + 1))]
        line.tell(*map(Message, padded))
        accounted, missed = list[int](), 0
        with line.telling_its_status():  # one status may be dropped as well
            while len(accounted) < count:
                match next_of(events):
                    case Message(event=VerdictEvent(seq=seq)):
                        accounted.append(seq - before)
                    case Gap(after_seq=after_seq, through_seq=through_seq):
                        missed += 1
                        accounted += range(max(after_seq, before) + 1 - before, through_seq + 1 - before)
        assert accounted == list(range(1, count + 1)), "each came or is known to be missing"
        assert missed, "some were dropped"


@pytest.mark.parametrize("line", [False], indirect=True)
def test_a_new_boot_and_silence_are_reported_once(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.delivery.client.subscriber.SILENT_AFTER_SECONDS", 0.2)
    monkeypatch.setattr("edge.delivery.client.subscriber.TICK_EVERY_MS", 20)
    status = HANDSHAKE.event
    with Subscriber(line.address, timeout_s=1.0) as events:
        assert events.receive() is None, "a line that was never there is not lost"
        assert line.publisher.wait_for_subscriber(WITHIN_SECONDS)
        line.tell(Message(status))
        assert isinstance(next_of(events), Message)
        assert isinstance(next_of(events), LineLost)
        assert events.receive() is None
        line.tell(Message(msgspec.structs.replace(status, boot_id="another")))
        assert next_of(events) == NewBoot("another", before=status.boot_id)
        assert isinstance(next_of(events), Message)
        assert isinstance(next_of(events), LineLost), "lost again"
        line.tell(Message(msgspec.structs.replace(status, boot_id="another", state="STOPPED")))
        assert isinstance(next_of(events), Message)
        assert events.receive() is None, "a line that has stopped is not lost"


def test_a_consumer_that_reaches_a_damaged_event_continues_in_a_new_journal(line: Line, tmp_path: Path) -> None:
    old_id = line.journal.journal_id
    rotten = "UPDATE events SET header = replace(header, '\"frame_number\":49,', '\"frame_number\":48,')"
    with line.cut_off() as journal:
        journal(*numbered(*range(1, 100)))
        change(tmp_path / "state", rotten)
    with Follower(line.served, "mes1", timeout_s=WITHIN_SECONDS) as consumer:
        assert [next(iter(consumer)).key for _ in range(49)] == [f"{old_id}-{seq}" for seq in range(1, 50)]
        with pytest.raises(EventsLostError) as lost:
            consumer.receive()
        assert (lost.value.journal_id, lost.value.after_seq) == (old_id, 49)
        begun = next(iter(consumer))
        assert (begun.journal_id, begun.seq, begun.event.kind) == (line.journal.journal_id, 1, "begun")
        assert "event 50: its header" in begun.event.detail
    assert (tmp_path / "state" / "journal.db.damaged-1").exists()
