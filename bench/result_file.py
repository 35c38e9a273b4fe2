"""A result: one JSON object with the bench's name, the machine, and the figures; on disk, and as tables for people."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from heatline.bench.tables import print_tables
from heatline.edge.cli.output import print_json
from heatline.edge.errors import BenchError
from heatline.edge.util.files import replacing
from heatline.edge.util.text import encode_json


def new_report(bench: str, machine: Mapping[str, object], found: msgspec.Struct) -> dict[str, Any]:
    """Return what a result file holds.

    Args:
        bench: name of the bench, as in `heatline bench stages`.
        machine: of `heatline.bench.machine`, taken before the measurement.
        found: the figures.
    """
    figures: dict[str, Any] = msgspec.json.decode(encode_json(found))
    return {"bench": bench, "machine": dict(machine), **figures}


def claim(path: Path | None) -> None:
    """Raise a BenchError before the measurement, not minutes later, if no result can be written there."""
    if path is None:
        return
    with _translated(path):
        is_new = not path.exists()
        path.open("ab").close()
        if is_new:
            path.resolve().unlink()


def keep(path: Path, report: Mapping[str, Any]) -> None:
    """Write a result whole or not at all; a BenchError if it cannot be written."""
    with _translated(path), replacing(path) as place:
        place.write_bytes(msgspec.json.format(encode_json(report), indent=1) + b"\n")


def deliver(
    report: Mapping[str, Any], out: Path | None, as_json: bool, show: Callable[[Mapping[str, Any]], None] = print_tables
) -> None:
    """Write a result, and print it in any case: a full disk loses no measurement.

    Args:
        report: of `new_report`.
        show: prints it for people.
    Raises:
        BenchError: the file cannot be written.
    """
    try:
        if out is not None:  # first, as standard output may be closed or full
            keep(out, report)
    finally:
        (print_json if as_json else show)(report)


def read_result(path: Path) -> dict[str, Any]:
    """Read what `keep` wrote; a BenchError if it cannot be read, or is not a JSON object."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BenchError(f"{path} is no result of heatline bench: {error}; name another file") from error
    return report


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror}); name another file with --out") from error
