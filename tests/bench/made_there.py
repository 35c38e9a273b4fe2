"""What a test makes in another process, which imports this module: quickly, as it imports little."""

import os
import signal
from pathlib import Path

from heatline.edge.errors import BenchError


def fail_at_once(path: Path) -> None:
    raise BenchError(f"there is no bundle in {path}")


class Doomed:
    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
