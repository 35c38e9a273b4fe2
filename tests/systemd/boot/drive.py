"""Runs steps of a line PC in one boot, and records their results; `test_boot.py` checks them."""

import contextlib
import json
import os
import signal
import socket
import struct
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import CURRENT, HEATLINE, OUT, Event, Listener, Unit, is_inspected_of, run, run_checked, until

STICK, NEXT_PACKAGE = Path("/stick"), Path("/next-package")
LINE = Path("/etc/heatline/line1.toml")
HANG = Path("/run/heatline/line1/hang")
CAMERAS = "top", "boards"

line = Unit("heatline@line1")
events = Listener("tcp://127.0.0.1:5556")


def until_it_inspects(mark: int) -> list[Event]:
    """Wait until systemd has started the line; return the first verdict of each camera since a mark."""
    until("the line's start", line.is_active)
    return [events.until(f"a verdict of {camera}", is_inspected_of(camera), mark) for camera in CAMERAS]


def install() -> dict[str, Any]:
    """Install on a PC whose /opt has the package's files already: make user, unit and commands."""
    return _installed(run("sh", f"{CURRENT}/share/heatline/rollback.sh", os.path.basename(os.path.realpath(CURRENT))))


def set_up() -> dict[str, Any]:
    """Trust the maker, and copy the line's files, bundles and pictures."""
    run_checked(HEATLINE, "bundle", "trust", STICK / "maker.key.pub", "--name", "maker")
    run_checked("cp", "--recursive", f"{STICK}/etc/.", "/etc/heatline")
    run_checked("cp", "--recursive", STICK / "pictures", "/srv")
    line.drop_in("hang", "Environment=PYTHONPATH=/boot-test/hang", "WatchdogSec=60s")
    return {}


def upgrade() -> dict[str, Any]:
    """Install the next version while the line runs, then restart the line, which activates it."""
    pid = line.pid()
    ended = run("sh", NEXT_PACKAGE / "install.sh")
    still_ran = line.pid() == pid
    line.systemctl("restart")
    until_it_inspects(events.mark())  # no event of the boot before counts
    return {"still_ran": still_ran, **_installed(ended)}


def roll_back() -> dict[str, Any]:
    """Activate the former version, and kill the line while frames are in flight, because stitching hangs."""
    ended = run("heatline-rollback")
    HANG.touch()
    events.until("frames that are stuck", _has_stuck_frames, events.mark())
    before, mark = line.restarts(), events.mark()
    os.kill(line.pid(), signal.SIGKILL)
    return {**_started_again(before, mark), **_installed(ended)}


def _installed(ended: dict[str, Any]) -> dict[str, Any]:
    """Return also the version of the command, the active folder, and the program that the line runs, if it does."""
    version, pid = run_checked(HEATLINE, "--version").strip(), line.pid()
    runs = Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0] if pid else ""
    unit = Path("/usr/local/lib/systemd/system/heatline@.service").read_text()
    return {**ended, "version": version, "current": os.path.realpath(CURRENT), "runs": runs, "unit": unit}


def start() -> dict[str, Any]:
    """Start the line; `systemctl start` returns when the line is ready."""
    events.open()
    ended = line.systemctl("start")
    at_ready = line.show()
    until_it_inspects(0)
    until("STATUS of a running line", lambda: line.show()["StatusText"].startswith("READY: running"))
    return {"at_ready": at_ready, "shown": line.show(), "uid": Path(f"/proc/{line.pid()}").stat().st_uid, **ended}


def page() -> dict[str, Any]:
    """Fetch the line's page and its own status from it, once a picture is stored and another one can be shown."""

    def state() -> dict[str, Any] | None:
        with contextlib.suppress(OSError):  # the page starts after the line
            found = json.loads(fetch("/api/state"))
            shown = [row for row in json.loads(fetch("/api/verdicts"))["rows"] if row["picture"]]
            if shown and found["evidence"] and found["evidence"]["kept"]:
                return {**found, "shown": shown[-1]}
        return None

    found = until("a stored picture", state)
    listed = json.loads(run_checked(HEATLINE, "evidence", "list", "line1", "--json"))
    status = run(HEATLINE, "status", "line1", "--json")
    return {
        "status": {**status, "report": json.loads(status["stdout"])},
        "html": fetch("/").decode(),
        "script_bytes": len(fetch("/static/main.js")),
        "picture_bytes": len(fetch(f"/api/pictures/{found['shown']['id']}/frame.jpg")),
        "state": found,
        "listed": listed,
    }


