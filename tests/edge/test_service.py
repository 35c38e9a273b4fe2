"""The service as a process, with a real subscriber: every frame has its event; and its handshake and log."""

import contextlib
import logging
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.cameras.supervisor import State
from heatline.edge.config import load_config
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.frames import Stamp
from heatline.edge.inspection.inspector import Inspector, Outcome, Unjudged
from heatline.edge.service.events import ImplausibleLog
from heatline.edge.service.lifecycle import Service
from heatline.edge.service.status import WINDOW_SECONDS, DropMonitor, find_reasons, make_handshake
from heatline.edge.util.process import sigterm_as_ctrl_c
from heatline.edge.util.rate_limited_log import SECONDS_BETWEEN_LOGGED, FaultLog
from heatline.edge.wire.events import Account, CameraState, Message, StatusEvent, VerdictEvent
from tests.command import HEATLINE, WITHIN_SECONDS, heatline
from tests.edge.lines import (
    NotifySocket,
    ReceivedEvents,
    assert_every_frame_has_its_event,
    running,
    small_frames,
    started,
    write_line,
    write_pictures,
)
from tests.golden import assert_golden
from tests.small_bundle import white_frame

BAD = {
    "002.png": "failed.unreadable",
    "003.png": "failed.wrong_size",
    "004.png": "failed.unreadable",
    "005.png": "failed.wrong_colour",
    "006.png": "failed.unreadable",
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> tuple[ReceivedEvents, list[str]]:
    """The events and systemd notifications of a line that ran to its end.

    Camera `top` shows good and defective pictures, `side` bad ones among good ones.
    """
    folder = tmp_path_factory.mktemp("line")
    write_pictures(folder / "top", small_frames(12))
    frames = small_frames(9)
    frames["003.png"] = white_frame((240, 300))  # another size
    frames["005.png"] = np.full((230, 300), 255, np.uint8)  # grey
    side = write_pictures(folder / "side", frames)
    (side / "002.png").write_bytes((side / "001.png").read_bytes()[:-30])  # cut off
    (side / "004.png").write_bytes(b"")  # empty
    (side / "006.png").write_text("no picture at all")
    os.rename(side / "009.png", os.fsencode(side) + b"/009-\xe9.png")  # Latin-1
    address, cameras = f"ipc://{folder}/events", {"top": 'path = "top"', "side": 'path = "side"'}
    line = write_line(folder, bundle.path, address, cameras, 'heatmaps = "always"')
    with NotifySocket(folder) as systemd, running(line, address, env=systemd.env) as run:
        before = systemd.wait_for("READY=1")
        received = run.until_stopped()
        return received, before + systemd.rest()


Ended = tuple[ReceivedEvents, list[str]]


def test_every_frame_has_its_event_in_order_and_the_ledger_balances(ended: Ended, bundle: Bundle) -> None:
    received, calibration = ended[0], bundle.manifest.calibration
    assert_every_frame_has_its_event(received, ["top", "side"])
    assert [(e.frame_id, e.source) for e in received.of("top")] == [(i, f"{i:03d}.png") for i in range(1, 13)]
    assert [event.verdict for event in received.of("top")] == ["GOOD", "GOOD", "DEFECT"] * 4
    assert all(bool(event.regions) == (event.verdict == "DEFECT") for event in received.verdicts)
    assert {event.boot_id for event in received.verdicts} == {received.last.boot_id}
    assert (received.last.line, received.last.ledger["top"].inspected) == ("line", 12)
    event = received.of("top")[2]
    assert (event.frame_score or 0) >= event.score_threshold == calibration.score_threshold
    assert event.evidence_threshold == calibration.evidence_threshold
    assert (event.bundle.name, event.bundle.digest) == ("darkness", bundle.digest)
    assert (event.precision, event.acting) == ("f32", True)
    assert event.heatmap is not None and event.heatmap.hw == (58, 75)  # noqa: PT018


def test_bad_frames_fail_with_their_reason_and_the_next_is_fine(ended: Ended) -> None:
    events = ended[0].of("side")
    assert [event.frame_id for event in events] == list(range(1, 10))
    assert {e.source: e.reason for e in events if e.reason is not None} == BAD
    assert [e.verdict for e in events if e.reason is None] == ["GOOD", "GOOD", "GOOD", "DEFECT"]
    details = [event.detail for event in events[1:5]]
    assert "002.png" in str(details[0])
    assert details[1::2] == ["300x240 px came, 300x230 px expected", "Mono8 came, BGR8 expected"]
    assert all(event.frame_score is None and not event.regions for event in events if event.reason)
    assert ended[0].last.ledger["side"].failed == {"unreadable": 3, "wrong_size": 1, "wrong_colour": 1}


def test_systemd_is_notified_of_ready_and_of_the_end(ended: Ended) -> None:
    said = ended[1]
    assert said[0] == "STATUS=NOT_READY: loading the bundle"
    assert said.index("READY=1") < said.index("STOPPING=1")
    assert said[-1].startswith("STATUS=NOT_READY: stopped, 21 events")


@pytest.fixture
def short(tmp_path: Path, bundle: Bundle, address: str) -> Path:
    """A line that shows each of three pictures once."""
    write_pictures(tmp_path / "frames", small_frames(3))
    return write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})


