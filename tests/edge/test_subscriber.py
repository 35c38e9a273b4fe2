"""A live subscriber notices missed events, a restart of the line, and its silence. Over real sockets."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from heatline.edge.delivery.follow import Consumers, FollowServer
from heatline.edge.delivery.journal import Journal
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.delivery.subscriber import Gap, LineLost, NewBoot, Notice, Received, Subscriber
from heatline.edge.wire.events import Message, StatusEvent, VerdictEvent
from tests.command import WITHIN_SECONDS
from tests.edge.journals import defect, good, make_writer, stored_rows
from tests.edge.wire_examples import ALARM, GOOD, HANDSHAKE

DEFECTS = "verdict.top.DEFECT"


class Line:
    """A line that publishes what it journals, except while it is disconnected, and serves its journal."""

    def __init__(self, place: Path, journal: bool) -> None:
        self.address, self.served = f"ipc://{place}/events", f"ipc://{place}/journal"
        self.journal = make_writer(place / "state" if journal else None, boot_id=GOOD.event.boot_id)
        self._server: FollowServer | None = None
        if journal:
            self._server = FollowServer(self.served, place / "state", Consumers(place / "state"))
            self._server.start()
            self.journal.on_commit = self._server.wake
        self._folder = place / "state"
        self._start_publisher()

    def last(self, topic: str) -> int:
        """Return the number of the last journalled event of a topic."""
        return max(seq for seq, of_topic, *_ in stored_rows(self._folder) if of_topic == topic)

    def _start_publisher(self) -> None:
        self.publisher = Publisher(self.address, self.journal)
        self.publisher.start()

    def publish(self, *messages: Message) -> None:
        for message in messages:
            self.publisher.send(message)

    @contextlib.contextmanager
    def disconnected(self) -> Iterator[Callable[..., None]]:
        """Publish nothing. Yields a function that journals messages; only one thread at a time may call it."""
        self.publisher.close()
        yield lambda *messages: self.journal.commit(messages) and None
        self._start_publisher()

    @contextlib.contextmanager
    def sending_statuses(self) -> Iterator[None]:
        """Send the status repeatedly, as a line does."""
        stop = threading.Event()

        def send() -> None:
            while not stop.wait(0.01):
                self.publish(Message(HANDSHAKE.event))

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    @contextlib.contextmanager
    def subscribed(self, topic: str = "") -> Iterator[Subscriber]:
        """Subscriber that receives all that is published from here on."""
        with Subscriber(self.address, topics=[topic], timeout_s=WITHIN_SECONDS) as events:
            assert self.publisher.wait_for_subscriber(WITHIN_SECONDS)
            self.publish(Message(HANDSHAKE.event), defect(number=0))
            receive_until(events, 0)
            yield events

    def close(self) -> None:
        self.publisher.close()
        if self._server is not None:
            self._server.close()
        self.journal.close()


@pytest.fixture
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Line]:
    """A line with a journal, or without one if the parameter is False."""
    opened = Line(tmp_path, getattr(request, "param", True))
    yield opened
    opened.close()


def receive(events: Subscriber) -> Received:
    received = events.receive()
    assert received is not None, "no message came in time"
    return received


def receive_until(events: Subscriber, frame_number: int) -> list[int | Notice]:
    """Receive up to a frame number; return the frame numbers and the notices between them."""
    received: list[int | Notice] = []
    while not received or received[-1] != frame_number:
        match receive(events):
            case Message(event=VerdictEvent(frame_number=number)):
                received.append(number)
            case Gap() | NewBoot() | LineLost() as notice:
                received.append(notice)
    return received


def numbered(*numbers: int) -> Sequence[Message]:
    return [good(number=number) for number in numbers]


def test_an_event_is_sent_only_after_it_is_on_disk(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    published = threading.Event()
    append = Journal.append

    def slow_append(*arguments: object) -> None:
        published.wait(0.2)
        append(*arguments)  # type: ignore[arg-type]
        order.append("on disk")

    def note_step(step: str) -> None:
        order.append(step)
        published.set()

    monkeypatch.setattr("heatline.edge.delivery.journal_writer.DISK_SECONDS", WITHIN_SECONDS)
    with line.subscribed() as events:
        monkeypatch.setattr(Journal, "append", slow_append)
        line.publisher.send(good(number=1), lambda: note_step("sent"))
        assert receive_until(events, 1) == [1]
        note_step("received")
    line.publisher.close()
    assert (order[0], sorted(order[1:])) == ("on disk", ["received", "sent"])


def next_notice(events: Subscriber) -> Notice:
    while isinstance(received := receive(events), Message):
        assert isinstance(received.event, StatusEvent)
    return received


def gap(line: Line, topic: str, after_seq: int, through_seq: int) -> Gap:
    return Gap(line.journal.state().journal_id, GOOD.event.boot_id, topic, after_seq, through_seq)


def test_the_next_status_reveals_events_missed_while_disconnected(line: Line) -> None:
    with line.subscribed() as events:
        line.publish(*numbered(1, 2))
        assert receive_until(events, 2) == [1, 2]
        first = line.last(GOOD.event.topic)
        with line.disconnected() as journal:
            journal(*numbered(3, 4), ALARM)
        with line.sending_statuses():
            notices = {next_notice(events) for _ in range(2)}
        assert notices == {gap(line, GOOD.event.topic, first, first + 2), gap(line, ALARM.event.topic, 0, first + 3)}
        line.publish(*numbered(5))
        assert receive_until(events, 5) == [5], "the gap is reported once"


def test_a_gap_comes_before_the_next_event_of_its_topic(line: Line) -> None:
    with line.subscribed() as events:
        line.publish(*numbered(1))
        receive_until(events, 1)
        first = line.last(GOOD.event.topic)
        with line.disconnected() as journal:
            journal(*numbered(2, 3))
        while not line.publisher.wait_for_subscriber(0.05):
            events._socket.poll(0)  # ZeroMQ subscribes again only while its socket is used
        line.publish(*numbered(4))
        assert receive_until(events, 4) == [gap(line, GOOD.event.topic, first, first + 2), 4]


def test_a_subscriber_to_one_topic_gets_gaps_of_that_topic_only(line: Line) -> None:
    with line.subscribed(topic=DEFECTS) as events:
        last = line.last(DEFECTS)
        line.publish(*numbered(*range(2, 9)), defect(number=9))
        assert receive_until(events, 9) == [9], "what it did not subscribe to is not a gap"
        with line.disconnected() as journal:
            journal(*numbered(10, 11, 20), defect(number=21), *numbered(22))
        with line.sending_statuses():
            assert receive(events) == gap(line, DEFECTS, last + 8, last + 12)
            line.publish(defect(number=23))
            received = receive(events)
        assert isinstance(received, Message)
        assert received.event.topic == DEFECTS


@pytest.mark.parametrize("line", [False], indirect=True)
def test_gaps_are_reported_without_a_journal(line: Line) -> None:
    with line.subscribed() as events:
        line.publish(*numbered(1))
        receive_until(events, 1)
        with line.disconnected() as journal:
            journal(*numbered(2))
        with line.sending_statuses():
            assert next_notice(events) == Gap(None, GOOD.event.boot_id, GOOD.event.topic, 2, 3)


def test_a_slow_subscriber_gets_a_gap_for_each_dropped_event(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Publish more than the line, the system and the subscriber can queue."""
    monkeypatch.setattr("heatline.edge.delivery.publisher.Publisher.send_high_water_mark", 10)
    monkeypatch.setattr("heatline.edge.delivery.publisher.SECONDS_BETWEEN_COMMITS", 0.0)
    with contextlib.closing(Line(tmp_path, journal=True)) as line, line.subscribed() as events:
        count = 1500
        before = line.last(DEFECTS)
        padded = [msgspec.structs.replace(each.event, detail="x" * 2000) for each in numbered(*range(1, count + 1))]
        line.publish(*map(Message, padded))
        accounted_for, missed = list[int](), 0
        with line.sending_statuses():  # one status may be dropped as well
            while len(accounted_for) < count:
                match receive(events):
                    case Message(event=VerdictEvent(seq=seq)):
                        accounted_for.append(seq - before)
                    case Gap(after_seq=after_seq, through_seq=through_seq):
                        missed += 1
                        accounted_for += range(max(after_seq, before) + 1 - before, through_seq + 1 - before)
        assert accounted_for == list(range(1, count + 1)), "each event came or is in a gap"
        assert missed, "some events were dropped"


@pytest.mark.parametrize("line", [False], indirect=True)
def test_a_new_boot_and_silence_are_reported_once(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatline.edge.delivery.subscriber.SILENT_AFTER_SECONDS", 0.2)
    monkeypatch.setattr("heatline.edge.delivery.subscriber.TICK_EVERY_MS", 20)
    status = HANDSHAKE.event
    with Subscriber(line.address, timeout_s=1.0) as events:
        assert events.receive() is None, "a line that never sent is not lost"
        assert line.publisher.wait_for_subscriber(WITHIN_SECONDS)
        line.publish(Message(status))
        assert isinstance(receive(events), Message)
        assert isinstance(receive(events), LineLost)
        assert events.receive() is None
        line.publish(Message(msgspec.structs.replace(status, boot_id="another")))
        assert receive(events) == NewBoot("another", before=status.boot_id)
        assert isinstance(receive(events), Message)
        assert isinstance(receive(events), LineLost), "lost again"
        line.publish(Message(msgspec.structs.replace(status, boot_id="another", state="STOPPED")))
        assert isinstance(receive(events), Message)
        assert events.receive() is None, "a line that has stopped is not lost"
