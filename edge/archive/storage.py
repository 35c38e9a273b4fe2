"""Reads and writes files at a local path or at any URI of pyarrow's file systems, such as `s3://bucket/folder`.

The pictures of SOURCE are those of a folder, a glob, a text file of paths, or a Parquet table with a column of paths.
"""

import contextlib
import glob
import os
import posixpath
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs
from pyarrow.fs import FileType

from heatline.edge.errors import InputError, StorageError, last_line
from heatline.edge.images import SUFFIXES
from heatline.edge.util.files import open_plain, replacing, sync_folder
from heatline.edge.util.text import utf8_safe

LABELS = ("good", "defective")
EXPECTED_LABELS = "good or defective, or none"
EXPECTED = "a folder of pictures, a quoted glob, a .txt file of paths, or a Parquet table with a column picture"
_URI = re.compile(r"^[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_PASSWORD = re.compile(r"(?<=://)[^/@?]*@|(?<=[?&])(access_key|secret_key|session_token)=[^&]*&?", re.IGNORECASE)


@dataclass(frozen=True)
class Storage:
    """A folder, or a file, of a file system."""

    files: fs.FileSystem
    root: str
    """Its path in the file system."""

    @classmethod
    def at(cls, address: str) -> "Storage":
        """Find the file system of an address.

        Args:
            address: a local path, or a URI.
        Raises:
            InputError: the URI is not one that pyarrow knows.
            StorageError: the storage does not answer.
        """
        if utf8_safe(address) != address:
            raise _not_utf8(utf8_safe(address))
        if not is_uri(address):
            return cls(fs.LocalFileSystem(), os.path.abspath(address))
        try:
            files, root = fs.FileSystem.from_uri(address)
        except OSError as error:  # pyarrow asks S3 for a bucket's region
            raise StorageError(
                f"{without_password(address)} cannot be reached ({last_line(error)}); check the address and the "
                "network, and call the same command again"
            ) from error
        except (pa.ArrowException, ValueError) as error:
            raise InputError(
                f"{without_password(address)} is not a place for files ({last_line(error)}); expected a path or a URI "
                "such as s3://bucket/folder"
            ) from error
        return cls(files, root.rstrip("/") or "/")

    @property
    def is_local(self) -> bool:
        return isinstance(self.files, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        """Return the path of a file in this folder, or of an absolute path of the same file system."""
        return posixpath.normpath(posixpath.join(self.root, name))

    def under(self, name: str) -> "Storage":
        """Return the storage of a folder in this one."""
        return Storage(self.files, self.path(name))

    def read(self, name: str = "") -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: there is no file.
            StorageError: the storage does not answer.
        """
        with self._reported(name, "read"):
            if self.is_local:
                with open_plain(Path(self.path(name)), follow=True) as plain:  # a pipe would never end
                    return plain.read()
            with self.files.open_input_stream(self.path(name)) as file:
                return bytes(file.read())

    def write(self, name: str, data: bytes) -> None:
        """Write a file that is complete or absent, also after a crash or a power cut. It replaces an older one.

        Raises:
            StorageError: it cannot be written.
        """
        with self._reported(name, "written"):
            if self.is_local:
                path = Path(self.path(name))
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path, unique=True) as temporary:
                    temporary.write_bytes(data)
                sync_folder(path.parent)
            else:  # an object store shows an object once all of it has arrived
                with self.files.open_output_stream(self.path(name)) as file:
                    file.write(data)

    def tree(self) -> list[str]:
        """Return all files of this folder and of those in it, relative to it; none if it does not exist.

        Links to folders are followed, but not into a folder that holds them: that would never end.

        Raises:
            InputError: a name is not UTF-8.
            StorageError: a folder cannot be listed.
        """
        if not self.is_local:
            entries = self.entries(recursive=True)
            return [posixpath.relpath(entry.path, self.root) for entry in entries if entry.type == fs.FileType.File]
        with self._reported("", "listed"):
            return sorted(_walk(self.root, "", frozenset())) if os.path.isdir(self.root) else []

    def entries(self, name: str = "", *, recursive: bool = False) -> list[fs.FileInfo]:
        """Return the entries of a folder, sorted by path; none if it does not exist.

        Raises:
            StorageError: it cannot be listed.
        """
        selector = fs.FileSelector(self.path(name), recursive=recursive, allow_not_found=True)
        with self._reported(name, "listed"):
            return sorted(self.files.get_file_info(selector), key=lambda entry: entry.path)

    def kind(self, name: str = "") -> fs.FileType:
        """Return what is there: a file, a folder, something else, or nothing.

        Raises:
            StorageError: the storage does not answer.
        """
        with self._reported(name, "read"):
            return self.files.get_file_info([self.path(name)])[0].type

    @contextlib.contextmanager
    def _reported(self, name: str, done: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or last_line(error)
            raise StorageError(
                f"{self.path(name)} cannot be {done} ({reason}); check the path, its permissions and the network, and "
                "call the same command again"
            ) from error


def is_uri(address: str) -> bool:
    """Return whether an address is a URI and no local path."""
    return _URI.match(address) is not None


def without_password(address: str) -> str:
    """Return an address without user, password and keys, to be shown and stored.

    >>> without_password("s3://me:secret@bucket/folder?region=eu")
    's3://bucket/folder?region=eu'
    """
    return _PASSWORD.sub("", address).rstrip("?&") if is_uri(address) else address


def _not_utf8(shown: str) -> InputError:
    return InputError(f"{shown} has a name that is not UTF-8, which Parquet needs; rename it")


def _walk(folder: str, name: str, above: frozenset[str]) -> Iterator[str]:
    """Yield the files of a folder, `name/` before each.

    Args:
        above: the real paths of the folders that hold it.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if utf8_safe(entry.name) != entry.name:
                raise _not_utf8(utf8_safe(entry.path))
            if os.path.isdir(entry.path):  # `entry.is_dir` raises on a link that leads to itself
                yield from _walk(entry.path, f"{name}{entry.name}/", above | {real})
            else:
                yield f"{name}{entry.name}"


# The pictures of SOURCE.


class Listed(NamedTuple):
    """A picture of SOURCE."""

    picture: str
    """Its path: relative to SOURCE's folder, or as a list or a table has it."""
    group: str
    label: str | None = None


def list_source(source: str) -> tuple[str, list[Listed]]:
    """Return the folder in which relative paths of SOURCE start, and its pictures, each once, sorted by path.

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
    return folder, sorted(once.values(), key=lambda each: each.picture)


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
        for row in (row for batch in table.to_batches(columns=columns) for row in batch.to_pylist()):
            picture, label = str(row[path] or ""), row.get("label")
            if not picture:
                raise InputError(f"{shown} has a row without a path in its column {path}; write it again")
            if label not in (None, *LABELS):
                raise InputError(f"{shown} has the label {label!r} for {picture}; expected {EXPECTED_LABELS}")
            group = row.get("group")
            yield Listed(picture, _parent(picture) if group is None else str(group), label)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{shown} cannot be read as Parquet ({last_line(error)}); write it again") from error


def _is_picture(path: str) -> bool:
    return posixpath.splitext(path)[1].lower() in SUFFIXES


def _parent(path: str) -> str:
    """Return the folder of a path. One string per folder: a million pictures have few."""
    return sys.intern(posixpath.dirname(path) or ".")
