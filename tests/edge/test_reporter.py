"""From outcomes to events: numbers that a reader can check, pictures only where asked for."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from edge.bundle import Bundle
from edge.cameras.state import CameraAlarm, CameraState
from edge.delivery.publisher import AsTheyAre, Publisher
from edge.frames import Frame, Stamp
from edge.inference import Engine
from edge.inspection.ledger import Account
from edge.inspection.outcome import Outcome, Unjudged
from edge.inspection.setup import Heatmaps, Setup
from edge.service.heartbeat import Heartbeat
from edge.service.reporter import Reporter
from edge.service.teller import Teller
from edge.wire import events as events_on_wire
from edge.wire.events import Change, Handshake, Message, from_frames, to_frames
from tests.command import WITHIN_SECONDS
from tests.edge.setups import setup_of
from tests.small_bundle import dark_square, white_frame

UNJUDGED = Outcome(Stamp("top", 4, "x.png"), unjudged=Unjudged("dropped", "overload", "newer frames came"))
REFUSED = Change(change="reload", in_force=False, detail="it is no TOML", at_ns=1_790_000_000_000_000_000)
STARTING = Handshake(state="NOT_READY", reason="starting", detail="it is starting", heartbeat=0)
DEATH = CameraAlarm("top", "silent", "no frame came for 0.5 s", True, 1_790_000_000_000_000_000)


@pytest.fixture
def setup(bundle: Bundle, openvino: Engine) -> Setup:
    return setup_of(bundle, openvino, product="pcb-a")


@pytest.fixture
def report() -> Reporter:
    return Reporter("line1")


def outcome(setup: Setup, *, dark: bool) -> Outcome:
    rgb = dark_square(white_frame(), 100, 300) if dark else white_frame()
    frame = Frame(Stamp("top", 1, "1.png"), rgb, "RGB8")
    return Outcome(frame.stamp, judgement=setup.inspector.finish(setup.inspector.start(frame)), setup=setup)


def sent(message: Message) -> Any:
    """The event as a subscriber reads it."""
    assert from_frames(to_frames(message)) == message
    return message.event


def test_events_name_the_boot_and_the_product_and_have_no_number_yet(setup: Setup, report: Reporter) -> None:
    events = [
        sent(report.verdict(replace(UNJUDGED, setup=setup))),
        sent(report.alarm(DEATH, setup)),
        sent(report.change(REFUSED, setup)),
        sent(report.verdict(outcome(setup, dark=True))),
    ]
    assert {event.seq for event in events} == {0}
    assert report.events == 4
    ledger, refused = {"top": Account(2, 1, {"overload": 1})}, {"events.auth": 2}
    status = sent(report.status("STOPPED", ledger, {}, setup, STARTING, REFUSED, refused))
    assert report.events == 4, "a status is not counted"
    assert {event.product for event in [*events, status]} == {"pcb-a"}
    assert {event.boot_id for event in [*events, status]} == {report.boot_id} != {Reporter("line1").boot_id}
    assert status.ledger == {"top": events_on_wire.Account(2, 1, {"overload": 1})}
    assert (status.handshake, status.last_change, status.refused) == (STARTING, REFUSED, refused)
    change = events[2]
    assert (change.in_force, change.detail, change.at_ns) == (False, REFUSED.detail, REFUSED.at_ns)


class HungJournal(AsTheyAre):
    """Lets no message go before its disk answers."""

    def __init__(self) -> None:
        self.disk = threading.Event()

    def commit(self, messages: Sequence[Message]) -> list[Message]:
        assert self.disk.wait(WITHIN_SECONDS)
        return super().commit(messages)


def test_the_heart_beats_when_a_verdict_or_a_probe_has_left_the_publisher_and_not_before(
    setup: Setup, report: Reporter, address: str
) -> None:
    """Else a publisher that hangs would go on feeding systemd's watchdog."""
    journal, heartbeat = HungJournal(), Heartbeat()
    publisher = Publisher(address, journal)
    teller = Teller(report, publisher, heartbeat, setup)
    publisher.start()
    try:
        teller.verdict(outcome(setup, dark=False))
        teller.probe()
        teller.verdict(replace(UNJUDGED, setup=setup))
        assert heartbeat.count == 0
    finally:
        journal.disk.set()
        publisher.close()
    assert heartbeat.count == 2, "a frame that was not judged is no sign that inspection goes on"


