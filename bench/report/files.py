"""Result files: found, read, and told apart by what they are and where they were measured.

A file says in "bench" what it is; an evaluation is known by what it holds. One file may hold measurements of several
machines; here they part, as nothing of two machines may stand in one plot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import MachineKind, machine_kind
from bench.result_file import read_result
from edge.errors import BenchError, InputError

Measurement = Mapping[str, Any]
EVALUATION = ("told", "calibration", "truths")
"""Keys that only an `evaluation.json` has."""


@dataclass(frozen=True)
class Result:
    """What one file says of one kind of machine."""

    file: str
    kind: str
    machine: Mapping[str, Any]
    """Of the first measurement, as the file has it; empty where it has none."""
    measurements: tuple[Measurement, ...]
    """Most files hold one."""

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


def read(file: Path) -> list[Result]:
    """Read a file into a result for each kind of machine that it was measured on.

    Raises:
        BenchError: it cannot be read, or is of no kind that is known.
    """
    content = read_result(file)
    measurements = [content] if "machine" in content else _several(content) or [content]
    kind = content.get("bench") or measurements[0].get("bench")
    if kind is None and all(key in content for key in EVALUATION):
        kind = "evaluation"
    if not isinstance(kind, str):
        raise BenchError(f"{file} is no result of a bench that this report knows, or one of an older format")
    of_machines: dict[MachineKind, list[Measurement]] = {}
    for one in measurements:
        of_machines.setdefault(machine_kind(_machine(one)), []).append(one)
    return [Result(_named(file), kind, _machine(ones[0]), tuple(ones)) for ones in of_machines.values()]


def _named(file: Path) -> str:
    """Name a file as shortly as possible: from the current folder, where the file is below that."""
    whole, here = file.resolve(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else file)


def _several(content: Mapping[str, Any]) -> list[Measurement]:
    """Take the measurements of a file that each have a machine of their own."""
    lists = [value for value in content.values() if isinstance(value, list) and value]
    return next((ones for ones in lists if all(isinstance(one, dict) and "machine" in one for one in ones)), [])


def _machine(content: Measurement) -> Mapping[str, Any]:
    told = content.get("machine")
    return told if isinstance(told, dict) else {}
