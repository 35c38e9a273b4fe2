"""The handle of the bare engine's process (`engine_alone`)."""

import subprocess
import sys
from types import TracebackType
from typing import Self

import msgspec

from bench.end_to_end.requests import Answer, Job, Request
from edge.errors import BenchError


class BareEngine:
    """Infers when it is asked to, and takes no processor time else. Running between `with` and its end."""

    def __init__(self, job: Job) -> None:
        self._command = [sys.executable, "-m", "bench.end_to_end.engine_alone", msgspec.json.encode(job).decode()]

    def ask(self, request: Request) -> Answer:
        """Have it infer, and wait for what came of it.

        Raises:
            BenchError: it cannot, or its process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(msgspec.json.encode(request) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            code = self._process.wait()
            raise BenchError(f"the bare engine's process ended with {code}; what it said is above, report this")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error is not None:
            raise BenchError(answer.error)
        return answer

    def __enter__(self) -> Self:
        # A group of its own: Ctrl-C in a terminal is for the bench, which ends it.
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