def test_status_says_how_each_camera_is(setup: Setup, report: Reporter) -> None:
    states = {
        "top": CameraState(state="LIVE", since_at_ns=1, openings=2, counters={"completed": 9}),
        "side": CameraState(state="DEAD", reason="open", detail="it is not there", since_at_ns=2),
    }
    told = sent(report.status("RUNNING", {}, states, setup, STARTING, None, {})).cameras
    assert {name: msgspec.structs.asdict(state) for name, state in told.items()} == {
        name: msgspec.structs.asdict(state) for name, state in states.items()
    }


@pytest.mark.parametrize("active", [True, False])
def test_an_alarm_says_which_camera_what_and_since_when(setup: Setup, report: Reporter, active: bool) -> None:
    event = sent(report.alarm(replace(DEATH, active=active), setup))
    assert (event.line, event.camera, event.alarm, event.detail) == ("line1", "top", DEATH.reason, DEATH.detail)
    assert (event.active, event.began_at_ns, event.acting) == (active, DEATH.began_at_ns, True)


def test_an_event_names_the_frames_the_part_and_what_the_camera_said_of_it(setup: Setup, report: Reporter) -> None:
    stamp = Stamp("top", 65534, last_frame_id=2, frames=4, number=131069, part_id="P-1", chunks={"ExposureTime": 800.0})
    event = sent(report.verdict(replace(UNJUDGED, stamp=stamp, setup=setup)))
    assert (event.frame_id, event.last_frame_id, event.frames, event.frame_number) == (65534, 2, 4, 131069)
    assert (event.part_id, event.chunks) == ("P-1", {"ExposureTime": 800.0})
    missed = Outcome(Stamp("top", None, part_id="P-1"), unjudged=Unjudged("dropped", "no_frame", "it was not heard"))
    event = sent(report.verdict(replace(missed, setup=setup)))
    assert (event.frame_id, event.part_id) == (None, "P-1")


def test_a_frame_without_a_judgement_says_why_and_claims_nothing(setup: Setup, report: Reporter) -> None:
    event = sent(report.verdict(replace(UNJUDGED, setup=replace(setup, heatmaps="always"))))
    assert (event.verdict, event.reason, event.detail) == ("NO_VERDICT", "dropped.overload", "newer frames came")
    assert (event.frame_score, event.regions, event.heatmap) == (None, [], None)


@pytest.mark.parametrize(
    ("heatmaps", "good", "defect"), [("never", False, False), ("defect", False, True), ("always", True, True)]
)
def test_heatmaps_go_with_the_verdicts_that_were_asked_for(
    setup: Setup, report: Reporter, heatmaps: Heatmaps, good: bool, defect: bool
) -> None:
    setup = replace(setup, heatmaps=heatmaps)
    came = [report.verdict(outcome(setup, dark=dark)) for dark in (False, True)]
    assert [message.png is not None for message in came] == [good, defect]
    assert [sent(message).heatmap is not None for message in came] == [good, defect]


def test_the_picture_holds_the_heatmap_between_the_two_values_it_names(
    setup: Setup, report: Reporter, bundle: Bundle
) -> None:
    judged = outcome(replace(setup, heatmaps="always"), dark=True)
    message = report.verdict(judged)
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


def test_a_name_that_is_no_text_is_sent_as_well_as_can_be(setup: Setup, report: Reporter) -> None:
    odd = Outcome(Stamp("top", 1, "a\udce9.png"), unjudged=Unjudged("failed", "unreadable", "/x/a\udce9.png is empty"))
    assert sent(report.verdict(replace(odd, setup=setup))).source == "a?.png"
