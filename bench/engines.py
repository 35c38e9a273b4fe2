"""Engines that are timed: the bare engine, the line's engine, and the process that loads one.

A bench must not map the engine's libraries itself: shared with a service, they would count half in the service, and
their files would stay in memory.
"""

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from heatline.edge.bundle import Bundle, VerifiedEngine, open_verified_engine
from heatline.edge.errors import BenchError, HeatlineError, last_line
from heatline.edge.frames import Frame
from heatline.edge.inference import Engine, Precision
from heatline.edge.inference.engine import DIFFERENCE, weights_of
from heatline.edge.inspection.inspector import PendingFrame
from heatline.edge.inspection.pipeline import FRAMES_WITH_ENGINE

if TYPE_CHECKING:
    import openvino as ov

BATCHES = (1, 2, 4, 8, 16, 32)
Made = TypeVar("Made")
Found = TypeVar("Found")


def read_graph(path: Path) -> "ov.Model":
    """Read an IR of a bundle."""
    from heatline.edge.inference.devices import shared_core

    return shared_core().read_model(path, path.with_name(weights_of(path.name)))


class BareEngine:
    """A graph in OpenVINO and nothing else: no pixel moves, and answers are read only on demand.

    One request per stream and one more, which infer the same tiles again and again.

    Args:
        model: gets the shape of the tiles.
        tiles: [batch, tile, tile, 3], which every request infers.
        difference: [batch, cells, cells, channels], if the graph compares.
    Raises:
        BenchError: OpenVINO cannot run the graph.
        PrecisionError: the processor has no such precision.
    """

    def __init__(
        self,
        model: "ov.Model",
        precision: Precision,
        tiles: NDArray[np.uint8],
        difference: NDArray[np.uint8] | None = None,
        *,
        threads: int,
        streams: int,
    ) -> None:
        from openvino import AsyncInferQueue

        from heatline.edge.inference.devices import require_bf16, shared_core

        hint = "bf16" if precision == "bf16" else "f32"
        if hint == "bf16":
            require_bf16(shared_core(), "CPU")
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
        }
        inputs = {"tiles": tiles} if difference is None else {"tiles": tiles, DIFFERENCE: difference}
        try:
            model.reshape({name: list(values.shape) for name, values in inputs.items()})
            compiled = shared_core().compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise BenchError(f"OpenVINO cannot run the graph: {last_line(error)}") from error
        self.batch, self.threads, self.streams = len(tiles), threads, streams
        self._requests = AsyncInferQueue(compiled, streams + 1)
        for request in self._requests:
            for name, values in inputs.items():
                request.get_tensor(name).data[:] = values

    def run(self, requests: int) -> None:
        """Run a number of requests of `batch` tiles; return when all are answered."""
        for _ in range(requests):
            self._requests.start_async()
        self._requests.wait_all()

    def tiles_per_s(self, seconds: float) -> float:
        """Measure its rate while it is busy, without start and end."""
        for _ in range(self.streams + 2):  # from here on, each start waits for an answer
            self._requests.start_async()
        began, answers = perf_counter(), 0
        while perf_counter() - began < seconds or not answers:
            self._requests.start_async()
            answers += 1
        took = perf_counter() - began
        self._requests.wait_all()
        return answers * self.batch / took

    def answers(self) -> list[dict[str, NDArray[np.float32]]]:
        """Return the last answer of each request, by the output's name: `logit` [batch], `map` [batch, h, w] if any."""
        return [
            {
                name: request.get_tensor(name).data.copy()
                for output in request.model_outputs
                for name in output.get_names()
            }
            for request in self._requests
        ]


def find_wrong_answer(engine: BareEngine, expected: NDArray[np.float32], tolerance: float) -> str | None:
    """Return how an answer differs from that which the same tiles must have; None: all are right.

    Args:
        expected: logits [batch].
        tolerance: share of the largest of them.
    """
    allowed = tolerance * max(1.0, float(np.abs(expected).max()))
    for answer in engine.answers():
        off = float(np.abs(answer["logit"] - expected).max())
        if not off <= allowed:
            return f"its logits are off by {off:.4g}, allowed are {allowed:.4g}"
    return None


