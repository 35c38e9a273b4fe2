"""Boots a real systemd in a container, with no network, and has it run `drive.py`.

The container's root is this machine's, under an overlay in memory: whatever is installed, written or broken in it is
gone when it is switched off.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
UNITS = "boot.target", "boot-drive.service"
BOOTED_AND_DRIVEN_WITHIN_SECONDS = 1200
OPT = "/opt:mode=755,size=4g"
"""A PC that has never seen heatline, with room for two versions of it."""

IN_A_MOUNT_NAMESPACE = """
set -e
mount --make-rprivate /
mount --bind / "$1"  # nspawn takes no / itself
shift
exec "$@"
"""


@dataclass(frozen=True)
class Boot:
    """What one boot left behind."""

    steps: Mapping[str, Mapping[str, Any]]
    """What each step of the driver saw, by its name."""
    events: list[dict[str, Any]]
    """The headers of all events that a subscriber heard, in the order in which they came."""
    log: list[str]
    """One line per step, for people."""

    def saw(self, step: str) -> Mapping[str, Any]:
        """What a step saw, if it could be carried out."""
        assert step in self.steps, f"it was not taken, as one before it failed: {self.log[-1]}"
        seen = self.steps[step]
        assert "failed" not in seen, seen["failed"]
        return seen

    def heard_in(self, step: str) -> list[dict[str, Any]]:
        """The events that came while a step was carried out."""
        begin, end = self.saw(step)["events"]
        return self.events[begin:end]

    def verdicts_in(self, step: str) -> list[dict[str, Any]]:
        return [event for event in self.heard_in(step) if event["type"] == "verdict"]

    def runs(self) -> list[list[dict[str, Any]]]:
        """All events by the run of the service that sent them, in order."""
        return [list(run) for _, run in groupby(self.events, key=lambda event: event["boot_id"])]


def hindrance() -> str | None:
    """Why no container can be booted here, if none can."""
    if os.geteuid() != 0:
        return "only root can boot a container"
    needed = {
        "systemd-nspawn": "systemd-container",
        "unshare": "util-linux",
        "setpriv": "util-linux",
        "/usr/bin/python3": "python3",
    }
    for command, package in needed.items():
        if shutil.which(command) is None:
            return f"{command} is not installed: apt-get install {package}"
    return None


def boot(folder: Path, binds: Mapping[str, Path]) -> Boot:
    """Boot, drive, switch off.

    Args:
        folder: new; what the driver writes is kept in `out` below it.
        binds: what the container sees beside this machine's root, by the path there. Read only.
    """
    root, out = folder / "root", folder / "out"
    root.mkdir(parents=True)
    out.mkdir()
    seen = {"/boot-test": HERE, **{f"/etc/systemd/system/{unit}": HERE / unit for unit in UNITS}, **binds}
    nspawn = [
        "systemd-nspawn", "--quiet", "--directory", root, "--volatile=overlay", "--tmpfs", OPT,
        "--machine", f"heatline-{os.getpid()}", "--register=no", "--keep-unit", "--link-journal=no",
        "--private-network",
        "--bind", f"{out}:/out", *(f"--bind-ro={here}:{there}" for there, here in seen.items()),
        "--boot", "systemd.unit=boot.target",
    ]  # fmt: skip
    with (out / "console.txt").open("wb") as console:
        subprocess.run(
            # Whatever ends the test ends the container: each process dies with the one that started it.
            ["setpriv", "--pdeathsig", "TERM", "timeout", "--kill-after=5", str(BOOTED_AND_DRIVEN_WITHIN_SECONDS),
             "setpriv", "--pdeathsig", "KILL",
             "unshare", "--mount", "sh", "-c", IN_A_MOUNT_NAMESPACE, "sh", root, *nspawn],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, check=False,
        )  # fmt: skip
    return _read(out)


def _read(out: Path) -> Boot:
    steps, heard, log, console = (out / name for name in ("steps.json", "events.jsonl", "log.txt", "console.txt"))
    if not steps.exists():
        raise AssertionError(f"the container did not come as far as the first step: {console.read_text()[-5000:]}")
    events = [json.loads(line) for line in heard.read_text().splitlines()] if heard.exists() else []
    return Boot(json.loads(steps.read_text()), events, log.read_text().splitlines())