def fetch(path: str) -> bytes:
    """Return what the line's page answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:8420{path}", timeout=60) as answer:
        return bytes(answer.read())


def stop() -> dict[str, Any]:
    """Stop the line by SIGTERM; it first finishes the frames in flight."""
    mark = events.mark()
    ended = line.systemctl("stop")
    events.until("the status STOPPED", lambda event: event.get("state") == "STOPPED", mark)
    return {"shown": line.show(), **ended}


def start_with_nonsense() -> dict[str, Any]:
    """Start the line with an invalid file; systemd must not repeat this start."""
    valid = LINE.read_text()
    LINE.write_text(valid.replace("rate_fps", "rate_fpm"))
    ended = line.systemctl("start")
    shown = line.show()
    LINE.write_text(valid)
    line.systemctl("reset-failed")
    return {"shown": shown, "journal": line.journal()[-8:], **ended}


def reload_to_a_better_bundle() -> dict[str, Any]:
    return _reload(lambda text: text.replace('"boards.bundle"', '"better.bundle"', 1))


def reload_to_a_broken_bundle() -> dict[str, Any]:
    return _reload(lambda text: text.replace('"better.bundle"', '"broken.bundle"', 1), back=True)


def _reload(edit: Callable[[str], str], back: bool = False) -> dict[str, Any]:
    """Edit the line's file and reload the line; `back`: restore the file afterwards."""
    before, mark, pid = LINE.read_text(), events.mark(), line.pid()
    after = edit(before)
    assert after != before
    LINE.write_text(after)
    ended = line.systemctl("reload")
    result = _changed(mark, pid)
    if back:
        LINE.write_text(before)
    return {**result, **ended}


def _changed(mark: int, pid: int) -> dict[str, Any]:
    """Wait for the change event and for later verdicts of all cameras; return the result."""
    change = events.until("the change event", lambda event: bool(event["type"] == "change"), mark)
    until_it_inspects(events.mark())
    return {"change": change, "same_process": line.pid() == pid, "shown": line.show()}


def bridges() -> dict[str, Any]:
    """Start all bridges, and restart the line: no bridge ends."""
    units = {name: Unit(f"heatline-{name}@line1") for name in ("mqtt", "opcua", "modbus")}
    started = {name: unit.systemctl("start")["exit"] for name, unit in units.items()}
    until("a line that Modbus shows", modbus_heartbeat)
    until("a broker that is away", lambda: "1883" in units["mqtt"].show()["StatusText"])
    before = {name: unit.pid() for name, unit in units.items()}
    users = {name: Path(f"/proc/{pid}").stat().st_uid for name, pid in before.items()}
    line.systemctl("restart")
    until_it_inspects(events.mark())
    after = {name: unit.pid() for name, unit in units.items()}
    stopped = {name: unit.systemctl("stop")["exit"] for name, unit in units.items()}
    return {"started": started, "before": before, "after": after, "users": users, "stopped": stopped}


def modbus_heartbeat() -> int:
    """Read the register of docs/plant-modbus.md, which is 0 until the bridge has heard the line."""
    with socket.create_connection(("127.0.0.1", 1502), 60) as plc:
        plc.sendall(struct.pack(">HHHBBHH", 1, 0, 6, 1, 4, 2, 1))
        return int.from_bytes(plc.recv(11, socket.MSG_WAITALL)[9:])


STUCK_FRAMES = 3
WATCHDOG_SECONDS = 5
WATCHDOG_RESULT = "Failed with result 'watchdog'"


def stitching_hangs() -> dict[str, Any]:
    """Hang stitching until the watchdog ends the service."""
    line.drop_in("watchdog", f"WatchdogSec={WATCHDOG_SECONDS}s")
    line.systemctl("restart")
    until_it_inspects(events.mark())
    before, mark, logged = line.restarts(), events.mark(), len(line.journal())
    HANG.touch()
    until("the watchdog", lambda: any(WATCHDOG_RESULT in entry for entry in line.journal()[logged:]))
    return {**_started_again(before, mark), "journal": line.journal()[logged:]}


def _has_stuck_frames(event: Event) -> bool:
    return event["type"] == "status" and all(
        account["in_flight"] >= STUCK_FRAMES for account in event["ledger"].values()
    )


def _started_again(before: int, mark: int) -> dict[str, Any]:
    """Wait until systemd has restarted the service and it inspects."""
    until("another start", lambda: line.restarts() > before)
    until_it_inspects(mark)
    return {"restarts": line.restarts() - before, "shown": line.show()}


STEPS = (
    install, set_up, start, page, reload_to_a_better_bundle, reload_to_a_broken_bundle, bridges, upgrade, roll_back,
    stitching_hangs, stop, start_with_nonsense,
)  # fmt: skip
wanted, results = json.loads((OUT / "wanted.json").read_text()), dict[str, dict[str, Any]]()
with (OUT / "log.txt").open("w", buffering=1) as log:
    for step in (step for step in STEPS if step.__name__ in wanted):
        began, mark = time.monotonic(), events.mark()
        try:
            result = step()
        except Exception:
            result = {"failed": traceback.format_exc()}
        # At once, so that no fault loses it.
        results[step.__name__] = {**result, "events": [mark, events.mark()]}
        (OUT / "steps.json").write_text(json.dumps(results, indent=1))
        log.write(f"{time.monotonic() - began:5.1f} s  {step.__name__}{': FAILED' if 'failed' in result else ''}\n")
        if "failed" in result:
            break  # later steps would prove nothing
(OUT / "journal.txt").write_text("\n".join(line.journal()))
events.close()
