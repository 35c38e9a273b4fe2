"""Install, upgrade and roll back, with only the files on the stick."""

import os
from pathlib import Path
from typing import Any

from common import LINE, NEXT_PACKAGE, PACKAGE, STICK, events, line, until_it_inspects
from machine import CURRENT, HEATLINE, run, run_checked


def install() -> dict[str, Any]:
    """Install the package on a PC whose /opt has its files already: verify them, make user, unit and commands."""
    network = sorted(os.listdir("/sys/class/net"))
    return {**_installed(run("sh", PACKAGE / "install.sh")), "network": network}


def set_up() -> dict[str, Any]:
    """Trust the maker, copy the line's files, bundles and pictures, and check the line."""
    run_checked(HEATLINE, "bundle", "trust", STICK / "maker.key.pub", "--name", "maker")
    run_checked("cp", "--recursive", f"{STICK}/etc/.", "/etc/heatline")
    run_checked("cp", "--recursive", STICK / "pictures", "/srv")
    checked = run(HEATLINE, "check", LINE)
    first = " ".join(checked["stdout"].split("\n")[0].split())
    return {**checked, "summary": f"check ended with {checked['exit']}: {first}"}


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
    return {**ended, "version": version, "current": current, "summary": f"exit {ended['exit']}, {version} in {current}"}
