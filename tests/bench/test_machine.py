"""What a result says of its machine, held against other ways to ask."""

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest

import bench.machine
from bench.machine import Machine, machine
from bench.result_file import write_result

ROOT = Path(__file__).parents[2]


def test_a_machine_is_told_as_the_system_tells_it() -> None:
    before, told = datetime.now(UTC), msgspec.convert(machine(), Machine)
    assert told.cores == len(told.affinity) == int(subprocess.check_output(["nproc"]))
    assert told.cores_in_all == int(subprocess.check_output(["nproc", "--all"]))
    assert told.kernel == subprocess.check_output(["uname", "-r"], text=True).strip()
    kilobytes = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert kilobytes is not None
    assert told.memory_mb == pytest.approx(int(kilobytes[1]) * 1024 / 1e6, rel=0.01)
    assert (told.python, told.versions["numpy"]) == (platform.python_version(), version("numpy"))
    assert before - timedelta(seconds=1) <= datetime.fromisoformat(told.at_utc) <= before + timedelta(minutes=1)
    assert len(told.load) == 3
    assert set(told.extensions) <= set(told.flags.split())


def test_only_cores_that_may_be_used_count() -> None:
    core = min(os.sched_getaffinity(0))
    script = "import json; from bench.machine import machine; print(json.dumps(machine()))"
    pinned = ["taskset", "-c", str(core), sys.executable, "-W", "error", "-c", script]
    told = json.loads(subprocess.check_output(pinned, cwd=ROOT))
    assert (told["cores"], told["affinity"]) == (1, [core])


def test_versions_are_told_without_importing_anything() -> None:
    script = "import sys, bench.machine as m; m.machine(); print(*sorted({'torch', 'openvino'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True).split() == []


@pytest.mark.parametrize(
    ("governors", "told"),
    [
        ({}, None),
        ({0: "performance", 1: "performance"}, "performance"),
        ({0: "performance", 1: "powersave"}, "performance, powersave"),
    ],
)
def test_the_governor_is_that_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, governors: dict[int, str], told: str | None
) -> None:
    for core, governor in governors.items():
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    monkeypatch.setattr(bench.machine, "CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert machine()["governor"] == told


@pytest.mark.parametrize(
    ("own", "files", "told"),
    [
        ("0::/", {}, None),
        ("0::/a/b", {"cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/b/cpu.max": "400000 100000"}, 1.5),
        ("0::/of/the/host", {"cpu.max": "50000 100000"}, 0.5),
        ("3:cpuset:/\n4:cpu,cpuacct:/a", {"cpu,cpuacct/a/cpu.cfs_quota_us": "-1"}, None),
        (
            "4:cpu,cpuacct:/of/the/host",
            {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"},
            2.0,
        ),
        ("5:memory:/a", {"memory/a/cpu.max": "1 2"}, None),
        ("0::/../..", {"cpu.max": "100000 50000"}, 2.0),
    ],
)
def test_the_processor_time_that_is_granted_is_that_of_the_tightest_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], told: float | None
) -> None:
    for name, content in files.items():
        file = tmp_path / "groups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    (tmp_path / "own").write_text(f"{own}\n")
    monkeypatch.setattr(bench.machine, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(bench.machine, "OWN_CGROUPS", tmp_path / "own")
    assert machine()["cpu_quota"] == told


def test_code_that_is_no_checkout_has_no_commit_though_it_lies_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an environment within somebody else's project."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(bench.machine, "CODE", tmp_path / "lib")
    assert machine()["commit"] is None


def test_a_result_that_cannot_be_written_whole_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_result(path, {"bench": "stages"})

    def fails(_from: Path, _to: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space left"):
        write_result(path, {"bench": "other"})
    assert (json.loads(path.read_text()), [one.name for one in tmp_path.iterdir()]) == ({"bench": "stages"}, ["a.json"])
