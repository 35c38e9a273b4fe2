"""The command `heatline bench`: options, requirements on a line PC, result files, and the machine description."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from heatline.bench.command import bench as command
from heatline.bench.conftest import pytest_benchmark_compare_machine_info, pytest_benchmark_generate_machine_info
from heatline.bench.result_file import claim, deliver, keep, read_result
from heatline.bench.stages import STAGES
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError, BundleError
from tests.command import ROOT, successful
from tests.small_bundle import bundle_in

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
    pinned = ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-W", "error", "-c", WITHOUT_EXTRAS]
    result = successful(subprocess.run(pinned, cwd=ROOT, capture_output=True, text=True, check=False))
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


def test_an_unusable_precision_is_refused_before_the_measurement(tmp_path: Path) -> None:
    bundle = bundle_in(tmp_path / "b", ["f32", "int8"], int8_gain=300.0)
    for precision, kind in (("bf16", BundleError), ("int8", BenchError)):
        refused = CliRunner().invoke(command, ["end-to-end", "--idle", str(bundle.path), "--precision", precision])
        assert (type(refused.exception), refused.output) == (kind, ""), "the command drew or started nothing"


def test_a_result_reads_back_unchanged_even_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    file, link = tmp_path / "results" / "a.json", tmp_path / "link.json"
    link.symlink_to("results/a.json")
    report = {"bench": "stages", "machine": {"cores": 2}, "rows": [{"ms": 1.5}]}
    claim(link)
    keep(link, report)
    assert link.is_symlink()
    assert (read_result(file), [one.name for one in file.parent.iterdir()]) == (report, ["a.json"])
    file.write_bytes(b"{")
    with pytest.raises(BenchError, match="truncated"):
        read_result(file)


def test_a_result_is_printed_if_the_disk_is_full(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BenchError, match="No space left on device"):
        deliver({"macs": 5}, Path("/dev/full"), as_json=False, show=lambda _: print("the table"))
    assert capsys.readouterr().out == "the table\n"
    with pytest.raises(BenchError, match="name another file with --out"):
        deliver({"macs": 5}, Path("/dev/full"), as_json=True)
    assert capsys.readouterr().out == '{"macs":5}\n'


def test_a_comparison_with_a_run_of_another_machine_is_refused() -> None:
    here = pytest_benchmark_generate_machine_info()
    pytest_benchmark_compare_machine_info(here, {"machine_info": here})
    with pytest.raises(pytest.UsageError, match=r"another machine \(cores 99, here .*measure here first"):
        pytest_benchmark_compare_machine_info(here, {"machine_info": here | {"cores": 99}})


@pytest.mark.long
def test_all_micro_benches_run_and_compare_with_a_saved_run(bundle: Bundle, tmp_path: Path) -> None:
    """One round of each: the test checks that it runs, not its speed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    saved = tmp_path / "saved.json"

    def run(*options: str) -> str:
        once = ["--benchmark-only", "--benchmark-max-time=0.001", "--benchmark-min-rounds=1"]
        command = [sys.executable, "-m", "pytest", "bench", f"--bundle={bundle.path}", *once, *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
        return successful(done).stdout

    run(f"--benchmark-json={saved}")
    names = {bench["name"] for bench in json.loads(saved.read_bytes())["benchmarks"]}
    assert names >= {f"bench_stage_5mp[{name}]" for name in STAGES} | {"bench_decode"}
    assert names >= {f"bench_infer_48_tiles[{kind}-8]" for kind in ("openvino", "onnxruntime")}
    assert "bench_decode" in run("-k", "decode", f"--benchmark-compare={saved}")
