"""The handle of the bare engine's process (`engine_alone`)."""

import subprocess
import sys
from types import TracebackType
from typing import Self

import msgspec

from bench.end_to_end.engine_alone import Answer, Request
from edge.bundle import Bundle
from edge.errors import BenchError
from edge.inference import Precision
from edge.inference.engine import weights_of


class BareEngine:
    """Infers when it is asked to, and takes no processor time else. Running between `with` and its end."""

    def __init__(self, bundle: Bundle, precision: Precision) -> None:
        graph = bundle.manifest.graph_for(precision)
        assert graph is not None, "the bundle was proven in this precision"
        files = [str(bundle.path / name) for name in (graph, weights_of(graph))]
        tile_px = str(bundle.manifest.grid.tile_px)
        self._command = [sys.executable, "-m", "bench.end_to_end.engine_alone", *files, precision, tile_px]

    def ask(self, request: Request) -> Answer:
        """Have it infer, and wait for what came of it.

        Raises:
            BenchError: its process has ended.
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
            raise BenchError(f"the bare engine's process ended with {self._process.wait()}; see above")
        return msgspec.json.decode(line, type=Answer)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
