"""Find and read result files, with the kind and the machine of each."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heatline.bench.machine import MachineKind, machine_kind
from heatline.bench.report.tables import Table, cell
from heatline.bench.result_file import NotAResultError, read_result
from heatline.edge.errors import InputError

EVALUATION = ("subject", "calibration", "truths")
"""Keys that only an `evaluation.json` has."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Result:
    """Content of one file."""

    file: str
    kind: str
    machine: Mapping[str, Any]
    """Empty if the file has none."""
    content: Mapping[str, Any]

    @property
    def machine_kind(self) -> MachineKind:
        return machine_kind(self.machine)


def find(paths: Sequence[Path]) -> list[Path]:
    """Find files, and all JSON files below folders, once each.

    Raises:
        InputError: a path does not exist.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; name result files of heatline bench, or folders of them")
        for file in [path] if path.is_file() else sorted(path.rglob("*.json")):
            if file.is_file():
                found.setdefault(file.resolve(), file)
    return list(found.values())


def read(file: Path) -> Result:
    """Read a result: "bench" names its kind, and an evaluation is recognised by its keys.

    Raises:
        NotAResultError: it holds other JSON.
        BenchError: it cannot be read.
    """
    content = read_result(file)
    kind = content.get("bench")
    if kind is None and all(key in content for key in EVALUATION):
        kind = "evaluation"
    if not isinstance(kind, str):
        raise NotAResultError(f"{file} is not a result of a bench that this report knows, or one of an older format")
    whole, here, machine = file.resolve(), Path.cwd(), content.get("machine")
    name = str(whole.relative_to(here) if whole.is_relative_to(here) else file)
    return Result(name, kind, machine if isinstance(machine, dict) else {}, content)


class Machines:
    """Letters for kinds of machines, in the order of the results."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._machines = {result.machine_kind: result.machine for result in results if result.machine}

    def name(self, kind: MachineKind) -> str:
        """Return the name of a machine, as `machine A`."""
        place = list(self._machines).index(kind)
        letters = string.ascii_uppercase
        return "machine " + (letters[place // 26 - 1] if place >= 26 else "") + letters[place % 26]

    def of(self, result: Result) -> str:
        """Return the name of the machine that measured a result."""
        return self.name(result.machine_kind) if result.machine else "a machine that the file does not name"

    def table(self) -> Table:
        """Describe each machine."""
        columns = ("machine", "processor", "vector extensions", "cores", "governor", "memory, MB", "virtual", "kernel")
        rows = [
            (
                self.name(kind).removeprefix("machine "),
                kind.processor or UNKNOWN,
                ", ".join(kind.extensions) or "none",
                cell(kind.cores) + ("" if kind.cpu_quota is None else f", of {kind.cpu_quota:g} the time"),
                kind.governor or UNKNOWN,
                *(cell(machine.get(key)) for key in ("memory_mb", "is_virtual", "kernel")),
            )
            for kind, machine in self._machines.items()
        ]
        return Table("", columns, rows)

    def source(self, result: Result) -> str:
        """Describe the origin of a result: file, machine, commit, time, load, libraries."""
        machine, versions, load = result.machine, result.machine.get("versions"), result.machine.get("load")
        if not machine:
            return f"{result.file}: machine unknown"
        facts = [
            self.name(result.machine_kind),
            f"commit {machine.get('commit') or UNKNOWN}",
            str(machine.get("at_utc") or "time unknown"),
            *([f"load {cell(load[0])}"] if isinstance(load, list) and load else []),
            *(f"{name} {version}" for name, version in (versions.items() if isinstance(versions, dict) else ())),
        ]
        return f"{result.file}: {', '.join(facts)}"
