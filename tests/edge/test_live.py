"""Live events: their content, their order, and what a subscriber notices of missed events, restarts and silence."""

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import zmq

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.auth import Access, KeyPair
from heatline.edge.delivery.journal import Journal
from heatline.edge.delivery.publisher import Numbering, Publisher
from heatline.edge.delivery.subscriber import Gap, GapDetector, LineLost, NewBoot, Received, Subscriber
from heatline.edge.errors import DeliveryError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.inference import Engine
from heatline.edge.inspection.in_flight_log import InFlightLog
from heatline.edge.inspection.inspector import Heatmaps, Outcome, Setup, Unjudged
from heatline.edge.service.events import EventEmitter, Heartbeat, verdict_message
from heatline.edge.wire.events import CountedEvent, Counts, Message, VerdictEvent, from_frames, to_frames
from tests.command import WITHIN_SECONDS, in_python
from tests.edge.journals import make_writer
from tests.edge.lines import setup_of
from tests.edge.secured import begun
from tests.edge.supervised import in_thread
from tests.edge.wire_examples import ALARM, DEFECT, GOOD, HANDSHAKE
from tests.small_bundle import dark_square, white_frame


def verdict(seq: int, message: Message = GOOD) -> Message:
    return Message(msgspec.structs.replace(message.event, seq=seq), message.png)


def publishing(address: str, journal: Numbering | None = None) -> contextlib.AbstractContextManager[Publisher]:
    """A running publisher; at the end, it sends all that waits."""
    return begun(Publisher(address, journal))


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_binding_an_address_in_use_fails_and_leaves_its_owner_served(kind: str, address: str, tmp_path: Path) -> None:
    """TCP and ipc differ in how they bind, conflict and close."""
    address = address if kind == "tcp" else f"ipc://{tmp_path}/events"
    for _ in range(2):  # closing frees it
        with publishing(address) as owner, Subscriber(address, timeout_s=WITHIN_SECONDS) as events:
            with pytest.raises(DeliveryError, match="another line may use it"), publishing(address):
                pass
            assert owner.wait_for_subscriber(WITHIN_SECONDS)
            owner.send(verdict(1))
            assert events.receive() == verdict(1)


