"""The address of a line's pictures: a Unix socket that only the line's user and root can open."""

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from heatline.edge.errors import DeliveryError
from heatline.edge.util.systemd import LINES, RUNTIME_FOLDERS, runtime_folder

SOCKET_NAME = "pictures"
LONGEST_STEM = 40
"""Characters of a line's name in a socket's name: the path of a Unix socket has at most 107 bytes."""


def picture_socket(line: Path) -> Path:
    """Return the socket of the line that a file configures, for the line itself and for those who connect to it.

    A service has it in its runtime folder. The lines that a user runs by hand have theirs in a folder of the user.
    """
    service = runtime_folder()
    if service is None and line.absolute().parent == LINES and (RUNTIME_FOLDERS / line.stem).is_dir():
        service = RUNTIME_FOLDERS / line.stem
    if service is not None:
        return service / SOCKET_NAME
    digest = hashlib.sha256(os.fsencode(line.resolve())).hexdigest()[:12]
    return _folder_of_user() / f"{line.stem[:LONGEST_STEM]}-{digest}"


def make_private(folder: Path) -> None:
    """Create the folder of a socket if it does not exist.

    Raises:
        DeliveryError: it cannot be created, or others could put their own socket there.
    """
    try:
        folder.mkdir(0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise DeliveryError(f"the folder {folder} cannot be created: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise DeliveryError(
            f"{folder} belongs to another user, or others can write it; expected a folder of this user alone: delete it"
        )


def _folder_of_user() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "heatline"
    return Path(tempfile.gettempdir()) / f"heatline-{os.geteuid()}"
