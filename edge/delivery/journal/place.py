"""Whether a line could keep its journal in a folder: asked before it runs, by which nothing is written there."""

import contextlib
import os
from pathlib import Path

from heatline.edge.delivery.journal.errors import (
    JournalDamagedError,
    JournalFailedError,
    JournalForeignError,
    kind_of,
)
from heatline.edge.delivery.journal.file import FILE_NAME, database_files
from heatline.edge.delivery.journal.journal import hold
from heatline.edge.delivery.journal.reader import JournalReader
from heatline.edge.util.files import require_writable

MIB = 1 << 20


def check_place(folder: Path, line: str, budget_bytes: int) -> str | None:
    """See that a line can keep its journal in a folder.

    Args:
        folder: need not exist yet.
        budget_bytes: of the journal.
    Returns: what the user should know all the same, as a sentence; None: nothing.

    Raises:
        JournalError: the journal cannot be kept there, or is another line's, or a newer heatline's.
    """
    path = folder / FILE_NAME
    try:
        there = require_writable(folder)
        if there == folder:
            with contextlib.suppress(FileNotFoundError):
                os.close(hold(folder, os.O_RDONLY))
            if path.exists():
                _require_own(folder, line)
        disk = os.statvfs(there)
        room = disk.f_bavail * disk.f_frsize + sum(
            file.stat().st_size for file in database_files(path) if file.exists()
        )
    except NotADirectoryError as error:
        raise JournalFailedError(
            f"{path} cannot be written, {error.filename} is not a folder; set journal.folder to one"
        ) from error
    except JournalDamagedError as error:
        return f"{error}; the line will move it aside and begin another"
    except OSError as error:
        raise kind_of(error, path) from error
    if room < budget_bytes:
        return (
            f"there is room for {room / MIB:.1f} MiB of events in {folder}, and journal.retain_mib is "
            f"{budget_bytes / MIB:.0f}; make room, or set less"
        )
    return None


def _require_own(folder: Path, line: str) -> None:
    with contextlib.closing(JournalReader.open(folder)) as journal:
        if journal.line != line:
            raise JournalForeignError.of(journal.path, journal.line, line)
