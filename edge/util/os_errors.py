"""Translates errors of the operating system into the package's own errors."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edge.errors import HeatlineError, InputError


@contextlib.contextmanager
def writing(path: Path, kind: type[HeatlineError] = InputError, *, or_else: str = "") -> Iterator[None]:
    """Translate an OSError of the context into an error that names the file or folder.

    Args:
        kind: class of the error to raise.
        or_else: another remedy for the message, e.g. ", or name another folder".
    Raises:
        HeatlineError: the file or folder cannot be written.
    """
    try:
        yield
    except BrokenPipeError:  # the reader of our output is gone: no error of the file
        raise
    except OSError as error:
        raise kind(
            f"{path} cannot be written ({error.strerror}); check the disk and the permissions{or_else}"
        ) from error
