"""The units of the bridges, checked by systemd itself."""

import re
import subprocess
from pathlib import Path

import pytest

from heatline.edge.cli.bridge import bridge as bridges
from heatline.edge.errors import AccessError, ConfigError, MissingExtraError, SupersededError
from tests.needs import need
from tests.systemd.test_unit import FOLDER, MOST_EXPOSED

FAILS_AGAIN = {kind.exit_code for kind in (ConfigError, MissingExtraError, AccessError, SupersededError)} | {2}


def unit_of(bridge: str) -> Path:
    return FOLDER / f"heatline-{bridge}@.service"


def settings_of(bridge: str, key: str) -> list[str]:
    return re.findall(rf"(?m)^{key}=(.*)$", unit_of(bridge).read_text())


def analyzed(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([need("systemd"), *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("bridge", list(bridges.commands))
def test_systemd_accepts_the_unit_of_a_bridge_and_finds_little_exposed(bridge: str, tmp_path: Path) -> None:
    stand_in = tmp_path / "heatline"
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(0o755)
    unit = tmp_path / unit_of(bridge).name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={stand_in}", unit_of(bridge).read_text()))
    (tmp_path / f"heatline-{bridge}@line1.service").symlink_to(unit)
    verified = analyzed("verify", "--man=no", tmp_path / f"heatline-{bridge}@line1.service")
    assert verified.returncode == 0, verified.stderr
    assert [each for each in verified.stderr.splitlines() if bridge in each] == []
    found = analyzed("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", unit)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("bridge", list(bridges.commands))
def test_the_unit_of_a_bridge_does_not_repeat_what_fails_in_the_same_way(bridge: str) -> None:
    (codes,) = settings_of(bridge, "RestartPreventExitStatus")
    assert {int(code) for code in codes.split()} == FAILS_AGAIN


@pytest.mark.parametrize(
    "key", ["Type", "Restart", "RestartSec", "WatchdogSec", "TimeoutStopSec", "MemoryMax", "Nice", "User"]
)
def test_the_units_of_all_bridges_agree(key: str) -> None:
    first, *others = [settings_of(bridge, key) for bridge in bridges.commands]
    assert first
    assert all(other == first for other in others)
