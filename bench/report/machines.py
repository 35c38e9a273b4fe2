"""Where figures come from: which file, on which machine, by which code and when."""

import string
from collections.abc import Sequence

from bench.machine import MachineKind
from bench.report.files import Result
from bench.report.tables import Table, cell

NOT_TOLD = "not told"
OLD_NAMES = ("heatline", "openvino", "onnxruntime", "numpy", "opencv-python-headless")
"""Of libraries whose versions once stood beside the other facts of a machine."""


class Machines:
    """Letters for kinds of machines, in the order in which results name them."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._told = {result.machine_kind: result.machine for result in results if result.machine}

    def name(self, kind: MachineKind) -> str:
        """As `machine A`."""
        place = list(self._told).index(kind)
        letters = string.ascii_uppercase
        return "machine " + (letters[place // 26 - 1] if place >= 26 else "") + letters[place % 26]

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
                *(cell(told.get(key)) for key in ("memory_mb", "is_virtual", "kernel")),
            )
            for kind, told in self._told.items()
        ]
        return Table("", columns, rows)

    def source(self, result: Result) -> str:
        """A sentence on where a result comes from."""
        if not result.machine:
            return f"{result.file}: no machine told"
        of_runs = [one["machine"] for one in result.measurements]
        commits = dict.fromkeys(str(machine["commit"]) for machine in of_runs if machine.get("commit"))
        loads = [load[0] if isinstance(load := machine.get("load"), list) else load for machine in of_runs]
        told = [
            self.name(result.machine_kind),
            f"commit {', '.join(commits) or NOT_TOLD}",
            str(result.machine.get("at_utc") or "time not told"),
            *(f"load {cell(load)}" for load in loads[:1] if load is not None),
            *(f"{name} {version}" for name, version in _versions(result).items()),
        ]
        return f"{result.file}: {', '.join(told)}"


def _versions(result: Result) -> dict[str, object]:
    versions = result.machine.get("versions")
    if isinstance(versions, dict):
        return versions
    return {name: result.machine[name] for name in OLD_NAMES if name in result.machine}
