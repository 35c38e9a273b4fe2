"""Faults injected into a real line: stages that hang, and a clock that leaps."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.needs import need

STAGES = {
    "infer": "heatline.edge.inspection.inspector:Inspector.start",
    "judge": "heatline.edge.inspection.inspector:Inspector.finish",
    "publish": "zmq:Socket.send_multipart",
}
"""The function that each stage calls for every frame."""

_CODE = """
import functools, importlib, os, sys, time

def hang(name, while_there):
    module, _, path = name.partition(":")
    owner_name, _, method = path.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    real = getattr(owner, method)

    @functools.wraps(real)
    def hanging(*args, **kwargs):
        while os.path.exists(while_there):
            time.sleep(0.01)
        return real(*args, **kwargs)

    setattr(owner, method, hanging)

if any(os.path.basename(argument) == "heatline" for argument in sys.orig_argv):  # not in the processes of cameras
    hang({name!r}, {hung!r})
"""


def at_start(folder: Path, code: str) -> Mapping[str, str]:
    """Return environment variables with which Python runs `code` at its start, and has the same import path otherwise.

    Args:
        folder: a new folder for the code.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))}


class Hang:
    """Hangs a stage of a line within `hung`.

    Args:
        folder: a new folder.
        stage: one of `STAGES`.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        self._hung = folder / "hung"
        code = _CODE.replace("{name!r}", repr(STAGES[stage])).replace("{hung!r}", repr(str(self._hung)))
        self.env = at_start(folder, code)

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        self._hung.touch()
        try:
            yield
        finally:
            self._hung.unlink()


class LeapingClock:
    """A wall clock that leaps, for a process and its children; their monotonic clock is unchanged.

    Skips the test if libfaketime is not installed.

    Args:
        folder: for the file with the leap, which is read at every use of the clock.
    """

    def __init__(self, folder: Path) -> None:
        self._leap = folder / "leap"
        self.leap(0)
        self.env = {
            "LD_PRELOAD": need("libfaketime"),
            "FAKETIME_TIMESTAMP_FILE": str(self._leap),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",  # it would remain in /dev/shm
        }

    def leap(self, seconds: int) -> None:
        """Set the clock this far ahead of the true time, or behind it if negative."""
        new = self._leap.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        os.replace(new, self._leap)
