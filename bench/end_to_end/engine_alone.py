"""The bare engine, in a process of its own: the bundle's graph through OpenVINO, and nothing else.

`python -m bench.end_to_end.engine_alone GRAPH WEIGHTS PRECISION TILE_PX` reads requests from its standard input and
answers each by a line. It moves no pixels: every request infers again what lies in its own input.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import openvino as ov

SETTLE_SECONDS = 0.3


class Settings(msgspec.Struct, frozen=True):
    """How the engine is used."""

    streams: int
    batch: int


class Choose(msgspec.Struct, frozen=True, tag=True):
    """Try all settings in turns, so long each, and use the fastest from then on."""

    seconds: float
    rounds: int


class Saturate(msgspec.Struct, frozen=True, tag=True):
    """Infer for so long, with a request more than streams."""

    seconds: float


class Frames(msgspec.Struct, frozen=True, tag=True):
    """Infer the tiles of a frame, again and again at a rate: how long does each take by itself?"""

    tiles: int
    count: int
    period_s: float


class Answer(msgspec.Struct, frozen=True):
    """What came of it."""

    tiles_per_s: float = 0.0
    settings: Settings | None = None
    tried: list[tuple[Settings, float]] = []
    frame_ms: list[float] = []


Request = Choose | Saturate | Frames


class _Alone:
    def __init__(self, open_queue: Callable[[Settings], ov.AsyncInferQueue], settings: Settings) -> None:
        self.settings, self._queue = settings, open_queue(settings)
        self.run(SETTLE_SECONDS)

    def run(self, seconds: float) -> float:
        """Tiles a second."""
        began = time.perf_counter()
        requests = 0
        while time.perf_counter() - began < seconds:
            for _ in range(self.settings.streams + 1):
                self._queue.start_async()
            requests += self.settings.streams + 1
        self._queue.wait_all()
        return requests * self.settings.batch / (time.perf_counter() - began)

    def frame_ms(self, tiles: int) -> float:
        began = time.perf_counter()
        for _ in range(-(-tiles // self.settings.batch)):
            self._queue.start_async()
        self._queue.wait_all()
        return (time.perf_counter() - began) * 1e3


def all_settings(cores: int) -> list[Settings]:
    """A stream per core, or all cores on one tile; several tiles at once or one by one.

    >>> [(each.streams, each.batch) for each in all_settings(2)]
    [(1, 1), (1, 4), (1, 8), (2, 1), (2, 2), (2, 4), (2, 8)]
    """
    few = [Settings(1, batch) for batch in (1, 4, 8)] if cores > 1 else []
    return [*few, *(Settings(cores, batch) for batch in (1, 2, 4, 8))]


def main() -> None:
    """Serve requests until there are no more."""
    graph, weights, precision, tile_px = sys.argv[1:5]
    cores = len(os.sched_getaffinity(0))
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": False})  # as on the line
    random = np.random.default_rng(0)

    def open_queue(settings: Settings) -> ov.AsyncInferQueue:
        model = core.read_model(graph, weights)
        model.reshape({"tiles": [settings.batch, int(tile_px), int(tile_px), 3]})
        hints: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": settings.streams,
        }
        requests = ov.AsyncInferQueue(core.compile_model(model, "CPU", hints), settings.streams + 1)
        for request in requests:
            tensor = request.get_tensor("tiles").data
            tensor[:] = random.integers(0, 256, tensor.shape, np.uint8)
        return requests

    alone = _Alone(open_queue, Settings(cores, 1))
    for line in sys.stdin:
        match msgspec.json.decode(line, type=Request):
            case Choose(seconds, rounds):
                alone, answer = _choose(open_queue, cores, seconds, rounds)
            case Saturate(seconds):
                answer = Answer(alone.run(seconds), alone.settings)
            case Frames(tiles, count, period_s):
                taken = []
                for _ in range(count):
                    taken.append(alone.frame_ms(tiles))
                    time.sleep(max(period_s - taken[-1] / 1e3, 0.0))
                answer = Answer(settings=alone.settings, frame_ms=taken)
        print(msgspec.json.encode(answer).decode(), flush=True)


def _choose(
    open_queue: Callable[[Settings], ov.AsyncInferQueue], cores: int, seconds: float, rounds: int
) -> tuple[_Alone, Answer]:
    candidates = [_Alone(open_queue, settings) for settings in all_settings(cores)]
    speeds: list[list[float]] = [[] for _ in candidates]
    for _ in range(rounds):
        for of, candidate in zip(speeds, candidates, strict=True):
            of.append(candidate.run(seconds))
    medians = [float(np.median(of)) for of in speeds]
    best = candidates[int(np.argmax(medians))]
    tried = [(candidate.settings, speed) for candidate, speed in zip(candidates, medians, strict=True)]
    return best, Answer(max(medians), best.settings, tried)


if __name__ == "__main__":
    main()
