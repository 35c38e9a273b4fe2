"""Live events: their content, their order, and what a subscriber notices of missed events, restarts and silence."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.auth import Access, KeyPair
from heatline.edge.delivery.journal import Journal
from heatline.edge.delivery.publisher import Count, Numbering, Publisher
from heatline.edge.delivery.subscriber import Gap, GapDetector, LineLost, NewBoot, Notice, Received, Subscriber
from heatline.edge.errors import DeliveryError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.inference import Engine
from heatline.edge.inspection.in_flight_log import InFlightLog
from heatline.edge.inspection.inspector import Heatmaps, Outcome, Setup, Unjudged
from heatline.edge.service.events import EventEmitter, Heartbeat, verdict_message
from heatline.edge.wire.events import (
    CountedEvent,
    Counts,
    Message,
    VerdictEvent,
    from_frames,
    to_frames,
)
from tests.command import WITHIN_SECONDS
from tests.edge.journals import defect, good, make_writer, stored_rows
from tests.edge.lines import setup_of
from tests.edge.wire_examples import ALARM, DEFECT, GOOD, HANDSHAKE
from tests.small_bundle import dark_square, white_frame

# The publisher.


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


# The subscriber.


DEFECTS = "verdict.top.DEFECT"


class Line:
    """A line that publishes what it journals."""

    def __init__(self, place: Path, journal: bool) -> None:
        self.address, self._folder = f"ipc://{place}/events", place / "state"
        self._journal = make_writer(self._folder if journal else None, boot_id=GOOD.event.boot_id)
        self.publisher = Publisher(self.address, self._journal)
        self.publisher.start()

    def last(self, topic: str) -> int:
        """Return the number of the last journalled event of a topic."""
        return max(seq for seq, of_topic, *_ in stored_rows(self._folder) if of_topic == topic)

    def publish(self, *messages: Message) -> None:
        for message in messages:
            self.publisher.send(message)

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
        self._journal.close()


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


def goods(*numbers: int) -> Sequence[Message]:
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


def test_a_slow_subscriber_gets_a_gap_for_each_dropped_event(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Publish more than the line, the system and the subscriber can queue."""
    monkeypatch.setattr("heatline.edge.delivery.publisher.Publisher.send_high_water_mark", 10)
    monkeypatch.setattr("heatline.edge.delivery.publisher.SECONDS_BETWEEN_COMMITS", 0.0)
    with contextlib.closing(Line(tmp_path, journal=True)) as line, line.subscribed() as events:
        count = 1500
        before = line.last(DEFECTS)
        padded = [msgspec.structs.replace(each.event, detail="x" * 2000) for each in goods(*range(1, count + 1))]
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


# Gaps, compared with a record of all events.


def with_fields(event: Any, **fields: object) -> CountedEvent:
    changed: CountedEvent = msgspec.structs.replace(event, **fields)
    return changed


GOOD_OF_TOP = with_fields(GOOD.event, camera="top")

EVENTS = [
    GOOD_OF_TOP,
    with_fields(DEFECT.event, camera="top"),
    with_fields(DEFECT.event, camera="side"),
    with_fields(ALARM.event),
]


class CountingLine:
    """Counts events as a line does: over restarts, without a journal, and with a new one."""

    def __init__(self) -> None:
        self.boots, self.journals = 1, 1
        self.journal: Count | None = Count("journal-1")
        self.newest_journal = self.journal
        self.boot = Count(None)

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    @property
    def counts(self) -> Counts:
        return Counts(
            journal_id=self.newest_journal.journal_id,
            journalled=dict(self.newest_journal.topics),
            unjournalled=dict(self.boot.topics),
        )

    def do(self, kind: str, index: int) -> CountedEvent | None:
        """Take one step; return the event that it sends, if any."""
        match kind:
            case "received" | "missed":
                return with_fields((self.journal or self.boot).next(EVENTS[index]), boot_id=self.boot_id)
            case "fails":
                self.journal = None
            case "works":
                self.journal = self.newest_journal
            case "new journal":
                self.journals += 1
                self.newest_journal = self.journal = Count(f"journal-{self.journals}")
            case "restart":
                self.boots += 1
                self.boot = Count(None)
        return None


