"""What a process's log ends with, for a sentence that says that it failed."""

import contextlib
from pathlib import Path

LINES_TOLD = 3


def log_tail(log: Path) -> str:
    """Its last lines, in words."""
    lines: list[str] = []
    with contextlib.suppress(OSError):  # it never came to write one
        lines = log.read_text(errors="replace").splitlines()[-LINES_TOLD:]
    return f"its log ends with: {'; '.join(lines)}" if lines else "its log is empty"
