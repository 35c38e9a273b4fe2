"""Files at a local path or at a URI of pyarrow's file systems, such as `s3://bucket/folder`; the pictures of SOURCE."""

import contextlib
import os
import posixpath
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs
from pyarrow.fs import FileType

from heatline.edge.errors import InputError, StorageError, last_line
from heatline.edge.images import SUFFIXES
from heatline.edge.util.files import replacing, sync_folder
from heatline.edge.util.text import utf8_safe

LABELS = ("good", "defective")
EXPECTED = "a folder of pictures, a .txt file of paths, or a Parquet table with a column picture"
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
        """Find the file system of a local path or a URI.

        Raises:
            InputError: the URI is not one that pyarrow knows.
            StorageError: the storage does not answer.
        """
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

    def kind(self) -> FileType:
        """Return what is there: a file, a folder, something else, or nothing.

        Raises:
            StorageError: the storage does not answer.
        """
        with self._reported("", "read"):
            return self.files.get_file_info([self.root])[0].type

    def read(self, name: str = "") -> bytes:
        """Return the bytes of a file.

        Raises:
            FileNotFoundError: there is no file.
            StorageError: the storage does not answer.
        """
        with self._reported(name, "read"), self.files.open_input_stream(self.path(name)) as file:
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

    def list_files(self, name: str = "") -> list[str]:
        """Return the files of a folder and of those in it, relative to it, sorted; none if it does not exist.

        Links are followed; one that leads nowhere is left out.

        Raises:
            InputError: a name is not UTF-8.
            StorageError: a folder cannot be listed, or holds a link to one above.
        """
        folder = self.path(name)
        selector = fs.FileSelector(folder, recursive=True, allow_not_found=True)
        with self._reported(name, "listed"):
            found = self.files.get_file_info(selector)
            return sorted(posixpath.relpath(each.path, folder) for each in found if each.type == FileType.File)

    @contextlib.contextmanager
    def _reported(self, name: str, done: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except UnicodeError as error:
            raise InputError(
                f"{utf8_safe(self.path(name))} is or holds a name that is not UTF-8, which Parquet needs; rename it"
            ) from error
        except (OSError, pa.ArrowException) as error:
            raise StorageError(
                f"{self.path(name)} cannot be {done} ({last_line(error)}); check the path, its permissions and the "
                "network, and call the same command again"
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


class Listed(NamedTuple):
    """A picture of SOURCE."""

    picture: str
    """Its path: relative to SOURCE's folder, or as a list or a table has it."""
    group: str
    label: str | None = None


def list_source(source: str) -> tuple[str, list[Listed]]:
    """Return the folder in which relative paths of SOURCE start, and its pictures, each once, sorted by path.

    Raises:
        InputError: it is none of the three kinds, or has no picture.
        StorageError: its storage does not answer.
    """
    shown, storage = without_password(source), Storage.at(source)
    kind, folder = storage.kind(), posixpath.dirname(storage.root)
    if kind == FileType.File and storage.root.lower().endswith(".txt"):
        found = _lines(storage, shown)
    elif kind == FileType.File and storage.root.lower().endswith(".parquet"):
        found = _table(storage, shown)
    elif kind == FileType.Directory:
        folder, files = storage.root, storage.list_files()
        found = [Listed(path, _parent(path)) for path in files if posixpath.splitext(path)[1].lower() in SUFFIXES]
        if not found and any(path.endswith(".parquet") for path in files):
            found = _table(storage, shown)
    else:
        came = "does not exist" if kind == FileType.NotFound else "is a file of another kind"
        raise InputError(f"{shown} {came}; expected {EXPECTED}")
    once: dict[str, Listed] = {}
    for each in found:
        before = once.setdefault(posixpath.normpath(posixpath.join(folder, each.picture)), each)
        if before.label != each.label:
            raise InputError(
                f"{shown} has {each.picture} twice, as {before.label} and as {each.label}; correct one of the two"
            )
    if not once:
        raise InputError(f"{shown} has no picture; expected {EXPECTED}")
    return folder, sorted(once.values(), key=lambda each: each.picture)


def _lines(storage: Storage, shown: str) -> Iterable[Listed]:
    try:
        text = storage.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{shown} is not UTF-8 ({error.reason} at byte {error.start}); convert it") from error
    lines = (line.strip() for line in text.split("\n"))  # splitlines() would also split at characters of names
    return [Listed(line, _parent(line)) for line in lines if line]


def _table(storage: Storage, shown: str) -> Iterator[Listed]:
    try:
        table = ds.dataset(storage.root, filesystem=storage.files, format="parquet", partitioning="hive")
        names = set(table.schema.names)
        if "picture" not in names:
            raise InputError(
                f"{shown} has the columns {', '.join(sorted(names))}; expected picture, with the pictures' paths, and "
                "optionally group and label"
            )
        batches = table.to_batches(columns=sorted(names & {"picture", "group", "label"}))
        for row in (row for batch in batches for row in batch.to_pylist()):
            picture, group, label = str(row["picture"] or ""), row.get("group"), row.get("label")
            if not picture or label not in (None, *LABELS):
                raise InputError(
                    f"{shown} has the picture {picture!r} with the label {label!r}; expected a path, and good, "
                    "defective or null"
                )
            yield Listed(picture, _parent(picture) if group is None else str(group), label)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{shown} cannot be read as Parquet ({last_line(error)}); write it again") from error


def _parent(path: str) -> str:
    """Return the folder of a path. One string per folder: a million pictures have few."""
    return sys.intern(posixpath.dirname(path) or ".")
