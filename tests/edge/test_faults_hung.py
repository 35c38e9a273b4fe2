"""A stage that hangs: systemd's watchdog is fed no more, and status says why. What is no hang goes on feeding it."""

import contextlib
from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.delivery.messages import Event, Handshake, StatusEvent
from tests.edge.fault_disks import fill, small_disk
from tests.edge.fault_hang import Hang
from tests.edge.lines import (
    NotifySocket,
    RunningLine,
    assert_every_frame_has_its_event,
    notify_socket,
    running,
    write_line_with,
)

CAMERA = {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 20, "waiting_frames": 8}
WATCHDOG = {"WATCHDOG_USEC": "10000000"}


def shaken(event: Event) -> Handshake | None:
    return event.handshake if isinstance(event, StatusEvent) else None


def until_shaken(run: RunningLine, state: str, reason: str | None = None) -> Handshake:
    """The next status that says so."""

    def wanted(event: Event) -> bool:
        said = shaken(event)
        return said is not None and (said.state, said.reason) == (state, reason)

    said = shaken(run.until(wanted))
    assert said is not None
    return said


def until_status_begins(systemd: NotifySocket, words: str) -> list[str]:
    """All that systemd hears up to a status that begins so."""
    came: list[str] = []
    while not any(told.startswith(f"STATUS={words}") for told in came):
        came += systemd.socket.recv(4096).decode().split("\n")
    return came


@pytest.mark.long  # a stage is found hung after some seconds
@pytest.mark.parametrize("stage", ["infer", "judge"])
def test_a_hung_stage_stops_the_heartbeat_and_the_watchdog_is_fed_no_more(
    tmp_path: Path, bundle: Bundle, address: str, stage: str
) -> None:
    hang = Hang(tmp_path / "hang", stage)
    line = write_line_with(tmp_path, bundle.path, address, {"top": CAMERA}, 'heatmaps = "never"')
    with (
        notify_socket(tmp_path) as systemd,
        running(line, address, env={**systemd.env, **WATCHDOG, **hang.env}) as run,
    ):
        systemd.wait_for("WATCHDOG=1")
        until_shaken(run, "READY")
        with hang.hung():
            stalled = until_shaken(run, "NOT_READY", "stalled")
            until_status_begins(systemd, "NOT_READY: running, ")
            for _ in range(2):
                assert until_shaken(run, "NOT_READY", "stalled").heartbeat == stalled.heartbeat
                assert "WATCHDOG=1" not in until_status_begins(systemd, "NOT_READY: running, ")
        systemd.wait_for("WATCHDOG=1")
        assert until_shaken(run, "READY").heartbeat > stalled.heartbeat
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["top"])
    beats = [said.heartbeat for said in map(shaken, heard.statuses) if said is not None]
    assert beats == sorted(beats)


@pytest.mark.long
def test_a_hung_publisher_is_seen_by_systemd_alone_and_loses_no_event(
    tmp_path: Path, bundle: Bundle, address: str
) -> None:
    hang = Hang(tmp_path / "hang", "publish")
    line = write_line_with(tmp_path, bundle.path, address, {"top": CAMERA}, 'heatmaps = "never"')
    with (
        notify_socket(tmp_path) as systemd,
        running(line, address, env={**systemd.env, **WATCHDOG, **hang.env}) as run,
    ):
        until_shaken(run, "READY")
        with hang.hung():
            until_status_begins(systemd, "NOT_READY: running, ")
            for _ in range(2):
                assert "WATCHDOG=1" not in until_status_begins(systemd, "NOT_READY: running, ")
        systemd.wait_for("WATCHDOG=1")
        until_shaken(run, "READY")
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["top"])


@pytest.mark.long
def test_a_dead_camera_on_a_full_disk_is_no_hang(tmp_path: Path, bundle: Bundle, address: str) -> None:
    """No frame comes at all: probes go the whole way and feed the watchdog."""
    dead = {"kind": "v4l2", "device": str(tmp_path / "no-such-camera")}
    line = write_line_with(tmp_path, bundle.path, address, {"top": dead}, 'heatmaps = "never"')
    with contextlib.ExitStack() as at_end:
        state = at_end.enter_context(small_disk(tmp_path / "state"))
        fill(state)
        systemd = at_end.enter_context(notify_socket(tmp_path))
        env = {**systemd.env, **WATCHDOG, "STATE_DIRECTORY": str(state)}
        run = at_end.enter_context(running(line, address, env=env))
        first = until_shaken(run, "NOT_READY", "no_camera")
        until_status_begins(systemd, "NOT_READY: running, ")
        for _ in range(3):
            systemd.wait_for("WATCHDOG=1")
        last = run.until(lambda event: (said := shaken(event)) is not None and said.heartbeat >= first.heartbeat + 2)
        assert last.handshake.reason == "no_camera"
        heard = run.end()
    assert "camera top is dead" in last.handshake.detail
    assert "cannot be written" in last.handshake.detail
    assert heard.verdicts == []
    assert heard.last.ledger["top"].captured == 0, "a probe is no frame"
