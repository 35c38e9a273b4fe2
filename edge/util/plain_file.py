"""Reads untrusted files and configurations: only regular files, and never more bytes than a limit."""

import errno
import io
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

LARGEST_TOML = 4 << 20

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_plain(path: Path, *, follow: bool = False) -> io.BufferedReader:
    """Open a regular file for reading. A symbolic link could lead out of the folder, and a pipe may never end.

    Args:
        follow: a symbolic link may lead to the file.
    Raises:
        OSError: the path is not a regular file, or cannot be read; `strerror` describes it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | (0 if follow else os.O_NOFOLLOW) | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        require_plain(path.stat(follow_symlinks=follow).st_mode)  # a link or a socket cannot be opened at all
        raise
    try:
        require_plain(os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path, at_most: int, *, follow: bool = False) -> bytes:
    """Return all bytes of a regular file.

    Raises:
        OSError: as of `open_plain`, or the file has more than `at_most` bytes.
    """
    with open_plain(path, follow=follow) as file:
        data = file.read(at_most + 1)
    if len(data) > at_most:
        raise OSError(errno.EFBIG, f"it is larger than {at_most:,} bytes")
    return data


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file, to which a symbolic link may lead. It may begin with a byte order mark.

    Raises:
        OSError: as of `read_plain`.
        ValueError, RecursionError: it is not TOML or not UTF-8, or has a number with thousands of digits.
    """
    return tomllib.loads(read_plain(path, LARGEST_TOML, follow=True).decode("utf-8-sig"))


def require_plain(mode: int) -> None:
    """Require that a file's mode is a regular file's.

    Raises:
        OSError: it is another's; `strerror` says which.
    """
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, expected a plain file")
