"""The service as a process, with a real subscriber: every frame has its event."""

import contextlib
import os
import signal
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from heatline.edge.bundle import Bundle
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.wire.events import Message, StatusEvent, VerdictEvent
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.lines import (
    ReceivedEvents,
    assert_every_frame_has_its_event,
    notify_socket,
    running,
    small_frames,
    started,
    write_line,
    write_pictures,
)
from tests.small_bundle import small_bundle, white_frame

BAD = {
    "002.png": "failed.unreadable",
    "003.png": "failed.wrong_size",
    "004.png": "failed.unreadable",
    "005.png": "failed.wrong_colour",
    "006.png": "failed.unreadable",
}


@dataclass
class Ended:
    """The events and systemd notifications of a line that ran to its end."""

    received: ReceivedEvents
    systemd: list[str]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Ended:
    """Two cameras: `top` shows good and defective pictures, `side` bad ones among good ones."""
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
    address = f"ipc://{folder}/events"
    cameras = {"top": 'path = "top"', "side": 'path = "side"'}
    line = write_line(folder, bundle.path, address, cameras, 'heatmaps = "always"')
    with notify_socket(folder) as systemd, running(line, address, env=systemd.env) as run:
        before = systemd.wait_for("READY=1")
        received = run.until_stopped()
        assert run.exit_code() == 0
        return Ended(received, before + systemd.rest())


def test_every_frame_has_its_event_in_order_and_the_ledger_balances(ended: Ended) -> None:
    received = ended.received
    assert_every_frame_has_its_event(received, ["top", "side"])
    assert [(e.frame_id, e.source) for e in received.of("top")] == [(i, f"{i:03d}.png") for i in range(1, 13)]
    assert [event.verdict for event in received.of("top")] == ["GOOD", "GOOD", "DEFECT"] * 4
    assert all(bool(event.regions) == (event.verdict == "DEFECT") for event in received.verdicts)
    assert {event.boot_id for event in received.verdicts} == {received.last.boot_id}
    assert received.last.line == "line"
    assert received.last.ledger["top"].inspected == 12


def test_an_event_names_bundle_thresholds_and_engine(ended: Ended, bundle: Bundle) -> None:
    event = ended.received.of("top")[2]
    calibration = bundle.manifest.calibration
    assert event.verdict == "DEFECT"
    assert event.frame_score is not None
    assert event.frame_score >= event.score_threshold == calibration.score_threshold
    assert event.evidence_threshold == calibration.evidence_threshold
    assert (event.bundle.name, event.bundle.digest) == ("darkness", bundle.digest)
    assert (event.precision, event.acting) == ("f32", True)
    assert event.times.captured_at_ns > 1_700_000_000 * 10**9
    (region,) = event.regions
    left, top, right, bottom = region.box_xyxy
    assert left <= 84 < right, "the black square's middle lies in the region"
    assert top <= 64 < bottom
    assert event.heatmap is not None
    assert event.heatmap.hw == (58, 75)


def test_bad_frames_fail_with_their_reason_and_the_next_is_fine(ended: Ended) -> None:
    events = ended.received.of("side")
    assert [event.frame_id for event in events] == list(range(1, 10))
    assert {e.source: e.reason for e in events if e.reason is not None} == BAD
    assert [e.verdict for e in events if e.reason is None] == ["GOOD", "GOOD", "GOOD", "DEFECT"]
    details = [str(event.detail) for event in events]
    assert "002.png" in details[1]
    assert details[2] == "300x240 px came, 300x230 px expected"
    assert details[4] == "Mono8 came, BGR8 expected"
    assert all(event.frame_score is None and not event.regions for event in events if event.reason)
    assert ended.received.last.ledger["side"].failed == {"unreadable": 3, "wrong_size": 1, "wrong_colour": 1}


def test_systemd_is_notified_of_ready_and_of_the_end(ended: Ended) -> None:
    assert ended.systemd[0] == "STATUS=NOT_READY: loading the bundle"
    assert ended.systemd.index("READY=1") < ended.systemd.index("STOPPING=1")
    assert ended.systemd[-1].startswith("STATUS=NOT_READY: stopped, 21 events")


