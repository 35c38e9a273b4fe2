"""A wall clock that leaps, for one process and its children: libfaketime. The monotonic clock stays as it is."""

import os
from pathlib import Path

import pytest


class LeapingClock:
    """Skips where libfaketime is not installed.

    Args:
        folder: where the leap is written, which every look at the clock reads.
    """

    def __init__(self, folder: Path) -> None:
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not libraries:
            pytest.skip("libfaketime is not installed")
        self._leap = folder / "leap"
        self.leap(0)
        self.env = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._leap),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def leap(self, seconds: int) -> None:
        """Set the clock so far before or behind the true time."""
        new = self._leap.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        os.replace(new, self._leap)
