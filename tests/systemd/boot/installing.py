"""Install, upgrade and roll back, by what lies on the stick alone."""

import os
from pathlib import Path
from typing import Any

from machine import CURRENT, HEATLINE, must, run
from scene import LINE, NEXT_PACKAGE, PACKAGE, STICK, events, line, until_it_inspects


def install() -> dict[str, Any]:
    """The package, onto a PC that has never seen heatline."""
    network = sorted(os.listdir("/sys/class/net"))
    return {**_installed(run("sh", PACKAGE / "install.sh")), "network": network}


def set_up() -> dict[str, Any]:
    """Trust the maker, copy the line's files, bundles and pictures, and have them checked."""
    must(HEATLINE, "bundle", "trust", STICK / "maker.key.pub", "--name", "maker")
    must("cp", "--recursive", f"{STICK}/etc/.", "/etc/heatline")
    must("cp", "--recursive", STICK / "pictures", "/srv")
    checked = run(HEATLINE, "check", LINE)
    first = " ".join(checked["stdout"].split("\n")[0].split())
    return {**checked, "told": f"check ended with {checked['exit']}: {first}"}


def upgrade() -> dict[str, Any]:
    """To the next version, while the line runs; it is the line's restart that takes it."""
    pid = line.pid()
    ended = run("sh", NEXT_PACKAGE / "install.sh")
    return {"still_ran": line.pid() == pid, **_restarted(ended)}


def roll_back() -> dict[str, Any]:
    """To the version before."""
    return _restarted(run("heatline-rollback"))


def _restarted(ended: dict[str, Any]) -> dict[str, Any]:
    mark = events.mark()
    line.does("restart")
    until_it_inspects(mark)
    libraries = Path(f"/proc/{line.pid()}/maps").read_text()
    return {**_installed(ended), "runs_in_current": f"{os.path.realpath(CURRENT)}/" in libraries}


def _installed(ended: dict[str, Any]) -> dict[str, Any]:
    version, current = must(HEATLINE, "--version").strip(), os.path.realpath(CURRENT)
    return {**ended, "version": version, "current": current, "told": f"exit {ended['exit']}, {version} in {current}"}
