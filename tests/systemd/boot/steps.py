"""Carries steps out, one after the other, and keeps what each saw."""

import json
import textwrap
import time
import traceback
from collections.abc import Callable
from typing import Any

from machine import OUT
from scene import events

LONGEST_TOLD = 110
"""Characters: the log is read by people, the rest of what was seen by the tests."""

Step = Callable[[], dict[str, Any]]
"""Gives what it saw; `told` of it is the log's line."""


class Steps:
    """What was seen is kept in files, so that it outlives whatever happens."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, Any]] = {}
        self._log = (OUT / "log.txt").open("w", buffering=1)

    def take(self, name: str, step: Step) -> bool:
        """Whether it could be carried out; what comes after one that could not would mean nothing."""
        began, mark = time.monotonic(), events.mark()
        try:
            seen = step()
        except Exception as error:
            seen = {"told": f"FAILED: {error}", "failed": traceback.format_exc()}
        seen["events"] = [mark, events.mark()]
        self._seen[name] = seen
        (OUT / "steps.json").write_text(json.dumps(self._seen, indent=1))
        told = textwrap.shorten(str(seen["told"]), LONGEST_TOLD, placeholder=" ...")
        self._log.write(f"{time.monotonic() - began:5.1f} s  {name.replace('_', ' '):28} {told}\n")
        return "failed" not in seen
