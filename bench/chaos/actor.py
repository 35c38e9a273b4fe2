"""A process that is killed, stopped and started again, and that is gone at the end whatever happens."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.log_tail import log_tail
from edge.errors import BenchError

HEATLINE = (sys.executable, "-m", "edge.cli.main")
END_WITHIN_S = 30.0


class Actor:
    """Running from `start` until it is killed, and no longer than until the end of `with`.

    Args:
        command: what it runs.
        log: file for all that its lives write.
        env: beside this process's own.
        said: file for what they write to standard output; None: the log.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        said: Path | None = None,
    ) -> None:
        self.name, self.command = name, command
        self._log, self._said, self._env = log, said or log, env or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.started_s = self.started_at_s = 0.0
        """Monotonic, and since 1970."""

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} does not run"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """It was started, and not killed or ended since. It may have ended by itself: see `check`."""
        return self._process is not None

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.started_s

    def start(self) -> None:
        assert self._process is None, f"{self.name} runs already"
        with self._log.open("ab") as log, self._said.open("ab") as said:
            self._process = subprocess.Popen(
                [*_dying_with_us(), *self.command],
                env={**os.environ, **self._env, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=log,
                start_new_session=True,  # a terminal's Ctrl-C is for the bench alone
            )
        self.started_s, self.started_at_s = time.monotonic(), time.time()

    def kill(self) -> None:
        """SIGKILL, and until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGSTOP; returns the id of the process to `go_on`."""
        os.kill(self.pid, signal.SIGSTOP)
        return self.pid

    def go_on(self, pid: int) -> None:
        """SIGCONT, unless it is another process by now."""
        if self._process is not None and self._process.pid == pid:
            self._process.send_signal(signal.SIGCONT)

    def check(self) -> str | None:
        """What is wrong where it has ended by itself, in words; it does not run then."""
        if self._process is None or self._process.poll() is None:
            return None
        code, self._process = self._process.returncode, None
        return f"{self.name} ended with exit code {code}: {self.log_in_words()}"

    def end(self) -> int:
        """SIGTERM; its exit code.

        Raises:
            BenchError: it did not end.
        """
        assert self._process is not None, f"{self.name} does not run"
        self._process.terminate()
        try:
            return self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{self.name} did not end within {END_WITHIN_S:.0f} s of SIGTERM") from error
        finally:
            self.kill()

    def log_in_words(self) -> str:
        return log_tail(self._log)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()


def _dying_with_us() -> list[str]:
    """In front of a command: where this process is killed, the kernel kills that one as well."""
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL", "--"]