def steps(most: int) -> st.SearchStrategy[list[tuple[str, int]]]:
    """Return a strategy for steps of the line, each with the index of an event."""
    kinds = ["received"] * 6 + ["missed"] * 4 + ["counts", "fails", "works", "new journal", "restart"]
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, len(EVENTS) - 1)), max_size=most)


@pytest.mark.parametrize("prefixes", [("",), ("verdict.side.DEFECT", "alarm")])
@given(before=steps(8), after=steps(40))
def test_gaps_cover_exactly_the_missed_events(
    prefixes: tuple[str, ...], before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    line = CountingLine()
    for step in before:  # before the subscriber joins
        line.do(*step)
    gaps, found = GapDetector(prefixes), list[Gap]()
    found += gaps.counts(line.counts, line.boot_id)
    assert found == [], "events before the join are not a gap"
    received, missed = list[CountedEvent](), list[CountedEvent]()
    for kind, index in [*after, ("counts", 0)]:
        event = line.do(kind, index)
        if kind == "counts":
            found += gaps.counts(line.counts, line.boot_id)
        if event is None or not event.topic.startswith(prefixes):
            continue
        if kind == "missed":
            missed.append(event)
            continue
        gap = gaps.event(event)
        received.append(event)
        if gap is not None:
            found.append(gap)
    # The last events of a count that is not reported again stay unknown.
    current_counts = {line.newest_journal.journal_id, line.boot_id}
    known = [event for event in missed if (event.journal_id or event.boot_id) in current_counts]
    for event in known:
        assert sum(covers(gap, event) for gap in found) == 1, event
    assert not any(covers(gap, event) for gap in found for event in received)
    assert all(any(covers(gap, event) for event in missed) for gap in found)


def covers(gap: Gap, event: CountedEvent) -> bool:
    count = event.journal_id or event.boot_id
    same = (gap.journal_id or gap.boot_id) == count and gap.topic == event.topic
    return same and gap.after_seq < event.seq <= gap.through_seq


def numbered(seq: int, previous_seq: int, event: CountedEvent = GOOD_OF_TOP, **fields: object) -> CountedEvent:
    return with_fields(event, seq=seq, previous_seq=previous_seq, journal_id="j", **fields)


def test_without_counts_the_first_event_of_each_topic_is_no_gap() -> None:
    gaps = GapDetector([""])
    assert gaps.event(numbered(7, 5)) is None
    assert gaps.event(numbered(8, 6, ALARM.event)) is None
    assert gaps.event(numbered(12, 10)) == Gap("j", GOOD_OF_TOP.boot_id, "verdict.top.GOOD", 7, 10)


def test_a_journal_unreadable_at_the_join_has_no_gaps_before_it() -> None:
    gaps = GapDetector([""])
    assert gaps.counts(Counts(unjournalled={"alarm": 1}), "boot") == []
    assert gaps.counts(Counts(journal_id="j", journalled={"alarm": 70}, unjournalled={"alarm": 1}), "boot") == []
    assert gaps.event(numbered(75, 70, ALARM.event)) is None


# Events of the service.


UNJUDGED = Outcome(Stamp("top", 4, "x.png"), unjudged=Unjudged("dropped", "overload", "newer frames came"))


@pytest.fixture
def setup(bundle: Bundle, openvino: Engine) -> Setup:
    return setup_of(bundle, openvino, product="pcb-a")


def outcome(setup: Setup, *, dark: bool) -> Outcome:
    rgb = dark_square(white_frame(), 100, 300) if dark else white_frame()
    frame = Frame(Stamp("top", 1, "1.png"), rgb, "RGB8")
    return Outcome(frame.stamp, judgement=setup.inspector.finish(setup.inspector.start(frame)), setup=setup)


def sent(message: Message) -> Any:
    """The event as a subscriber reads it."""
    assert from_frames(to_frames(message)) == message
    return message.event


@contextlib.contextmanager
def emitting(setup: Setup, address: str, journal: Numbering, heartbeat: Heartbeat) -> Iterator[EventEmitter]:
    """Yield an emitter, and send all its events at the end."""
    publisher = Publisher(address, journal)
    publisher.start()
    try:
        yield EventEmitter("line1", "boot", publisher, heartbeat, InFlightLog(None, "boot"), setup)
    finally:
        publisher.close()


class HungJournal(Numbering):
    """Holds every message back until its disk answers."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = threading.Event()

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        assert self.disk.wait(WITHIN_SECONDS)
        return super().commit(messages)


def test_the_heartbeat_counts_verdicts_and_probes_that_left_the_publisher(setup: Setup, address: str) -> None:
    """Otherwise a hung publisher would go on feeding systemd's watchdog."""
    journal, heartbeat = HungJournal(), Heartbeat()
    with emitting(setup, address, journal, heartbeat) as emitter:
        emitter.emit_outcome(outcome(setup, dark=False))
        emitter.pass_probe()
        emitter.emit_outcome(replace(UNJUDGED, setup=setup))
        assert heartbeat.count == 0
        journal.disk.set()
    assert heartbeat.count == 2, "a frame that was not judged is no sign that inspection goes on"


@pytest.mark.parametrize(
    ("heatmaps", "good", "defect"), [("never", False, False), ("defect", False, True), ("always", True, True)]
)
def test_heatmaps_are_sent_with_the_configured_verdicts(
    setup: Setup, heatmaps: Heatmaps, good: bool, defect: bool
) -> None:
    setup = replace(setup, heatmaps=heatmaps)
    came = [verdict_message("boot", outcome(setup, dark=dark)) for dark in (False, True)]
    assert [message.png is not None for message in came] == [good, defect]
    assert [sent(message).heatmap is not None for message in came] == [good, defect]


def test_the_picture_scales_the_heatmap_between_its_two_values(setup: Setup, bundle: Bundle) -> None:
    judged = outcome(replace(setup, heatmaps="always"), dark=True)
    message = verdict_message("boot", judged)
    assert message.png is not None
    assert judged.judgement is not None
    named, heatmap = sent(message).heatmap, judged.judgement.heatmap
    grey = cv2.imdecode(np.frombuffer(message.png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert grey is not None
    assert grey.shape == named.hw == heatmap.shape
    assert named.cell_px == bundle.manifest.grid.heatmap_cell_px
    step = (named.logit_at_255 - named.logit_at_0) / 255
    read = named.logit_at_0 + grey.astype(np.float64) * step
    np.testing.assert_allclose(read, np.clip(heatmap, named.logit_at_0, named.logit_at_255), atol=step / 2 + 1e-3)
    calibration = bundle.manifest.calibration
    assert named.logit_at_0 == pytest.approx(calibration.background), "good frames look cold"
    assert (named.logit_at_0 + named.logit_at_255) / 2 == pytest.approx(calibration.evidence_threshold)


# A peer that floods and resets.


RESET = """
import socket as sockets
import struct
import sys

import zmq

from heatline.edge.delivery.sockets import notice_vanished_peers

context = zmq.Context()
socket = context.socket(int(sys.argv[1]))
notice_vanished_peers(socket)
socket.setsockopt(zmq.RCVHWM, 5)
port = socket.bind_to_random_port("tcp://127.0.0.1")
monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
peer = sockets.create_connection(("127.0.0.1", port))
peer.sendall(bytes.fromhex("ff00000000000000007f0301") + b"NULL".ljust(20, bytes(1)) + bytes(32))  # ZMTP 3.1
ready = b"\\x05READY\\x0bSocket-Type" + struct.pack(">I", len(sys.argv[2])) + sys.argv[2].encode()
peer.sendall(bytes([4, len(ready)]) + ready)
monitor.recv_multipart()
peer.setblocking(False)
try:
    while True:  # until the socket takes no more: its queue is full
        peer.send(b"\\x00\\x05\\x01hell" * 1000)
except BlockingIOError:
    pass
peer.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
peer.close()  # with a reset
# Longer than ZeroMQ's heartbeats of 1 s took to abort the process; nothing else would show that they are off.
monitor.poll(1500)
while socket.poll(0):
    socket.recv()
print("alive")
"""


@pytest.mark.parametrize(("kind", "peer"), [("ROUTER", "DEALER"), ("XPUB", "SUB"), ("SUB", "PUB")])
def test_a_flood_and_a_reset_do_not_end_the_process(kind: str, peer: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", RESET, str(int(getattr(zmq, kind))), peer],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "alive\n", "")
