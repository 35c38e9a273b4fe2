"""Files that are whole or not there: written beside their place, then moved onto it."""

from collections.abc import Callable
from pathlib import Path

from edge.errors import TrainingError
from edge.util.atomic_file import replacing


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Replace `file` by what `write` puts into the path it is given; what was there before stays if that fails.

    Raises:
        TrainingError: the disk is full, or cannot be written.
    """
    try:
        with replacing(file) as new:
            write(new)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk in a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise TrainingError(
            f"{file} cannot be written ({reason}); what was there before is kept: make room, then go on"
        ) from error
