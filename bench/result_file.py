"""A result on disk: one JSON object that says what was measured, on which machine, and what came of it."""

import contextlib
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
    write_whole(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; where a link stands, the file that it names.

    Raises:
        OSError: it cannot be written.
    """
    if _is_written_in_place(path):
        path.write_bytes(data)
        return
    path, beside = _places(path)
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        _remove(beside)


def require_writable(path: Path) -> None:
    """See that `write_whole` can write a file. What is there stays, and nothing else is left.

    Raises:
        OSError: it cannot.
    """
    if _is_written_in_place(path):
        path.open("ab").close()
        return
    path, beside = _places(path)
    if path.exists():  # one that must not be written is not to be replaced either
        path.open("ab").close()
    try:
        beside.open("ab").close()
    finally:
        _remove(beside)


def _is_written_in_place(path: Path) -> bool:
    """A device, a pipe."""
    return path.exists() and not path.is_file()


def _places(path: Path) -> tuple[Path, Path]:
    """Where a file lies in truth, and where it lies until it is whole."""
    path = Path(os.path.realpath(path))  # `Path.resolve` trips over links that go in circles
    return path, path.with_name(f".{path.name}.new")


def _remove(beside: Path) -> None:
    with contextlib.suppress(OSError):  # it could not even be made, which is told already
        beside.unlink()


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
