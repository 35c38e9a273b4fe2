"""The service as a process of its own, with a real subscriber: every frame has its event, whatever happens."""

import contextlib
import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from edge.bundle import Bundle
from edge.delivery.messages import StatusEvent, VerdictEvent
from edge.delivery.subscriber import Subscriber
from tests.command import HEATLINE, WITHIN_SECONDS, complaint, heatline
from tests.edge.lines import (
    assert_every_frame_has_its_event,
    notify_socket,
    running,
    small_frames,
    started,
    write_line,
    write_line_with,
    write_pictures,
)
from tests.small_bundle import small_bundle, white_frame


def test_every_frame_has_its_event_in_order_and_the_ledger_balances(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    write_pictures(tmp_path / "frames", small_frames(12))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})
    with running(line, address) as run:
        heard = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["top"])
    assert [(event.frame_id, event.source) for event in heard.verdicts] == [(i, f"{i:03d}.png") for i in range(1, 13)]
    assert [event.verdict for event in heard.verdicts] == ["GOOD", "GOOD", "DEFECT"] * 4
    assert all(bool(event.regions) == (event.verdict == "DEFECT") for event in heard.verdicts)
    assert {event.boot_id for event in heard.verdicts} == {heard.last.boot_id}
    assert heard.last.line == "line"
    assert heard.last.ledger["top"].inspected == 12


def test_an_event_says_what_it_rests_on(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'}, 'heatmaps = "always"')
    with running(line, address) as run:
        event = run.until_stopped().verdicts[2]
    calibration = bundle.manifest.calibration
    assert event.verdict == "DEFECT"
    assert event.frame_score is not None
    assert event.frame_score >= event.score_threshold == calibration.score_threshold
    assert event.evidence_threshold == calibration.evidence_threshold
    assert (event.bundle.name, event.bundle.digest) == ("darkness", bundle.digest)
    assert event.precision == "f32"
    assert event.acting
    assert event.times.captured_at_ns > 1_700_000_000 * 10**9
    (region,) = event.regions
    left, top, right, bottom = region.box_xyxy
    assert left <= 84 < right, "the black square's middle lies in the region"
    assert top <= 64 < bottom
    assert event.heatmap is not None
    assert event.heatmap.hw == (58, 75)


def test_thresholds_acting_and_engine_of_the_configuration_are_in_force_and_in_every_event(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    tables = '[thresholds]\nscore = 50.5\nevidence = 60.5\n\n[engine]\nkind = "onnxruntime"\nthreads = 1'
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'}, tables)
    line.write_text("acting = false\n" + line.read_text())
    with running(line, address) as run:
        heard = run.until_stopped()
    assert [event.verdict for event in heard.verdicts] == ["GOOD"] * 3
    assert {(event.score_threshold, event.evidence_threshold) for event in heard.verdicts} == {(50.5, 60.5)}
    assert not any(event.acting for event in heard.verdicts)
    assert (heard.last.engine, heard.last.acting) == ("onnxruntime", False)


def test_bad_frames_fail_with_their_reason_and_the_next_is_fine(tmp_path: Path, bundle: Bundle, address: str) -> None:
    frames = small_frames(8)
    frames["003.png"] = white_frame((240, 300))  # another size
    frames["005.png"] = np.full((230, 300), 255, np.uint8)  # grey
    folder = write_pictures(tmp_path / "frames", frames)
    (folder / "002.png").write_bytes((folder / "001.png").read_bytes()[:-30])  # cut off
    (folder / "004.png").write_bytes(b"")  # empty
    (folder / "006.png").write_text("no picture at all")
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})
    with running(line, address) as run:
        heard = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["top"])
    assert [event.verdict if event.reason is None else event.reason for event in heard.verdicts] == [
        "GOOD",
        "failed.unreadable",
        "failed.wrong_size",
        "failed.unreadable",
        "failed.wrong_colour",
        "failed.unreadable",
        "GOOD",
        "GOOD",
    ]
    details = [str(event.detail) for event in heard.verdicts]
    assert details[2] == "300x240 px came, 300x230 px expected"
    assert details[4] == "Mono8 came, BGR8 expected"
    assert "002.png" in details[1]
    assert all(event.frame_score is None and not event.regions for event in heard.verdicts if event.reason)
    assert heard.last.ledger["top"].failed == {"unreadable": 3, "wrong_size": 1, "wrong_colour": 1}


