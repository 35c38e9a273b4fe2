"""The command line that test apparatus shares: how it is called, and how it ends."""

import importlib
import json
import re
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from edge.bundle import Bundle
from tests.system.command import Result, run

ROOT = Path(__file__).parents[2]


class Found(msgspec.Struct):
    frames: int


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Put back what `run` sets."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def code_of(measure: Callable[[Namespace, Bundle], Result], bundle: Bundle, out: Path | None) -> int:
    return run("soak", Namespace(bundle=bundle.path, out=out), measure)


def test_it_prints_and_writes_what_came_of_it_and_fails_where_something_must_not_be(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soak.json"
    assert code_of(lambda _, given: Result(Found(7), {"frames": 7}, []), bundle, out) == 0
    assert json.loads(out.read_text()).keys() >= {"bench", "machine", "frames"}
    assert re.search(r"frames +7", capsys.readouterr().out)
    assert code_of(lambda *_: Result(Found(8), {"frames": 8}, ["it grows", "it is late"]), bundle, out) == 14
    assert json.loads(out.read_text())["frames"] == 8, "what came of it is worth keeping all the same"
    assert "soak: it grows; it is late" in capsys.readouterr().err


def test_a_result_that_could_not_be_written_is_refused_before_anything_runs(
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
def test_a_number_that_makes_no_run_is_refused_in_a_sentence(
    name: str, option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [name, option, value])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"tests.system.{name}").main()
    assert f"argument {option}: {value} is no " in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_in_order(bundle: Bundle, number: signal.Signals) -> None:
    over: list[bool] = []

    def measure(*_: object) -> Result:
        try:
            signal.raise_signal(number)
            pytest.fail("it went on")
        finally:
            over.append(True)

    assert code_of(measure, bundle, None) == 130
    assert over == [True]


@pytest.mark.parametrize("name", ["chaos", "soak", "delivery", "hostile", "cameras"])
def test_each_apparatus_has_a_target_in_the_makefile_and_says_how_it_is_called(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"$(BIN)/python -m tests.system.{name} $({name.upper()}_ARGS)" in (ROOT / "Makefile").read_text()
    package = ROOT / "tests" / "system" / name
    module = importlib.import_module(f"tests.system.{name}" + (".__main__" if package.is_dir() else ""))
    monkeypatch.setattr("sys.argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        module.main()
    assert "--out" in capsys.readouterr().out
