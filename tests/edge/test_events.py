"""Events from outcomes: their fields, their order, and their pictures."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.cameras.supervisor import CameraAlarm
from heatline.edge.delivery.publisher import Numbering, Publisher
from heatline.edge.frames import BadFrame, Frame, Stamp
from heatline.edge.inference import Engine
from heatline.edge.inspection.in_flight_log import FILE_NAME, InFlightLog, read_previous_run
from heatline.edge.inspection.inspector import Heatmaps, Outcome, Setup, Unjudged
from heatline.edge.inspection.ledger import Lane, Ledger
from heatline.edge.service.events import EventEmitter, Heartbeat, verdict_message
from heatline.edge.wire import events as events_on_wire
from heatline.edge.wire.events import CameraState, Change, Handshake, Message, from_frames, to_frames
from tests.command import WITHIN_SECONDS
from tests.edge.setups import setup_of
from tests.small_bundle import dark_square, white_frame

UNJUDGED = Outcome(Stamp("top", 4, "x.png"), unjudged=Unjudged("dropped", "overload", "newer frames came"))
REFUSED = Change(change="reload", applied=False, detail="it is no TOML", at_ns=1_790_000_000_000_000_000)
STARTING = Handshake(state="NOT_READY", reason="starting", detail="the line is starting", heartbeat=0)
DEATH = CameraAlarm("top", "silent", "no frame came for 0.5 s", True, 1_790_000_000_000_000_000)
LANES = {"top": Lane(1, "block")}


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


def event_of(outcome: Outcome) -> Any:
    """Return the event of a frame."""
    return sent(verdict_message("boot", outcome))


class RecordedMessages(Numbering):
    """Records the messages on their way to the socket."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        self.messages += messages
        return super().commit(messages)


@contextlib.contextmanager
def emitting(setup: Setup, address: str, journal: Numbering, heartbeat: Heartbeat) -> Iterator[EventEmitter]:
    """Yield an emitter, and send all its events at the end."""
    publisher = Publisher(address, journal)
    publisher.start()
    try:
        yield EventEmitter("line1", "boot", publisher, heartbeat, InFlightLog(None, "boot"), setup)
    finally:
        publisher.close()


def emitted(setup: Setup, address: str, *emit: Callable[[EventEmitter], object]) -> list[Any]:
    """Return the events that a subscriber receives."""
    recorded = RecordedMessages()
    with emitting(setup, address, recorded, Heartbeat()) as emitter:
        for each in emit:
            each(emitter)
    return list(map(sent, recorded.messages))


def test_events_name_the_boot_and_the_product_and_have_no_number_yet(setup: Setup, address: str) -> None:
    ledger, refused, counted = Ledger(LANES, setup), {"events.auth": 2}, list[int]()
    for number in (1, 2):
        ledger.announce(BadFrame(Stamp("top", number), "", ""))
    ledger.book(outcome(setup, dark=False))
    ledger.book(UNJUDGED)
    events = emitted(
        setup,
        address,
        lambda emitter: emitter.emit_outcome(replace(UNJUDGED, setup=setup)),
        lambda emitter: emitter.emit_alarm(DEATH),
        lambda emitter: emitter.emit_refusal(REFUSED),
        lambda emitter: emitter.emit_outcome(outcome(setup, dark=True)),
        lambda emitter: counted.append(emitter.events),
        lambda emitter: emitter.emit_status("STOPPED", ledger, {}, STARTING, lambda: REFUSED, refused),
        lambda emitter: counted.append(emitter.events),
    )
    *others, status = events
    assert {event.seq for event in others} == {0}
    assert counted == [4, 4], "a status is not counted"
    assert {event.product for event in events} == {"pcb-a"}
    assert {event.boot_id for event in events} == {"boot"}
    assert status.ledger == {"top": events_on_wire.Account(2, 1, {"overload": 1})}
    assert (status.handshake, status.last_change, status.refused) == (STARTING, REFUSED, refused)
    change = others[2]
    assert (change.applied, change.detail, change.at_ns) == (False, REFUSED.detail, REFUSED.at_ns)


