"""Result files: found, read, and told apart by what they are and where they were measured.

A file says in "bench" what it is. Those that were written before files said so are known by what they hold. One file
may hold measurements of several machines; here they part, as nothing of two machines may stand in one plot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.machine import MachineKind, machine_kind
from bench.result_file import read_result
from edge.errors import BenchError, InputError

Measurement = Mapping[str, Any]

RECOGNISED: Mapping[str, tuple[str, ...]] = {
    "cameras": ("rates", "faults", "left_out"),
    "chaos": ("kills", "durable", "live"),
    "delivery": ("windows", "refused_fps"),
    "evaluation": ("told", "calibration", "truths"),
    "hostile": ("rounds", "messages_per_s"),
    "micro": ("benchmarks", "machine_info"),
    "soak": ("runs", "highest_fps", "cut_short_by"),
}
"""Kinds of files that do not say what they are, by keys that no other kind has."""
Found = TypeVar("Found")


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

    @property
    def commit(self) -> str | None:
        """Of the code that ran."""
        return _text(self.machine.get("commit") or self.measurements[0].get("commit"))

    @property
    def at_utc(self) -> str | None:
        return _text(self.machine.get("at_utc"))

    def decoded(self, as_type: type[Found]) -> list[Found]:
        """All measurements, as the struct that the bench wrote.

        Raises:
            ValueError: one is none.
        """
        return [msgspec.convert(one, as_type) for one in self.measurements]


def find(paths: Sequence[Path]) -> list[Path]:
    """The files that were named, and all JSON files below the folders that were named, once each.

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
    """What a file says, a result for each kind of machine that it was measured on.

    Raises:
        BenchError: it cannot be read, or is of no kind that is known.
    """
    content = read_result(file)
    measurements = [content] if "machine" in content else _several(content) or [content]
    kind = content.get("bench") or measurements[0].get("bench") or _recognised(measurements[0])
    if not isinstance(kind, str):
        raise BenchError(f"{file} is no result of heatline bench, or one of an older format; measure it again")
    of_machines: dict[MachineKind, list[Measurement]] = {}
    for one in measurements:
        of_machines.setdefault(machine_kind(_machine(one)), []).append(one)
    return [Result(_named(file), kind, _machine(ones[0]), tuple(ones)) for ones in of_machines.values()]


def _named(file: Path) -> str:
    """As short as it can be: from the folder that one is in, where the file is below that."""
    whole, here = file.resolve(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else file)


def _several(content: Mapping[str, Any]) -> list[Measurement]:
    """Measurements of a file that each have a machine of their own."""
    lists = [value for value in content.values() if isinstance(value, list) and value]
    return next((ones for ones in lists if all(isinstance(one, dict) and "machine" in one for one in ones)), [])


def _recognised(content: Measurement) -> str | None:
    return next((kind for kind, keys in RECOGNISED.items() if all(key in content for key in keys)), None)


def _machine(content: Measurement) -> Mapping[str, Any]:
    """As the file has it; of a file of pytest-benchmark, what that says of it."""
    told = content.get("machine")
    if isinstance(told, dict):
        return told
    info, commit = content.get("machine_info"), content.get("commit_info")
    if not isinstance(info, dict) or not isinstance(info.get("cpu"), dict):
        return {}
    cpu = info["cpu"]
    commit = commit if isinstance(commit, dict) else {}
    dirty = "-dirty" if commit.get("dirty") else ""
    return {
        "processor": cpu.get("brand_raw"),
        "extensions": cpu.get("flags"),
        "cores": cpu.get("count"),
        "python": info.get("python_version"),
        "kernel": info.get("release"),
        "commit": f"{commit.get('id', '')[:12]}{dirty}" or None,
        "at_utc": content.get("datetime"),
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)
