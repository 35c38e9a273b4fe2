"""Start, check and stop the line."""

import json
import urllib.request
from pathlib import Path
from typing import Any

from common import LINE, events, line, until_it_inspects
from machine import HEATLINE, run, run_checked, until


def start() -> dict[str, Any]:
    """Start the line; `systemctl start` returns when the line is ready."""
    events.open()
    ended = line.systemctl("start")
    at_ready = line.show()
    until_it_inspects(0)
    until("STATUS of a running line", lambda: line.show()["StatusText"].startswith("READY: running"))
    shown = line.show()
    return {
        "summary": f"{shown['ActiveState']}, STATUS {shown['StatusText']!r}",
        "at_ready": at_ready,
        "shown": shown,
        **ended,
    }


def status() -> dict[str, Any]:
    """Print the status as text and as JSON."""
    as_text, as_json = run(HEATLINE, "status", "line1"), run(HEATLINE, "status", "line1", "--json")
    first = as_text["stdout"].splitlines()[0].strip()
    return {
        **as_json,
        "summary": f"exit {as_text['exit']}, {first}",
        "as_text": as_text,
        "report": json.loads(as_json["stdout"]),
    }


def page() -> dict[str, Any]:
    """Fetch the line's page and its own status from it, once a picture is stored and another one can be shown."""

    def state() -> dict[str, Any] | None:
        found = json.loads(fetch("/api/state"))
        shown = [row for row in json.loads(fetch("/api/verdicts"))["rows"] if row["picture"]]
        return {**found, "shown": shown[-1]} if shown and found["evidence"] and found["evidence"]["kept"] else None

    found = until("a stored picture", state)
    listed = json.loads(run_checked(HEATLINE, "evidence", "list", "line1", "--json"))
    return {
        "summary": f"{found['evidence']['kept']} pictures stored, {len(found['cameras'])} cameras on the page",
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
    return {"summary": f"exposure {score}, runs as user {uid}", "score": score, "uid": uid, "exposed": exposed}


def stop() -> dict[str, Any]:
    """Stop the line by SIGTERM; it first finishes the frames in flight."""
    mark = events.mark()
    ended = line.systemctl("stop")
    events.until("the status STOPPED", lambda event: event.get("state") == "STOPPED", mark)
    shown = line.show()
    return {"summary": f"{shown['ActiveState']}, exit code {shown['ExecMainStatus']}", "shown": shown, **ended}


def start_with_nonsense() -> dict[str, Any]:
    """Start the line with an invalid file; systemd must not repeat this start."""
    valid = LINE.read_text()
    LINE.write_text(valid.replace("rate_fps", "rate_fpm"))
    ended = line.systemctl("start")
    shown = line.show()
    LINE.write_text(valid)
    line.systemctl("reset-failed")
    summary = f"{shown['ActiveState']}, exit code {shown['ExecMainStatus']}, {shown['NRestarts']} restarts"
    return {"summary": summary, "shown": shown, "journal": line.journal()[-8:], **ended}
