"""From outcomes to events: seq without a gap, numbers that a reader can check, pictures only where asked for."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge.bundle import Bundle
from edge.cameras.state import CameraAlarm, CameraState
from edge.delivery.messages import (
    AlarmEvent,
    Change,
    ChangeEvent,
    Handshake,
    StatusEvent,
    VerdictEvent,
    from_frames,
    to_frames,
)
from edge.frames import Frame, Stamp
from edge.inference import Engine
from edge.inspection.ledger import Account
from edge.inspection.outcome import Outcome, Unjudged
from edge.inspection.setup import Heatmaps, Setup
from edge.service.reporter import Reporter
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


def unjudged(setup: Setup) -> Outcome:
    return replace(UNJUDGED, setup=setup)


def outcome(setup: Setup, *, dark: bool) -> Outcome:
    rgb = dark_square(white_frame(), 100, 300) if dark else white_frame()
    frame = Frame(Stamp("top", 1, "1.png"), rgb, "RGB8")
    return Outcome(frame.stamp, judgement=setup.inspector.finish(setup.inspector.start(frame)), setup=setup)


def test_events_have_no_number_yet_and_statuses_do_not_count(setup: Setup, report: Reporter) -> None:
    first = report.status("STARTING", {}, {}, setup, STARTING, None, {}).event
    events = [
        report.verdict(unjudged(setup)).event,
        report.alarm(DEATH, setup).event,
        report.change(REFUSED, setup).event,
        report.verdict(outcome(setup, dark=True)).event,
    ]
    last = report.status("STOPPED", {"top": Account(2, 1, {"overload": 1})}, {}, setup, STARTING, None, {}).event
    assert {event.seq for event in events if not isinstance(event, StatusEvent)} == {0}
    assert isinstance(first, StatusEvent)
    assert isinstance(last, StatusEvent)
    assert report.events == 4
    assert report.boot_id != Reporter("line1").boot_id
    assert last.ledger["top"].balanced


def test_status_says_how_each_camera_is(setup: Setup, report: Reporter) -> None:
    states = {
        "top": CameraState(state="LIVE", since_at_ns=1, openings=2, counters={"completed": 9}),
        "side": CameraState(state="DEAD", reason="open", detail="it is not there", since_at_ns=2),
    }
    message = report.status("RUNNING", {}, states, setup, STARTING, None, {})
    assert isinstance(message.event, StatusEvent)
    assert message.event.cameras == states
    assert from_frames(to_frames(message)) == message


def test_an_alarm_says_which_camera_what_and_since_when(setup: Setup, report: Reporter) -> None:
    for active in (True, False):
        message = report.alarm(replace(DEATH, active=active), setup)
        event = message.event
        assert isinstance(event, AlarmEvent)
        assert (event.line, event.camera, event.alarm, event.detail) == ("line1", "top", DEATH.reason, DEATH.detail)
        assert (event.active, event.began_at_ns) == (active, DEATH.began_at_ns)
        assert (event.acting, event.boot_id) == (True, report.boot_id)
        assert from_frames(to_frames(message)) == message


def test_an_event_names_the_frames_the_part_and_what_the_camera_said_of_it(setup: Setup, report: Reporter) -> None:
    stamp = Stamp("top", 65534, last_frame_id=2, frames=4, number=131069, part_id="P-1", chunks={"ExposureTime": 800.0})
    event = report.verdict(replace(UNJUDGED, stamp=stamp, setup=setup)).event
    assert isinstance(event, VerdictEvent)
    assert (event.frame_id, event.last_frame_id, event.frames, event.frame_number) == (65534, 2, 4, 131069)
    assert (event.part_id, event.chunks) == ("P-1", {"ExposureTime": 800.0})


def test_a_part_whose_frame_never_came_has_no_frame_id(setup: Setup, report: Reporter) -> None:
    missed = Outcome(Stamp("top", None, part_id="P-1"), unjudged=Unjudged("dropped", "no_frame", "it was not heard"))
    message = report.verdict(replace(missed, setup=setup))
    assert isinstance(message.event, VerdictEvent)
    assert (message.event.frame_id, message.event.part_id) == (None, "P-1")
    assert from_frames(to_frames(message)) == message


def test_a_frame_without_a_judgement_says_why_and_claims_nothing(setup: Setup, report: Reporter) -> None:
    event = report.verdict(unjudged(replace(setup, heatmaps="always"))).event
    assert isinstance(event, VerdictEvent)
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
    assert [from_frames(to_frames(message)) for message in came] == came


def test_the_picture_holds_the_heatmap_between_the_two_values_it_names(
    setup: Setup, report: Reporter, bundle: Bundle
) -> None:
    setup = replace(setup, heatmaps="always")
    judged = outcome(setup, dark=True)
    message = report.verdict(judged)
    assert isinstance(message.event, VerdictEvent)
    assert message.event.heatmap is not None
    assert message.png is not None
    assert judged.judgement is not None
    told = message.event.heatmap
    grey = cv2.imdecode(np.frombuffer(message.png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert grey is not None
    assert grey.shape == told.hw == judged.judgement.heatmap.shape
    assert told.cell_px == bundle.manifest.grid.heatmap_cell_px
    read = told.logit_at_0 + grey.astype(np.float64) / 255 * (told.logit_at_255 - told.logit_at_0)
    step = (told.logit_at_255 - told.logit_at_0) / 255
    clipped = np.clip(judged.judgement.heatmap, told.logit_at_0, told.logit_at_255)
    np.testing.assert_allclose(read, clipped, atol=step / 2 + 1e-3)
    calibration = bundle.manifest.calibration
    assert told.logit_at_0 == pytest.approx(calibration.background), "good frames look cold"
    assert (told.logit_at_0 + told.logit_at_255) / 2 == pytest.approx(calibration.evidence_threshold)


def test_a_name_that_is_no_text_is_told_as_well_as_can_be(setup: Setup, report: Reporter) -> None:
    odd = Outcome(Stamp("top", 1, "a\udce9.png"), unjudged=Unjudged("failed", "unreadable", "/x/a\udce9.png is empty"))
    message = report.verdict(replace(odd, setup=setup))
    assert from_frames(to_frames(message)) == message
    assert isinstance(message.event, VerdictEvent)
    assert message.event.source == "a?.png"


def test_events_and_status_name_the_product_and_what_became_of_the_last_change(setup: Setup, report: Reporter) -> None:
    verdict = report.verdict(unjudged(setup)).event
    change = report.change(REFUSED, setup)
    status = report.status("RUNNING", {}, {}, setup, STARTING, REFUSED, {"events.auth": 2}).event
    assert isinstance(verdict, VerdictEvent)
    assert isinstance(change.event, ChangeEvent)
    assert isinstance(status, StatusEvent)
    alarm = report.alarm(DEATH, setup).event
    assert isinstance(alarm, AlarmEvent)
    assert {verdict.product, change.event.product, status.product, alarm.product} == {"pcb-a"}
    assert (change.event.in_force, change.event.detail, change.event.at_ns) == (False, REFUSED.detail, REFUSED.at_ns)
    assert (status.handshake, status.last_change) == (STARTING, REFUSED)
    assert status.refused == {"events.auth": 2}
    assert from_frames(to_frames(change)) == change
