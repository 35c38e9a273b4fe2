"""A result on disk: one JSON object with the bench's name, the machine, and the figures."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from heatline.edge.errors import BenchError
from heatline.edge.util.files import replacing
from heatline.edge.util.text import encode_json

OUT, RESULTS = "--out", "--results"


class NotAResultError(BenchError):
    """A file holds JSON that is not a result of a bench that this report shows."""


def new_report(bench: str, machine: Mapping[str, object], found: msgspec.Struct) -> dict[str, Any]:
    """Return what a result file holds.

    Args:
        bench: name of the bench, as in `heatline bench stages`.
        machine: of `heatline.bench.machine`, taken before the measurement.
        found: the figures.
    """
    return {"bench": bench, "machine": dict(machine), **msgspec.structs.asdict(found)}


class _Abandoned(Exception):
    """Ends a trial write: the file at the path stays as it is."""


def claim(*paths: Path | None, option: str = OUT) -> None:
    """Check before the measurement, not minutes later, that results can be written. Leave every file as it is.

    Args:
        option: of the command line, for the message.
    Raises:
        BenchError: a path cannot be written.
    """
    for path in filter(None, paths):
        with _translated(path, option):
            if path.exists():  # a file that must not be written must not be replaced either
                path.open("ab").close()
            with contextlib.suppress(_Abandoned), replacing(path) as place:
                place.open("ab").close()
                raise _Abandoned


def keep(path: Path, report: Mapping[str, Any], *, option: str = OUT) -> None:
    """Write a result whole or not at all.

    Args:
        option: of the command line, for the message.
    Raises:
        BenchError: it cannot be written.
    """
    keep_text(path, msgspec.json.format(encode_json(report), indent=1).decode() + "\n", option=option)


def keep_text(path: Path, text: str, *, option: str = OUT) -> None:
    """Write a text whole or not at all; arguments and errors as of `keep`."""
    with _translated(path, option), replacing(path) as place:
        place.write_bytes(text.encode())


@contextlib.contextmanager
def _translated(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BenchError(f"{path} cannot be written ({error.strerror}); name another file with {option}") from error


def read_result(path: Path) -> dict[str, Any]:
    """Read what `keep` wrote.

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