def test_the_ipc_path_of_a_killed_line_can_be_bound(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as killed:
        killed.bind(str(tmp_path / "events"))
    with publishing(f"ipc://{tmp_path}/events"):
        pass


def test_an_invalid_address_is_a_delivery_error() -> None:
    access = Access(KeyPair(*zmq.curve_keypair()))
    for bad in ("tcp://127.0.0.1", "tcp://192.0.2.1:5556", "ipc://" + "x" * 300, "smoke://signals"):
        with pytest.raises(DeliveryError, match="cannot be bound"):
            Publisher(bad, access=access).start()
    for bad in ("tcp://127.0.0.1", "smoke://signals"):
        with pytest.raises(DeliveryError, match="is not an address to connect to"):
            Subscriber(bad)


def test_a_message_that_cannot_be_encoded_fails_in_the_sending_thread(address: str) -> None:
    """In the publisher's thread, the error would end all publishing unnoticed."""
    with publishing(address) as publisher:
        with pytest.raises(UnicodeEncodeError):
            publisher.send(Message(msgspec.structs.replace(GOOD.event, source="\udcff")))
        publisher.send(GOOD)


def receive(events: Subscriber) -> Received:
    received = events.receive()
    assert received is not None, "no message came in time"
    return received


@contextlib.contextmanager
def journalling(place: Path) -> Iterator[tuple[Publisher, Subscriber, int]]:
    """A publisher with a journal, a subscriber that receives all it publishes from here on, and the number before."""
    address = f"ipc://{place}/events"
    with (
        contextlib.closing(make_writer(place / "state", boot_id=GOOD.event.boot_id)) as journal,
        publishing(address, journal) as publisher,
        Subscriber(address, timeout_s=WITHIN_SECONDS) as events,
    ):
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        publisher.send(Message(HANDSHAKE.event))
        publisher.send(DEFECT)
        while True:
            match receive(events):
                case Message(event=VerdictEvent(seq=seq)):
                    break
        yield publisher, events, seq


def test_an_event_is_sent_only_after_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with journalling(tmp_path) as (publisher, events, _):
        monkeypatch.setattr(Journal, "append", slow_append)
        publisher.send(GOOD, lambda: note_step("sent"))
        assert isinstance(receive(events), Message)
        note_step("received")
    assert (order[0], sorted(order[1:])) == ("on disk", ["received", "sent"])


def test_a_slow_subscriber_gets_a_gap_for_each_dropped_event(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Publish more than the line, the system and the subscriber can queue."""
    monkeypatch.setattr("heatline.edge.delivery.publisher.Publisher.send_high_water_mark", 10)
    monkeypatch.setattr("heatline.edge.delivery.publisher.SECONDS_BETWEEN_COMMITS", 0.0)
    accounted_for, missed, is_over = list[int](), 0, threading.Event()
    with journalling(tmp_path) as (publisher, events, before):
        last = before + 1500
        for _ in range(before, last):
            publisher.send(Message(msgspec.structs.replace(GOOD.event, detail="x" * 2000)))

        def send_statuses() -> None:  # as a line does; one may be dropped as well
            while not is_over.wait(0.01):
                publisher.send(Message(HANDSHAKE.event))

        statuses = in_thread(send_statuses)
        while len(accounted_for) < last - before:
            match receive(events):
                case Message(event=VerdictEvent(seq=seq)):
                    accounted_for.append(seq)
                case Gap(after_seq=after_seq, through_seq=through_seq):
                    missed += 1
                    accounted_for += range(max(after_seq, before) + 1, through_seq + 1)
        is_over.set()
        statuses.join()
    assert accounted_for == list(range(before + 1, last + 1)), "each event came or is in a gap"
    assert missed, "some events were dropped"


def test_a_new_boot_and_silence_are_reported_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heatline.edge.delivery.subscriber.SILENT_AFTER_SECONDS", 0.2)
    monkeypatch.setattr("heatline.edge.delivery.subscriber.TICK_EVERY_MS", 20)
    status = HANDSHAKE.event
    other = msgspec.structs.replace(status, boot_id="another")
    with publishing(address) as publisher, Subscriber(address, timeout_s=1.0) as events:
        assert events.receive() is None, "a line that never sent is not lost"
        assert publisher.wait_for_subscriber(WITHIN_SECONDS)
        publisher.send(Message(status))
        assert isinstance(receive(events), Message)
        assert isinstance(receive(events), LineLost)
        assert events.receive() is None
        publisher.send(Message(other))
        assert receive(events) == NewBoot("another", before=status.boot_id)
        assert isinstance(receive(events), Message)
        assert isinstance(receive(events), LineLost), "lost again"
        publisher.send(Message(msgspec.structs.replace(other, state="STOPPED")))
        assert isinstance(receive(events), Message)
        assert events.receive() is None, "a line that has stopped is not lost"


def with_fields(event: Any, **fields: object) -> CountedEvent:
    return msgspec.structs.replace(event, **fields)


GOOD_OF_TOP = with_fields(GOOD.event, camera="top")


def numbered(seq: int, previous_seq: int, event: CountedEvent = GOOD_OF_TOP, **fields: object) -> CountedEvent:
    return with_fields(event, seq=seq, previous_seq=previous_seq, journal_id="j", **fields)


def test_each_missed_event_is_in_one_gap_over_restarts_without_a_journal_and_with_a_new_one() -> None:
    top, side, boot = GOOD_OF_TOP.topic, "verdict.side.DEFECT", GOOD_OF_TOP.boot_id
    gaps = GapDetector(["verdict.top", "alarm"])
    assert gaps.counts(Counts(journal_id="j", journalled={top: 5, side: 6}), boot) == [], "before the join"
    assert gaps.event(numbered(7, 5)) is None
    assert gaps.event(numbered(10, 9)) == Gap("j", boot, top, 7, 9)
    for counts, of_boot, found in (
        (Counts(journal_id="j", journalled={top: 12, side: 13, "alarm": 14}), boot,
         [Gap("j", boot, top, 10, 12), Gap("j", boot, "alarm", 6, 14)]),
        (Counts(journal_id="j", journalled={top: 12}, unjournalled={top: 2}), boot, [Gap(None, boot, top, 0, 2)]),
        (Counts(journal_id="j", journalled={top: 12}, unjournalled={"alarm": 1}), "next",
         [Gap(None, "next", "alarm", 0, 1)]),
        (Counts(journal_id="k", journalled={top: 3}, unjournalled={"alarm": 1}), "next", [Gap("k", "next", top, 0, 3)]),
    ):  # fmt: skip
        assert gaps.counts(counts, of_boot) == found
        assert gaps.counts(counts, of_boot) == [], "each is reported once"
    assert gaps.event(with_fields(numbered(6, 4), boot_id="next", journal_id="k")) == Gap("k", "next", top, 3, 4)


def test_what_came_before_the_first_known_count_of_a_topic_is_no_gap() -> None:
    gaps = GapDetector([""])
    assert gaps.event(numbered(7, 5)) is None
    assert gaps.event(numbered(8, 6, ALARM.event)) is None
    assert gaps.event(numbered(12, 10)) == Gap("j", GOOD_OF_TOP.boot_id, "verdict.top.GOOD", 7, 10)
    gaps = GapDetector([""])  # the journal cannot be read at the join
    assert gaps.counts(Counts(unjournalled={"alarm": 1}), "boot") == []
    assert gaps.counts(Counts(journal_id="j", journalled={"alarm": 70}, unjournalled={"alarm": 1}), "boot") == []
    assert gaps.event(numbered(75, 70, ALARM.event)) is None


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
    with publishing(address, journal) as publisher:
        emitter = EventEmitter("line1", "boot", publisher, heartbeat, InFlightLog(None, "boot"), setup)
        emitter.emit_outcome(outcome(setup, dark=False))
        emitter.pass_probe()
        emitter.emit_outcome(replace(UNJUDGED, setup=setup))
        assert heartbeat.count == 0
        journal.disk.set()
    assert heartbeat.count == 2, "a frame that was not judged is no sign that inspection goes on"


def test_heatmaps_are_sent_with_the_configured_verdicts_and_scaled_between_their_two_values(
    setup: Setup, bundle: Bundle
) -> None:
    outcomes = [outcome(setup, dark=dark) for dark in (False, True)]
    settings: list[tuple[Heatmaps, list[bool]]] = [
        ("never", [False, False]), ("defect", [False, True]), ("always", [True, True])
    ]  # fmt: skip
    for heatmaps, are_sent in settings:
        used = replace(setup, heatmaps=heatmaps)
        came = [verdict_message("boot", replace(each, setup=used)) for each in outcomes]
        assert [message.png is not None for message in came] == are_sent, heatmaps
        assert [sent(message).heatmap is not None for message in came] == are_sent, heatmaps
    message, judgement = came[1], outcomes[1].judgement
    named, heatmap = sent(message).heatmap, judgement.heatmap
    grey = cv2.imdecode(np.frombuffer(message.png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert grey.shape == named.hw == heatmap.shape
    assert named.cell_px == bundle.manifest.grid.heatmap_cell_px
    step = (named.logit_at_255 - named.logit_at_0) / 255
    read = named.logit_at_0 + grey.astype(np.float64) * step
    np.testing.assert_allclose(read, np.clip(heatmap, named.logit_at_0, named.logit_at_255), atol=step / 2 + 1e-3)
    calibration = bundle.manifest.calibration
    assert named.logit_at_0 == pytest.approx(calibration.background), "good frames look cold"
    assert (named.logit_at_0 + named.logit_at_255) / 2 == pytest.approx(calibration.evidence_threshold)


RESET = """
import socket as sockets
import struct

import zmq

from heatline.edge.delivery.sockets import notice_vanished_peers

context, flooded = zmq.Context(), []
for kind, peer_kind in ((zmq.ROUTER, b"DEALER"), (zmq.XPUB, b"SUB"), (zmq.SUB, b"PUB")):
    socket = context.socket(kind)
    notice_vanished_peers(socket)
    socket.setsockopt(zmq.RCVHWM, 5)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    peer = sockets.create_connection(("127.0.0.1", port))
    peer.sendall(bytes.fromhex("ff00000000000000007f0301") + b"NULL".ljust(20, bytes(1)) + bytes(32))  # ZMTP 3.1
    ready = b"\\x05READY\\x0bSocket-Type" + struct.pack(">I", len(peer_kind)) + peer_kind
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
    flooded.append((socket, monitor))
# Longer than ZeroMQ's heartbeats of 1 s took to abort the process; nothing else would show that they are off.
monitor.poll(1500)
for socket, _ in flooded:
    while socket.poll(0):
        socket.recv()
print("alive")
"""


def test_a_flood_and_a_reset_do_not_end_the_process() -> None:
    result = in_python(RESET)
    assert (result.returncode, result.stdout, result.stderr) == (0, "alive\n", "")
