"""Atomic writing of files: a file is written to a temporary path, then moved to its place."""

from collections.abc import Callable
from pathlib import Path

from heatline.edge.errors import TrainingError
from heatline.edge.util.files import replacing


def write_atomically(file: Path, write: Callable[[Path], object]) -> None:
    """Replace `file` with what `write` writes to the path that it gets; a previous file stays if that fails.

    Raises:
        TrainingError: the disk is full, or cannot be written.
    """
    try:
        with replacing(file) as new:
            write(new)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise TrainingError(
            f"{file} cannot be written ({reason}); its previous content is unchanged: make room, then continue"
        ) from error