class Settings(msgspec.Struct, frozen=True):
    """Settings of an engine."""

    streams: int
    batch: int
    """Tiles per request."""

    def __str__(self) -> str:
        return f"{self.streams} streams of {self.batch} tiles"


def all_settings(cores: int, batches: Sequence[int] = BATCHES) -> list[Settings]:
    """Return the settings to try: a stream per core, one for two, or one; each with all numbers of tiles a request.

    >>> [(each.streams, each.batch) for each in all_settings(2)][:7]
    [(2, 1), (2, 2), (2, 4), (2, 8), (2, 16), (2, 32), (1, 1)]
    """
    streams = dict.fromkeys((cores, max(1, cores // 2), 1))
    return [Settings(each, batch) for each in streams for batch in batches]


@contextmanager
def in_own_process(make: Callable[..., Made], *arguments: object) -> Iterator[Made]:
    """Make an object in another process; its methods are called here and run there, one at a time.

    Args:
        make: makes the object there; a function of a module, as it is pickled.
    Raises:
        HeatlineError: of `make`, and later of a method.
        BenchError: the process has ended.
    """
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make, arguments), daemon=True)
    process.start()
    there.close()
    try:
        remote = _Remote(process, here)
        remote.answer()
        yield cast(Made, remote)
    finally:
        process.kill()
        process.join()
        here.close()


class _Remote:
    """Proxy of the object."""

    def __init__(self, process: SpawnProcess, connection: Connection) -> None:
        self._process, self._connection = process, connection

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: object) -> Any:
            self._connection.send((method, arguments))
            return self.answer()

        return call

    def answer(self) -> Any:
        """Return the result of the last call."""
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join()
            code = self._process.exitcode
            raise BenchError(f"a bench's process ended with {code}; its output is above, report this") from error
        if isinstance(answer, HeatlineError):
            raise answer
        return answer


def _serve(bench: Connection, make: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    """Make the object, and call its methods until the bench has ended or was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the bench handles Ctrl-C, and ends this process
    os.dup2(2, 1)  # what a library prints is not a result

    def answered(call: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
        try:
            return call(*arguments)
        except HeatlineError as error:
            return error

    made = answered(make, arguments)
    bench.send(made if isinstance(made, HeatlineError) else None)
    while True:
        try:
            method, arguments = bench.recv()
        except EOFError:
            return
        bench.send(answered(getattr(made, method), arguments))


def engine_in(bundle: Bundle, precision: Precision, *, batch: int = 0) -> VerifiedEngine:
    """Open OpenVINO's engine, verified on this machine. A line would fall back to f32, a bench must not.

    Args:
        batch: as in `open_verified_engine`.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        BenchError: it cannot be used in that precision.
    """
    verified = open_verified_engine(bundle, "openvino", precision, batch=batch)
    if verified.fell_back is not None:
        verified.engine.close()
        reason = verified.fell_back.partition(";")[0]  # its advice is for a line
        raise BenchError(f"{precision} cannot be timed on this machine: {reason}; choose another --precision")
    return verified


def inspect_pipelined(
    engine: Engine,
    start: Callable[[Frame], PendingFrame],
    frames: Iterable[Frame],
    finish: Callable[[PendingFrame], Found],
) -> list[Found]:
    """Start frames and collect the engine's answers, while another thread judges.

    Args:
        start: `Inspector.start`, or a function that calls it.
        finish: runs in the other thread and ends a frame's inspection.
    Returns:
        what `finish` returned for each frame, in order.
    """
    found: list[Found] = []
    waiting: deque[Future[Found]] = deque()
    with ThreadPoolExecutor(1) as judge:
        for frame in frames:
            if len(waiting) == FRAMES_WITH_ENGINE:
                while not waiting[0].done() and engine.collect():
                    pass
                found.append(waiting.popleft().result())
            waiting.append(judge.submit(finish, start(frame)))
        engine.drain()
        found += [one.result() for one in waiting]
    return found
