"""What goes wrong on a line PC."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from machine import HEATLINE, Event, Unit, run, until
from scene import RUNTIME, events, line, until_it_inspects

STUCK_FRAMES = 3
WATCHDOG_SECONDS = 5
WATCHDOG_WAS_IT = "Failed with result 'watchdog'"

other_line = Unit("heatline@line2")
"""Its only camera is not there."""


def kill_9() -> dict[str, Any]:
    """Of the service, while frames are in flight: the stage that judges them hangs."""
    line.drop_in("hang", "Environment=PYTHONPATH=/boot-test/hang")
    line.drop_in("watchdog", "WatchdogSec=60s")  # kill -9 is to end it, and nothing else
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
    """A line whose only camera is not there, for twice as long as the watchdog waits."""
    other_line.drop_in("watchdog", f"WatchdogSec={WATCHDOG_SECONDS}s")
    ended = other_line.does("start")
    ready_at, first = time.monotonic(), _report()
    until("twice the watchdog's wait", lambda: time.monotonic() > ready_at + 2 * WATCHDOG_SECONDS)
    shown, last = other_line.show(), _report()
    return {
        "told": f"{shown['ActiveState']}, {shown['NRestarts']} restarts, STATUS {shown['StatusText']!r}",
        "shown": shown,
        "first": first,
        "last": last,
        **ended,
    }


def one_address_for_two() -> dict[str, Any]:
    """The other line is told to publish where the first one does."""
    pid = line.pid()
    file = Path("/etc/heatline/line2.toml")
    file.write_text(file.read_text().replace(":5566", ":5556"))
    ended = other_line.does("restart")
    ends = [said for said in other_line.journal() if "Main process exited" in said]
    other_line.does("stop")
    return {
        "told": f"the other line: {ends[-1].partition('exited, ')[2]}",
        "ends": ends,
        "same_process": line.pid() == pid,
        **ended,
    }


def _restart() -> None:
    mark = events.mark()
    line.does("restart")
    until_it_inspects(mark)


def _hang(stage: str) -> None:
    (RUNTIME / "hang").write_text(stage)


def _until_the_watchdog(stage: str) -> dict[str, Any]:
    """A stage hangs until the watchdog ends the service."""
    line.drop_in("watchdog", f"WatchdogSec={WATCHDOG_SECONDS}s")
    _restart()
    before, mark, logged = line.restarts(), events.mark(), len(line.journal())
    _hang(stage)
    until("the watchdog", lambda: any(WATCHDOG_WAS_IT in said for said in line.journal()[logged:]))
    seen = _started_again(before, mark)
    return {**seen, "told": f"the watchdog; {seen['told']}", "journal": line.journal()[logged:]}


def _has_stuck_frames(event: Event) -> bool:
    return event["type"] == "status" and all(
        account["in_flight"] >= STUCK_FRAMES for account in event["ledger"].values()
    )


def _started_again(before: int, mark: int) -> dict[str, Any]:
    """The service by itself; frames that were in flight are told before any new one."""
    until("another start", lambda: line.restarts() > before)
    until_it_inspects(mark)
    crashed = [event for event in events.since(mark) if event.get("reason") == "dropped.crashed"]
    frames = {event["camera"]: event["frames"] for event in crashed}
    restarts = line.restarts() - before
    return {
        "told": f"{restarts} restart; told as dropped.crashed: {frames}",
        "restarts": restarts,
        "shown": line.show(),
    }


def _report() -> dict[str, Any]:
    return dict(json.loads(run(HEATLINE, "status", "line2", "--json")["stdout"]))
