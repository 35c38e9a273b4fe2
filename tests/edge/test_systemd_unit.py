"""The systemd unit, judged by systemd itself; the installed command is stood in for by one that is there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "systemd" / "heatline@.service"


@pytest.fixture
def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    return found


def verify(analyze: str, folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    (folder / "bin").mkdir()
    stand_in = folder / "bin" / "heatline"
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(0o755)
    unit = folder / UNIT.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={stand_in}", text))
    return subprocess.run(
        [analyze, "verify", "--man=no", folder / "heatline@line1.service"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_systemd_accepts_the_unit_without_a_word(analyze: str, tmp_path: Path) -> None:
    (tmp_path / "heatline@line1.service").symlink_to(tmp_path / UNIT.name)
    result = verify(analyze, tmp_path, UNIT.read_text())
    about_it = [line for line in (result.stderr + result.stdout).splitlines() if "heatline" in line]
    assert about_it == []
    assert result.returncode == 0, result.stderr


def test_systemd_would_have_said_if_a_line_were_wrong(analyze: str, tmp_path: Path) -> None:
    (tmp_path / "heatline@line1.service").symlink_to(tmp_path / UNIT.name)
    result = verify(analyze, tmp_path, UNIT.read_text().replace("Type=notify", "Type=telepathy"))
    assert "telepathy" in result.stderr


def test_the_unit_waits_for_ready_and_runs_its_own_line() -> None:
    text = UNIT.read_text()
    assert re.search(r"(?m)^Type=notify$", text)
    assert re.search(r"(?m)^ExecStart=/\S+/heatline run /etc/heatline/%i\.toml$", text)
