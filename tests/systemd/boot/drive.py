"""Runs steps of a line PC in one boot, and records their results; `test_boot.py` checks them."""

import contextlib
import json
import os
import signal
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import CURRENT, HEATLINE, OUT, Event, Listener, Unit, is_inspected_of, run, run_checked, until

STICK, PACKAGE, NEXT_PACKAGE = Path("/stick"), Path("/package"), Path("/next-package")
LINE = Path("/etc/heatline/line1.toml")
RUNTIME = Path("/run/heatline/line1")
CAMERAS = "top", "boards"

line = Unit("heatline@line1")
events = Listener("tcp://127.0.0.1:5556")
other_line = Unit("heatline@line2")
"""A line whose only camera does not exist."""


def until_it_inspects(mark: int) -> list[Event]:
    """Wait until systemd has started the line; return the first verdict of each camera since a mark."""
    until("the line's start", line.is_active)
    return [events.until(f"a verdict of {camera}", is_inspected_of(camera), mark) for camera in CAMERAS]


def install() -> dict[str, Any]:
    """Install the package on a PC whose /opt has its files already: verify them, make user, unit and commands."""
    network = sorted(os.listdir("/sys/class/net"))
    return {**_installed(run("sh", PACKAGE / "install.sh")), "network": network}


def set_up() -> dict[str, Any]:
    """Trust the maker, copy the line's files, bundles and pictures, and check the line."""
    run_checked(HEATLINE, "bundle", "trust", STICK / "maker.key.pub", "--name", "maker")
    run_checked("cp", "--recursive", f"{STICK}/etc/.", "/etc/heatline")
    run_checked("cp", "--recursive", STICK / "pictures", "/srv")
    return run(HEATLINE, "check", LINE)


def upgrade() -> dict[str, Any]:
    """Install the next version while the line runs, then restart the line, which activates it."""
    pid = line.pid()
    ended = run("sh", NEXT_PACKAGE / "install.sh")
    return {"still_ran": line.pid() == pid, **_restarted(ended)}


def roll_back() -> dict[str, Any]:
    """Activate the former version, and restart the line."""
    return _restarted(run("heatline-rollback"))


def _restarted(ended: dict[str, Any]) -> dict[str, Any]:
    line.systemctl("restart")
    until_it_inspects(events.mark())  # no event of the boot before counts
    libraries = Path(f"/proc/{line.pid()}/maps").read_text()
    return {**_installed(ended), "runs_in_current": f"{os.path.realpath(CURRENT)}/" in libraries}


def _installed(ended: dict[str, Any]) -> dict[str, Any]:
    version, current = run_checked(HEATLINE, "--version").strip(), os.path.realpath(CURRENT)
    return {**ended, "version": version, "current": current}


def start() -> dict[str, Any]:
    """Start the line; `systemctl start` returns when the line is ready."""
    events.open()
    ended = line.systemctl("start")
    at_ready = line.show()
    until_it_inspects(0)
    until("STATUS of a running line", lambda: line.show()["StatusText"].startswith("READY: running"))
    shown = line.show()
    return {
        "at_ready": at_ready,
        "shown": shown,
        **ended,
    }


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
        "nice": sorted(niceness(child) for child in children(line.pid())),
    }