@pytest.fixture
def endless(short: Path) -> Path:
    """A line that shows three pictures in a loop."""
    short.write_text(short.read_text().replace('path = "frames"', 'path = "frames"\nloop = true\nwaiting_frames = 8'))
    return short


def test_sigint_while_frames_are_in_flight_loses_none(endless: Path, address: str) -> None:
    with running(endless, address) as run:
        for _ in range(4):
            run.next_of(VerdictEvent)
        run.process.send_signal(signal.SIGINT)
        run.until_stopped(["top"])


@pytest.mark.parametrize(
    "status_text",
    [
        pytest.param("STATUS=NOT_READY: loading the bundle", marks=pytest.mark.long),
        "STATUS=NOT_READY: starting, 0 events",
    ],
)
def test_sigterm_during_the_start_or_the_wait_ends_the_service_in_order(
    tmp_path: Path, endless: Path, status_text: str
) -> None:
    with NotifySocket(tmp_path) as systemd, started(HEATLINE, "run", endless, env=systemd.env) as process:
        systemd.wait_for(status_text)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=WITHIN_SECONDS)
    assert process.returncode == 0, log
    assert "Traceback" not in log


@pytest.mark.parametrize("how", ["does not read", pytest.param("is gone", marks=pytest.mark.long)])
def test_frames_are_inspected_although_systemd_does_not_read(
    tmp_path: Path, short: Path, address: str, how: str
) -> None:
    with NotifySocket(tmp_path) as systemd, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.connect(systemd.env["NOTIFY_SOCKET"])
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler.send(b"STATUS=somebody else")
        gone = {"NOTIFY_SOCKET": str(tmp_path / "gone")}
        with running(short, address, env=gone if how == "is gone" else systemd.env) as run:
            run.until_stopped(["top"])


def test_a_line_without_subscribers_inspects(tmp_path: Path, short: Path) -> None:
    short.write_text(short.read_text().replace("wait_for_subscriber_s = 60", "wait_for_subscriber_s = 0.1"))
    with NotifySocket(tmp_path) as systemd:
        result = heatline("run", short, env=systemd.env)
        assert "STATUS=NOT_READY: stopped, 3 events" in systemd.rest()
    assert result.returncode == 0
    assert "no client subscribed" in result.stderr


