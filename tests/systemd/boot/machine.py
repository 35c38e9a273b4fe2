"""The tools of a line engineer on the line PC: commands, systemctl, the journal, and a subscriber.

Runs inside the container with Debian's Python, and uses only the standard library.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

OUT = Path("/out")
CURRENT = Path("/opt/heatline/current")
HEATLINE = CURRENT / "bin" / "heatline"
WITHIN_SECONDS = 180.0
COMMAND_WITHIN_SECONDS = 600.0
"""Time limits for what would otherwise hang, on a busy machine; never for a measured time."""
POLL_SECONDS = 0.2

T = TypeVar("T")
Event = Mapping[str, Any]


def until(what: str, find: Callable[[], T]) -> T:
    """Wait until `find` returns something true, and return that."""
    give_up = time.monotonic() + WITHIN_SECONDS
    while not (found := find()):
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} did not come within {WITHIN_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return found


def run(*command: str | Path) -> dict[str, Any]:
    """Run a command; return its exit code and output."""
    ended = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=COMMAND_WITHIN_SECONDS, check=False
    )
    return {"exit": ended.returncode, "stdout": ended.stdout, "stderr": ended.stderr}


def run_checked(*command: str | Path) -> str:
    """Run a command that must succeed; return its output."""
    ended = run(*command)
    if ended["exit"]:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {ended['exit']}: {ended['stderr'][-2000:]}")
    return str(ended["stdout"])


class Unit:
    """One systemd unit."""

    SHOWN = "ActiveState", "SubState", "StatusText", "Result", "NRestarts", "MainPID", "ExecMainStatus"

    def __init__(self, name: str) -> None:
        self.name = name

    def show(self) -> dict[str, str]:
        """Return the properties that systemd shows."""
        lines = run_checked("systemctl", "show", self.name, f"--property={','.join(self.SHOWN)}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def systemctl(self, verb: str) -> dict[str, Any]:
        return run("systemctl", verb, self.name)

    def is_active(self) -> bool:
        return self.show()["ActiveState"] == "active"

    def pid(self) -> int:
        return int(self.show()["MainPID"])

    def restarts(self) -> int:
        return int(self.show()["NRestarts"])

    def drop_in(self, name: str, *settings: str) -> None:
        """Add settings of `[Service]`, as `systemctl edit` does; they apply from the next start."""
        folder = Path(f"/etc/systemd/system/{self.name}.service.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.conf").write_text("\n".join(["[Service]", *settings, ""]))
        run_checked("systemctl", "daemon-reload")

    def journal(self) -> list[str]:
        """Return the log entries of systemd and the service, oldest first."""
        return run_checked("journalctl", "--unit", self.name, "--output=cat", "--no-pager").splitlines()


class Listener:
    """Receives the events of a line in a process of its own. A mark is the number of events received so far."""

    FILE = OUT / "events.jsonl"

    def __init__(self, address: str) -> None:
        self._address = address
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        python = Path(os.path.realpath(CURRENT)) / "bin" / "python"  # that of the version active now
        with self.FILE.open("wb") as file:
            self._process = subprocess.Popen([python, "/boot-test/listen.py", self._address], stdout=file)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def mark(self) -> int:
        return self.FILE.read_bytes().count(b"\n") if self.FILE.exists() else 0

    def since(self, mark: int) -> Iterator[Event]:
        """Yield the events received since a mark."""
        for line in self.FILE.read_bytes().splitlines(keepends=True)[mark:]:
            if line.endswith(b"\n"):
                yield json.loads(line)

    def until(self, what: str, wanted: Callable[[Event], bool], mark: int) -> Event:
        """Wait for the first event since a mark that is wanted, and return it."""
        return until(what, lambda: next((event for event in self.since(mark) if wanted(event)), None))


def is_inspected_of(camera: str) -> Callable[[Event], bool]:
    """Return a function: is an event a verdict on an inspected frame of this camera?"""
    return lambda event: event["type"] == "verdict" and event["verdict"] != "NO_VERDICT" and event["camera"] == camera
