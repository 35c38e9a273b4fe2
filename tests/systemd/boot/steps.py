"""Runs steps in turn, and records the result of each."""

import json
import textwrap
import time
import traceback
from collections.abc import Callable
from typing import Any

from common import events
from machine import OUT

LONGEST_SUMMARY = 110
"""Longest summary in the log, in characters; the tests read the complete results."""

Step = Callable[[], dict[str, Any]]
"""Returns its result; the log has its `summary`."""


class Steps:
    """Writes each result to a file at once, so that no fault loses it."""

    def __init__(self) -> None:
        self._results: dict[str, dict[str, Any]] = {}
        self._log = (OUT / "log.txt").open("w", buffering=1)

    def run(self, name: str, step: Step) -> bool:
        """Run a step; return whether it raised no error. After an error, later steps would prove nothing."""
        began, mark = time.monotonic(), events.mark()
        try:
            result = step()
        except Exception as error:
            result = {"summary": f"FAILED: {error}", "failed": traceback.format_exc()}
        result["events"] = [mark, events.mark()]
        self._results[name] = result
        (OUT / "steps.json").write_text(json.dumps(self._results, indent=1))
        summary = textwrap.shorten(str(result["summary"]), LONGEST_SUMMARY, placeholder=" ...")
        self._log.write(f"{time.monotonic() - began:5.1f} s  {name.replace('_', ' '):28} {summary}\n")
        return "failed" not in result
