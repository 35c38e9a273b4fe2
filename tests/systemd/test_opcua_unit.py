"""The unit of the OPC UA bridge, checked by systemd itself."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edge.errors import AccessError, ConfigError, MissingExtraError
from tests.systemd.test_unit import FOLDER, MOST_EXPOSED

UNIT = FOLDER / "heatline-opcua@.service"


def analyzed(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = shutil.which("systemd-analyze")
    if command is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    return subprocess.run([command, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_systemd_accepts_the_unit_of_the_opcua_bridge_and_finds_little_exposed(tmp_path: Path) -> None:
    stand_in = tmp_path / "heatline"
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={stand_in}", UNIT.read_text()))
    (tmp_path / "heatline-opcua@line1.service").symlink_to(unit)
    verified = analyzed("verify", "--man=no", tmp_path / "heatline-opcua@line1.service")
    assert verified.returncode == 0, verified.stderr
    assert [each for each in verified.stderr.splitlines() if "opcua" in each] == []
    found = analyzed("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit)
    assert found.returncode == 0, found.stdout


def test_the_unit_of_the_opcua_bridge_does_not_repeat_what_fails_in_the_same_way() -> None:
    codes = {kind.exit_code for kind in (ConfigError, MissingExtraError, AccessError)} | {2}
    found = re.search(r"^RestartPreventExitStatus=(.*)$", UNIT.read_text(), re.M)
    assert found is not None
    assert {int(code) for code in found[1].split()} == codes
