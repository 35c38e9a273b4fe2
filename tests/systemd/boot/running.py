"""Start, look, stop."""

import json
from pathlib import Path
from typing import Any

from machine import HEATLINE, must, run, until
from scene import LINE, events, line, until_it_inspects


def start() -> dict[str, Any]:
    """`systemctl start` returns once the line is ready."""
    events.open()
    ended = line.does("start")
    at_ready = line.show()
    until_it_inspects(0)
    until("STATUS of a running line", lambda: line.show()["StatusText"].startswith("READY: running"))
    shown = line.show()
    return {
        "told": f"{shown['ActiveState']}, STATUS {shown['StatusText']!r}",
        "at_ready": at_ready,
        "shown": shown,
        **ended,
    }


def status() -> dict[str, Any]:
    """The handshake, for people and for programs."""
    in_words, as_json = run(HEATLINE, "status", "line1"), run(HEATLINE, "status", "line1", "--json")
    first = in_words["stdout"].splitlines()[0].strip()
    return {
        **as_json,
        "told": f"exit {in_words['exit']}, {first}",
        "in_words": in_words,
        "report": json.loads(as_json["stdout"]),
    }


def sandbox() -> dict[str, Any]:
    """What systemd makes of the unit as it is loaded, and who it runs as."""
    said = must("systemd-analyze", "security", "--no-pager", f"{line.name}.service").splitlines()
    uid = int(Path(f"/proc/{line.pid()}/status").read_text().split("Uid:")[1].split()[0])
    score = float(said[-1].split(": ")[1].split()[0])
    exposed = [" ".join(row.split()) for row in said if row.startswith("✗")]
    return {"told": f"exposure {score}, runs as user {uid}", "score": score, "uid": uid, "exposed": exposed}


def stop() -> dict[str, Any]:
    """SIGTERM; everything in flight is finished."""
    mark = events.mark()
    ended = line.does("stop")
    events.until("word that it stopped", lambda event: event.get("state") == "STOPPED", mark)
    shown = line.show()
    return {"told": f"{shown['ActiveState']}, exit code {shown['ExecMainStatus']}", "shown": shown, **ended}


def start_with_nonsense() -> dict[str, Any]:
    """Another try would end the same way, and is not made."""
    right = LINE.read_text()
    LINE.write_text(right.replace("rate_fps", "rate_fpm"))
    ended = line.does("start")
    shown = line.show()
    LINE.write_text(right)
    line.does("reset-failed")
    told = f"{shown['ActiveState']}, exit code {shown['ExecMainStatus']}, {shown['NRestarts']} restarts"
    return {"told": told, "shown": shown, "journal": line.journal()[-8:], **ended}
