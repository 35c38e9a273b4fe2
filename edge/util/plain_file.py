"""Reading files that a stranger may have laid out: only plain ones, and never more of them than is wanted."""

import errno
import io
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_plain(path: Path) -> io.BufferedReader:
    """Open a plain file to read. A symbolic link would lead out of the folder, and a pipe would never end.

    Raises:
        OSError: it is another kind of thing, or cannot be read; `strerror` says which.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        mode = os.fstat(descriptor).st_mode
    except OSError:
        mode = path.lstat().st_mode  # a link or a socket cannot even be opened
        if stat.S_ISREG(mode):
            raise
        raise _other_kind(mode) from None
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _other_kind(mode)
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path, at_most: int) -> bytes:
    """All bytes of a plain file.

    Raises:
        OSError: as above, or there are more than `at_most` bytes.
    """
    with open_plain(path) as file:
        data = file.read(at_most + 1)
    if len(data) > at_most:
        raise OSError(errno.EFBIG, f"it is larger than {at_most:,} bytes")
    return data


def _other_kind(mode: int) -> OSError:
    return OSError(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'something else')}, expected a plain file")
