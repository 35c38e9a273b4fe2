"""The micro-benches: run by pytest-benchmark, kept as it keeps them, and held against a run that was kept.

A kept run is pytest-benchmark's own JSON without the single samples, so that its tools read it too.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import msgspec

from bench.machine import machine, machine_kind
from bench.report.files import read
from edge.errors import BenchError

FOLDER = Path(__file__).parent
SAVED = FOLDER / "results" / "micro.json"


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Of all rounds of a bench; times in seconds."""

    median: float
    q1: float
    q3: float
    rounds: int


class MicroBench(msgspec.Struct, frozen=True, kw_only=True):
    """One bench, of what pytest-benchmark tells."""

    name: str
    stats: Stats
    extra_info: dict[str, Any] = {}
    """What it worked on."""


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """One bench, then and now."""

    name: str
    then_ms: float
    """Median, as the next."""
    now_ms: float
    ratio: float
    """Now over then."""
    apart: bool
    """Whether the middle halves of the samples do not meet: where they do, the ratio may be noise."""


class Micro(msgspec.Struct, frozen=True, kw_only=True):
    """A run of all benches."""

    machine_info: dict[str, Any]
    commit_info: dict[str, Any]
    benchmarks: list[dict[str, Any]]
    datetime: str
    version: str
    """Of pytest-benchmark, as all of the above."""
    compared_with: str | None = None
    """The file of the run before."""
    ratios: list[Ratio] = []


def run_micro(bundle_path: Path, *, quiet: bool) -> Micro:
    """Run all benches. Wants pytest-benchmark.

    Args:
        quiet: have pytest report on standard error.
    Raises:
        BenchError: one failed.
    """
    import pytest

    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            *(str(file) for file in sorted(FOLDER.glob("bench_*.py"))),
            "--benchmark-only",
            "--benchmark-save=micro",
            f"--benchmark-storage=file://{folder}",
            f"--bundle={bundle_path.resolve()}",
            "--override-ini=python_files=bench_*.py",
            "--override-ini=python_functions=bench_*",
            "--import-mode=importlib",
            "-q",
        ]
        with redirect_stdout(sys.stderr if quiet else sys.stdout):
            code = pytest.main(arguments)
        if code != pytest.ExitCode.OK:
            raise BenchError(f"the benches ended with pytest's code {int(code)}; see its report above")
        (saved,) = Path(folder).rglob("*.json")
        return msgspec.json.decode(saved.read_bytes(), type=Micro)


def read_saved(path: Path) -> Mapping[str, Any]:
    """A run that was kept on this machine.

    Raises:
        BenchError: it is none, or of another machine, with which nothing can be compared.
    """
    result, *others = read(path)
    if result.kind != "micro":
        raise BenchError(f"{path} is a result of heatline bench {result.kind}; name one of heatline bench micro")
    if others or result.machine_kind != machine_kind(machine()):
        raise BenchError(refusal(str(path), _as_json(result.machine_kind._asdict())))
    return result.measurements[0]


def compare(now: Micro, saved: Mapping[str, Any], path: Path) -> Micro:
    """The same run with each bench that both have beside what it took then."""
    try:
        then = {one.name: one.stats for one in benches(saved["benchmarks"])}
    except msgspec.ValidationError as error:
        raise BenchError(f"{path} is no run of heatline bench micro ({error}); measure it again") from error
    ratios = [_ratio(one, then[one.name]) for one in benches(now.benchmarks) if one.name in then]
    return msgspec.structs.replace(now, compared_with=str(path), ratios=ratios)


def identity() -> dict[str, object]:
    """What must agree for two runs to be of one machine, as JSON has it."""
    return _as_json(machine_kind(machine())._asdict())


def refusal(what: str, other: Mapping[str, Any]) -> str:
    """Why a run cannot be compared.

    Args:
        what: holds it.
        other: the machine that it was measured on.
    """
    here = identity()
    differ = [
        f"{key} {_words(other.get(key))}, here {_words(here[key])}" for key in here if other.get(key) != here[key]
    ]
    return (
        f"{what} was measured on another machine ({'; '.join(differ)}), and a comparison across machines is none; "
        "measure here first: heatline bench micro --out FILE"
    )


def to_facts(found: Micro) -> dict[str, str]:
    """Names and values, for people: each bench, and what it took then where it is compared."""
    ratios = {one.name: one for one in found.ratios}
    facts = {}
    for one in benches(found.benchmarks):
        name, stats = one.name.removeprefix("bench_"), one.stats
        facts[name] = f"{stats.median * 1e3:.3f} ms ({stats.q1 * 1e3:.3f} to {stats.q3 * 1e3:.3f})"
        if found.compared_with is not None:
            then = ratios.get(one.name)
            facts[name] += "; new" if then is None else _compared(then)
    return facts


def _compared(then: Ratio) -> str:
    certainty = "" if then.apart else ", which may be noise"
    return f"; {then.ratio:.3f} of {then.then_ms:.3f} ms{certainty}"


def _ratio(now: MicroBench, then: Stats) -> Ratio:
    return Ratio(
        name=now.name,
        then_ms=then.median * 1e3,
        now_ms=now.stats.median * 1e3,
        ratio=now.stats.median / then.median,
        apart=now.stats.q1 > then.q3 or now.stats.q3 < then.q1,
    )


def benches(benchmarks: Sequence[Mapping[str, Any]]) -> list[MicroBench]:
    """Each, of what a run keeps.

    Raises:
        ValueError: it is no run of pytest-benchmark.
    """
    return msgspec.convert(benchmarks, list[MicroBench])


def _as_json(value: dict[str, object]) -> dict[str, object]:
    found: dict[str, object] = msgspec.json.decode(msgspec.json.encode(value))
    return found


def _words(value: object) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
