"""Child processes of a line: how they are started, and when they are started again.

Run as `python -m heatline.edge.util.child_process LINE_PID MODULE ARGUMENT...`, this module runs another one that must
never be in the line's way: the kernel kills it when the line ends, however the line ends; it has a low priority, and
the lowest from `yield_processor` on; if memory is short, the kernel kills it before the line.
"""

import contextlib
import ctypes
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from heatline.edge.util.process import yield_processor

WITHHELD_VARIABLES = ("CACHE_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""Variables of systemd that are meant for the line's own process."""
STARTING_PRIORITY = 5
"""About a quarter of a core that inspection keeps busy. With the lowest, 0.5 s of imports took 38 s there."""


class Restarts:
    """When to start a process: at once, and after each failure later, with pauses that double, s."""

    def __init__(self, first_s: float, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_s, self._longest_s, self._clock = first_s, longest_s, clock
        self._pause_s = 0.0
        self.at_s = clock()

    @property
    def due(self) -> bool:
        return self._clock() >= self.at_s

    def later(self) -> float:
        """Schedule the next start after a failure; return the pause, s."""
        self._pause_s = min(max(2 * self._pause_s, self._first_s), self._longest_s)
        self.at_s = self._clock() + self._pause_s
        return self._pause_s

    def reset(self) -> None:
        """Return to the first pause, since the process works."""
        self._pause_s = 0.0

    def now(self) -> None:
        """Start as soon as possible, and return to the first pause."""
        self.at_s = self._clock()
        self.reset()


def start_child(module: str, *arguments: str, pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start a Python module as a child process. OSError: none can be started."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],  # -P: import nothing from the working directory
        stdin=subprocess.DEVNULL,
        stdout=sys.__stderr__,  # standard output is the line's
        env={name: value for name, value in os.environ.items() if name not in WITHHELD_VARIABLES},
        pass_fds=pass_fds,
        process_group=0,  # Ctrl-C in a terminal must reach the line only
    )


def start_sidecar(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a Python module as a child process that dies with this one and never is in its way."""
    return start_child(__name__, str(os.getpid()), module, *arguments)


def describe_end(code: int) -> str:
    """Return how a process ended, e.g. `was ended by SIGKILL`."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def main() -> None:
    """Become a child of the line that dies with it, and run the module."""
    line, module = int(sys.argv[1]), sys.argv[2]
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != line:  # the line ended before
        sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the line, which ends this process
    yield_processor(STARTING_PRIORITY)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # is killed first
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
