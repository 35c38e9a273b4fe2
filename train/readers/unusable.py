"""Handling of files that cannot be used: training stops at the first; a folder's summary records each and continues."""

from collections.abc import Callable
from pathlib import Path

from heatline.edge.errors import InputError

OnUnusable = Callable[[Path, InputError], None]
"""Called with the file and the error. If it returns, reading continues without the file's content."""


def stop(file: Path, error: InputError) -> None:
    """Raise the error: reading ends at the first file that cannot be used."""
    raise error
