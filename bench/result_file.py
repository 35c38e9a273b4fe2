"""A result on disk: one JSON object that says what was measured, on which machine, and what came of it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import BenchError


def new_report(bench: str, machine: Mapping[str, object], found: msgspec.Struct) -> dict[str, Any]:
    """What a result file holds.

    Args:
        bench: which one, as in `heatline bench stages`.
        machine: of `bench.machine`, taken before the measurement.
        found: what came of it.
    """
    return {"bench": bench, "machine": dict(machine), **msgspec.structs.asdict(found)}


def write_result(path: Path, report: Mapping[str, Any]) -> None:
    """Write a result whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
    if path.exists() and not path.is_file():  # a device, a pipe
        path.write_bytes(data)
        return
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read_result(path: Path) -> dict[str, Any]:
    """What `write_result` wrote.

    Raises:
        BenchError: it cannot be read, or is no result.
    """
    try:
        report = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror}); name a result of heatline bench") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BenchError(f"{path} is not JSON ({error}); name a result of heatline bench") from error
    if not isinstance(report, dict):
        raise BenchError(f"{path} holds {type(report).__name__}, a result of heatline bench is an object")
    return report
