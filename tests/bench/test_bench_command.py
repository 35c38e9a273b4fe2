"""`heatline bench` as a whole: how it is called, and what a line PC needs for it."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.command import bench
from bench.commands.common import claim, keep
from bench.result_file import read_result
from edge.errors import BenchError

ROOT = Path(__file__).parents[2]
EXTRAS = ["torch", "timm", "lightning", "hydra", "torchmetrics", "optuna", "onnx", "nncf", "pytest", "jinja2"]


def test_bench_can_be_imported_with_no_extra() -> None:
    wanted = f"import sys, bench.command; print(*sorted({{n.partition('.')[0] for n in sys.modules}} & set({EXTRAS})))"
    result = subprocess.run([sys.executable, "-W", "error", "-c", wanted], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout.split()) == (0, []), result.stderr


def test_python_dash_m_bench_is_the_same_command() -> None:
    result = subprocess.run([sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert set(bench.commands) <= set(result.stdout.split())


def test_a_file_that_cannot_be_written_is_refused_before_the_measurement(tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "soak.json"
    result = CliRunner().invoke(bench, ["soak", "--quick", "--out", str(out)])
    assert isinstance(result.exception, BenchError)
    assert str(out) in str(result.exception)


def test_claiming_a_file_leaves_what_is_there_and_makes_none(tmp_path: Path) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("{}")
    claim(old, new, None)
    assert (old.read_text(), new.exists()) == ("{}", False)


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = {"bench": "stages", "machine": {"cores": 2}, "rows": [{"ms": 1.5}]}
    keep(tmp_path / "a.json", report)
    assert read_result(tmp_path / "a.json") == report
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_result_may_go_to_a_device() -> None:
    keep(Path("/dev/null"), {"bench": "stages"})
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(("data", "word"), [(b"{", "not JSON"), (b"[]", "list"), (None, "cannot be read")])
def test_what_is_no_result_is_refused_in_a_sentence(tmp_path: Path, data: bytes | None, word: str) -> None:
    path = tmp_path / "a.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(BenchError, match=word):
        read_result(path)
