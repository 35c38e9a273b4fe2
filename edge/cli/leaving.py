"""The way out of a process in which an engine may still be at work."""

import contextlib
import os
import sys
from typing import NoReturn

from edge.cli.output import ReaderHasGoneError
from edge.errors import InputError


def leave_at_once(code: int) -> NoReturn:
    """End the process, as a command may have stopped while an engine was still at work.

    The interpreter's own way out trips over the engine's threads as they answer, and aborts. All that a command had to
    put in order, it has.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, InputError, ReaderHasGoneError):  # it takes no more, which is said already
            stream.flush()
    os._exit(code)
