"""A live listener that misses events knows it and gets them from the journal. Real sockets, a real journal."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from edge.delivery.durable.consumers import Consumers
from edge.delivery.durable.follow_server import FollowServer
from edge.delivery.durable.follower import Follower
from edge.delivery.journal.journal import Journal
from edge.delivery.messages import Message, VerdictEvent
from edge.delivery.publisher import Publisher
from edge.delivery.subscriber import Subscriber
from edge.errors import EventsLostError
from tests.command import WITHIN_SECONDS
from tests.edge.journals import change, defect, good, journalling
from tests.edge.wire_examples import ALARM, GOOD, HANDSHAKE

DEFECTS = "verdict.top.DEFECT"


class Line:
    """Publishes what it journals, except while it is cut off; serves its journal."""

    def __init__(self, place: Path, journal: bool) -> None:
        self.address, self.served = f"ipc://{place}/events", f"ipc://{place}/journal"
        self.keeping = journalling(place / "state" if journal else None, boot_id=GOOD.event.boot_id)
        self._server: FollowServer | None = None
        if journal:
            self._server = FollowServer(self.served, place / "state", Consumers(place / "state"))
            self._server.start()
            self._server.damaged.append(self.keeping.distrust)
            self.keeping.wake.append(self._server.wake)
        self._publish()

    def _publish(self) -> None:
        self.publisher = Publisher(self.address, self.keeping)
        self.publisher.start()

    def tell(self, *messages: Message) -> None:
        for message in messages:
            self.publisher.send(message)

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[Callable[..., None]]:
        """Publish nothing; what is yielded journals messages meanwhile: only one thread at a time may."""
        self.publisher.close()
        yield lambda *messages: self.keeping.commit(messages) and None
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
    def heard(self, replay: str | None = None, topic: str = "") -> Iterator[Subscriber]:
        """A listener that hears what is told from here on."""
        with Subscriber(self.address, topics=[topic], timeout_s=WITHIN_SECONDS, replay=replay) as events:
            assert self.publisher.wait_for_subscriber(WITHIN_SECONDS)
            self.tell(Message(HANDSHAKE.event), defect(number=0))
            until(events, 0)
            yield events

    def close(self) -> None:
        self.publisher.close()
        if self._server is not None:
            self._server.close()
        self.keeping.close()


@pytest.fixture
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Line]:
    """One that keeps a journal; as a parameter, False: one that keeps none."""
    made = Line(tmp_path, getattr(request, "param", True))
    yield made
    made.close()


def next_of(events: Subscriber) -> Message:
    message = events.receive()
    assert message is not None, "nothing came any more"
    return message


def until(events: Subscriber, frame_number: int) -> list[int]:
    """The frame numbers that come, up to one."""
    came: list[int] = []
    while not came or came[-1] != frame_number:
        event = next_of(events).event
        if isinstance(event, VerdictEvent):
            came.append(event.frame_number)
    return came


def numbered(*numbers: int) -> Sequence[Message]:
    return [good(number=number) for number in numbers]


def test_no_event_is_heard_or_counts_as_sent_before_the_disk_has_it(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_what_was_missed_while_cut_off_comes_from_the_journal_in_order(line: Line) -> None:
    with line.heard(line.served) as events:
        line.tell(*numbered(1, 2))
        assert until(events, 2) == [1, 2]
        with line.cut_off() as journal:
            journal(*numbered(3, 4), ALARM)
            journal(*numbered(5), defect(number=6, png=b"a picture"))
        came = [next_of(events) for _ in range(5)]  # as soon as it is connected again, before anything new is told
        assert all(message.late for message in came)
        assert [m.event.frame_number for m in came if m.event.topic == GOOD.event.topic] == [3, 4, 5]
        assert [m.png for m in came if m.event.topic == DEFECTS] == [b"a picture"]
        line.tell(*numbered(7))
        live = next_of(events)
        assert (live.event.frame_number, live.late) == (7, False)


def test_a_listener_to_one_topic_misses_only_events_of_that_topic(line: Line) -> None:
    with line.heard(topic=DEFECTS) as events:
        line.tell(*numbered(*range(2, 9)), defect(number=9))
        assert until(events, 9) == [9], "what it did not subscribe to is no gap"
        with line.cut_off() as journal:
            journal(*numbered(10, 11, 20), defect(number=21), *numbered(22))
        with pytest.raises(EventsLostError, match="where the line serves its journal was not said"):
            events.receive()
        line.tell(defect(number=23))
        assert until(events, 23) == [23], "it goes on after that"


def test_what_the_journal_does_not_hold_any_more_is_said_and_what_it_does_comes(line: Line) -> None:
    with line.heard(line.served) as events:
        line.tell(*numbered(1))
        until(events, 1)
        kept = line.keeping._file.journal
        assert kept is not None
        with line.cut_off() as journal:
            journal(*numbered(2, 3, 4, 5))
            kept.discard(kept.last_seq - 2)
        with pytest.raises(EventsLostError, match="does not hold them any more") as lost:
            events.receive()
        assert (lost.value.through_seq, lost.value.journal_id) == (kept.last_seq - 2, kept.journal_id)
        assert until(events, 5) == [4, 5]


@pytest.mark.parametrize("line", [False], indirect=True)
def test_what_no_journal_holds_is_said(line: Line) -> None:
    with line.heard() as events:
        line.tell(*numbered(1))
        until(events, 1)
        with line.cut_off() as journal:
            journal(*numbered(2))
        with pytest.raises(EventsLostError, match="no journal holds them") as lost:
            events.receive()
        assert (lost.value.journal_id, lost.value.after_seq, lost.value.through_seq) == (None, 2, 3)


def test_a_listener_that_reads_too_slowly_gets_again_what_was_dropped_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """More than waits for one listener anywhere: in the line, in the system, in the listener."""
    monkeypatch.setattr("edge.delivery.publisher.SEND_HIGH_WATER_MARK", 10)
    monkeypatch.setattr("edge.delivery.publisher.SECONDS_BETWEEN_COMMITS", 0.0)
    with contextlib.closing(Line(tmp_path, journal=True)) as line, line.heard(line.served) as events:
        count = 1500
        padded = [msgspec.structs.replace(each.event, detail="x" * 2000) for each in numbered(*range(1, count + 1))]
        line.tell(*map(Message, padded))
        with line.telling_its_status():  # one status may be dropped as well
            assert until(events, count) == list(range(1, count + 1))
        assert events._replay is not None
        assert next(events._replay._ids) > 1, "some were dropped, and asked for again"


def test_missed_events_are_asked_for_as_they_are_read_and_not_kept_all_at_once(line: Line) -> None:
    with line.heard(line.served) as events:
        assert events._replay is not None
        with line.cut_off() as journal:
            journal(*numbered(*range(1, 1501)))
        assert until(events, 1) == [1]
        assert next(events._replay._ids) == 2, "one part of them was asked for"
        assert until(events, 1500) == list(range(2, 1501))


def test_a_journal_that_does_not_answer_holds_up_what_comes_live_no_more_than_once(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.delivery.replay.ANSWER_WITHIN_SECONDS", 0.2)
    with line.heard(f"{line.served}-nobody") as events:
        with line.cut_off() as journal:
            journal(good(number=1), defect(number=2))
        whys = []
        for _ in range(2):
            with pytest.raises(EventsLostError) as lost:
                events.receive()
            whys.append(str(lost.value))
        assert "is the line running, and is its journal.bind this address?" in whys[0]
        assert "did not answer a moment ago" in whys[1]
        line.tell(*numbered(3))
        assert until(events, 3) == [3]


def test_a_durable_consumer_that_meets_rot_goes_on_in_a_new_journal(line: Line, tmp_path: Path) -> None:
    old_id = line.keeping.journal_id
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
        assert (begun.journal_id, begun.seq, begun.event.what) == (line.keeping.journal_id, 1, "begun")
        assert "event 50: its header" in begun.event.detail
    assert (tmp_path / "state" / "journal.db.damaged-1").exists()
