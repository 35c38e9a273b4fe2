"""A process that benches and the demo start, stop, kill and await, and that never outlives them."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from heatline.edge.errors import BenchError

HEATLINE: Sequence[str | Path] = (sys.executable, "-m", "heatline.edge.cli.main")
END_WITHIN_S = 30.0
LINES_SHOWN = 3
_OF_SYSTEMD = ("NOTIFY_SOCKET", "CACHE_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY", "WATCHDOG_USEC")
"""Variables of systemd that a process started here must not inherit."""
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--") if shutil.which("setpriv") else ()
"""If this process is killed, the kernel kills the started one too, which would disturb the next measurement."""


class WatchedProcess:
    """Runs from `start` until it ends, is killed, or the `with` block ends.

    Args:
        name: for messages.
        command: to run.
        log: file to which each run appends its output; None: the output of this process.
        env: added to the environment of this process.
        cwd: its working folder; None: that of this process.
        pipes: whether `ask` writes to its standard input and reads from its standard output.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path | None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pipes: bool = False,
    ) -> None:
        self.name, self.command = name, command
        self._log, self._env, self._cwd, self._pipes = log, env or {}, cwd, pipes
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._started().pid

    def start(self) -> None:
        assert self._process is None, f"{self.name} was started already"
        with contextlib.nullcontext() if self._log is None else self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_DIES_WITH_US, *self.command],
                bufsize=0,
                env={name: value for name, value in os.environ.items() if name not in _OF_SYSTEMD} | dict(self._env),
                cwd=self._cwd,
                stdin=subprocess.PIPE if self._pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._pipes else log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal ends this process, which ends that one
            )

    def send_signal(self, number: signal.Signals) -> None:
        self._started().send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL and wait until it is gone; do nothing if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def ask(self, line: bytes, within_s: float) -> bytes:
        """Write a line, if any, to its standard input, and return the next one of its standard output in time."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):  # then it has ended, and answers nothing
            process.stdin.write(line)
        if not select.select([process.stdout], [], [], within_s)[0]:
            raise BenchError(f"{self.name} did not answer within {within_s:.0f} s")
        if not (answer := process.stdout.readline()):
            raise BenchError(f"{self.name} has ended: {self.log_tail()}")
        return answer

    def require_running(self) -> None:
        """Raise a BenchError if it has ended."""
        if (code := self._started().poll()) is not None:
            raise BenchError(f"{self.name} ended with exit code {code}: {self.log_tail()}")

    def require_success(self, within_s: float = END_WITHIN_S) -> None:
        """Wait for its end; raise a BenchError if that is not in time with exit code 0."""
        try:
            code = self._started().wait(within_s)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{self.name} did not end within {within_s:.0f} s; {self.log_tail()}") from error
        if code:
            raise BenchError(f"{self.name} ended with exit code {code}: {self.log_tail()}")

    def log_tail(self) -> str:
        """Return the end of its log, as part of a sentence."""
        return "see above" if self._log is None else log_tail(self._log)

    def _started(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


def log_tail(log: Path) -> str:
    """Return the last lines of a log, as part of a sentence."""
    lines: list[str] = []
    with contextlib.suppress(OSError):  # it ended before it wrote one
        lines = log.read_text(errors="replace").splitlines()[-LINES_SHOWN:]
    return f"its log ends with: {'; '.join(lines)}" if lines else "its log is empty"
