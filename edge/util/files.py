"""Files and folders: atomic writes, locks, modes, and reading what others wrote."""

import contextlib
import errno
import fcntl
import os
import tempfile
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heatline.edge.errors import HeatlineError, InputError


@contextlib.contextmanager
def replacing(path: Path, *, unique: bool = False) -> Iterator[Path]:
    """Provide a temporary path to write to, whose file replaces `path` at the end of the context.

    If `path` is a link, the file that it points to is replaced. A device or a pipe is written to directly.

    The data are on the disk when the file is replaced. After an error, the old file stays and the temporary file is
    removed. The new directory entry survives a power cut only after `sync_folder`.

    Args:
        unique: allow several processes, also of other machines, to write at once, each to a path of its own; the last
            one to end wins.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path))  # `Path.resolve` raises on circular links
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex if unique else 'new'}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # it may never have been created
            temporary.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, so that they survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_locked(path: Path, flags: int, mode: int = 0o640, *, wait: bool = False) -> int:
    """Open a file or a folder, and lock it against other processes while the descriptor is open. The kernel releases
    the lock when the process ends, however it ends.

    Raises:
        BlockingIOError: another process has locked it, and `wait` is not set.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(fd)
        raise
    return fd


FOLDER_MODE, FILE_MODE = 0o750, 0o640


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, as far as they do not exist, and let the group read what is made."""
    there = folder.absolute()
    for missing in reversed([each for each in (there, *there.parents) if not each.exists()]):
        missing.mkdir(exist_ok=True)
        missing.chmod(FOLDER_MODE | missing.stat().st_mode)
    folder.mkdir(exist_ok=True)  # fails on a file


@contextlib.contextmanager
def writing(path: Path, kind: type[HeatlineError] = InputError, *, or_else: str = "") -> Iterator[None]:
    """Translate an OSError of the context into an error of class `kind` that names the file or folder, and another
    remedy, e.g. ", or name another folder".
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
    """Require that files can be made in a folder, by one without a name of which nothing stays. Return the folder, or
    where it does not exist, its nearest parent that does. OSError: none can be made there.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b"1")  # a full disk takes the file and not the byte
    return there


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file, which may begin with a byte order mark.

    Raises:
        OSError: it cannot be read.
        ValueError, RecursionError: it is not TOML or not UTF-8, or has a number with thousands of digits.
    """
    return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
