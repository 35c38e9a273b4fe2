"""A result on disk: one JSON object that says what was measured, on which machine, and what came of it."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge.errors import BenchError
from edge.util.text import encode_json


class NotAResultError(BenchError):
    """A file is whole, but holds no result of a bench that is known here."""


def new_report(bench: str, machine: Mapping[str, object], found: msgspec.Struct) -> dict[str, Any]:
    """What a result file holds.

    Args:
        bench: which one, as in `heatline bench stages`.
        machine: of `bench.machine`, taken before the measurement.
        found: what came of it.
    """
    return {"bench": bench, "machine": dict(machine), **msgspec.structs.asdict(found)}


def claim(*paths: Path | None) -> None:
    """See now that results can be written there, and not after minutes. What is there stays, and nothing else is left.

    Raises:
        BenchError: one cannot.
    """
    for path in filter(None, paths):
        if path.exists():  # one that must not be written is not to be replaced either
            _write(path, lambda place: place.open("ab").close(), beside=False)
        _write(path, lambda place: place.open("ab").close(), replaces=False)


def keep(path: Path, report: Mapping[str, Any]) -> None:
    """Write a result whole or not at all.

    Raises:
        BenchError: it cannot be written.
    """
    keep_text(path, msgspec.json.format(encode_json(report), indent=1).decode() + "\n")


def keep_text(path: Path, text: str) -> None:
    """Write what was made of a result, as `keep` does."""
    _write(path, lambda place: place.write_bytes(text.encode()))


def _write(path: Path, write: Callable[[Path], object], *, beside: bool = True, replaces: bool = True) -> None:
    """Write a file beside its place and move it there; where a link stands, the file that it names.

    Args:
        beside: or into the place itself, as into a device or a pipe.
        replaces: whether what was written is moved to its place.
    Raises:
        BenchError: it cannot be written.
    """
    try:
        if not beside or (path.exists() and not path.is_file()):
            write(path)
            return
        place = Path(os.path.realpath(path))  # `Path.resolve` trips over links that go in circles
        part = place.with_name(f".{place.name}.new")
        try:
            write(part)
            if replaces:
                os.replace(part, place)
        finally:
            with contextlib.suppress(OSError):  # it could not even be made, which is told already
                part.unlink()
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror}); name another file with --out") from error


def read_result(path: Path) -> dict[str, Any]:
    """What `keep` wrote.

    Raises:
        NotAResultError: it holds JSON of another kind.
        BenchError: it cannot be read.
    """
    try:
        report = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise BenchError(f"{path} cannot be read ({error.strerror}); name a result of heatline bench") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BenchError(f"{path} is not JSON ({error}); name a result of heatline bench") from error
    if not isinstance(report, dict):
        raise NotAResultError(f"{path} holds {type(report).__name__}, a result of heatline bench is an object")
    return report
