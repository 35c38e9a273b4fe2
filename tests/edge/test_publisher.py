"""Publisher and subscriber over real sockets, TCP and ipc."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from heatline.edge.delivery.auth import Access, KeyPair
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import DeliveryError
from heatline.edge.wire.events import Message, StatusEvent, VerdictEvent
from tests.command import WITHIN_SECONDS
from tests.edge.wire_examples import DEFECT, GOOD, STATUS


def verdict(seq: int, message: Message = GOOD) -> Message:
    return Message(msgspec.structs.replace(message.event, seq=seq), message.png)


def seqs(events: Subscriber, count: int) -> list[int]:
    received: list[int] = []
    for _ in range(count):
        message = events.receive()
        assert isinstance(message, Message), f"only {len(received)} of {count} messages arrived"
        assert isinstance(message.event, VerdictEvent)
        received.append(message.event.seq)
    return received


@pytest.fixture(params=["tcp", "ipc"])
def either_address(request: pytest.FixtureRequest, address: str, tmp_path: Path) -> str:
    """An address of each kind: TCP and ipc differ in how they bind, conflict and close."""
    return address if request.param == "tcp" else f"ipc://{tmp_path}/events"


@pytest.fixture
def publishers() -> Iterator[Callable[[str], Publisher]]:
    """Factory of publishers, which are closed at the end."""
    with contextlib.ExitStack() as running:

        def make(address: str) -> Publisher:
            publisher = Publisher(address)
            running.callback(publisher.close)
            return publisher

        yield make


@pytest.fixture
def publisher(publishers: Callable[[str], Publisher], address: str) -> Publisher:
    """A running publisher."""
    running = publishers(address)
    running.start()
    return running


Make = Callable[[str], Publisher]


def subscribe(address: str, *topics: str) -> Subscriber:
    return Subscriber(address, topics=topics or ("",), timeout_s=WITHIN_SECONDS)


def join(publisher: Publisher, *subscribers: Subscriber) -> None:
    """Send statuses until each subscriber has received one; each receives all that is sent afterwards."""
    joined = threading.Event()

    def send_statuses() -> None:
        while not joined.wait(0.01):
            publisher.send(STATUS)

    sender = threading.Thread(target=send_statuses)
    sender.start()
    try:
        for subscriber in subscribers:
            assert subscriber.receive() is not None
    finally:
        joined.set()
        sender.join()
    publisher.send(verdict(1, DEFECT))
    for subscriber in subscribers:
        while isinstance(message := subscriber.receive(), Message) and isinstance(message.event, StatusEvent):
            pass
        assert isinstance(message, Message)


def test_messages_arrive_in_order_at_a_subscriber_that_connected_first(publishers: Make, either_address: str) -> None:
    with subscribe(either_address) as events:
        publisher = publishers(either_address)
        publisher.start()
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        sent = [verdict(1), verdict(2, DEFECT), STATUS, verdict(3)]
        for message in sent:
            publisher.send(message)
        assert [events.receive() for _ in sent] == sent


def test_every_subscriber_gets_all_messages_sent_before_closing(publisher: Publisher) -> None:
    with subscribe(publisher.address) as first, subscribe(publisher.address) as second:
        join(publisher, first, second)
        for seq in range(1, 301):
            publisher.send(verdict(seq, DEFECT))
        publisher.close()
        assert seqs(first, 300) == seqs(second, 300) == list(range(1, 301))


def test_a_topic_prefix_selects_the_messages(publisher: Publisher) -> None:
    with subscribe(publisher.address, "verdict.top.DEFECT", "status") as events:
        join(publisher, events)
        for message in (verdict(1), verdict(2, DEFECT), verdict(3), verdict(4, DEFECT)):
            publisher.send(message)
        assert seqs(events, 2) == [2, 4]


# Addresses.


def test_binding_an_address_in_use_fails_and_leaves_its_owner_served(publishers: Make, either_address: str) -> None:
    owner = publishers(either_address)
    owner.start()
    with pytest.raises(DeliveryError, match="another line may use it"):
        publishers(either_address).start()
    with subscribe(either_address) as events:
        assert owner.wait_for_subscriber(WITHIN_SECONDS)
        owner.send(verdict(1))
        assert seqs(events, 1) == [1]


def test_the_ipc_path_of_a_killed_line_can_be_bound(publishers: Make, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(tmp_path / "events"))
    assert (tmp_path / "events").exists()
    publishers(f"ipc://{tmp_path}/events").start()


BAD = (
    "tcp://127.0.0.1",  # no port
    "tcp://nobody.invalid:5556",  # no such machine
    "tcp://192.0.2.1:5556",  # another machine's address
    "ipc:///nowhere/at/all",  # no such folder
    "ipc://" + "x" * 300,  # too long for any socket
    "smoke://signals",
    "",
)


@pytest.mark.parametrize("bad", BAD)
def test_an_invalid_address_is_a_delivery_error(bad: str) -> None:
    publisher = Publisher(bad, access=Access(KeyPair(*zmq.curve_keypair())))
    with pytest.raises(DeliveryError, match="cannot be bound") as caught:
        publisher.start()
    assert "\n" not in str(caught.value)
    if bad in ("tcp://127.0.0.1", "smoke://signals", ""):
        with pytest.raises(DeliveryError, match="is not an address to connect to"):
            Subscriber(bad)


# No client blocks the line.


def sent_without_waiting(publisher: Publisher, count: int, message: Message = GOOD) -> bool:
    """Send messages in a thread; return whether none of them blocks."""

    def send() -> None:
        for seq in range(1, count + 1):
            publisher.send(verdict(seq, message))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    sender.join(WITHIN_SECONDS)
    return not sender.is_alive()


def test_a_missing_or_slow_subscriber_does_not_block_sending(
    publishers: Make, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heatline.edge.delivery.publisher.SEND_HIGH_WATER_MARK", 10)
    publisher = publishers(address)
    publisher.start()
    assert not publisher.wait_for_subscriber(0.01)
    assert sent_without_waiting(publisher, 100)
    heavy = Message(DEFECT.event, b"\x89PNG" + bytes(1 << 20))  # the system's buffers cannot hold all of them
    with zmq.Context() as context, context.socket(zmq.SUB) as slow:
        slow.setsockopt(zmq.RCVHWM, 1)
        slow.setsockopt(zmq.SUBSCRIBE, b"")
        slow.connect(address)
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        assert sent_without_waiting(publisher, 50, heavy)


def test_a_flood_of_subscriptions_does_not_block_sending(publisher: Publisher) -> None:
    stop = threading.Event()

    def flood() -> None:
        with zmq.Context() as context, context.socket(zmq.XSUB) as hostile:
            hostile.setsockopt(zmq.LINGER, 0)
            hostile.connect(publisher.address)
            number = 0
            while not stop.is_set():
                number += 1
                hostile.send(b"\x01" + str(number % 5000).encode())
                hostile.send(b"\x02 not a subscription at all")

    flooding = threading.Thread(target=flood, daemon=True)
    flooding.start()
    try:
        with subscribe(publisher.address) as events:
            join(publisher, events)
            assert sent_without_waiting(publisher, 200)
            assert seqs(events, 200) == list(range(1, 201))
    finally:
        stop.set()
        flooding.join(WITHIN_SECONDS)


# Timeouts and refusals.


def test_a_subscriber_stops_after_its_timeout(address: str) -> None:
    with Subscriber(address, timeout_s=0.05) as events:
        assert events.receive() is None
        assert list(events) == []


def test_sending_before_the_start_or_after_closing_is_an_error(publishers: Make, either_address: str) -> None:
    """A message that is never sent must not look sent. Closing frees the address."""
    for _ in range(2):
        publisher = publishers(either_address)
        publisher.close()
        with pytest.raises(DeliveryError, match="is not running"):
            publisher.send(GOOD)
        publisher.start()
        publisher.send(GOOD)
        for _ in range(2):
            publisher.close()
            with pytest.raises(DeliveryError, match="is not running"):
                publisher.send(GOOD)


def test_a_message_that_cannot_be_encoded_fails_in_the_sending_thread(publisher: Publisher) -> None:
    """In the publisher's thread, the error would end all publishing unnoticed."""
    with pytest.raises(UnicodeEncodeError):
        publisher.send(Message(msgspec.structs.replace(GOOD.event, source="\udcff")))
    publisher.send(GOOD)
