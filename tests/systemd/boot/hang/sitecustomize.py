"""Hangs a stage of the service while a file `hang` in the service's runtime directory names the stage.

Python imports a module of this name at its start. A drop-in puts this folder on the service's PYTHONPATH; heatline is
unchanged.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HANG = Path(os.environ.get("RUNTIME_DIRECTORY", "/nowhere")) / "hang"


def hanging(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def hangs_or_runs(*args: Any, **options: Any) -> Any:
        while HANG.exists() and HANG.read_text() == stage:
            time.sleep(0.01)
        return function(*args, **options)

    return hangs_or_runs


if "run" in sys.orig_argv:  # not in the processes of cameras
    import zmq

    from heatline.edge.inspection.inspector import Inspector

    Inspector.finish = hanging("stitch", Inspector.finish)  # type: ignore[method-assign]
    zmq.Socket.send_multipart = hanging("publish", zmq.Socket.send_multipart)  # type: ignore[method-assign]
