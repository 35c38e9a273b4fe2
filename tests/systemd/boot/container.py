"""Boots a real systemd in a container without a network; the container runs `drive.py`.

The container's root is this machine's, under an overlay in memory, so all changes are lost when it is switched off.
"""

import json
import os
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
UNITS = "boot.target", "boot-drive.service"
BOOTED_AND_DRIVEN_WITHIN_SECONDS = 1200

IN_A_MOUNT_NAMESPACE = """
set -e
mount --make-rprivate /
mount --bind / "$1/root"  # nspawn takes no / itself
mount -t tmpfs -o mode=755 opt "$1/opt"
mkdir "$1/opt/upper" "$1/opt/work"
mount -t overlay -o "lowerdir=$2,upperdir=$1/opt/upper,workdir=$1/opt/work" opt "$1/opt"
shift 2
exec "$@"
"""


@dataclass(frozen=True)
class Boot:
    """The recorded results of one boot."""

    steps: Mapping[str, Mapping[str, Any]]
    """Result of each step of the driver, by its name."""
    events: list[dict[str, Any]]
    """Headers of all events that a subscriber received, in the order of receipt."""
    log: list[str]
    """One line per step, to be printed."""

    def result_of(self, step: str) -> Mapping[str, Any]:
        """Return the result of a step; fail if the step was not run or raised an error."""
        assert step in self.steps, f"step {step} was not run, because an earlier step failed: {self.log[-1]}"
        result = self.steps[step]
        assert "failed" not in result, result["failed"]
        return result

    def events_in(self, step: str) -> list[dict[str, Any]]:
        """Return the events that were received during a step."""
        begin, end = self.result_of(step)["events"]
        return self.events[begin:end]

    def verdicts_in(self, step: str) -> list[dict[str, Any]]:
        return [event for event in self.events_in(step) if event["type"] == "verdict"]

    def runs(self) -> list[list[dict[str, Any]]]:
        """Return all events in order, one list for each run of the service."""
        return [list(run) for _, run in groupby(self.events, key=lambda event: event["boot_id"])]


def boot(folder: Path, opt: Path, binds: Mapping[str, Path], steps: Collection[str]) -> Boot:
    """Boot the container, run the driver, and switch the container off.

    Args:
        folder: a new folder; the driver writes to its subfolder `out`.
        opt: a folder that /opt shows at first, such as a copy of another line PC's; it is not changed.
        binds: paths of this machine that the container sees read-only, by their path in the container.
        steps: those that the driver runs.
    """
    out = folder / "out"
    for name in ("root", "opt", "out"):
        (folder / name).mkdir(parents=True)
    (out / "wanted.json").write_text(json.dumps(sorted(steps)))
    mounted = {"/boot-test": HERE, **{f"/etc/systemd/system/{unit}": HERE / unit for unit in UNITS}, **binds}
    nspawn = [
        "systemd-nspawn", "--quiet", "--directory", folder / "root", "--volatile=overlay",
        "--machine", f"heatline-{os.getpid()}", "--register=no", "--keep-unit", "--link-journal=no",
        "--private-network", "--bind", f"{folder / 'opt'}:/opt",
        "--bind", f"{out}:/out", *(f"--bind-ro={here}:{there}" for there, here in mounted.items()),
        "--boot", "systemd.unit=boot.target",
    ]  # fmt: skip
    with (out / "console.txt").open("wb") as console:
        subprocess.run(
            # Each process ends with its parent, so the container ends with the test.
            ["setpriv", "--pdeathsig", "TERM", "timeout", "--kill-after=5", str(BOOTED_AND_DRIVEN_WITHIN_SECONDS),
             "setpriv", "--pdeathsig", "KILL",
             "unshare", "--mount", "sh", "-c", IN_A_MOUNT_NAMESPACE, "sh", folder, opt, *nspawn],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL, stdout=console, stderr=console, check=False,
        )  # fmt: skip
    return _read(out)


def _read(out: Path) -> Boot:
    steps, received, log, console = (out / name for name in ("steps.json", "events.jsonl", "log.txt", "console.txt"))
    if not steps.exists():
        raise AssertionError(f"the container ended before the first step: {console.read_text()[-5000:]}")
    events = [json.loads(line) for line in received.read_text().splitlines()] if received.exists() else []
    return Boot(json.loads(steps.read_text()), events, log.read_text().splitlines())
