"""The pictures of SOURCE: those of a folder, of a list of paths, or of a table."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from heatline.edge.errors import InputError, last_line
from heatline.edge.images import SUFFIXES
from heatline.edge.picture_folders import leads_back
from heatline.edge.util.text import utf8_safe

LABELS = ("good", "defective")
EXPECTED = "a folder of pictures, a .txt file of paths, or a Parquet table with a column picture"


class Listed(NamedTuple):
    """A picture of SOURCE."""

    picture: str
    """Its path: relative to `folder_of` SOURCE, or as a list or a table has it."""
    group: str
    label: str | None = None


def folder_of(source: Path) -> Path:
    """Return the folder in which relative paths of SOURCE start."""
    return source if source.is_dir() else source.parent


def list_source(source: Path) -> list[Listed]:
    """Return the pictures of SOURCE, each once, sorted by path. Links are followed, but not to a folder above.

    Raises:
        InputError: it is none of the three kinds, cannot be read, or has no picture.
    """
    once: dict[str, Listed] = {}
    try:
        str(source).encode()
        for each in _pictures(source):
            each.picture.encode()
            before = once.setdefault(os.path.normpath(folder_of(source) / each.picture), each)
            if before.label != each.label:
                raise InputError(
                    f"{source} has {each.picture} twice, as {before.label} and as {each.label}; correct one of the two"
                )
    except UnicodeError as error:
        raise InputError(
            f"{utf8_safe(str(source))} is or holds a name that is not UTF-8, which Parquet needs; rename it, or "
            "convert the list"
        ) from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{source} cannot be read ({last_line(error)}); check the path and its permissions") from error
    if not once:
        raise InputError(f"{source} has no picture; expected {EXPECTED}")
    return sorted(once.values(), key=lambda each: each.picture)


def _pictures(source: Path) -> Iterator[Listed]:
    kind = source.suffix.lower()
    if source.is_dir():
        for parent, folders, names in os.walk(source, onerror=_refuse, followlinks=True):
            folders[:] = [name for name in folders if not leads_back(Path(parent, name))]
            group = os.path.relpath(parent, source)
            for name in names:
                if os.path.splitext(name)[1].lower() in SUFFIXES:
                    yield Listed(os.path.normpath(os.path.join(group, name)), group)
    elif kind == ".txt":
        # splitlines() would also split at characters of names.
        for line in map(str.strip, source.read_bytes().decode("utf-8-sig").split("\n")):
            if line:
                yield Listed(line, _parent(line))
    elif kind == ".parquet":
        yield from _table(source)
    else:
        came = "is a file of another kind" if source.exists() else "does not exist"
        raise InputError(f"{source} {came}; expected {EXPECTED}")


def _table(source: Path) -> Iterator[Listed]:
    with pq.ParquetFile(source) as file:
        names = set(file.schema_arrow.names)
        if "picture" not in names:
            raise InputError(
                f"{source} has the columns {', '.join(sorted(names))}; expected picture, with the pictures' paths, and "
                "optionally group and label"
            )
        for row in file.read(sorted(names & {"picture", "group", "label"})).to_pylist():
            picture, group, label = str(row["picture"] or ""), row.get("group"), row.get("label")
            if not picture or label not in (None, *LABELS):
                raise InputError(
                    f"{source} has the picture {picture!r} with the label {label!r}; expected a path, and good, "
                    "defective or null"
                )
            yield Listed(picture, _parent(picture) if group is None else str(group), label)


def _refuse(error: OSError) -> NoReturn:
    raise error


def _parent(path: str) -> str:
    """Return the folder of a path. One string per folder: a million pictures have few."""
    return sys.intern(os.path.dirname(path) or ".")
