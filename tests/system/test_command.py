"""The command line of test apparatus: result, faults and signals."""

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
    assert code_of(lambda *_: (Found(7), []), bundle, out) == 0
    assert json.loads(out.read_text()).keys() >= {"bench", "machine", "frames"}
    assert re.search(r"frames +7", capsys.readouterr().out)
    assert code_of(lambda *_: (Found(8), ["it grows", "it is late"]), bundle, out) == 14
    assert json.loads(out.read_text())["frames"] == 8, "a result with faults is written too"
    assert "soak: it grows; it is late" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_a_run_with_its_clean_up(bundle: Bundle, number: signal.Signals) -> None:
    over: list[bool] = []

    def measure(*_: object) -> Result:
        try:
            signal.raise_signal(number)
            pytest.fail("the run continued")
        finally:
            over.append(True)

    assert (code_of(measure, bundle, None), over) == (130, [True])
