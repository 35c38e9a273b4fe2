"""`heatline bench micro`: what is kept of a run, and that it is compared on one machine only."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.conftest import pytest_benchmark_compare_machine_info
from bench.machine import machine
from bench.micro import Micro, Ratio, compare, identity, read_saved
from bench.report.files import read
from bench.stages.stages import STAGES
from edge.bundle import Bundle
from edge.errors import BenchError

ROOT = Path(__file__).parents[2]


def a_bench(name: str, median_s: float, half_s: float = 0.0) -> dict[str, Any]:
    stats = {"median": median_s, "q1": median_s - half_s, "q3": median_s + half_s, "rounds": 9}
    return {"name": name, "stats": stats, "extra_info": {"tiles": 1}}


def a_run(*benches: dict[str, Any]) -> Micro:
    return Micro(machine_info=identity(), commit_info={}, benchmarks=list(benches), datetime="", version="5")


def written(path: Path, run: Micro, **of_machine: object) -> Path:
    report = {"bench": "micro", "machine": machine() | of_machine, **msgspec.structs.asdict(run)}
    path.write_bytes(msgspec.json.encode(report))
    return path


def test_a_bench_is_held_against_what_it_took_then_and_noise_is_named_as_such(tmp_path: Path) -> None:
    then = a_run(a_bench("bench_cut", 2e-3, 1e-4), a_bench("bench_judge", 2e-3, 1e-3), a_bench("bench_gone", 1.0))
    now = a_run(a_bench("bench_cut", 3e-3, 1e-4), a_bench("bench_judge", 3e-3, 1e-4), a_bench("bench_new", 1.0))
    path = written(tmp_path / "micro.json", then)
    assert compare(now, read_saved(path), path).ratios == [
        Ratio(name="bench_cut", then_ms=2.0, now_ms=3.0, ratio=1.5, apart=True),
        Ratio(name="bench_judge", then_ms=2.0, now_ms=3.0, ratio=1.5, apart=False),
    ]


def test_a_run_of_another_machine_and_what_is_no_run_are_refused(tmp_path: Path) -> None:
    path, run = tmp_path / "micro.json", a_run(a_bench("bench_cut", 1.0))
    for of_machine, said in (
        ({"processor": "Another"}, "processor Another, here "),
        ({"cores": 99}, "cores 99, here "),
    ):
        with pytest.raises(BenchError, match=rf"was measured on another machine \({said}.*measure here first"):
            read_saved(written(path, run, **of_machine))
    with pytest.raises(pytest.UsageError, match="was measured on another machine"):
        pytest_benchmark_compare_machine_info(identity(), {"machine_info": identity() | {"cores": 99}})
    same = written(path, run, load=[9.0, 9.0, 9.0], versions={"numpy": "1"}, commit="old")
    assert len(read_saved(same)["benchmarks"]) == 1
    with pytest.raises(BenchError, match=r"is no run of heatline bench micro .* measure it again"):
        compare(a_run(), read_saved(written(path, a_run({"name": "bench_cut", "stats": {}}))), path)
    path.write_text(json.dumps({"bench": "soak", "machine": machine()}))
    with pytest.raises(BenchError, match="is a result of heatline bench soak; name one of heatline bench micro"):
        read_saved(path)


@pytest.mark.long
def test_all_benches_run_are_kept_without_samples_and_compared(bundle: Bundle, tmp_path: Path) -> None:
    """One round of each: whether it runs, not how fast."""
    out = tmp_path / "micro.json"
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}

    def run(*arguments: str, benches: str) -> dict[str, Any]:
        options = f"--benchmark-max-time=0.001 --benchmark-min-rounds=1 {benches}"
        done = subprocess.run(
            [sys.executable, "-c", "from bench.commands.micro import micro; micro()", str(bundle.path), *arguments],
            cwd=ROOT, capture_output=True, text=True, check=False, env=env | {"PYTEST_ADDOPTS": options},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    first = run("--json", "--out", str(out), benches="")
    (result,) = read(out)
    assert result.kind == first["bench"] == "micro"
    names = {bench["name"] for bench in first["benchmarks"]}
    assert names >= {f"bench_stage_5mp[{name}]" for name in STAGES} | {"bench_encode", "bench_decode"}
    assert names >= {f"bench_infer_48_tiles[{kind}-8]" for kind in ("openvino", "onnxruntime")}
    assert all("data" not in bench["stats"] for bench in first["benchmarks"])
    again = run("--json", "--compare", str(out), benches="-k code")
    assert {ratio["name"] for ratio in again["ratios"]} >= {"bench_encode", "bench_decode"}
