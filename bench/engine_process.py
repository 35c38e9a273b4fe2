"""The engine that is timed, and the process that loads it.

A bench must not map the engine's libraries itself: shared with a service, they would count half in the service, and
their files would stay in memory.
"""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar, cast

from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.bundle.verified_engine import VerifiedEngine, open_verified_engine
from heatline.edge.errors import BenchError, HeatlineError
from heatline.edge.inference import Precision

Made = TypeVar("Made")


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


def require_engine_in(bundle: Bundle, precision: Precision) -> None:
    """Check, in another process, that `engine_in` can open it.

    Raises:
        BundleError, EngineError, BenchError: as `engine_in`.
    """
    with in_own_process(_open_and_close, bundle.path, precision):
        pass


def _open_and_close(path: Path, precision: Precision) -> None:
    logging.disable()  # the error says what its warning would
    engine_in(open_bundle(path), precision).engine.close()
