"""OpenVINO: some requests more than streams, so that the next are filled meanwhile.

Answers are taken in by the thread that submits, on its way to the next submission. OpenVINO would call back from a
thread of its own, at twice the processor time per request, for as long as the process lives, and with an abort where it
finds Python or the graph gone.
"""

import io
import logging
import math
import os
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from edge.errors import EngineError, PrecisionError, last_line
from edge.inference.devices import require_device, settings_on, the_core
from edge.inference.engine import (
    ANSWER_WITHIN_SECONDS,
    FEATURES,
    NEVER_ANSWERED,
    OPENVINO_GRAPH,
    PROCESSOR,
    Done,
    Engine,
    EngineKind,
    Failed,
    Fill,
    Keeper,
    Precision,
    weights_of,
)

logger = logging.getLogger(__name__)

TILES_AT_ONE_GO = 6
"""Filled each time that the submitting thread wakes, as that takes a core from a stream and finds cold caches."""
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
        keeper: Keeper | None = None,
    ) -> None:
        self.precision = precision
        self.batch = batch or 1  # with a stream per core, one tile per request was fastest and wastes no partial batch
        threads = threads or len(os.sched_getaffinity(0))
        hint = "bf16" if precision == "bf16" else "f32"  # what an int8 graph does not quantise is f32
        settings = settings_on(device, hint, threads=threads, streams=streams)
        try:
            core = the_core()
            require_device(core, device)
            self._keeper, self._how = keeper, _how(core, device, settings, graph, [self.batch, tile_px, tile_px, 3])
            kept = None if keeper is None else keeper.take(self._how)
            if kept is not None:
                compiled = _imported(core, device, settings, kept)
            else:
                model = core.read_model(folder / graph, folder / weights_of(graph))
                model.reshape({"tiles": [self.batch, tile_px, tile_px, 3]})
                compiled = core.compile_model(model, device, settings)
            effective = _effective_precision(compiled)
            at_once = streams or (
                threads if device == PROCESSOR else compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
            )
            # While as many as streams are at work, as many again wait, and some are filled.
            self._at_one_go = math.ceil(TILES_AT_ONE_GO / self.batch)
            has_features = any(FEATURES in output.names for output in compiled.outputs)
            requests = [
                _Request(compiled.create_infer_request(), has_features) for _ in range(2 * at_once + self._at_one_go)
            ]
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot use {folder / graph}: {last_line(error)}") from error
        if effective != hint:
            raise PrecisionError(
                f"this processor has no {hint}, OpenVINO would compute in {effective} instead; choose another precision"
            )
        self._compiled = compiled
        self._idle, self._at_work = requests, deque[_Request]()
        """The latter in the order in which they were started."""

    def submit(self, count: int, fill: Fill, done: Done, failed: Failed) -> None:
        if not self._idle:
            self._take_in_what_has_ended()
        if not self._idle:
            self._let_some_end()
        while not self._idle:
            if not self.collect():
                raise EngineError(f"OpenVINO did not answer within {ANSWER_WITHIN_SECONDS:.0f} s, to any request")
        request = self._idle.pop()
        if request.start(count, fill, done, failed):
            self._at_work.append(request)
        else:
            self._idle.append(request)

    def collect(self, within_s: float | None = None) -> bool:
        # By steps and not by the clock: Ctrl-C is heard, and a process that was stopped for a while goes on waiting.
        step_ms = WAIT_STEP_MS if within_s is None else max(1, round(within_s * 1e3))
        while self._at_work:
            if self._at_work[0].has_ended(step_ms):
                self._take_in(self._at_work.popleft())
                return True
            for request in self._at_work:
                request.waited_for_ms += step_ms
            self._give_up_what_took_too_long()
            if within_s is not None:
                return True
        return False

    def close(self) -> None:
        self.drain()
        self._idle.clear()
        del self._compiled  # whoever still knows this engine does not keep its graph

    def verified(self) -> None:
        if self._keeper is not None:
            self._keeper.keep(self._how, lambda: bytes(self._compiled.export_model().getvalue()))

    def _let_some_end(self) -> None:
        """Wait for as many as are filled at one go: they mostly end in the order of their start."""
        if len(self._at_work) >= self._at_one_go:  # else some were given up
            self._at_work[self._at_one_go - 1].has_ended(WAIT_STEP_MS)
            self._take_in_what_has_ended()

    def _take_in_what_has_ended(self) -> None:
        """Those that took longer than one started after them are not waited for."""
        for _ in range(len(self._at_work)):
            request = self._at_work.popleft()
            if request.has_ended(0):
                self._take_in(request)
            else:
                self._at_work.append(request)

    def _take_in(self, request: "_Request") -> None:
        self._idle.append(request)
        request.hand_on()

    def _give_up_what_took_too_long(self) -> None:
        for request in [each for each in self._at_work if each.waited_for_ms >= ANSWER_WITHIN_SECONDS * 1e3]:
            self._at_work.remove(request)
            if request.has_ended(0):
                self._take_in(request)
            else:
                NEVER_ANSWERED.append(request)
                request.give_up()


