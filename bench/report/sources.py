"""Where figures come from, in words: which file, on which machine, by which code, when, and what else went on there."""

import string
from collections.abc import Sequence

from bench.machine import MachineKind
from bench.report.content import Column, Table, table
from bench.report.files import Result

NOT_TOLD = "not told"
OLD_NAMES = ("heatline", "openvino", "onnxruntime", "numpy", "opencv-python-headless")
"""Of libraries whose versions once stood beside the other facts of a machine."""


class Machines:
    """Letters for kinds of machines, in the order in which results name them."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = [result for result in results if result.machine]
        self._kinds = list(dict.fromkeys(result.machine_kind for result in self._results))

    def name(self, kind: MachineKind) -> str:
        """As `machine A`."""
        place = self._kinds.index(kind)
        letters = string.ascii_uppercase
        return "machine " + (letters[place // 26 - 1] if place >= 26 else "") + letters[place % 26]

    def table(self) -> Table:
        """What each is."""
        columns = ("machine", "processor", "vector extensions", "cores", "governor", "memory, GB", "virtual", "kernel")
        rows = []
        for kind in self._kinds:
            told = next(result.machine for result in self._results if result.machine_kind == kind)
            memory = told.get("memory_mb")
            rows.append(
                (
                    self.name(kind).removeprefix("machine "),
                    kind.processor or NOT_TOLD,
                    ", ".join(kind.extensions) or "none",
                    _cores(kind),
                    kind.governor or NOT_TOLD,
                    f"{memory / 1e3:.1f}" if isinstance(memory, int | float) else NOT_TOLD,
                    {"True": "yes", "False": "no"}.get(str(told.get("is_virtual")), NOT_TOLD),
                    str(told.get("kernel") or NOT_TOLD),
                )
            )
        return table([Column(name, True) for name in columns], rows)

    def sentences(self, results: Sequence[Result]) -> list[str]:
        """Of each file; of those that tell of no machine, one."""
        nowhere = [result.file for result in results if not result.machine]
        return [
            *(self._sentence(result) for result in results if result.machine),
            *([f"{', '.join(nowhere)}: no machine told"] if nowhere else []),
        ]

    def _sentence(self, result: Result) -> str:
        told = [self.name(result.machine_kind)]
        commits = dict.fromkeys(_text(one.get("commit")) for one in (result.machine, *result.measurements))
        told.append("commit " + (", ".join(filter(None, commits)) or NOT_TOLD))
        told.append(result.at_utc or "time not told")
        loads = sorted(filter(None, (_load(result, place) for place in range(len(result.measurements)))))
        if loads:
            told.append("load " + " to ".join(dict.fromkeys((f"{loads[0]:.2f}", f"{loads[-1]:.2f}"))))
        told += [f"{name} {version}" for name, version in _versions(result).items()]
        return f"{result.file}: {', '.join(told)}"


def _cores(kind: MachineKind) -> str:
    cores = NOT_TOLD if kind.cores is None else str(kind.cores)
    return cores if kind.cpu_quota is None else f"{cores}, of {kind.cpu_quota:g} the time"


def _load(result: Result, place: int) -> float | None:
    """Over one minute, before a measurement began."""
    machine = result.measurements[place].get("machine")
    if not isinstance(machine, dict):
        return None
    load = machine.get("load") or [machine.get("load_1_min")]
    return load[0] if isinstance(load, list) and isinstance(load[0], int | float) else None


def _versions(result: Result) -> dict[str, str]:
    versions = result.machine.get("versions")
    if not isinstance(versions, dict):
        versions = {name: result.machine[name] for name in OLD_NAMES if name in result.machine}
    return {str(name): str(version) for name, version in versions.items()}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
