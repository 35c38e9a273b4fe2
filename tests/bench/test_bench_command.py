"""`heatline bench` as a whole: how it is called, and what a line PC needs for it."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.command import bench
from bench.commands.common import claim, deliver, keep
from bench.result_file import read_result
from edge.errors import BenchError, BundleError, HeatlineError
from edge.inference import Precision
from tests.small_bundle import bundle_in

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


@pytest.mark.parametrize("name", ["a.json", "l" * 252])
def test_a_file_beside_which_none_can_be_made_is_refused_before_the_measurement(tmp_path: Path, name: str) -> None:
    (tmp_path / ".a.json.new").mkdir()  # in the way of what is written before it takes the place of a.json
    with pytest.raises(BenchError, match=r"cannot be written .*; name another file"):
        claim(tmp_path / name)
    assert [one.name for one in tmp_path.iterdir()] == [".a.json.new"]


@pytest.mark.parametrize("there", [True, False])
def test_where_a_link_stands_the_file_that_it_names_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "results").mkdir()
    file, link = tmp_path / "results" / "a.json", tmp_path / "link.json"
    link.symlink_to("results/a.json")
    if there:
        file.write_text("{}")
    claim(link)
    assert (link.is_symlink(), file.exists()) == (True, there)
    keep(link, {"bench": "stages"})
    assert link.is_symlink()
    assert read_result(file) == {"bench": "stages"}
    assert [one.name for one in file.parent.iterdir()] == ["a.json"]


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


def test_where_there_is_no_checkout_a_bundle_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = ROOT / "nowhere" / "bundle"
    monkeypatch.setattr("bench.commands.common.SHIPPED_BUNDLE", gone)
    result = CliRunner().invoke(bench, ["soak", "--quick", "--bundle", str(gone)])
    assert isinstance(result.exception, BenchError)
    assert "name a bundle" in str(result.exception)


@pytest.mark.parametrize("arguments", [["end-to-end", "--idle"], ["startup"]])
@pytest.mark.parametrize(("precision", "kind"), [("bf16", BundleError), ("int8", BenchError)])
def test_a_precision_that_cannot_be_had_is_refused_alike_before_anything_is_done(
    tmp_path: Path, arguments: list[str], precision: Precision, kind: type[HeatlineError]
) -> None:
    bundle = bundle_in(tmp_path / "b", ["f32", "int8"], int8_gain=300.0)
    refused = CliRunner().invoke(bench, [*arguments, str(bundle.path), "--precision", precision])
    expected = CliRunner().invoke(bench, ["stages", str(bundle.path), "--precision", precision]).exception
    assert type(refused.exception) is type(expected) is kind
    assert str(refused.exception) == str(expected)
    assert precision in str(expected)
    assert refused.output == "", "nothing was drawn or started"


def test_what_was_measured_is_said_before_a_disk_is_found_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gone" / "a.json"
    with pytest.raises(BenchError, match="cannot be written"):
        deliver("stages", {"bench": "stages"}, {"grab": "1 ms"}, out, as_json=False)
    assert "1 ms" in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [False, True])
def test_what_was_measured_is_kept_though_standard_output_takes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    out = tmp_path / "a.json"
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(OSError, match="No space left"):
            deliver("stages", {"bench": "stages"}, {"grab": "1 ms"}, out, as_json)
        with contextlib.suppress(OSError):
            full.close()
    assert read_result(out) == {"bench": "stages"}


ENDED_BY_SIGTERM = """
import signal, tempfile
from importlib import import_module
from bench.command import bench

def measure(*_, **__):
    with tempfile.TemporaryDirectory() as folder:
        print(folder, flush=True)
        signal.raise_signal(signal.SIGTERM)

import_module("bench.soak.soak").measure_soak = measure
bench.main(["soak", "--quick"], standalone_mode=False)
"""


def test_sigterm_ends_a_bench_in_order() -> None:
    result = subprocess.run(
        [sys.executable, "-c", ENDED_BY_SIGTERM],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 128 + 15, result.stderr
    assert not Path(result.stdout.strip()).exists()