def test_a_picture_whose_name_is_no_text_is_inspected_like_any_other(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    folder = write_pictures(tmp_path / "frames", small_frames(2))
    os.rename(folder / "001.png", os.fsencode(folder) + b"/001-\xe9.png")  # Latin-1
    (Path(os.fsdecode(os.fsencode(folder) + b"/000-\xe9.png"))).write_bytes(b"")
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})
    with running(line, address) as run:
        heard = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["top"])
    assert [event.verdict for event in heard.verdicts] == ["NO_VERDICT", "GOOD", "GOOD"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_frames_are_in_flight_loses_none(
    tmp_path: Path, bundle: Bundle, address: str, number: signal.Signals
) -> None:
    write_pictures(tmp_path / "frames", small_frames(5))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"\nloop = true\nwaiting_frames = 8'})
    with running(line, address) as run:
        for _ in range(4):
            run.next_verdict()
        run.process.send_signal(number)
        heard = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["top"])
    assert [event.frame_id for event in heard.verdicts] == list(range(1, len(heard.verdicts) + 1))


def test_sigterm_ends_a_line_whose_next_picture_is_due_in_an_hour(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(2))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"\nrate_fps = 0.00027'})
    with running(line, address) as run:
        run.next_verdict()
        run.process.send_signal(signal.SIGTERM)
        heard = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["top"])
    assert len(heard.verdicts) == 1


def test_sigterm_during_start_ends_the_service_in_order(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"\nloop = true'})
    with notify_socket(tmp_path) as systemd, started(HEATLINE, "run", line, env=systemd.env) as process:
        systemd.wait_for("STATUS=NOT_READY: loading the bundle")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=WITHIN_SECONDS)
    assert process.returncode == 0, log
    assert "Traceback" not in log


def test_sigterm_ends_a_line_that_waits_for_a_subscriber(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"\nloop = true'})
    with notify_socket(tmp_path) as systemd, started(HEATLINE, "run", line, env=systemd.env) as process:
        systemd.wait_for("STATUS=NOT_READY: starting, 0 events")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=WITHIN_SECONDS)
        assert "STOPPING=1" in systemd.rest()
    assert process.returncode == 0, log


def test_two_cameras_share_the_engine_and_each_has_its_account(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "top", small_frames(9))
    write_pictures(tmp_path / "side", {name: frame[:, :250] for name, frame in small_frames(6).items()})
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "top"', "side": 'path = "side"'})
    with running(line, address) as run:
        heard = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["top", "side"])
    assert [event.verdict for event in heard.of("top")] == ["GOOD", "GOOD", "DEFECT"] * 3
    assert [event.verdict for event in heard.of("side")] == ["GOOD", "GOOD", "DEFECT"] * 2
    assert [event.frame_id for event in heard.of("side")] == list(range(1, 7))


def test_under_overload_every_dropped_frame_is_counted_and_told(tmp_path: Path, bundle: Bundle, address: str) -> None:
    """A camera much faster than inspection: small pictures to read, hundreds of overlapping tiles to infer."""
    write_pictures(tmp_path / "frames", {f"{i}.png": white_frame((260, 260)) for i in range(40)})
    keys = 'path = "frames"\non_overload = "drop_oldest"\nwaiting_frames = 1'
    line = write_line(tmp_path, bundle.path, address, {"top": keys}, "[tiles]\noverlap_px = 221")
    with running(line, address) as run:
        heard = run.until_stopped()
        assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["top"])
    account = heard.last.ledger["top"]
    assert account.captured == 40
    assert account.dropped["overload"] > 0
    assert account.inspected >= 1
    inspected = [event.frame_id for event in heard.verdicts if event.verdict != "NO_VERDICT"]
    assert inspected == sorted(inspected)
    assert 40 in inspected, "the newest frame is kept"


def test_ready_is_told_once_the_bundle_is_verified(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})
    with notify_socket(tmp_path) as systemd, running(line, address, env=systemd.env) as run:
        before = systemd.wait_for("READY=1")
        assert before[0] == "STATUS=NOT_READY: loading the bundle"
        assert not run.heard.verdicts
        run.until_stopped()
        assert run.exit_code() == 0
        rest = systemd.rest()
        assert "STOPPING=1" in rest
        assert rest[-1] == "STATUS=NOT_READY: stopped, 3 events"


def test_ready_is_never_told_for_a_bad_bundle(tmp_path: Path, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    broken = small_bundle(tmp_path / "broken")
    weights = broken.path / "model_f32.bin"
    weights.write_bytes(weights.read_bytes() + b"\x00")
    line = write_line(tmp_path, broken.path, address, {"top": 'path = "frames"'})
    with notify_socket(tmp_path) as systemd:
        result = heatline("run", line, env=systemd.env)
        assert not any(told.startswith("READY") for told in systemd.rest())
    assert result.returncode == 4
    assert "model_f32.bin" in complaint(result)


def test_a_systemd_that_does_not_read_keeps_no_frame_from_being_inspected(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})
    with notify_socket(tmp_path) as systemd, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.connect(systemd.env["NOTIFY_SOCKET"])
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                filler.send(b"STATUS=somebody else")
        with running(line, address, env=systemd.env) as run:
            heard = run.until_stopped()
            assert run.exit_code() == 0
    assert_every_frame_has_its_event(heard, ["top"])


