"""The systemd units, checked by systemd itself, with a stand-in for the installed command."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from heatline.edge.cli import bridge
from tests.needs import need, need_root

FOLDER = Path(__file__).parents[2] / "systemd"
UNIT = FOLDER / "heatline@.service"
BRIDGES = sorted(FOLDER.glob("heatline-*@.service"))
MOST_EXPOSED = 20
"""The value of `--threshold` for an exposure of 2.0."""


@pytest.fixture
def analyze() -> str:
    return need("systemd")


def verify(analyze: str, folder: Path, text: str, name: str = UNIT.name) -> subprocess.CompletedProcess[str]:
    (folder / "bin").mkdir()
    stand_in = folder / "bin" / "heatline"
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(0o755)
    unit, instance = folder / name, folder / name.replace("@", "@line1")
    unit.write_text(re.sub(r"(?m)^(Exec\w+)=\S+", rf"\1={stand_in}", text))
    instance.symlink_to(unit)
    return subprocess.run(
        [analyze, "verify", "--man=no", instance],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def security(analyze: str, folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `systemd-analyze security`, which ends with exit code 1 if the exposure is above the threshold."""
    unit = folder / UNIT.name
    unit.write_text(text)
    return subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", *options, unit],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def exposed(analyze: str, folder: Path) -> dict[str, str]:
    """Return each exposed point of the unit, and its exposure."""
    found: list[dict[str, Any]] = json.loads(security(analyze, folder, UNIT.read_text(), "--json=short").stdout)
    return {each["name"]: each["exposure"] for each in found if each["set"] is False}


@pytest.mark.parametrize("unit", [UNIT, *BRIDGES], ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit_without_warnings(analyze: str, tmp_path: Path, unit: Path) -> None:
    result = verify(analyze, tmp_path, unit.read_text(), unit.name)
    warnings = [line for line in (result.stderr + result.stdout).splitlines() if "heatline" in line]
    assert warnings == []
    assert result.returncode == 0, result.stderr


def test_systemd_warns_of_a_wrong_line_in_the_unit(analyze: str, tmp_path: Path) -> None:
    result = verify(analyze, tmp_path, UNIT.read_text().replace("Type=notify", "Type=telepathy"))
    assert "telepathy" in result.stderr


@pytest.mark.parametrize("unit", [UNIT, *BRIDGES], ids=lambda unit: unit.name)
def test_systemd_finds_little_exposed(analyze: str, tmp_path: Path, unit: Path) -> None:
    result = security(analyze, tmp_path, unit.read_text())
    assert result.returncode == 0, result.stdout


def test_systemd_reports_a_more_exposed_unit(analyze: str, tmp_path: Path) -> None:
    opened = re.sub(
        r"(?m)^(ProtectSystem|PrivateDevices|CapabilityBoundingSet|NoNewPrivileges)=.*\n", "", UNIT.read_text()
    )
    assert security(analyze, tmp_path, opened).returncode != 0


def test_the_documented_exposed_points_are_those_of_the_unit(analyze: str, tmp_path: Path) -> None:
    rows = re.findall(r"^\| `(.+?)` \| ([\d.]+) \| \S", (FOLDER / "README.md").read_text(), flags=re.MULTILINE)
    assert {point.replace("\\|", "|"): counts for point, counts in rows} == exposed(analyze, tmp_path)


def test_the_unit_waits_for_ready_and_runs_and_reloads_its_own_line() -> None:
    text = UNIT.read_text()
    assert re.search(r"(?m)^Type=notify$", text)
    assert re.search(r"(?m)^ExecStart=/\S+/heatline run /etc/heatline/%i\.toml$", text)
    assert re.search(r"(?m)^ExecReload=/\S+/heatline reload --timeout \d+ /etc/heatline/%i\.toml$", text)


def test_each_bridge_has_a_unit_that_runs_it_and_is_ready_when_it_says_so() -> None:
    named = {name: FOLDER / f"heatline-{name}@.service" for name in bridge.bridge.commands}
    assert sorted(named.values()) == BRIDGES
    for name, unit in named.items():
        text = unit.read_text()
        assert re.search(rf"(?m)^ExecStart=/\S+/heatline bridge {name} /etc/heatline/%i\.toml$", text)
        assert re.search(r"(?m)^Type=notify$", text)
        assert re.search(r"(?m)^After=.*\bheatline@%i\.service$", text)
        assert "Requires=" not in text, "a bridge tells that its line is away"


def test_the_watchdog_writes_all_stacks_to_the_journal_and_no_core() -> None:
    text = UNIT.read_text()
    assert re.search(r"(?m)^WatchdogSec=\d+s$", text)
    assert "WatchdogSignal=" not in text  # SIGABRT, which faulthandler answers
    assert re.search(r"(?m)^Environment=PYTHONFAULTHANDLER=1$", text)
    assert re.search(r"(?m)^LimitCORE=0$", text)


def test_systemd_makes_the_lines_user_and_folders(tmp_path: Path) -> None:
    need_root()
    need("systemd")
    for name in ("etc", "var/lib"):
        (tmp_path / name).mkdir(parents=True)
    for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        file = FOLDER / f"heatline.{command[0].removeprefix('systemd-')}"
        result = subprocess.run([*command, f"--root={tmp_path}", file], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    users = dict(line.split(":", 1) for line in (tmp_path / "etc/passwd").read_text().splitlines())
    _, uid, gid, *_ = users["heatline"].split(":")
    for folder, group, mode in (
        ("etc/heatline", int(gid), "0o750"),
        ("etc/heatline/trusted", 0, "0o755"),
        ("etc/heatline/keys", 0, "0o755"),
        ("etc/heatline/keys/allowed", 0, "0o755"),
    ):
        made = (tmp_path / folder).stat()
        assert (made.st_uid, made.st_gid, oct(made.st_mode & 0o7777)) == (0, group, mode), folder
    assert uid != "0"
