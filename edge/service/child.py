"""Runs a module as a child of the line: `python -m heatline.edge.service.child LINE_PID MODULE ARGUMENT...`.

The kernel kills the child when the line ends, however it ends. The child starts with a low priority, and has the lowest
from `yield_processor` on, so that inspection has the processor first. If memory is short, the kernel kills the child
before it kills the line.
"""

import contextlib
import ctypes
import os
import runpy
import signal
import sys
from pathlib import Path

from heatline.edge.util.processor import yield_processor

STARTING_PRIORITY = 5
"""About a quarter of a core that inspection keeps busy. With the lowest, 0.5 s of imports took 38 s there."""
KILLED_FIRST = "1000"
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become a child of the line that dies with it, and run the module."""
    line, module = int(sys.argv[1]), sys.argv[2]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != line:  # the line ended before
        sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the line, which ends this process
    yield_processor(STARTING_PRIORITY)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(KILLED_FIRST, encoding="ascii")
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
