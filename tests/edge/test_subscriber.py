"""A live listener that misses events: it knows, and has them again from the journal. Real sockets, a real journal."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from edge.delivery import replay
from edge.delivery.durable.consumers import Consumers
from edge.delivery.durable.follow_server import FollowServer
from edge.delivery.messages import Message, StatusEvent
from edge.delivery.publisher import Publisher
from edge.delivery.subscriber import Subscriber
from edge.errors import EventsLostError
from tests.edge.journals import Clocks, defect, good, journalling
from tests.edge.wire_examples import ALARM, GOOD, HANDSHAKE

WITHIN_SECONDS = 40.0


class Line:
    """Publishes what it journals, except while it is cut off; serves its journal."""

    def __init__(self, folder: Path | None, address: str, replay_at: str) -> None:
        self.keeping = journalling(folder, Clocks(), boot_id=GOOD.event.boot_id)
        self._address = address
        self._publisher: Publisher | None = None
        self._server: FollowServer | None = None
        if folder is not None:
            self._server = FollowServer(replay_at, folder, Consumers(folder))
            self._server.start()
            self.keeping.wake.append(self._server.wake)

    def publish(self) -> None:
        self._publisher = Publisher(self._address, self.keeping)
        self._publisher.start()

    def tell(self, *messages: Message) -> None:
        assert self._publisher is not None
        for message in messages:
            self._publisher.send(message)

    def be_cut_off(self) -> None:
        assert self._publisher is not None
        self._publisher.close()
        self._publisher = None

    def tell_nobody(self, *messages: Message) -> None:
        """Journal it while nobody is connected: with one thread, as ever."""
        assert self._publisher is None
        self.keeping.commit(messages)

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
        if self._server is not None:
            self._server.close()
        self.keeping.close()


@pytest.fixture
def replay_at(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/replay"


@contextlib.contextmanager
def line(folder: Path | None, address: str, replay_at: str) -> Iterator[Line]:
    made = Line(folder, address, replay_at)
    made.publish()
    try:
        yield made
    finally:
        made.close()


def join(made: Line, events: Subscriber) -> None:
    """Until the listener hears what is told; what it heard is thrown away."""
    assert made._publisher is not None
    assert made._publisher.wait_for_subscriber(WITHIN_SECONDS)
    made.tell(status())
    while not isinstance(next_of(events).event, StatusEvent):
        pass


def status() -> Message:
    return Message(HANDSHAKE.event)


def next_of(events: Subscriber) -> Message:
    message = events.receive()
    assert message is not None, "nothing came any more"
    return message


def until_told(events: Subscriber, frame_number: int) -> list[int]:
    """The frame numbers that come, up to one."""
    came: list[int] = []
    while not came or came[-1] != frame_number:
        event = next_of(events).event
        if hasattr(event, "frame_number"):
            came.append(event.frame_number)
    return came


def test_what_was_missed_while_cut_off_comes_from_the_journal_in_order(
    tmp_path: Path, address: str, replay_at: str
) -> None:
    with (
        line(tmp_path / "state", address, replay_at) as made,
        Subscriber(address, timeout_s=WITHIN_SECONDS, replay=replay_at) as events,
    ):
        join(made, events)
        made.tell(*(good(number=number) for number in (1, 2)))
        assert until_told(events, 2) == [1, 2]
        made.be_cut_off()
        made.tell_nobody(*(good(number=number) for number in (3, 4)), ALARM)
        made.tell_nobody(*(good(number=number) for number in (5, 6)))
        made.publish()
        assert until_told(events, 6) == [3, 4, 5, 6], "as soon as it is connected again, before anything new is told"
        made.tell(good(number=7))
        assert until_told(events, 7) == [7]


def test_a_heatmap_comes_again_as_well(tmp_path: Path, address: str, replay_at: str) -> None:
    with (
        line(tmp_path / "state", address, replay_at) as made,
        Subscriber(address, timeout_s=WITHIN_SECONDS, replay=replay_at, topics=["verdict.top.DEFECT"]) as events,
    ):
        join_topic(made, events)
        made.be_cut_off()
        made.tell_nobody(good(number=2), defect(number=3, png=b"a picture"))
        made.publish()
        message = next_of(events)
        assert (message.png, message.late) == (b"a picture", True)
        made.tell(defect(number=4))
        assert not next_of(events).late


def join_topic(made: Line, events: Subscriber) -> None:
    """As `join`, for who takes defects alone."""
    assert made._publisher is not None
    assert made._publisher.wait_for_subscriber(WITHIN_SECONDS)
    made.tell(defect(number=1))
    assert until_told(events, 1) == [1]


def test_who_takes_one_topic_misses_nothing_of_it_and_is_told_of_nothing_else(
    tmp_path: Path, address: str, replay_at: str
) -> None:
    with (
        line(tmp_path / "state", address, replay_at) as made,
        Subscriber(address, timeout_s=WITHIN_SECONDS, topics=["verdict.top.DEFECT"]) as events,
    ):
        join_topic(made, events)
        made.tell(*(good(number=number) for number in range(2, 9)), defect(number=9))
        assert until_told(events, 9) == [9], "what it did not subscribe to is no gap"
        made.be_cut_off()
        made.tell_nobody(*(good(number=number) for number in range(10, 13)))
        made.tell_nobody(good(number=20), defect(number=21), good(number=22))
        made.publish()
        with pytest.raises(EventsLostError, match="where the line serves its journal was not said"):
            events.receive()
        made.tell(defect(number=23))
        assert until_told(events, 23) == [23], "it goes on after that"


def test_what_the_journal_does_not_hold_any_more_is_said_and_what_it_does_comes(
    tmp_path: Path, address: str, replay_at: str
) -> None:
    with (
        line(tmp_path / "state", address, replay_at) as made,
        Subscriber(address, timeout_s=WITHIN_SECONDS, replay=replay_at) as events,
    ):
        join(made, events)
        made.tell(good(number=1))
        until_told(events, 1)
        made.be_cut_off()
        made.tell_nobody(*(good(number=number) for number in range(2, 6)))
        journal = made.keeping._journal
        assert journal is not None
        journal.discard(journal.last_seq - 2)
        made.publish()
        with pytest.raises(EventsLostError, match="does not hold them any more") as lost:
            events.receive()
        assert (lost.value.through_seq, lost.value.journal_id) == (journal.last_seq - 2, journal.journal_id)
        assert until_told(events, 5) == [4, 5]


def test_what_no_journal_holds_is_said(address: str, replay_at: str) -> None:
    with line(None, address, replay_at) as made, Subscriber(address, timeout_s=WITHIN_SECONDS) as events:
        join(made, events)
        made.tell(good(number=1))
        until_told(events, 1)
        made.be_cut_off()
        made.tell_nobody(good(number=2))
        made.publish()
        with pytest.raises(EventsLostError, match="no journal holds them") as lost:
            events.receive()
        assert (lost.value.journal_id, lost.value.after_seq, lost.value.through_seq) == (None, 1, 2)


def test_a_listener_that_reads_too_slowly_has_again_what_was_dropped_for_it(
    tmp_path: Path, address: str, replay_at: str
) -> None:
    """Far more than waits for one listener anywhere."""
    with (
        line(tmp_path / "state", address, replay_at) as made,
        Subscriber(address, timeout_s=WITHIN_SECONDS, replay=replay_at) as events,
    ):
        join(made, events)
        count = 6000
        made.tell(*(padded(number) for number in range(1, count + 1)), status())
        assert until_all(events, count) == list(range(1, count + 1))
        assert events._replay is not None
        assert next(events._replay._ids) > 1, "some were dropped, and asked for again"


def padded(number: int) -> Message:
    """Large enough that no buffer of the system takes them all."""
    message = good(number=number)
    return Message(msgspec.structs.replace(message.event, detail="x" * 2000))


def until_all(events: Subscriber, count: int) -> Sequence[int]:
    came: list[int] = []
    while len(came) < count:
        event = next_of(events).event
        if hasattr(event, "frame_number"):
            came.append(event.frame_number)
    return came


def test_what_is_had_again_is_asked_for_as_it_is_wanted_and_not_kept_all_at_once(
    tmp_path: Path, address: str, replay_at: str
) -> None:
    with (
        line(tmp_path / "state", address, replay_at) as made,
        Subscriber(address, timeout_s=WITHIN_SECONDS, replay=replay_at) as events,
    ):
        join(made, events)
        assert events._replay is not None
        made.be_cut_off()
        made.tell_nobody(*(good(number=number) for number in range(1, 2501)))
        made.publish()
        assert until_told(events, 1) == [1]
        assert next(events._replay._ids) == 2, "one part of them was asked for"
        assert until_told(events, 2500) == list(range(2, 2501))


def test_a_journal_that_does_not_answer_holds_up_what_comes_live_no_more_than_once(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "ANSWER_WITHIN_SECONDS", 0.2)
    with (
        line(tmp_path / "state", address, f"ipc://{tmp_path}/served") as made,
        Subscriber(address, timeout_s=WITHIN_SECONDS, replay=f"ipc://{tmp_path}/nobody") as events,
    ):
        join(made, events)
        made.be_cut_off()
        made.tell_nobody(good(number=1), defect(number=2))
        made.publish()
        whys = []
        for _ in range(2):
            with pytest.raises(EventsLostError) as lost:
                events.receive()
            whys.append(str(lost.value))
        assert "is the line running, and is its journal.bind this address?" in whys[0]
        assert "did not answer a moment ago" in whys[1]
        made.tell(good(number=3))
        assert until_told(events, 3) == [3]
