"""A stage that hangs: systemd's watchdog is fed no more, and status says why. What is no hang goes on feeding it."""

from pathlib import Path

import pytest

from edge.bundle import Bundle
from edge.delivery.messages import Event, Handshake, StatusEvent
from tests.edge.fault_injection import Hang
from tests.edge.lines import (
    NotifySocket,
    RunningLine,
    assert_every_frame_has_its_event,
    notify_socket,
    running,
    write_line_with,
)

CAMERA = {"kind": "pattern", "draw_size": [230, 230], "rate_fps": 10, "on_overload": "block"}
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
    while not any(said.startswith(f"STATUS={words}") for said in came):
        came += systemd.socket.recv(4096).decode().split("\n")
    return came


@pytest.mark.parametrize(
    "stage", ["judge", pytest.param("infer", marks=pytest.mark.long), pytest.param("publish", marks=pytest.mark.long)]
)
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
            until_status_begins(systemd, "NOT_READY: running, ")
            for _ in range(2):
                assert "WATCHDOG=1" not in until_status_begins(systemd, "NOT_READY: running, ")
        systemd.wait_for("WATCHDOG=1")
        stalled = None if stage == "publish" else until_shaken(run, "NOT_READY", "stalled")  # else nobody is told
        after = until_shaken(run, "READY")
        heard = run.end()
    assert_every_frame_has_its_event(heard, ["top"])
    said = [each for each in map(shaken, heard.statuses) if each is not None]
    assert [each.heartbeat for each in said] == sorted(each.heartbeat for each in said)
    if stalled is not None:
        assert {each.heartbeat for each in said if each.reason == "stalled"} == {stalled.heartbeat}
        assert after.heartbeat > stalled.heartbeat


def test_a_dead_camera_is_no_hang(tmp_path: Path, bundle: Bundle, address: str) -> None:
    """No frame comes at all: probes go the whole way and feed the watchdog."""
    dead = {"kind": "v4l2", "device": str(tmp_path / "no-such-camera")}
    line = write_line_with(tmp_path, bundle.path, address, {"top": dead}, 'heatmaps = "never"')
    with notify_socket(tmp_path) as systemd, running(line, address, env={**systemd.env, **WATCHDOG}) as run:
        first = until_shaken(run, "NOT_READY", "no_camera")
        until_status_begins(systemd, "NOT_READY: running, ")
        for _ in range(2):
            systemd.wait_for("WATCHDOG=1")
        last = run.until(lambda event: (said := shaken(event)) is not None and said.heartbeat >= first.heartbeat + 2)
        heard = run.end()
    assert last.handshake.reason == "no_camera"
    assert "camera top is dead" in last.handshake.detail
    assert heard.verdicts == []
    assert heard.last.ledger["top"].captured == 0, "a probe is no frame"
