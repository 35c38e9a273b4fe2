"""Faults of a line PC."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from common import RUNTIME, events, line, until_it_inspects
from machine import HEATLINE, Event, Unit, run, until

STUCK_FRAMES = 3
WATCHDOG_SECONDS = 5
WATCHDOG_RESULT = "Failed with result 'watchdog'"

other_line = Unit("heatline@line2")
"""A line whose only camera does not exist."""


def kill_9() -> dict[str, Any]:
    """Kill the service while frames are in flight, because stitching hangs."""
    line.drop_in("hang", "Environment=PYTHONPATH=/boot-test/hang")
    line.drop_in("watchdog", "WatchdogSec=60s")  # so that only kill -9 ends the service
    _restart()
    before = line.restarts()
    _hang("stitch")
    events.until("frames that are stuck", _has_stuck_frames, events.mark())
    mark = events.mark()
    os.kill(line.pid(), signal.SIGKILL)
    return _started_again(before, mark)


def stitching_hangs() -> dict[str, Any]:
    return _until_the_watchdog("stitch")


def publishing_hangs() -> dict[str, Any]:
    return _until_the_watchdog("publish")


def no_camera() -> dict[str, Any]:
    """Run a line without its only camera, for twice the watchdog's time."""
    other_line.drop_in("watchdog", f"WatchdogSec={WATCHDOG_SECONDS}s")
    ended = other_line.systemctl("start")
    ready_at, first = time.monotonic(), _report()
    until("twice the watchdog's wait", lambda: time.monotonic() > ready_at + 2 * WATCHDOG_SECONDS)
    shown, last = other_line.show(), _report()
    return {
        "summary": f"{shown['ActiveState']}, {shown['NRestarts']} restarts, STATUS {shown['StatusText']!r}",
        "shown": shown,
        "first": first,
        "last": last,
        **ended,
    }


def one_address_for_two() -> dict[str, Any]:
    """Configure the other line to publish at the first line's address."""
    pid = line.pid()
    file = Path("/etc/heatline/line2.toml")
    file.write_text(file.read_text().replace(":5566", ":5556"))
    ended = other_line.systemctl("restart")
    ends = [entry for entry in other_line.journal() if "Main process exited" in entry]
    other_line.systemctl("stop")
    return {
        "summary": f"the other line: {ends[-1].partition('exited, ')[2]}",
        "ends": ends,
        "same_process": line.pid() == pid,
        **ended,
    }


def _restart() -> None:
    line.systemctl("restart")
    until_it_inspects(events.mark())  # no event of the boot before counts


def _hang(stage: str) -> None:
    (RUNTIME / "hang").write_text(stage)


def _until_the_watchdog(stage: str) -> dict[str, Any]:
    """Hang a stage until the watchdog ends the service."""
    line.drop_in("watchdog", f"WatchdogSec={WATCHDOG_SECONDS}s")
    _restart()
    before, mark, logged = line.restarts(), events.mark(), len(line.journal())
    _hang(stage)
    until("the watchdog", lambda: any(WATCHDOG_RESULT in entry for entry in line.journal()[logged:]))
    result = _started_again(before, mark)
    return {**result, "summary": f"the watchdog; {result['summary']}", "journal": line.journal()[logged:]}


def _has_stuck_frames(event: Event) -> bool:
    return event["type"] == "status" and all(
        account["in_flight"] >= STUCK_FRAMES for account in event["ledger"].values()
    )


def _started_again(before: int, mark: int) -> dict[str, Any]:
    """Wait until systemd has restarted the service and it inspects; count the frames that were in flight."""
    until("another start", lambda: line.restarts() > before)
    until_it_inspects(mark)
    crashed = [event for event in events.since(mark) if event.get("reason") == "dropped.crashed"]
    frames = {event["camera"]: event["frames"] for event in crashed}
    restarts = line.restarts() - before
    return {
        "summary": f"{restarts} restart; reported as dropped.crashed: {frames}",
        "restarts": restarts,
        "shown": line.show(),
    }


def _report() -> dict[str, Any]:
    return dict(json.loads(run(HEATLINE, "status", "line2", "--json")["stdout"]))
