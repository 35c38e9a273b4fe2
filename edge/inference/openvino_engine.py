"""OpenVINO on the processor: one request more than streams, so that the next is filled meanwhile."""

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from edge.errors import EngineError, PrecisionError, last_line
from edge.inference.engine import (
    ANSWER_WITHIN_SECONDS,
    LOOK_FOR_FAILURES_EVERY_SECONDS,
    OPENVINO_GRAPH,
    Done,
    Engine,
    EngineKind,
    Failed,
    Fill,
    Precision,
    weights_of,
)

logger = logging.getLogger(__name__)

LAST_STEPS_SECONDS = 0.1


class OpenVinoEngine(Engine):
    name: EngineKind = "openvino"

    def __init__(
        self,
        folder: Path,
        tile_px: int,
        *,
        precision: Precision = "f32",
        graph: str = OPENVINO_GRAPH,
        threads: int = 0,
        streams: int = 0,
        batch: int = 0,
    ) -> None:
        self.precision = precision
        self.batch = batch or 1  # with a stream per core, one tile per request was fastest and wastes no partial batch
        threads = threads or len(os.sched_getaffinity(0))
        hint = "bf16" if precision == "bf16" else "f32"  # what an int8 graph does not quantise is f32
        settings = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": hint,  # never by default: some processors would take bf16 unasked
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams or threads,
        }
        try:
            core = ov.Core()
            # Weights in use must not change, nor end in SIGBUS, where somebody writes over the bundle's files.
            core.set_property({"ENABLE_MMAP": False})
            model = core.read_model(folder / graph, folder / weights_of(graph))
            model.reshape({"tiles": [self.batch, tile_px, tile_px, 3]})
            compiled = core.compile_model(model, "CPU", settings)
            effective = _effective_precision(compiled)
            idle: queue.SimpleQueue[_Request] = queue.SimpleQueue()
            requests = [_Request(compiled.create_infer_request(), idle) for _ in range((streams or threads) + 1)]
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot use {folder / graph}: {last_line(error)}") from error
        if effective != hint:
            raise PrecisionError(
                f"this processor has no {hint}, OpenVINO would compute in {effective} instead; choose another precision"
            )
        self._compiled = compiled
        self._idle, self._requests = idle, requests
        for request in self._requests:
            self._idle.put(request)

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        self._take().start(count, fill, done, failed)

    def drain(self) -> None:
        taken = [self._take() for _ in self._requests]
        for request in taken:
            self._idle.put(request)

    def close(self) -> None:
        for request in [self._take() for _ in self._requests]:  # out of the queue, which they know: that is a cycle
            request.let_go()
        # A thread of OpenVINO that was just in a callback has some steps left. Were it the last to know the graph, it
        # would have to await its own end, and the process would abort.
        time.sleep(LAST_STEPS_SECONDS)

    def find_failures(self) -> None:
        for request in self._requests:
            request.look()

    def _take(self) -> "_Request":
        give_up = time.monotonic() + ANSWER_WITHIN_SECONDS
        while True:
            try:
                return self._idle.get(timeout=LOOK_FOR_FAILURES_EVERY_SECONDS)
            except queue.Empty:
                self.find_failures()
                if time.monotonic() > give_up:
                    raise EngineError(f"OpenVINO did not answer within {ANSWER_WITHIN_SECONDS:.0f} s") from None


class _Request:
    """One inference request: idle, or at work for one `done`."""

    def __init__(self, request: ov.InferRequest, idle: "queue.SimpleQueue[_Request]") -> None:
        self._request, self._idle = request, idle
        self._tiles: NDArray[np.uint8] = request.get_tensor("tiles").data
        self._logit: NDArray[np.float32] = request.get_tensor("logit").data
        self._map: NDArray[np.float32] = request.get_tensor("map").data
        self._count = 0
        self._done: Done | None = None
        self._failed: Failed | None = None
        """Set while at work."""
        self._lock = threading.RLock()
        answer = partial(self._answer)  # an object of its own: a bound method is another one each time
        self._callback = weakref.ref(answer)
        request.set_callback(answer, None)
        _alive.add(self)

    def start(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        try:
            fill(self._tiles[:count])
            with self._lock:
                self._count, self._done, self._failed = count, done, failed
                self._request.start_async()
        except Exception as error:
            self._failed = None
            self._idle.put(self)
            failed(error)

    def await_answer(self) -> None:
        with contextlib.suppress(RuntimeError):  # an inference that failed is over too
            self._request.wait_for(int(ANSWER_WITHIN_SECONDS * 1e3))

    def let_go(self) -> None:
        """OpenVINO keeps the callback, which keeps this, which keeps the compiled graph: for ever, if left so."""
        self._request.set_callback(_do_nothing, None)
        give_up = time.monotonic() + ANSWER_WITHIN_SECONDS
        while self._callback() is not None and time.monotonic() < give_up:  # its thread is still in there
            time.sleep(0.001)

    def look(self) -> None:
        """OpenVINO does not call back for an inference that failed: ask whether this one did."""
        with self._lock:
            if self._failed is None:
                return
            try:
                self._request.wait_for(0)
                return
            except RuntimeError as error:
                failed, reason, self._failed = self._failed, last_line(error), None
        failed(EngineError(f"OpenVINO could not infer: {reason}"))
        self._idle.put(self)

    def _answer(self, _: object) -> None:
        with self._lock:
            done, failed, self._failed = self._done, self._failed, None
        assert done is not None
        assert failed is not None
        try:
            done(self._logit[: self._count], self._map[: self._count])
        except Exception as error:  # raised on OpenVINO's thread, where nobody would see it
            logger.exception("an answer could not be taken")
            failed(error)
        finally:
            self._idle.put(self)


def _do_nothing(_: object) -> None:
    pass


_alive: "weakref.WeakSet[_Request]" = weakref.WeakSet()


@atexit.register
def _await_answers() -> None:
    """An answer that finds Python ended takes the whole process down by SIGABRT."""
    for request in list(_alive):
        request.await_answer()


def _effective_precision(compiled: ov.CompiledModel) -> str:
    """What the processor will compute in: a hint that it cannot follow is passed over in silence."""
    return str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
