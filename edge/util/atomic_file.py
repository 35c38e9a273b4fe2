"""Files that are whole or not there: written beside their place, then moved onto it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, unique: bool = False) -> Iterator[Path]:
    """Give a path to write to, whose file takes the place of `path` at the end of the context.

    Of a link, the file that it names is replaced. What is no file, as a device or a pipe, is written to itself.

    Its data are on the disk by then. If anything fails, what was at `path` stays, and nothing else is left. The new
    name itself outlives a power cut only after `sync_folder`.

    Args:
        unique: let several processes write at once, each to a path of its own; the last one to end replaces the others.
    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = Path(os.path.realpath(path))  # `Path.resolve` trips over links that go in circles
    new = path.with_name(f".{path.name}.{os.getpid() if unique else 'new'}")
    try:
        yield new
        with new.open("rb") as written:
            os.fsync(written.fileno())
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # it could not even be made, which is said already
            new.unlink()
        raise


def sync_folder(folder: Path) -> None:
    """Have a folder's entries outlive a power cut.

    Raises:
        OSError: it cannot be done.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
