"""Result files: found, read, and told apart by what they are and where they were measured."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import MachineKind, machine_kind
from bench.report.tables import Table, cell
from bench.result_file import NotAResultError, read_result
from edge.errors import InputError

EVALUATION = ("told", "calibration", "truths")
"""Keys that only an `evaluation.json` has."""
NOT_TOLD = "not told"


@dataclass(frozen=True)
class Result:
    """What one file says."""

    file: str
    kind: str
    machine: Mapping[str, Any]
    """Empty where the file has none."""
    content: Mapping[str, Any]

    @property
    def machine_kind(self) -> MachineKind:
        return machine_kind(self.machine)


def find(paths: Sequence[Path]) -> list[Path]:
    """Find the files that were named, and all JSON files below the folders that were named, once each.

    Raises:
        InputError: one is not there.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} is not there; name result files of heatline bench, or folders of them")
        for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
            if file.is_file():
                found.setdefault(file.resolve(), file)
    return list(found.values())


def read(file: Path) -> Result:
    """Read a result; a file says in "bench" what it is, an evaluation is known by what it holds.

    Raises:
        NotAResultError: it holds JSON of another kind.
        BenchError: it cannot be read.
    """
    content = read_result(file)
    kind = content.get("bench")
    if kind is None and all(key in content for key in EVALUATION):
        kind = "evaluation"
    if not isinstance(kind, str):
        raise NotAResultError(f"{file} is no result of a bench that this report knows, or one of an older format")
    whole, here, machine = file.resolve(), Path.cwd(), content.get("machine")
    name = str(whole.relative_to(here) if whole.is_relative_to(here) else file)
    return Result(name, kind, machine if isinstance(machine, dict) else {}, content)


class Machines:
    """Letters for kinds of machines, in the order in which results name them."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._machines = {result.machine_kind: result.machine for result in results if result.machine}

    def name(self, kind: MachineKind) -> str:
        """As `machine A`."""
        place = list(self._machines).index(kind)
        letters = string.ascii_uppercase
        return "machine " + (letters[place // 26 - 1] if place >= 26 else "") + letters[place % 26]

    def of(self, result: Result) -> str:
        """The name of the machine that a result is of."""
        return self.name(result.machine_kind) if result.machine else "a machine that the file does not name"

    def table(self) -> Table:
        """What each is."""
        columns = ("machine", "processor", "vector extensions", "cores", "governor", "memory, MB", "virtual", "kernel")
        rows = [
            (
                self.name(kind).removeprefix("machine "),
                kind.processor or NOT_TOLD,
                ", ".join(kind.extensions) or "none",
                cell(kind.cores) + ("" if kind.cpu_quota is None else f", of {kind.cpu_quota:g} the time"),
                kind.governor or NOT_TOLD,
                *(cell(machine.get(key)) for key in ("memory_mb", "is_virtual", "kernel")),
            )
            for kind, machine in self._machines.items()
        ]
        return Table("", columns, rows)

    def source(self, result: Result) -> str:
        """A sentence on where a result comes from: file, machine, commit, time, load, libraries."""
        machine, versions, load = result.machine, result.machine.get("versions"), result.machine.get("load")
        if not machine:
            return f"{result.file}: no machine told"
        facts = [
            self.name(result.machine_kind),
            f"commit {machine.get('commit') or NOT_TOLD}",
            str(machine.get("at_utc") or "time not told"),
            *([f"load {cell(load[0])}"] if isinstance(load, list) and load else []),
            *(f"{name} {version}" for name, version in (versions.items() if isinstance(versions, dict) else ())),
        ]
        return f"{result.file}: {', '.join(facts)}"
