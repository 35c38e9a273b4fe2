"""Folders that the group of the service may read, whatever the umask."""

import contextlib
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o750, 0o640


def make_folder(folder: Path) -> None:
    """Make a folder with its parents, as far as they do not exist. Let the group read one that is ours, also where an
    older heatline made it.

    Raises:
        OSError: it cannot be made.
    """
    for missing in reversed([each for each in folder.absolute().parents if not each.exists()]):
        missing.mkdir(exist_ok=True)
        missing.chmod(FOLDER_MODE | missing.stat().st_mode)
    folder.mkdir(FOLDER_MODE, exist_ok=True)
    mode = folder.stat().st_mode
    if FOLDER_MODE & ~mode:
        with contextlib.suppress(OSError):  # it is another user's, or on a read-only disk
            folder.chmod(FOLDER_MODE | mode)