def fetch(path: str) -> bytes:
    """Return what the line's page answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:8420{path}", timeout=60) as answer:
        return bytes(answer.read())


def children(pid: str) -> list[str]:
    """Return the processes that a process started."""
    return [pid for task in Path(f"/proc/{pid}/task").iterdir() for pid in (task / "children").read_text().split()]


def niceness(pid: str) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])


def sandbox() -> dict[str, Any]:
    """Measure the exposure of the loaded unit, and find the user of its process."""
    report = run_checked("systemd-analyze", "security", "--no-pager", f"{line.name}.service").splitlines()
    uid = int(Path(f"/proc/{line.pid()}/status").read_text().split("Uid:")[1].split()[0])
    score = float(report[-1].split(": ")[1].split()[0])
    exposed = [" ".join(row.split()) for row in report if row.startswith("✗")]
    return {"score": score, "uid": uid, "exposed": exposed}


def stop() -> dict[str, Any]:
    """Stop the line by SIGTERM; it first finishes the frames in flight."""
    mark = events.mark()
    ended = line.systemctl("stop")
    events.until("the status STOPPED", lambda event: event.get("state") == "STOPPED", mark)
    shown = line.show()
    return {"shown": shown, **ended}


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


def reload_to_another_threshold() -> dict[str, Any]:
    """Set a threshold that changes the verdict on a picture."""
    last = [event for event in events.since(0) if event.get("source") == "001.png"][-1]
    other = last["frame_score"] + (1.0 if last["verdict"] == "DEFECT" else -1.0)
    result = _reload(lambda text: text.replace("[thresholds]\n", f"[thresholds]\nscore = {other}\n", 1))
    again = events.until("that picture again", lambda event: event.get("source") == "001.png", events.mark())
    return {**result, "before": last, "after": again, "threshold": other}


def reload_to_nonsense() -> dict[str, Any]:
    return _reload(lambda text: text.replace("rate_fps", "rate_fpm"), back=True)


def select_another_product() -> dict[str, Any]:
    """Select another product over ZeroMQ, as a PLC's gateway does."""
    mark, pid = events.mark(), line.pid()
    ended = run(HEATLINE, "select", "tcp://127.0.0.1:5557", "lids", "--json")
    return {**_changed(mark, pid), **ended}


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
    change = events.until("the change event", _is_change, mark)
    until_it_inspects(events.mark())
    shown = line.show()
    return {"change": change, "same_process": line.pid() == pid, "shown": shown}


def _is_change(event: Event) -> bool:
    return bool(event["type"] == "change")


BRIDGES = "mqtt", "opcua", "modbus"
MODBUS_PORT, OPCUA_PORT = "1502", "4840"


def bridges() -> dict[str, Any]:
    """Start all bridges, ask those that serve for a result, and kill the line: no bridge ends."""
    units = {name: Unit(f"heatline-{name}@line1") for name in BRIDGES}
    started = {name: unit.systemctl("start") for name, unit in units.items()}
    python = Path(os.path.realpath(CURRENT)) / "bin" / "python"
    seen = json.loads(run_checked(python, "/boot-test/plant.py", "ask", MODBUS_PORT, OPCUA_PORT))
    pids = {name: unit.pid() for name, unit in units.items()}
    users = {name: Path(f"/proc/{pid}").stat().st_uid for name, pid in pids.items()}
    until("a broker that is away", lambda: "1883" in units["mqtt"].show()["StatusText"])
    line.systemctl("restart")
    until_it_inspects(events.mark())
    shown = {name: unit.show() for name, unit in units.items()}
    stopped = {name: unit.systemctl("stop")["exit"] for name, unit in units.items()}
    return {
        "started": started,
        "seen": seen,
        "same": {name: shown[name]["MainPID"] == str(pid) for name, pid in pids.items()},
        "users": users,
        "shown": shown,
        "stopped": stopped,
    }


STUCK_FRAMES = 3
WATCHDOG_SECONDS = 5
WATCHDOG_RESULT = "Failed with result 'watchdog'"


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


def no_camera() -> dict[str, Any]:
    """Run a line without its only camera, for twice the watchdog's time."""
    other_line.drop_in("watchdog", f"WatchdogSec={WATCHDOG_SECONDS}s")
    ended = other_line.systemctl("start")
    ready_at, first = time.monotonic(), _report()
    until("twice the watchdog's wait", lambda: time.monotonic() > ready_at + 2 * WATCHDOG_SECONDS)
    shown, last = other_line.show(), _report()
    return {
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
        "ends": ends,
        "same_process": line.pid() == pid,
        **ended,
    }


def publishing_hangs() -> dict[str, Any]:
    return _until_the_watchdog("publish")


def _report() -> dict[str, Any]:
    return dict(json.loads(run(HEATLINE, "status", "line2", "--json")["stdout"]))


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
    return {**result, "journal": line.journal()[logged:]}


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
    install, set_up, start, page, sandbox, reload_to_a_better_bundle, reload_to_another_threshold,
    reload_to_a_broken_bundle, reload_to_nonsense, select_another_product, bridges, no_camera, one_address_for_two,
    upgrade, roll_back, kill_9, stitching_hangs, publishing_hangs, stop, start_with_nonsense,
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
