"""OpenVINO, with more requests than streams, so that the next requests are filled while the streams work.

The thread that submits also collects the answers, before its next submission. OpenVINO's callbacks are not used: they
come from a thread of its own, cost twice the processor time per request, and abort the process if Python or the graph
no longer exists.
"""

import logging
import math
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from heatline.edge.errors import EngineError, last_line
from heatline.edge.inference.devices import require_bf16, require_device, settings_on, shared_core
from heatline.edge.inference.engine import (
    ABANDONED_REQUESTS,
    ANSWER_WITHIN_SECONDS,
    DIFFERENCE,
    FEATURES,
    OPENVINO_GRAPH,
    PROCESSOR,
    Done,
    Engine,
    EngineKind,
    Failed,
    Fill,
    Precision,
    weights_of,
)

logger = logging.getLogger(__name__)

TILES_PER_WAKEUP = 6
"""How many tiles the submitting thread fills when it wakes: each wake-up takes a core from a stream and finds cold
caches."""
WAIT_STEP_MS = 500


class OpenVinoEngine(Engine):
    name: EngineKind = "openvino"

    def __init__(
        self,
        folder: Path,
        tile_px: int,
        *,
        device: str = PROCESSOR,
        precision: Precision = "f32",
        graph: str = OPENVINO_GRAPH,
        threads: int = 0,
        streams: int = 0,
        batch: int = 0,
        cache: Path | None = None,
    ) -> None:
        self.precision = precision
        self.batch = batch or 1  # with one stream per core, one tile per request was fastest; no batch is ever partial
        threads = threads or len(os.sched_getaffinity(0))
        hint = "bf16" if precision == "bf16" else "f32"  # what an int8 graph does not quantise is f32
        settings = settings_on(device, hint, threads=threads, streams=streams)
        try:
            core = shared_core()
            require_device(core, device)
            if hint == "bf16":
                require_bf16(core, device)
            model = core.read_model(folder / graph, folder / weights_of(graph))
            shapes: dict[str, list[Any]] = {"tiles": [self.batch, tile_px, tile_px, 3]}
            self.compares = any(DIFFERENCE in each.names for each in model.inputs)
            if self.compares:
                shapes[DIFFERENCE] = [self.batch, *list(model.input(DIFFERENCE).partial_shape)[1:]]
            model.reshape(shapes)
            compiled = core.compile_model(
                model, device, settings if cache is None else settings | {"CACHE_DIR": str(cache)}
            )
            parallel = streams or (
                threads if device == PROCESSOR else compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            )
            # One request per stream is at work, one per stream waits, and some are being filled.
            self._per_wakeup = math.ceil(TILES_PER_WAKEUP / self.batch)
            has_features = any(FEATURES in output.names for output in compiled.outputs)
            requests = [
                _Request(compiled.create_infer_request(), [*shapes], has_features)
                for _ in range(2 * parallel + self._per_wakeup)
            ]
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot use {folder / graph}: {last_line(error)}") from error
        self._compiled = compiled
        self._idle, self._at_work = requests, deque[_Request]()
        """Requests at work, in the order in which they were started."""

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        if not self._idle:
            self.collect_ended()
        # As many as are filled per wake-up, unless some were given up: they mostly end in the order of their start.
        if not self._idle and len(self._at_work) >= self._per_wakeup:
            self._at_work[self._per_wakeup - 1].has_ended(WAIT_STEP_MS)
            self.collect_ended()
        while not self._idle:
            if not self.collect():
                raise EngineError(f"OpenVINO did not answer within {ANSWER_WITHIN_SECONDS:.0f} s, to any request")
        request = self._idle.pop()
        if request.start(count, fill, done, failed):
            self._at_work.append(request)
        else:
            self._idle.append(request)

    def collect(self, within_s: float | None = None) -> bool:
        # Counts steps, not clock time: Ctrl-C works, and a process that was stopped for a while goes on waiting.
        step_ms = WAIT_STEP_MS if within_s is None else max(1, round(within_s * 1e3))
        while self._at_work:
            if self._at_work[0].has_ended(step_ms):
                self._finish(self._at_work.popleft())
                return True
            for request in self._at_work:
                request.waited_for_ms += step_ms
            for request in [*self._at_work]:
                # What an answer leads to may submit more, and so collect others of these or start them again.
                if request.waited_for_ms < ANSWER_WITHIN_SECONDS * 1e3 or request not in self._at_work:
                    continue
                self._at_work.remove(request)
                if request.has_ended(0):
                    self._finish(request)
                else:
                    ABANDONED_REQUESTS.append(request)
                    request.give_up()
            if within_s is not None:
                return True
        return False

    def close(self) -> None:
        self.drain()
        self._idle.clear()
        del self._compiled  # a remaining reference to this engine must not hold the graph in memory

    def collect_ended(self) -> None:
        for request in [*self._at_work]:
            # What an answer leads to may submit more, and so collect others of these.
            if request in self._at_work and request.has_ended(0):
                self._at_work.remove(request)
                self._finish(request)

    def _finish(self, request: "_Request") -> None:
        self._idle.append(request)
        request.deliver()


class _Request:
    """One inference request: idle, or at work for one `done`."""

    waited_for_ms: int
    """How long the submitting thread has waited for it since its start."""

    def __init__(self, request: ov.InferRequest, inputs: Sequence[str], has_features: bool) -> None:
        self._request = request
        self._inputs: list[NDArray[np.uint8]] = [request.get_tensor(name).data for name in inputs]
        self._logit: NDArray[np.float32] = request.get_tensor("logit").data
        self._map: NDArray[np.float32] = request.get_tensor("map").data
        self._features: NDArray[np.float32] | None = request.get_tensor(FEATURES).data if has_features else None

    def start(self, count: int, fill: Fill, done: Done, failed: Failed) -> bool:
        """Start the request. Return whether it is at work; otherwise `failed` was called."""
        try:
            fill(*(each[:count] for each in self._inputs))
            self._request.start_async()
        except Exception as error:
            failed(error)
            return False
        self._count, self._done, self._failed = count, done, failed
        self._error: Exception | None = None
        self.waited_for_ms = 0
        return True

    def has_ended(self, within_ms: int) -> bool:
        """Wait for the end, and return whether the request has answered or failed."""
        try:
            return bool(self._request.wait_for(within_ms))
        except Exception as error:  # RuntimeError, MemoryError, and UnicodeDecodeError of some messages
            self._error = error
            return True

    def deliver(self) -> None:
        """Call `done` with the answer of an ended request, or `failed`."""
        done, failed = self._done, self._failed  # what the answer leads to may start this request again
        if self._error is not None:
            failed(EngineError(f"OpenVINO could not infer: {last_line(self._error)}"))
            return
        try:
            features = () if self._features is None else (self._features[: self._count],)
            done(self._logit[: self._count], self._map[: self._count], *features)
        except Exception as error:
            logger.exception("an answer could not be processed")
            failed(error)

    def give_up(self) -> None:
        """Call `failed`, as there was no answer."""
        self._failed(EngineError(f"OpenVINO did not answer within {ANSWER_WITHIN_SECONDS:.0f} s"))
