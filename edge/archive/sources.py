"""Lists the pictures of SOURCE: a folder, a glob, a text file of paths, or a Parquet table with a column of paths."""

import glob
import posixpath
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import FileType

from heatline.edge.archive.storage import Storage, is_uri, without_password
from heatline.edge.errors import InputError, last_line
from heatline.edge.images import SUFFIXES

LABELS = ("good", "defective")
EXPECTED = "a folder of pictures, a quoted glob, a .txt file of paths, or a Parquet table with a column picture"


class Listed(NamedTuple):
    """A picture of SOURCE."""

    picture: str
    """Its path: relative to SOURCE's folder, or as a list or a table has it."""
    group: str
    label: str | None = None


@dataclass(frozen=True)
class Listing:
    """The pictures of SOURCE, each once, sorted by path."""

    folder: str
    """Where relative paths start, in SOURCE's file system."""
    pictures: list[Listed]
    repeated: int
    """How many rows were left out, as their picture came before."""


def list_source(source: str) -> Listing:
    """List the pictures of SOURCE.

    Raises:
        InputError: it is none of the four kinds, or has no picture.
        StorageError: its storage does not answer.
    """
    shown = without_password(source)
    folder, pictures = (_glob if _is_glob(source) else _plain)(source)
    found = list(pictures)
    if not found:
        raise InputError(f"{shown} has no picture; expected {EXPECTED}")
    once: dict[str, Listed] = {}
    for each in found:
        before = once.setdefault(posixpath.normpath(posixpath.join(folder, each.picture)), each)
        if before.label != each.label:
            raise InputError(
                f"{shown} has {each.picture} twice, as {before.label} and as {each.label}; correct one of the two"
            )
    return Listing(folder, sorted(once.values(), key=lambda each: each.picture), len(found) - len(once))


def require_apart(source: str, dest: Storage) -> None:
    """Check that DEST does not lie in the folder of SOURCE: its overlays would be pictures of a later plan.

    Raises:
        InputError: it does.
    """
    folder = Storage.at(source)
    if _is_glob(source):
        folder, _ = _split(folder)
    if folder.holds(dest):
        raise InputError(
            f"--out {dest.root} lies in {folder.root}, and its overlays would be pictures of "
            f"{without_password(source)}; name a folder outside with --out"
        )


def _is_glob(source: str) -> bool:
    if is_uri(source):  # a question mark begins a URI's options
        return "*" in source.partition("?")[0]
    return glob.has_magic(source) and Storage.at(source).kind() == FileType.NotFound


def _plain(source: str) -> tuple[str, Iterable[Listed]]:
    shown, storage = without_password(source), Storage.at(source)
    kind = storage.kind()
    if kind == FileType.NotFound:
        raise InputError(f"{shown} does not exist; expected {EXPECTED}")
    if kind == FileType.File and storage.root.lower().endswith(".txt"):
        return posixpath.dirname(storage.root), _lines(storage, shown)
    if kind == FileType.File and storage.root.lower().endswith(".parquet"):
        return posixpath.dirname(storage.root), _table(storage, shown)
    if kind != FileType.Directory:
        raise InputError(f"{shown} is a file of another kind; expected {EXPECTED}")
    files = storage.tree()
    pictures = [path for path in files if _is_picture(path)]
    if not pictures and any(path.endswith(".parquet") for path in files):
        return storage.root, _table(storage, shown)
    return storage.root, (Listed(path, _parent(path)) for path in pictures)


def _glob(source: str) -> tuple[str, Iterable[Listed]]:
    """Find the pictures that a pattern matches: `*` and `?` within a name, `**` any folders."""
    storage, patterns = _split(Storage.at(source))
    files = storage.tree()
    return storage.root, (
        Listed(path, _parent(path)) for path in files if _is_picture(path) and _matches(path.split("/"), patterns)
    )


def _split(whole: Storage) -> tuple[Storage, list[str]]:
    """Return the folder before the first wildcard of a pattern, and the patterns of the names below it."""
    parts = whole.root.split("/")
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Storage(whole.files, "/".join(parts[:fixed]) or "/"), parts[fixed:]


def _matches(names: list[str], patterns: list[str]) -> bool:
    """Return whether each name of a path matches its pattern.

    >>> _matches(["a", "b", "1.png"], ["**", "*.png"]), _matches(["a", "1.png"], ["*.png"])
    (True, False)
    """
    if not names or not patterns:
        return not names and not patterns
    if patterns == ["**"]:
        return True
    if patterns[0] == "**":
        return _matches(names, patterns[1:]) or _matches(names[1:], patterns)
    return fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


def _lines(storage: Storage, shown: str) -> Iterator[Listed]:
    try:
        text = storage.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{shown} is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error
    for line in text.split("\n"):  # splitlines() would also split at characters that names may have
        if line.strip():
            yield Listed(line.strip(), _parent(line.strip()))


def _table(storage: Storage, shown: str) -> Iterator[Listed]:
    try:
        table = ds.dataset(storage.root, filesystem=storage.files, format="parquet", partitioning="hive")
        names = set(table.schema.names)
        path = next((name for name in ("picture", "path") if name in names), None)
        if path is None:
            raise InputError(
                f"{shown} has the columns {', '.join(sorted(names))}; expected one with the pictures' paths, picture "
                "or path, and optionally group and label"
            )
        columns = [path, *(name for name in ("group", "label") if name in names)]
        for batch in table.to_batches(columns=columns):
            yield from _rows(batch, path, shown)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{shown} cannot be read as Parquet ({last_line(error)}); write it again") from error


def _rows(batch: pa.RecordBatch, path: str, shown: str) -> Iterator[Listed]:
    columns = {name: batch.column(name).cast(pa.string()).to_pylist() for name in batch.schema.names}
    nothing: list[str | None] = [None] * batch.num_rows
    for picture, group, label in zip(
        columns[path], columns.get("group", nothing), columns.get("label", nothing), strict=True
    ):
        if not picture:
            raise InputError(f"{shown} has a row without a path in its column {path}; write it again")
        if label is not None and label not in LABELS:
            raise InputError(f"{shown} has the label {label!r} for {picture}; expected {' or '.join(LABELS)}, or none")
        yield Listed(picture, _parent(picture) if group is None else group, label)


def _is_picture(path: str) -> bool:
    return posixpath.splitext(path)[1].lower() in SUFFIXES


def _parent(path: str) -> str:
    """Return the folder of a path. One string per folder: a million pictures have few."""
    return sys.intern(posixpath.dirname(path) or ".")