class _Request:
    """One inference request: idle, or at work for one `done`."""

    def __init__(self, request: ov.InferRequest, has_features: bool = False) -> None:
        self._request = request
        self._tiles: NDArray[np.uint8] = request.get_tensor("tiles").data
        self._logit: NDArray[np.float32] = request.get_tensor("logit").data
        self._map: NDArray[np.float32] = request.get_tensor("map").data
        self._features: NDArray[np.float32] | None = request.get_tensor(FEATURES).data if has_features else None
        self._count = 0
        self._done: Done = _nothing
        self._failed: Failed = _nothing
        self._error: Exception | None = None
        self.waited_for_ms = 0
        """Since it was set to work, by a thread that had nothing else to do."""

    def start(self, count: int, fill: Fill, done: Done, failed: Failed) -> bool:
        """Set to work; whether it is, or failed at once."""
        try:
            fill(self._tiles[:count])
            self._request.start_async()
        except Exception as error:
            failed(error)
            return False
        self._count, self._done, self._failed = count, done, failed
        self._error, self.waited_for_ms = None, 0
        return True

    def has_ended(self, within_ms: int) -> bool:
        """Whether it has, with an answer or by failing; waits for that."""
        try:
            return bool(self._request.wait_for(within_ms))
        except Exception as error:  # RuntimeError, MemoryError, and UnicodeDecodeError of some messages
            self._error = error
            return True

    def hand_on(self) -> None:
        """The answer of one that has ended, or that it failed."""
        if self._error is not None:
            self._failed(EngineError(f"OpenVINO could not infer: {last_line(self._error)}"))
            return
        try:
            features = () if self._features is None else (self._features[: self._count],)
            self._done(self._logit[: self._count], self._map[: self._count], *features)
        except Exception as error:
            logger.exception("an answer could not be taken")
            self._failed(error)

    def give_up(self) -> None:
        """Say that there was no answer."""
        self._failed(EngineError(f"OpenVINO did not answer within {ANSWER_WITHIN_SECONDS:.0f} s"))


def _nothing(*_: object) -> None:
    """What becomes of the answer of a request that was never started."""


def _effective_precision(compiled: ov.CompiledModel) -> str:
    """What the processor will compute in: a hint that it cannot follow is passed over in silence."""
    return str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string())


def _how(core: ov.Core, device: str, settings: Mapping[str, object], graph: str, shape: Sequence[int]) -> str:
    """All that a compiled graph hangs on, beside the bundle."""
    return f"{graph} {shape} {settings} {ov.get_version()} {core.get_property(device, 'FULL_DEVICE_NAME')}"


def _imported(core: ov.Core, device: str, settings: Mapping[str, object], graph: bytes) -> ov.CompiledModel:
    """A graph as it was compiled at an earlier time."""
    try:
        # As a stream, of which it makes a copy: weights in a tensor it would go on using, and crash once that is gone.
        return core.import_model(io.BytesIO(graph), device, settings)
    except Exception as error:  # UnicodeDecodeError among others
        raise EngineError(f"OpenVINO cannot use a graph that was compiled before: {last_line(error)}") from error
