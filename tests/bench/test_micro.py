"""The micro-benches of `make bench`: each of them runs, and only runs of one machine are compared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from heatline.bench.conftest import pytest_benchmark_compare_machine_info, pytest_benchmark_generate_machine_info
from heatline.bench.stages import STAGES
from heatline.edge.bundle import Bundle

ROOT = Path(__file__).parents[2]


def test_a_comparison_with_a_run_of_another_machine_is_refused() -> None:
    here = pytest_benchmark_generate_machine_info()
    pytest_benchmark_compare_machine_info(here, {"machine_info": here})
    for key, other in (("processor", "Another"), ("cores", 99)):
        with pytest.raises(pytest.UsageError, match=rf"another machine \({key} {other}, here .*measure here first"):
            pytest_benchmark_compare_machine_info(here, {"machine_info": here | {key: other}})


@pytest.mark.long
def test_all_micro_benches_run_and_compare_with_a_saved_run(bundle: Bundle, tmp_path: Path) -> None:
    """One round of each: the test checks that it runs, not its speed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    saved = tmp_path / "saved.json"

    def run(*options: str) -> str:
        once = ["--benchmark-only", "--benchmark-max-time=0.001", "--benchmark-min-rounds=1"]
        command = [sys.executable, "-m", "pytest", "bench", f"--bundle={bundle.path}", *once, *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stdout
        return done.stdout

    run(f"--benchmark-json={saved}")
    names = {bench["name"] for bench in json.loads(saved.read_bytes())["benchmarks"]}
    assert names >= {f"bench_stage_5mp[{name}]" for name in STAGES} | {"bench_decode"}
    assert names >= {f"bench_infer_48_tiles[{kind}-8]" for kind in ("openvino", "onnxruntime")}
    assert "bench_decode" in run("-k", "decode", f"--benchmark-compare={saved}")
