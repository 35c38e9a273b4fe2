"""Reads and writes files at a local path or at any URI of pyarrow's file systems, such as `s3://bucket/folder`."""

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from heatline.edge.errors import InputError, StorageError, last_line
from heatline.edge.util.files import open_plain, replacing, sync_folder
from heatline.edge.util.text import utf8_safe

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

    def holds(self, other: "Storage") -> bool:
        """Return whether another folder or file is this folder or lies in it, also through links."""
        if not self.files.equals(other.files):
            return False
        here, there = (os.path.realpath(each.root) if each.is_local else each.root for each in (self, other))
        return posixpath.commonpath([here, there]) == here

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
        try:
            if self.is_local:
                with open_plain(Path(self.path(name)), follow=True) as plain:  # a pipe would never end
                    return plain.read()
            with self.files.open_input_stream(self.path(name)) as file:
                return bytes(file.read())
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise self._error(name, "read", error) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file that is complete or absent, also after a crash or a power cut. It replaces an older one.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            if self.is_local:
                path = Path(self.path(name))
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path, unique=True) as temporary:
                    temporary.write_bytes(data)
                sync_folder(path.parent)
            else:  # an object store shows an object once all of it has arrived
                with self.files.open_output_stream(self.path(name)) as file:
                    file.write(data)
        except (OSError, pa.ArrowException) as error:
            raise self._error(name, "written", error) from error

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
        if not os.path.isdir(self.root):
            return []
        try:
            return sorted(_walk(self.root, "", frozenset()))
        except OSError as error:
            raise self._error("", "listed", error) from error

    def entries(self, name: str = "", *, recursive: bool = False) -> list[fs.FileInfo]:
        """Return the entries of a folder, sorted by path; none if it does not exist.

        Raises:
            InputError: a name is not UTF-8.
            StorageError: it cannot be listed.
        """
        selector = fs.FileSelector(self.path(name), recursive=recursive, allow_not_found=True)
        try:
            return sorted(self.files.get_file_info(selector), key=lambda entry: entry.path)
        except UnicodeDecodeError as error:
            raise _not_utf8(error.object.decode(errors="replace")) from error
        except (OSError, pa.ArrowException) as error:
            raise self._error(name, "listed", error) from error

    def kind(self, name: str = "") -> fs.FileType:
        """Return what is there: a file, a folder, something else, or nothing.

        Raises:
            StorageError: the storage does not answer.
        """
        try:
            (info,) = self.files.get_file_info([self.path(name)])
        except (OSError, pa.ArrowException) as error:
            raise self._error(name, "read", error) from error
        return info.type

    def _error(self, name: str, done: str, error: Exception) -> StorageError:
        reason = getattr(error, "strerror", None) or last_line(error)
        return StorageError(
            f"{self.path(name)} cannot be {done} ({reason}); check the path, its permissions and the network, and call "
            "the same command again"
        )


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