def test_a_stage_that_breaks_ends_the_service_with_its_error_and_a_last_status(
    endless: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in a stage must not look like an idle line."""

    def breaks(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Inspector, "finish", breaks)
    service, last = Service(endless, load_config(endless)), None
    # The line waits for a subscriber to verdicts.
    with Subscriber(address, topics=["status", "verdict."]) as events, ThreadPoolExecutor(1) as aside:
        ended = aside.submit(service.run)
        while last is None or last.state != "STOPPED":
            message = events.receive()
            if isinstance(message, Message) and isinstance(message.event, StatusEvent):
                last = message.event
        with pytest.raises(ZeroDivisionError):
            ended.result(WITHIN_SECONDS)
    account = last.ledger["top"]
    assert account.balanced
    assert (account.inspected, account.in_flight > 0) == (0, True), "frames that nobody judged are not inspected"


def camera(state: State, reason: str | None = None) -> CameraState:
    return CameraState(state=state, reason=reason, since_at_ns=1)


LIVE, DEAD, OPENING = camera("LIVE"), camera("DEAD", "silent"), camera("OPENING")
WRONG: list[dict[str, Any]] = [
    {"state": "STARTING"},
    {"state": "STARTING", "waits_for_s": 60.0},
    {"has_output": False},
    {"state": "STOPPED"},
    {"stopping": True},
    {"quiet_for_s": 7.9},
    {"cameras": {"top": DEAD}},
    {"cameras": {"top": OPENING}},
    {"cameras": {"top": LIVE, "side": DEAD}},
    {"changing": "product b"},
    {"changing": "b", "cameras": {"top": OPENING}},
    {"losses": ["camera top: 1 of 9"]},
    *({"faults": {name: "why"}} for name in ("precision", "unjournalled", "in_flight_not_logged")),
    {"faults": {"product_not_stored": None, "evidence_not_stored": "a full disk"}},
    # The most severe first, and none is left out.
    {
        "cameras": {"a": DEAD, "b": LIVE, "c": OPENING},
        "changing": "b",
        "losses": ["1 of 9"],
        "faults": {"precision": "x"},
    },
    {"state": "STARTING", "cameras": {"top": DEAD}, "quiet_for_s": 9.0, "changing": "b"},
    {"cameras": {"ended": camera("ENDED"), "idle": camera("IDLE")}, "quiet_for_s": 60.0},
    {"cameras": {"ended": camera("ENDED"), "idle": camera("IDLE")}},
]


def test_each_fault_has_its_state_reason_and_sentence() -> None:
    running: dict[str, Any] = {"state": "RUNNING", "cameras": {"top": LIVE}, "quiet_for_s": 0.0}
    found = [make_handshake(find_reasons(**{**running, **wrong}), 0) for wrong in WRONG]
    assert_golden("handshakes", "".join(f"{each.state}, {each.reason}: {each.detail}\n" for each in found))


def test_a_loss_is_logged_when_it_begins_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "heatline.edge.service.status")
    monitor = DropMonitor()
    for second in range(60):
        inspected = max(second - 19, 0)
        captured = 10 * (second > 0) + inspected
        monitor.update({"top": Account(captured, inspected, {"overload": captured - inspected}, {}, 0)}, float(second))
    assert [record.getMessage() for record in caplog.records] == [
        "camera top: 0 of 10 frames inspected: frames came faster than they could be inspected",
        "camera top: its frames are inspected again",
    ]


def test_losses_end_at_a_higher_share_than_they_begin_at() -> None:
    """94 of 100 frames are enough as long as the camera loses none, and too few afterwards."""
    monitor, found = DropMonitor(), list[bool]()
    for window, (inspected, lost) in enumerate([(0, 0), (94, 6), (174, 26), (268, 32), (367, 33)]):
        account = Account(inspected + lost, inspected, {"overload": lost}, {}, 0)
        found.append(bool(monitor.update({"top": account}, window * WINDOW_SECONDS)))
    assert found == [False, False, True, True, False]


def test_frames_without_a_verdict_and_other_faults_are_logged_at_a_limited_rate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 100.0
    caplog.set_level(logging.INFO)
    frames, fault = ImplausibleLog(lambda: now_s), FaultLog(logging.getLogger("edge.test"), clock=lambda: now_s)

    def see(number: int, camera: str = "top", reason: str = "implausible") -> None:
        frames.log(Outcome(Stamp(camera, number, "a\nb", number=number), unjudged=Unjudged("failed", reason, "dark")))

    see(1, reason="unreadable")
    for number in range(2, 7):
        see(number)
    see(1, camera="side", reason="misaligned")
    for _ in range(3):
        fault.begin("lost")
        fault.end("connected")
    now_s += SECONDS_BETWEEN_LOGGED
    see(7)
    fault.begin("refused", "; wait")
    fault.begin("lost")
    assert [record.getMessage() for record in caplog.records] == [
        "camera top: frame 2 (a\\nb): no verdict, dark",
        "camera side: frame 1 (a\\nb): no verdict, dark",
        "lost",
        "connected",
        "camera top: frame 7 (a\\nb): no verdict, dark",
        "refused; wait",
    ]


@pytest.mark.parametrize("on_ctrl_c", [signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN])
def test_sigterm_ends_a_command_that_can_be_continued_as_ctrl_c_does(on_ctrl_c: Any) -> None:
    """A script's jobs in the background ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, on_ctrl_c), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])
