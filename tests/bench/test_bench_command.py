"""The command `heatline bench`: options, requirements on a line PC, result files, and the machine description."""

import errno
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

import heatline.bench.machine
from heatline.bench.command import bench as command
from heatline.bench.engines import engine_in
from heatline.bench.machine import Machine, file_system, machine
from heatline.bench.result_file import claim, deliver, keep, read_result
from heatline.edge.errors import BenchError, BundleError, HeatlineError
from heatline.edge.inference import Precision
from tests.small_bundle import bundle_in

ROOT = Path(__file__).parents[2]

WITHOUT_EXTRAS = """
import sys
extras = "torch timm lightning torchmetrics optuna onnx onnxscript nncf jinja2 matplotlib pytest".split()
sys.modules.update(dict.fromkeys(extras))  # importing any of these fails
import heatline.bench.command, heatline.bench.tune, heatline.bench.startup
import heatline.bench.stages, heatline.bench.peers.peers
from heatline.bench.machine import machine
print(machine()["cores"])
"""


def test_benches_import_no_extra_and_count_only_usable_cores() -> None:
    core = min(os.sched_getaffinity(0))
    pinned = ["taskset", "-c", str(core), sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS]
    result = subprocess.run(pinned, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "1\n"


ENDED_BY_SIGTERM = """
import signal, tempfile
from importlib import import_module
from heatline.bench.command import bench

def measure(*_, **__):
    with tempfile.TemporaryDirectory() as folder:
        print(folder, flush=True)
        signal.raise_signal(signal.SIGTERM)

import_module("heatline.bench.startup").measure_startup = measure
bench.main(["startup"], standalone_mode=False)
"""


def test_sigterm_ends_a_bench_with_its_code_and_removes_temporary_files() -> None:
    result = subprocess.run([sys.executable, "-c", ENDED_BY_SIGTERM], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 128 + 15, result.stderr
    assert not Path(result.stdout.strip()).exists()


# Results.


@pytest.mark.parametrize("file_exists", [True, False])
def test_a_result_reads_back_unchanged_even_through_a_symbolic_link(tmp_path: Path, file_exists: bool) -> None:
    (tmp_path / "results").mkdir()
    file, link = tmp_path / "results" / "a.json", tmp_path / "link.json"
    link.symlink_to("results/a.json")
    if file_exists:
        file.write_text("{}")
    claim(link)
    assert (link.is_symlink(), file.exists()) == (True, file_exists)
    report = {"bench": "stages", "machine": {"cores": 2}, "rows": [{"ms": 1.5}]}
    keep(link, report)
    assert link.is_symlink()
    assert read_result(file) == report
    assert [one.name for one in file.parent.iterdir()] == ["a.json"]
    keep(Path("/dev/null"), report)
    assert Path("/dev/null").is_char_device()


def test_an_unwritable_result_file_is_refused_before_the_measurement(tmp_path: Path) -> None:
    for out in (tmp_path / "nowhere" / "a.json", tmp_path / ("l" * 256)):
        result = CliRunner().invoke(command, ["startup", "--out", str(out)])
        assert isinstance(result.exception, BenchError)
        assert f"{out} cannot be written" in str(result.exception)
        assert "name another file with --out" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_result_is_printed_if_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_with_full_disk(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "flops.json"
    monkeypatch.setattr("heatline.bench.result_file.replacing", fail_with_full_disk)
    with pytest.raises(BenchError, match="No space left on device"):
        deliver({"macs": 5}, out, as_json=False, show=lambda _: print("the table"))
    assert capsys.readouterr().out == "the table\n"
    with pytest.raises(BenchError, match="name another file with --out"):
        deliver({"macs": 5}, out, as_json=True)
    assert capsys.readouterr().out == '{"macs":5}\n'


def test_a_bench_that_is_to_measure_nothing_is_refused() -> None:
    refused = CliRunner().invoke(command, ["end-to-end", "b", "--seconds", "4"])
    assert refused.exit_code == 2
    assert "nothing is to be measured" in refused.output


@pytest.mark.parametrize(("data", "word"), [(b"{", "truncated"), (b"[]", "array"), (None, "No such file")])
def test_an_invalid_result_file_is_refused_with_the_reason(tmp_path: Path, data: bytes | None, word: str) -> None:
    path = tmp_path / "a.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BenchError, match=word):
        read_result(path)


def test_an_unusable_precision_is_refused_before_the_measurement(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path / "b", ["f32", "int8"], int8_gain=300.0)
    refusals: list[tuple[Precision, type[HeatlineError]]] = [("bf16", BundleError), ("int8", BenchError)]
    for precision, kind in refusals:
        with pytest.raises(kind) as expected:
            engine_in(bundle, precision)
        arguments = ["end-to-end", "--idle", str(bundle.path), "--precision", precision]
        refused = CliRunner().invoke(command, arguments)
        assert (type(refused.exception), str(refused.exception)) == (kind, str(expected.value))
        assert refused.output == "", "the command drew or started nothing"


# The machine.


def test_the_machine_description_agrees_with_the_operating_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, env = msgspec.convert(machine(), Machine), {"PATH": os.environ["PATH"]}  # nproc reads OMP_NUM_THREADS
    assert found.cores == int(subprocess.check_output(["nproc"], env=env))
    assert found.kernel == subprocess.check_output(["uname", "-r"], text=True).strip()
    kilobytes = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    assert kilobytes is not None
    assert found.memory_mb == pytest.approx(int(kilobytes[1]) * 1024 / 1e6, rel=0.01)
    assert (found.python, found.versions["numpy"]) == (platform.python_version(), version("numpy"))
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "lib").mkdir()
    monkeypatch.setattr(heatline.bench.machine, "CODE", tmp_path / "lib")
    assert machine()["commit"] is None, "code in the checkout of another project has no commit"


def test_the_file_system_is_that_of_the_deepest_mount_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mounts = "disk / ext4 rw 0 0\nmemory /data tmpfs rw 0 0\nother /data/deep btrfs rw 0 0\n"
    monkeypatch.setattr(
        Path, "read_text", lambda path: mounts if str(path) == "/proc/mounts" else pytest.fail(f"{path}")
    )
    places = ("/database", "/data", "/data/deep/er", "/data/deeper")
    assert [file_system(Path(place)) for place in places] == ["ext4", "tmpfs", "btrfs", "tmpfs"]


@pytest.mark.parametrize(("granted", "quota"), [("max 100000", None), ("150000 100000", 1.5), (None, None)])
def test_the_processor_quota_is_that_of_the_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granted: str | None, quota: float | None
) -> None:
    if granted is not None:
        (tmp_path / "cpu.max").write_text(f"{granted}\n")
    monkeypatch.setattr(heatline.bench.machine, "CPU_MAX", tmp_path / "cpu.max")
    assert machine()["cpu_quota"] == quota
