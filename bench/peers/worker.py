"""A system in a process of its own, which gets ready and runs all frames on request."""

import json
import select
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.bench.watched_process import log_tail
from heatline.edge.errors import BenchError

SERVE = Path(__file__).parent / "workers" / "serve.py"
REPLY_WITHIN_SECONDS = 600.0
"""Longest time of one step: the slowest system's first frames on a slow machine."""


class Tried(msgspec.Struct, frozen=True):
    """Settings that were tried on all frames."""

    settings: dict[str, Any]
    frames_per_s: float
    """Median of the rounds with the other finalists; of other settings the better of two calls."""
    turns: int = 0


class Ready(msgspec.Struct, frozen=True):
    """A system that is warm and has its fastest settings."""

    settings: dict[str, Any]
    tried: list[Tried]
    libraries: dict[str, str]


@dataclass(frozen=True)
class Turn:
    """One run of all frames."""

    seconds: float
    laps: dict[str, float]
    """Seconds of its parts."""
    answers: Mapping[str, NDArray[Any]]
    """As summed up by `workers/serve.py`."""


def format_settings(settings: Mapping[str, object]) -> str:
    """Format settings for people.

    >>> format_settings({"streams": 2, "batch": 8})
    'streams 2, batch 8'
    """
    return ", ".join(f"{name} {value}" for name, value in settings.items())


class Worker:
    """A process that runs one system for the duration of the `with` block.

    Args:
        name: of the system, for messages.
        python: a Python that has its libraries.
        module: in `workers/`, or the name of a module that this Python can import.
        job: file of the job.
        folder: working folder of the process, for its log and its answers.
    """

    def __init__(self, name: str, python: Path, module: str, job: Path, folder: Path) -> None:
        self.name, self._folder = name, folder
        self._command = [str(python), str(SERVE), module, str(job)]
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_file: IO[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is not running"
        return self._process.pid

    def become_ready(self, report_line: Callable[[str], None]) -> Ready:
        """Wait until it has chosen its settings and is warm.

        Args:
            report_line: takes a line of progress.
        Raises:
            BenchError: it failed, or took too long.
        """
        while "ready" not in (reply := self._reply()):
            report_line(f"{self.name}: trying {format_settings(reply['trying'])}")
        return msgspec.convert(reply["ready"], Ready)

    def turn(self) -> Turn:
        """Run all frames; the process is idle before and after.

        Raises:
            BenchError: it failed, or took too long.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        answers = self._folder / f"{self.name}.npz"
        try:
            self._process.stdin.write(json.dumps({"answers": str(answers)}).encode() + b"\n")
        except OSError as error:
            raise BenchError(f"{self.name} has ended: {log_tail(self._log)}") from error
        reply = self._reply()
        with np.load(answers) as summed_up:
            return Turn(reply["seconds"], reply["laps"], dict(summed_up))

    def __enter__(self) -> Self:
        self._log_file = self._log.open("wb")
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log_file,
                bufsize=0,  # `select` does not see what a buffer holds
                cwd=self._folder,  # anomalib leaves a cache where it runs
                start_new_session=True,  # the bench handles Ctrl-C, and ends its workers
            )
        except OSError as error:
            self._log_file.close()
            raise BenchError(f"{self._command[0]} cannot be run ({error.strerror}); name another Python") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._log_file is not None
        self._process.kill()  # it has nothing to save
        self._process.communicate()
        self._log_file.close()

    def _reply(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], REPLY_WITHIN_SECONDS)[0]:
            raise BenchError(f"{self.name} did not answer within {REPLY_WITHIN_SECONDS:.0f} s; give a smaller --size")
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"{self.name} has ended: {log_tail(self._log)}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise BenchError(f"{self.name} failed: {reply['error']}")
        return reply