def test_configured_thresholds_acting_and_engine_are_in_every_event(
    frames: Path, tmp_path: Path, bundle: Bundle, address: str
) -> None:
    tables = '[thresholds]\nscore = 50.5\nevidence = 60.5\n\n[engine]\nkind = "onnxruntime"\nthreads = 1'
    line = write_line(tmp_path, bundle.path, address, {"top": f'path = "{frames}"'}, tables)
    line.write_text("acting = false\n" + line.read_text())
    with running(line, address) as run:
        received = run.until_stopped()
    assert [event.verdict for event in received.verdicts] == ["GOOD"] * 3
    assert {(event.score_threshold, event.evidence_threshold) for event in received.verdicts} == {(50.5, 60.5)}
    assert not any(event.acting for event in received.verdicts)
    assert (received.last.engine, received.last.acting) == ("onnxruntime", False)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Three small pictures."""
    return write_pictures(tmp_path / "frames", small_frames(3))


@pytest.fixture
def endless(tmp_path: Path, frames: Path, bundle: Bundle, address: str) -> Path:
    """A line that shows three pictures in a loop."""
    return write_line(tmp_path, bundle.path, address, {"top": f'path = "{frames}"\nloop = true\nwaiting_frames = 8'})


@pytest.fixture
def short(tmp_path: Path, frames: Path, bundle: Bundle, address: str) -> Path:
    """A line that shows each of three pictures once."""
    return write_line(tmp_path, bundle.path, address, {"top": f'path = "{frames}"'})


def test_sigint_while_frames_are_in_flight_loses_none(endless: Path, address: str) -> None:
    with running(endless, address) as run:
        for _ in range(4):
            run.next_verdict()
        run.process.send_signal(signal.SIGINT)
        received = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(received, ["top"])


def test_sigterm_ends_a_line_whose_next_picture_is_due_in_an_hour(short: Path, address: str) -> None:
    short.write_text(short.read_text().replace('name = "top"', 'name = "top"\nrate_fps = 0.00027'))
    with running(short, address) as run:
        run.next_verdict()
        received = run.end()
    assert_every_frame_has_its_event(received, ["top"])
    assert len(received.verdicts) == 1


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
    with notify_socket(tmp_path) as systemd, started(HEATLINE, "run", endless, env=systemd.env) as process:
        systemd.wait_for(status_text)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=WITHIN_SECONDS)
    assert process.returncode == 0, log
    assert "Traceback" not in log


def test_systemd_is_not_notified_of_ready_with_a_bad_bundle(tmp_path: Path, frames: Path, address: str) -> None:
    broken = small_bundle(tmp_path / "broken")
    weights = broken.path / "model_f32.bin"
    weights.write_bytes(weights.read_bytes() + b"\x00")
    line = write_line(tmp_path, broken.path, address, {"top": f'path = "{frames}"'})
    with notify_socket(tmp_path) as systemd:
        result = heatline("run", line, env=systemd.env)
        assert not any(assignment.startswith("READY") for assignment in systemd.rest())
    assert result.returncode == 4
    assert "model_f32.bin" in complaint(result)


@pytest.mark.parametrize("how", ["does not read", pytest.param("is gone", marks=pytest.mark.long)])
def test_frames_are_inspected_although_systemd_does_not_read(
    tmp_path: Path, short: Path, address: str, how: str
) -> None:
    with notify_socket(tmp_path) as systemd, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.connect(systemd.env["NOTIFY_SOCKET"])
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler.send(b"STATUS=somebody else")
        gone = {"NOTIFY_SOCKET": str(tmp_path / "gone")}
        with running(short, address, env=gone if how == "is gone" else systemd.env) as run:
            received = run.until_stopped()
            assert run.exit_code() == 0
    assert_every_frame_has_its_event(received, ["top"])


def test_a_line_without_subscribers_inspects(tmp_path: Path, short: Path) -> None:
    short.write_text(short.read_text().replace("wait_for_subscriber_s = 60", "wait_for_subscriber_s = 0.1"))
    with notify_socket(tmp_path) as systemd:
        result = heatline("run", short, env=systemd.env)
        assert "STATUS=NOT_READY: stopped, 3 events" in systemd.rest()
    assert result.returncode == 0
    assert "no client subscribed" in result.stderr


def test_a_missing_file_or_library_is_one_sentence_with_its_exit_code(
    tmp_path: Path, frames: Path, bundle: Bundle, address: str
) -> None:
    good = {"top": f'path = "{frames}"'}

    def written(bundle_path: Path, address: str, cameras: dict[str, str], tables: str = "") -> Path:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        return write_line(folder, bundle_path, address, cameras, tables)

    for line, code, words in [
        (tmp_path / "none.toml", 3, "cannot be read"),  # no configuration
        (written(tmp_path / "no-bundle", address, good), 4, "is not a bundle"),
        (written(bundle.path, address, {"top": 'path = "nowhere"'}), 5, "not a folder"),
        (written(bundle.path, address, good, "[tiles]\noverlap_px = 224"), 3, "expected less"),
        (written(bundle.path, "ipc:///nowhere/at/all", good), 7, "cannot be bound"),
        (written(bundle.path, address, good, "speed = 3"), 3, "does not know the key speed"),
    ]:
        result = heatline("run", line)
        assert (result.returncode, words in complaint(result)) == (code, True), (words, result.stderr)
        assert result.stdout == ""
        assert complaint(heatline("check", line)) == complaint(result), "check and run give the same message"


def test_a_subscriber_to_status_alone_does_not_end_the_wait(short: Path, address: str) -> None:
    with started(HEATLINE, "run", short):
        with Subscriber(address, topics=["status"], timeout_s=WITHIN_SECONDS) as states:
            for _ in range(2):
                message = states.receive()
                assert isinstance(message, Message)
                assert isinstance(message.event, StatusEvent)
                assert message.event.state == "STARTING"
        with Subscriber(address, topics=["verdict.top."], timeout_s=WITHIN_SECONDS) as verdicts:
            message = verdicts.receive()
            assert isinstance(message, Message)
            assert isinstance(message.event, VerdictEvent)
            assert message.event.frame_number == 1
