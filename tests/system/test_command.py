"""The command line that all test apparatus shares: options, output and exit code."""

import importlib
import json
import re
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from heatline.edge.bundle import Bundle
from tests.system.command import Result, run

ROOT = Path(__file__).parents[2]


class Found(msgspec.Struct):
    frames: int


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Restore the signal handlers that `run` sets."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def code_of(measure: Callable[[Namespace, Bundle], Result], bundle: Bundle, out: Path | None) -> int:
    return run("soak", Namespace(bundle=bundle.path, out=out), measure)


def test_a_result_is_printed_and_written_and_a_fault_fails_the_run(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soak.json"
    assert code_of(lambda _, given: Result(Found(7), {"frames": 7}, []), bundle, out) == 0
    assert json.loads(out.read_text()).keys() >= {"bench", "machine", "frames"}
    assert re.search(r"frames +7", capsys.readouterr().out)
    assert code_of(lambda *_: Result(Found(8), {"frames": 8}, ["it grows", "it is late"]), bundle, out) == 14
    assert json.loads(out.read_text())["frames"] == 8, "a result with faults is written too"
    assert "soak: it grows; it is late" in capsys.readouterr().err


def test_an_unwritable_result_file_is_refused_before_the_run(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(lambda *_: pytest.fail("it ran"), bundle, tmp_path / "nowhere" / "soak.json") == 14
    assert "name another file with --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("hostile", "--rounds", "0"),
        ("hostile", "--rate", "nan"),
        ("delivery", "--seconds", "0"),
        ("delivery", "--events", "-1"),
        ("soak", "--frames", "-1"),
        ("chaos.__main__", "--seconds", "soon"),
    ],
)
def test_an_invalid_number_is_refused_in_one_sentence(
    name: str, option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [name, option, value])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"tests.system.{name}").main()
    assert f"argument {option}: expected " in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_run_with_its_clean_up(bundle: Bundle, number: signal.Signals) -> None:
    over: list[bool] = []

    def measure(*_: object) -> Result:
        try:
            signal.raise_signal(number)
            pytest.fail("the run continued")
        finally:
            over.append(True)

    assert code_of(measure, bundle, None) == 130
    assert over == [True]


@pytest.mark.parametrize("name", ["chaos", "soak", "delivery", "hostile", "cameras"])
def test_each_apparatus_has_a_make_target_and_a_help_text(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"$(BIN)/python -m tests.system.{name} $({name.upper()}_ARGS)" in (ROOT / "Makefile").read_text()
    package = ROOT / "tests" / "system" / name
    module = importlib.import_module(f"tests.system.{name}" + (".__main__" if package.is_dir() else ""))
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main()
    assert "--out" in capsys.readouterr().out
