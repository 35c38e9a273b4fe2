"""Kinds of journal errors, and the kind for each error of SQLite and of the disk."""

import errno
import os
import sqlite3
from pathlib import Path

from heatline.edge.errors import DeliveryError, JournalError


class JournalFullError(JournalError):
    """There is no room, on the disk or within the journal's budget."""


class JournalReadOnlyError(JournalError):
    """The file or its disk cannot be written."""


class JournalDamagedError(JournalError):
    """The file is not a journal, or it is damaged."""


class JournalTooNewError(JournalError):
    """A newer heatline created the journal."""


class JournalForeignError(JournalError):
    """The journal belongs to another line."""

    @classmethod
    def of(cls, path: Path, owner: str, line: str) -> "JournalForeignError":
        """Of a journal that bears another line's name."""
        return cls(f"{path} is the journal of line {owner}, not of {line}; give each line its own journal.folder")


class JournalHeldError(JournalForeignError):
    """Another line that runs has it: the exit code is that of all that a running line holds."""

    exit_code = DeliveryError.exit_code


class JournalBusyError(JournalError):
    """Another process is writing to the journal."""


class JournalMissingError(JournalError):
    """There is no journal."""


class JournalReplacedError(JournalError):
    """The open file is no longer the one at its path; it must be opened again."""


class JournalHungError(JournalError):
    """The disk does not answer. The call may be carried out later, or never."""


class JournalFailedError(JournalError):
    """Any other failure of the disk."""


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_RIGHT = {errno.EROFS, errno.EACCES, errno.EPERM}


def kind_of(error: sqlite3.Error | OSError, path: Path) -> JournalError:
    """Return an error of SQLite or of the disk as a journal error.

    Args:
        path: of the journal.
    """
    if isinstance(error, OSError):
        if error.errno in _NO_ROOM:
            return _full(path)
        if error.errno in _NO_RIGHT:
            return JournalReadOnlyError(
                f"{path} cannot be written ({error.strerror}); give the line's user the right to"
            )
        return JournalFailedError(f"{path} cannot be used ({error.strerror}); check journal.folder and its disk")
    code = getattr(error, "sqlite_errorcode", None)
    # Python's own error for invalid text, that of `rows` for a wrong type, and SQLite's for a missing table: the
    # statements themselves are right.
    if str(error).startswith(("Could not decode", "no such table", "no such column", "malformed database schema")):
        return JournalDamagedError(f"{path} is not a journal, or it is damaged ({error})")
    if code is None:
        return JournalFailedError(f"{path} cannot be used ({error}); check the disk")
    match code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return _full(path)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return JournalDamagedError(f"{path} is damaged ({error})")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return JournalBusyError(f"{path} is locked by another process ({error}); end the program that writes to it")
        case sqlite3.SQLITE_READONLY:
            return JournalReadOnlyError(
                f"{path} cannot be written ({error}); check the disk, and the rights to the file"
            )
    if code == sqlite3.SQLITE_IOERR_CORRUPTFS:
        return JournalDamagedError(f"{path} is damaged ({error})")
    # SQLite does not report why the remaining calls failed, so the disk itself is asked.
    disk = _disk(path)
    if disk is not None and disk.f_flag & os.ST_RDONLY:
        return JournalReadOnlyError(f"{path} cannot be written, its disk is read-only; check the disk")
    if disk is not None and disk.f_bavail == 0:
        return _full(path)
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return JournalReadOnlyError(f"{path} cannot be opened ({error}); check the rights to it and to its folder")
    return JournalFailedError(f"{path} cannot be used ({error}); check the disk")


def _full(path: Path) -> JournalFullError:
    return JournalFullError(f"{path} cannot be written, there is no room; make room on its disk")


def _disk(path: Path) -> os.statvfs_result | None:
    try:
        return os.statvfs(path.parent)
    except OSError:
        return None
