"""A process that tests and benches start, stop, kill and await, and that never outlives them."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
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
        stdout: another file for its standard output.
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
        stdout: Path | None = None,
        cwd: Path | None = None,
        pipes: bool = False,
    ) -> None:
        self.name, self.command = name, command
        self._log, self._stdout, self._env, self._cwd, self._pipes = log, stdout or log, env or {}, cwd, pipes
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = True
        self.started_s = 0.0
        """Time of the start, by the monotonic clock."""

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def runs(self) -> bool:
        """Whether it was started, and neither killed nor seen to end. It may have ended by itself: see `check`."""
        return not self._is_over

    def start(self) -> None:
        assert not self.runs, f"{self.name} runs already"
        with contextlib.ExitStack() as files:
            log, stdout = (
                None if path is None else files.enter_context(path.open("ab")) for path in (self._log, self._stdout)
            )
            self._process = subprocess.Popen(
                [*_DIES_WITH_US, *self.command],
                bufsize=0,
                env={name: value for name, value in os.environ.items() if name not in _OF_SYSTEMD} | dict(self._env),
                cwd=self._cwd,
                stdin=subprocess.PIPE if self._pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._pipes else stdout,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal ends this process, which ends that one
            )
        self._is_over = False
        self.started_s = time.monotonic()

    def send_signal(self, number: signal.Signals) -> None:
        self._started().send_signal(number)

    def terminate(self) -> None:
        """Send SIGTERM and return at once."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL and wait until it is gone; do nothing if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._is_over = True

    def ask(self, line: bytes, within_s: float) -> bytes:
        """Write a line, if any, to its standard input, and return the next one of its standard output.

        Raises:
            BenchError: it has ended, or does not answer in time.
        """
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

    def pause(self) -> int:
        """Send SIGSTOP; returns the id of the process for `resume`."""
        self.send_signal(signal.SIGSTOP)
        return self.pid

    def resume(self, pid: int) -> None:
        """Send SIGCONT, unless another process was started since."""
        if self.runs and self.pid == pid:
            self.send_signal(signal.SIGCONT)

    def check(self) -> str | None:
        """Return why it ended if it ended by itself since the last call, and mark it as not running; else None."""
        if not self.runs or (code := self._started().poll()) is None:
            return None
        self._is_over = True
        return f"{self.name} ended with exit code {code}: {self.log_tail()}"

    def require_running(self) -> None:
        """Check that it has not ended.

        Raises:
            BenchError: it has.
        """
        if (code := self._started().poll()) is not None:
            raise BenchError(f"{self.name} ended with exit code {code}: {self.log_tail()}")

    def wait(self, within_s: float = END_WITHIN_S) -> int:
        """Wait for its end and return its exit code.

        Raises:
            BenchError: it did not end in time.
        """
        try:
            code = self._started().wait(within_s)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{self.name} did not end within {within_s:.0f} s; {self.log_tail()}") from error
        self._is_over = True
        return code

    def require_success(self, within_s: float = END_WITHIN_S) -> None:
        """Wait for its end with exit code 0.

        Raises:
            BenchError: it did not end in time, or failed.
        """
        if code := self.wait(within_s):
            raise BenchError(f"{self.name} ended with exit code {code}: {self.log_tail()}")

    def log(self) -> str:
        """Return its log."""
        assert self._log is not None, f"{self.name} has no log"
        return self._log.read_text(errors="replace")

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
