"""Translates errors of the operating system into the package's own errors."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from heatline.edge.errors import HeatlineError, InputError


@contextlib.contextmanager
def writing(path: Path, kind: type[HeatlineError] = InputError, *, or_else: str = "") -> Iterator[None]:
    """Translate an OSError of the context into an error that names the file or folder.

    Args:
        kind: class of the error to raise.
        or_else: another remedy for the message, e.g. ", or name another folder".
    Raises:
        HeatlineError: the file or folder cannot be written.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of our output is gone: no error of the file
        raise
    except OSError as error:
        raise kind(
            f"{path} cannot be written ({error.strerror}); check the disk and the permissions{or_else}"
        ) from error


def require_writable(folder: Path) -> Path:
    """Require that files can be made in a folder, by one without a name. Nothing of it stays.

    Returns: the folder, or where it does not exist, its nearest parent that does.

    Raises:
        OSError: none can be made there; `NotADirectoryError`: it is not a folder.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b"1")  # a full disk takes the file and not the byte
    return there
