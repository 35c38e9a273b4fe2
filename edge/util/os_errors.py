"""What the operating system refuses, as one of our own errors in a sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from edge.errors import HeatlineError, InputError


@contextlib.contextmanager
def writing(path: Path, kind: type[HeatlineError] = InputError, *, or_else: str = "") -> Iterator[None]:
    """Say that a file or folder cannot be written, if that fails.

    Args:
        kind: what is raised.
        or_else: what else to do about it, as in ", or name another folder".
    Raises:
        HeatlineError: it cannot be written.
    """
    try:
        yield
    except BrokenPipeError:  # whoever reads our output has gone: not the file's fault
        raise
    except OSError as error:
        raise kind(
            f"{path} cannot be written ({error.strerror}); check the disk and the permissions{or_else}"
        ) from error
