"""The systemd units, checked by systemd itself with a stand-in for the command; the scripts; docs/line-pc.md."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from heatline.edge.cli.bridge import bridge
from heatline.edge.errors import AccessError, ConfigError, MissingExtraError, SupersededError
from systemd.package import glibc_of
from tests.command import ROOT, successful
from tests.needs import need, need_root

FOLDER = ROOT / "systemd"
UNIT = FOLDER / "heatline@.service"
BRIDGES = {name: FOLDER / f"heatline-{name}@.service" for name in bridge.commands}
FAILS_AGAIN = {kind.exit_code for kind in (ConfigError, MissingExtraError, AccessError, SupersededError)} | {2}
MOST_EXPOSED = 20
"""The value of `--threshold` for an exposure of 2.0."""


def verify(folder: Path, text: str, name: str = UNIT.name) -> subprocess.CompletedProcess[str]:
    stand_in, unit, instance = folder / "heatline", folder / name, folder / name.replace("@", "@line1")
    stand_in.write_text("#!/bin/sh\n")
    stand_in.chmod(0o755)
    unit.write_text(re.sub(r"(?m)^(Exec\w+)=\S+", rf"\1={stand_in}", text))
    instance.symlink_to(unit)
    command = [need("systemd"), "verify", "--man=no", instance]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def security(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `systemd-analyze security`, which ends with exit code 1 if the exposure is above the threshold."""
    unit = folder / UNIT.name
    unit.write_text(text)
    command = [need("systemd"), "security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager"]
    return subprocess.run([*command, *options, unit], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("unit", [UNIT, *BRIDGES.values()], ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit_without_warnings_and_finds_little_exposed(tmp_path: Path, unit: Path) -> None:
    result = successful(verify(tmp_path, unit.read_text(), unit.name))
    assert [line for line in (result.stderr + result.stdout).splitlines() if "heatline" in line] == []
    successful(security(tmp_path, unit.read_text()))


def test_the_documented_exposed_points_are_those_of_the_unit(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `(.+?)` \| ([\d.]+) \| \S", (FOLDER / "README.md").read_text(), flags=re.MULTILINE)
    found = json.loads(security(tmp_path, UNIT.read_text(), "--json=short").stdout)
    exposed = {each["name"]: each["exposure"] for each in found if each["set"] is False}
    assert {point.replace("\\|", "|"): counts for point, counts in rows} == exposed


def test_each_unit_runs_its_own_line_and_is_ready_when_that_says_so() -> None:
    text = UNIT.read_text()
    for line in (
        r"Type=notify",
        r"ExecStart=/\S+/heatline run /etc/heatline/%i\.toml",
        r"ExecReload=/\S+/heatline reload --timeout \d+ /etc/heatline/%i\.toml",
        r"WatchdogSec=\d+s",
        r"Environment=PYTHONFAULTHANDLER=1",  # answers the watchdog's SIGABRT with all stacks
        r"LimitCORE=0",
    ):
        assert re.search(rf"(?m)^{line}$", text), line
    assert "WatchdogSignal=" not in text
    assert sorted(BRIDGES.values()) == sorted(FOLDER.glob("heatline-*@.service"))
    shared = []
    for name, unit in BRIDGES.items():
        text = unit.read_text()
        assert re.search(rf"(?m)^ExecStart=/\S+/heatline bridge {name} /etc/heatline/%i\.toml$", text)
        assert re.search(r"(?m)^After=.*\bheatline@%i\.service$", text)
        assert "Requires=" not in text, "a bridge tells that its line is away"
        (codes,) = re.findall(r"(?m)^RestartPreventExitStatus=(.*)$", text)
        assert {int(code) for code in codes.split()} == FAILS_AGAIN
        shared.append(
            re.findall(r"(?m)^(?:Type|Restart|RestartSec|WatchdogSec|TimeoutStopSec|MemoryMax|User)=.*$", text)
        )
    assert shared == [shared[0]] * len(shared)
    assert "Type=notify" in shared[0]


def test_systemd_makes_the_lines_user_and_folders(tmp_path: Path) -> None:
    need_root()
    need("systemd")
    for name in ("etc", "var/lib"):
        (tmp_path / name).mkdir(parents=True)
    for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        file = FOLDER / f"heatline.{command[0].removeprefix('systemd-')}"
        successful(subprocess.run([*command, f"--root={tmp_path}", file], capture_output=True, text=True, check=False))
    users = dict(line.split(":", 1) for line in (tmp_path / "etc/passwd").read_text().splitlines())
    _, uid, gid, *_ = users["heatline"].split(":")
    assert uid != "0"
    made = {"": (int(gid), "0o750"), "/trusted": (0, "0o755"), "/keys": (0, "0o755"), "/keys/allowed": (0, "0o755")}
    for folder, (group, mode) in made.items():
        found = (tmp_path / f"etc/heatline{folder}").stat()
        assert (found.st_uid, found.st_gid, oct(found.st_mode & 0o7777)) == (0, group, mode), folder


def test_the_guide_explains_each_reason_why_a_line_is_not_ready_and_each_exit_code_without_a_restart() -> None:
    guide, protocol = ((ROOT / "docs" / name).read_text() for name in ("line-pc.md", "protocol.md"))
    exist = set(re.findall(r"^\| `(\w+)` \| `([A-Z_]+)` \|", protocol, flags=re.MULTILINE))
    explained = re.findall(r"^\| `([A-Z_]+)`, `(\w+)` \| (\d+) \|", guide, flags=re.MULTILINE)
    assert {(reason, state) for state, reason, _ in explained} == exist | {("unreachable", "NOT_READY")}
    codes = dict(re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", protocol, flags=re.MULTILINE))
    assert all(code == codes[state] for state, _, code in explained)
    prevented = re.findall(r"(?m)^RestartPreventExitStatus=(.*)$", UNIT.read_text())[0].split()
    rows = re.findall(r"^\| (\d+)[^|]* \|[^|]*\| ([^|]*) \|", guide, flags=re.MULTILINE)
    assert [code for code, does in rows if does.startswith("Leaves it failed")] == prevented


@pytest.mark.parametrize("script", ["install.sh", "rollback.sh"])
def test_the_scripts_print_their_usage_and_shellcheck_finds_nothing_in_them(script: str) -> None:
    usage = subprocess.run(["sh", FOLDER / script, "--help"], capture_output=True, text=True, check=True).stdout
    assert usage.startswith("Usage: ")
    assert "\nExample: " in usage
    successful(subprocess.run([need("shellcheck"), FOLDER / script], capture_output=True, text=True, check=False))


def test_the_glibc_that_a_wheel_needs_is_in_its_name() -> None:
    for tags, oldest in {
        "py3-none-any": (0, 0),
        "cp311-abi3-manylinux_2_34_x86_64": (2, 34),
        "cp313-cp313-manylinux2014_x86_64.manylinux_2_17_x86_64": (2, 17),
        "cp312-abi3-manylinux_2_26_x86_64.manylinux_2_28_x86_64": (2, 26),
        "cp313-cp313-manylinux1_x86_64": (2, 5),
    }.items():
        assert glibc_of(Path(f"name-1.0-{tags}.whl")) == oldest
