"""Which product was selected last: a line that starts again after a fault must not inspect another one in silence."""

import contextlib
import os
from pathlib import Path

FILE_NAME = "product"


def remembered_product(folder: Path | None) -> str | None:
    """The product that was selected last; None where none ever was, or nothing is kept.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    if folder is None:
        return None
    try:
        return (folder / FILE_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def remember_product(folder: Path | None, product: str) -> None:
    """Keep it; either the old or the new one is there, whatever happens meanwhile.

    Raises:
        OSError: it cannot be written, and the old one is there still.
    """
    if folder is None:
        return
    new = folder / f"{FILE_NAME}.new"
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(product)
            file.flush()
            os.fsync(file.fileno())
        new.rename(folder / FILE_NAME)
        _write_down(folder)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _write_down(folder: Path) -> None:
    """Have a folder's entries outlive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
