"""`heatline bench micro`: what is kept of a run, and that it is compared on one machine alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from bench.commands.micro import micro as command
from bench.machine import machine
from bench.micro import Micro, Ratio, compare, identity, read_saved, refusal, to_facts
from bench.report.files import read
from bench.stages.stages import STAGES
from edge.bundle import Bundle
from edge.errors import BenchError

ROOT = Path(__file__).parents[2]
AT_ONCE = "--benchmark-max-time=0.001 --benchmark-min-rounds=1"
"""One round of each: whether it runs, not how fast."""


def a_bench(name: str, median_s: float, half_s: float = 0.0) -> dict[str, Any]:
    return {
        "name": name,
        "stats": {"median": median_s, "q1": median_s - half_s, "q3": median_s + half_s, "rounds": 9},
        "extra_info": {"tiles": 1},
    }


def a_run(*benches: dict[str, Any]) -> Micro:
    return Micro(machine_info=identity(), commit_info={}, benchmarks=list(benches), datetime="", version="5")


def written(path: Path, run: Micro, **of_machine: object) -> Path:
    report = {"bench": "micro", "machine": machine() | of_machine, **msgspec.structs.asdict(run)}
    path.write_bytes(msgspec.json.encode(report))
    return path


def test_a_bench_is_held_against_what_it_took_then_and_a_ratio_in_the_noise_is_told_as_such(tmp_path: Path) -> None:
    then = a_run(a_bench("bench_cut", 2e-3, 1e-4), a_bench("bench_judge", 2e-3, 1e-3), a_bench("bench_gone", 1.0))
    now = a_run(a_bench("bench_cut", 3e-3, 1e-4), a_bench("bench_judge", 3e-3, 1e-4), a_bench("bench_new", 1.0))
    path = written(tmp_path / "micro.json", then)
    found = compare(now, read_saved(path), path)
    assert found.ratios == [
        Ratio(name="bench_cut", then_ms=2.0, now_ms=3.0, ratio=1.5, apart=True),
        Ratio(name="bench_judge", then_ms=2.0, now_ms=3.0, ratio=1.5, apart=False),
    ]
    facts = to_facts(found)
    assert facts["cut"] == "3.000 ms (2.900 to 3.100); 1.500 of 2.000 ms"
    assert facts["judge"].endswith("; 1.500 of 2.000 ms, which may be noise")
    assert facts["new"].endswith("; new")
    assert "gone" not in facts
    assert to_facts(now)["cut"] == "3.000 ms (2.900 to 3.100)"


@pytest.mark.parametrize(
    ("of_machine", "said"),
    [
        ({"processor": "Another One"}, r"processor Another One, here "),
        ({"cores": 99}, r"cores 99, here "),
        ({"extensions": []}, r"extensions none, here "),
    ],
)
def test_a_run_of_another_machine_is_refused(tmp_path: Path, of_machine: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "micro.json", a_run(a_bench("bench_cut", 1.0)), **of_machine)
    with pytest.raises(BenchError, match=rf"micro\.json was measured on another machine \({said}.*measure here first"):
        read_saved(path)


def test_other_versions_and_loads_are_no_other_machine(tmp_path: Path) -> None:
    path = written(tmp_path / "micro.json", a_run(), load=[9.0, 9.0, 9.0], versions={"numpy": "1"}, commit="old")
    assert read_saved(path)["benchmarks"] == []


def test_what_is_no_kept_run_is_a_sentence(tmp_path: Path, bundle: Bundle) -> None:
    other = tmp_path / "soak.json"
    other.write_text(json.dumps({"bench": "soak", "machine": machine()}))
    with pytest.raises(BenchError, match="is a result of heatline bench soak; name one of heatline bench micro"):
        read_saved(other)
    with pytest.raises(BenchError, match="cannot be read"):
        read_saved(tmp_path / "none.json")
    spoilt = a_run({"name": "bench_cut", "stats": {}})
    with pytest.raises(BenchError, match=r"is no run of heatline bench micro .* measure it again"):
        compare(a_run(), read_saved(written(tmp_path / "micro.json", spoilt)), tmp_path / "micro.json")
    with pytest.raises(BenchError, match="cannot be read"):  # before anything is measured
        CliRunner().invoke(
            command, [str(bundle.path), "--compare", str(tmp_path / "none.json")], catch_exceptions=False
        )


def test_the_sentence_names_all_that_differs_and_nothing_else() -> None:
    other = identity() | {"cores": 1000}
    said = refusal("the saved run", other)
    assert f"(cores 1000, here {len(os.sched_getaffinity(0))})" in said


@pytest.mark.long
def test_all_benches_run_are_kept_without_samples_and_compared(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "micro.json"

    def run(*arguments: str, benches: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", "from bench.commands.micro import micro; micro()", str(bundle.path), *arguments],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
            env=os.environ | {"PYTEST_ADDOPTS": f"{AT_ONCE} {benches}"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    first = run("--json", "--out", str(out), benches="")
    (result,) = read(out)
    assert result.kind == first["bench"] == "micro"
    names = {bench["name"] for bench in first["benchmarks"]}
    assert names >= {f"bench_stage_5mp[{name}]" for name in STAGES} | {"bench_encode", "bench_decode"}
    assert names >= {
        f"bench_infer_48_tiles[{kind}-{batch}]" for kind in ("openvino", "onnxruntime") for batch in (1, 8)
    }
    assert all("data" not in bench["stats"] for bench in first["benchmarks"])
    assert first["ratios"] == []
    again = run("--json", "--compare", str(out), benches="-k code")
    assert {ratio["name"] for ratio in again["ratios"]} >= {"bench_encode", "bench_decode"}
    assert again["compared_with"] == str(out)


def run_pytest(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "bench/bench_messages.py", "--benchmark-only", *AT_ONCE.split()]
    return subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.long
@pytest.mark.parametrize(
    ("cores", "code", "said"), [(None, 0, "bench_decode (NOW)"), (99, 4, "was measured on another machine (cores 99")]
)
def test_pytest_itself_compares_with_a_kept_run_of_this_machine_alone(
    tmp_path: Path, cores: int | None, code: int, said: str
) -> None:
    stats = dict.fromkeys(("min", "max", "mean", "stddev", "median", "iqr", "q1", "q3", "ops", "total"), 1.0)
    kept = a_run(
        {
            "fullname": "bench/bench_messages.py::bench_decode",
            "name": "bench_decode",
            "stats": stats | {"rounds": 1, "iterations": 1, "outliers": "0;0"},
        }
    )
    if cores is not None:
        kept = msgspec.structs.replace(kept, machine_info=identity() | {"cores": cores})
    path = written(tmp_path / "micro.json", kept)
    done = run_pytest(f"--benchmark-compare={path}", "-k", "decode")
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr


def test_pytest_says_where_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    done = run_pytest("--benchmark-compare", f"--benchmark-storage=file://{tmp_path}")
    assert done.returncode == 4
    assert f"no run is kept in {tmp_path} to compare with; keep one with --benchmark-autosave" in done.stderr