def test_a_notify_socket_that_is_gone_is_no_reason_not_to_inspect(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})
    with running(line, address, env={"NOTIFY_SOCKET": str(tmp_path / "gone")}) as run:
        assert_every_frame_has_its_event(run.until_stopped(), ["top"])
        assert run.exit_code() == 0


def test_a_line_that_nobody_listens_to_inspects_all_the_same(tmp_path: Path, bundle: Bundle, address: str) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})
    line.write_text(line.read_text().replace("wait_for_subscriber_s = 60", "wait_for_subscriber_s = 0.1"))
    with notify_socket(tmp_path) as systemd:
        result = heatline("run", line, env=systemd.env)
        assert "STATUS=NOT_READY: stopped, 3 events" in systemd.rest()
    assert result.returncode == 0
    assert "nobody subscribed" in result.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("tcp", "is another line using it"),
        ("ipc", "is another line using it"),  # where ZeroMQ itself would take the path away from the first line
    ],
)
def test_an_address_that_another_line_holds_is_refused_and_left_to_it(
    tmp_path: Path, bundle: Bundle, address: str, scheme: str, words: str
) -> None:
    taken = address if scheme == "tcp" else f"ipc://{tmp_path}/events"
    write_pictures(tmp_path / "frames", small_frames(3))
    # Slow enough for ZeroMQ to keep every event for us while the others start, during which we do not listen.
    line = write_line(tmp_path, bundle.path, taken, {"top": 'path = "frames"\nloop = true\nrate_fps = 40'})
    with running(line, taken) as run:
        run.next_verdict()
        for command in ("run", "check"):
            result = heatline(command, line)
            assert result.returncode == 7
            assert words in complaint(result)
        seen = run.next_verdict().seq
        while run.next_verdict().seq < seen + 20:
            pass
        run.process.send_signal(signal.SIGTERM)
        assert_every_frame_has_its_event(run.until_stopped(), ["top"])
        assert run.exit_code() == 0


@pytest.mark.long
def test_what_is_missing_ends_in_one_sentence_and_the_exit_code_of_its_kind(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    frames = write_pictures(tmp_path / "frames", small_frames(1))
    good = {"top": f'path = "{frames}"'}
    cases = [
        (tmp_path / "none.toml", 3, "cannot be read"),  # no configuration
        (write_line(_new(tmp_path, "a"), tmp_path / "no-bundle", address, good), 4, "is no bundle"),
        (write_line(_new(tmp_path, "b"), bundle.path, address, {"top": 'path = "nowhere"'}), 5, "not a folder"),
        (write_line(_new(tmp_path, "c"), bundle.path, address, good, "[tiles]\noverlap_px = 224"), 3, "expected less"),
        (write_line(_new(tmp_path, "d"), bundle.path, "ipc:///nowhere/at/all", good), 7, "cannot be bound"),
        (write_line(_new(tmp_path, "e"), bundle.path, address, good, "speed = 3"), 3, "unknown field `speed`"),
    ]
    for line, code, words in cases:
        result = heatline("run", line)
        assert (result.returncode, words in complaint(result)) == (code, True), (words, result.stderr)
        assert result.stdout == ""
        assert complaint(heatline("check", line)) == complaint(result), "check says beforehand what run would say"


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


@pytest.mark.long
def test_while_it_finishes_what_is_in_flight_no_further_part_may_come(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    camera = {"kind": "pattern", "draw_size": [300, 300], "rate_fps": 100, "on_overload": "block", "waiting_frames": 16}
    tables = "[tiles]\noverlap_px = 221\n\n[engine]\nthreads = 1"  # hundreds of tiles a frame
    with running(write_line_with(tmp_path, bundle.path, address, {"top": camera}, tables), address) as run:
        run.until_inspected()
        heard = run.end()
    told = [(status.state, status.handshake.reason) for status in heard.statuses if status.handshake is not None]
    assert told[-2:] == [("RUNNING", "stopping"), ("STOPPED", "stopping")]


@pytest.mark.long
def test_who_only_asks_for_the_state_is_not_the_subscriber_that_is_waited_for(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    write_pictures(tmp_path / "frames", small_frames(3))
    line = write_line(tmp_path, bundle.path, address, {"top": 'path = "frames"'})
    with started(HEATLINE, "run", line):
        with Subscriber(address, topics=["status"], timeout_s=WITHIN_SECONDS) as states:
            for _ in range(3):
                message = states.receive()
                assert message is not None
                assert isinstance(message.event, StatusEvent)
                assert message.event.state == "STARTING"
        with Subscriber(address, topics=["verdict.top."], timeout_s=WITHIN_SECONDS) as verdicts:
            message = verdicts.receive()
            assert message is not None
            assert isinstance(message.event, VerdictEvent)
            assert message.event.frame_number == 1
