"""What is done about a file that cannot be used: training stops, a survey notes it and goes on."""

from collections.abc import Callable
from pathlib import Path

from edge.errors import InputError

OnUnusable = Callable[[Path, InputError], None]
"""Told of the file and what is wrong with it. If it returns, what the file was to tell is left out."""


def stop(file: Path, error: InputError) -> None:
    """The first file that cannot be used ends the reading."""
    raise error
