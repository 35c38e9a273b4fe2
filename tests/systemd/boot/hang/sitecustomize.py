"""Has one stage of the service hang for as long as a file `hang` in its runtime directory names that stage.

Python imports a module of this name at its start. A drop-in puts it on the service's PYTHONPATH; nothing of heatline
knows of it.
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


if "run" in sys.orig_argv:  # and not in the cameras' processes
    import zmq

    from edge.inspection.inspector import Inspector

    Inspector.finish = hanging("stitch", Inspector.finish)  # type: ignore[method-assign]
    zmq.Socket.send_multipart = hanging("publish", zmq.Socket.send_multipart)  # type: ignore[method-assign]
