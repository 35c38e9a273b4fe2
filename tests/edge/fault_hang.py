"""Stages that hang: code put into a real line's process from outside, as `sitecustomize`."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

STAGES = {
    "infer": "edge.inspection.inspector:Inspector.start",
    "judge": "edge.inspection.inspector:Inspector.finish",
    "publish": "zmq:Socket.send_multipart",
}
"""What each stage calls for every frame."""

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

if any(os.path.basename(argument) == "heatline" for argument in sys.orig_argv):  # and no camera's process
    hang({name!r}, {hung!r})
"""


class Hang:
    """Hangs a line's stage while it is told to.

    Args:
        folder: a new one.
        stage: one of `STAGES`.
    """

    def __init__(self, folder: Path, stage: str) -> None:
        folder.mkdir()
        self._hung = folder / "hung"
        code = _CODE.replace("{name!r}", repr(STAGES[stage])).replace("{hung!r}", repr(str(self._hung)))
        (folder / "sitecustomize.py").write_text(code)
        self.env: Mapping[str, str] = {"PYTHONPATH": str(folder)}

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        self._hung.touch()
        try:
            yield
        finally:
            self._hung.unlink()