def test_a_frame_counts_as_reported_once_sent_and_a_change_names_the_new_setup(
    setup: Setup, address: str, tmp_path: Path
) -> None:
    recorded = RecordedMessages()
    publisher = Publisher(address, recorded)
    in_flight, active_at = InFlightLog(tmp_path / FILE_NAME, "boot"), list[int]()
    in_flight.begin({"top": 0})
    stamp = Stamp("top", 1, number=1)
    in_flight.announced(stamp)
    publisher.start()
    emitter = EventEmitter("line1", "boot", publisher, Heartbeat(), in_flight, setup)
    assert [each.number for each in read_previous_run(tmp_path / FILE_NAME).in_flight] == [1]
    emitter.emit_outcome(replace(UNJUDGED, stamp=stamp, setup=setup))
    other = replace(setup, product="pcb-b")
    emitter.emit_activation(
        Change(change="select", applied=True, at_ns=REFUSED.at_ns), other, lambda: active_at.append(emitter.events)
    )
    emitter.emit_alarm(DEATH)
    publisher.close()
    assert read_previous_run(tmp_path / FILE_NAME).in_flight == []
    assert active_at == [1], "activated before it is reported"
    assert [sent(message).product for message in recorded.messages] == ["pcb-a", "pcb-b", "pcb-b"]


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


def test_status_has_the_state_of_each_camera(setup: Setup, address: str) -> None:
    states = {
        "top": CameraState(state="LIVE", since_at_ns=1, openings=2, counters={"completed": 9}),
        "side": CameraState(state="DEAD", reason="open", detail="it is not there", since_at_ns=2),
    }
    ledger = Ledger({}, setup)
    (status,) = emitted(
        setup, address, lambda emitter: emitter.emit_status("RUNNING", ledger, states, STARTING, lambda: None, {})
    )
    assert {name: msgspec.structs.asdict(state) for name, state in status.cameras.items()} == {
        name: msgspec.structs.asdict(state) for name, state in states.items()
    }


@pytest.mark.parametrize("active", [True, False])
def test_an_alarm_names_camera_reason_and_begin(setup: Setup, address: str, active: bool) -> None:
    (event,) = emitted(setup, address, lambda emitter: emitter.emit_alarm(replace(DEATH, active=active)))
    assert (event.line, event.camera, event.alarm, event.detail) == ("line1", "top", DEATH.reason, DEATH.detail)
    assert (event.active, event.began_at_ns, event.acting) == (active, DEATH.began_at_ns, True)


def test_an_event_names_frames_part_and_chunks(setup: Setup) -> None:
    stamp = Stamp("top", 65534, last_frame_id=2, frames=4, number=131069, part_id="P-1", chunks={"ExposureTime": 800.0})
    event = event_of(replace(UNJUDGED, stamp=stamp, setup=setup))
    assert (event.frame_id, event.last_frame_id, event.frames, event.frame_number) == (65534, 2, 4, 131069)
    assert (event.part_id, event.chunks) == ("P-1", {"ExposureTime": 800.0})
    missed = Outcome(Stamp("top", None, part_id="P-1"), unjudged=Unjudged("dropped", "no_frame", "no frame came"))
    event = event_of(replace(missed, setup=setup))
    assert (event.frame_id, event.part_id) == (None, "P-1")


def test_a_frame_without_a_verdict_has_a_reason_and_no_score(setup: Setup) -> None:
    event = event_of(replace(UNJUDGED, setup=replace(setup, heatmaps="always")))
    assert (event.verdict, event.reason, event.detail) == ("NO_VERDICT", "dropped.overload", "newer frames came")
    assert (event.frame_score, event.regions, event.heatmap) == (None, [], None)


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


def test_a_file_name_that_is_not_utf8_is_sent_escaped(setup: Setup) -> None:
    odd = Outcome(Stamp("top", 1, "a\udce9.png"), unjudged=Unjudged("failed", "unreadable", "/x/a\udce9.png is empty"))
    assert event_of(replace(odd, setup=setup)).source == "a?.png"
