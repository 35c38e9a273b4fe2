"""Hangs the stage that judges frames while a file `hang` is in the service's runtime directory.

Python imports a module of this name at its start. A drop-in puts this folder on the service's PYTHONPATH; heatline is
unchanged.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

HANG = Path(os.environ.get("RUNTIME_DIRECTORY", "/nowhere")) / "hang"


if "run" in sys.orig_argv:  # not in the processes of cameras
    from heatline.edge.inspection.inspector import Inspector

    finish = Inspector.finish

    def hangs_or_runs(*args: Any, **options: Any) -> Any:
        while HANG.exists():
            time.sleep(0.01)
        return finish(*args, **options)

    Inspector.finish = hangs_or_runs  # type: ignore[method-assign]
