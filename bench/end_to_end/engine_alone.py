"""The bare engine, in a process of its own: `python -m bench.end_to_end.engine_alone JOB`.

It reads requests from its standard input and answers each by a line. Only this process loads the engine: a bench that
mapped the engine's libraries as well would make the service look smaller than it is.
"""

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.bare_engine import BareEngine, read_graph, unlike
from bench.end_to_end.expected import expect, first_tiles, tolerance
from bench.end_to_end.requests import Answer, Choose, ChooseForFrames, Expected, Job, Look, OneFrame, Request, Saturate
from bench.engine_settings import Settings, all_settings
from bench.proven import engine_in
from edge.bundle import open_bundle
from edge.errors import BenchError, HeatlineError
from edge.inference import infer
from edge.text import sayable

FINALISTS, FINAL_ROUNDS = 4, 7


class _Alone:
    """One set of settings, warm."""

    def __init__(
        self, graph: Path, job: Job, settings: Settings, tiles: NDArray[np.uint8], logits: NDArray[np.float32]
    ):
        cores = len(os.sched_getaffinity(0))
        rows = np.arange(settings.batch) % len(tiles)
        self.settings, self._expected = settings, logits[rows]
        model = read_graph(graph)
        self.engine = BareEngine(model, job.precision, tiles[rows], threads=cores, streams=settings.streams)
        self.engine.run(2 * settings.streams)

    def frame_ms(self, tiles: int) -> float:
        began = time.perf_counter()
        self.engine.run(math.ceil(tiles / self.settings.batch))
        return (time.perf_counter() - began) * 1e3

    def check(self, tolerance: float) -> None:
        """See that it did what it was timed for.

        Raises:
            BenchError: it answers something else.
        """
        if (why := unlike(self.engine, self._expected, tolerance)) is not None:
            raise BenchError(f"the bare engine with {self.settings} does not do what the line's does: {why}")


class _Server:
    def __init__(self, job: Job) -> None:
        self._job, self._bundle = job, open_bundle(Path(job.bundle))
        self._graph = self._bundle.path / self._bundle.graph_for(job.precision)
        self._all: list[_Alone] = []
        self._alone: _Alone | None = None
        self._tiles = 0

    def look(self) -> Expected:
        proven = engine_in(self._bundle, self._job.precision)
        folder = Path(self._job.pictures)
        expected = expect(folder, self._bundle, self._job.precision, proven.engine, self._job.defective)
        tiles = first_tiles(folder, self._bundle)
        self._of_tiles = tiles, infer(proven.engine, tiles)[0]
        proven.engine.close()
        self._tiles = expected.tiles
        return expected

    def answer(self, request: Request) -> Answer:
        match request:
            case Look():
                return Answer(expected=self.look())
            case Choose(seconds, rounds):
                speeds = self._turns(rounds, lambda alone: alone.engine.tiles_per_s(seconds))
                fastest = sorted(range(len(speeds)), key=speeds.__getitem__, reverse=True)[:FINALISTS]
                # The fastest of twelve was lucky as well: the first few are tried anew, and longer.
                anew = [
                    [self._all[place].engine.tiles_per_s(seconds) for place in fastest] for _ in range(FINAL_ROUNDS)
                ]
                for place, of in zip(fastest, zip(*anew, strict=True), strict=True):
                    speeds[place] = median(of)
                return self._chosen(max(fastest, key=speeds.__getitem__), speeds)
            case ChooseForFrames(rounds):
                times = self._turns(rounds, lambda alone: alone.frame_ms(self._tiles))
                return self._chosen(min(range(len(times)), key=times.__getitem__), times)
            case Saturate(seconds):
                alone = self._used()
                tiles_per_s = alone.engine.tiles_per_s(seconds)
                alone.check(self._tolerance)
                return Answer(tiles_per_s=tiles_per_s, settings=alone.settings)
            case OneFrame():
                alone = self._used()
                frame_ms = alone.frame_ms(self._tiles)
                alone.check(self._tolerance)
                return Answer(settings=alone.settings, frame_ms=frame_ms)

    @property
    def _tolerance(self) -> float:
        return tolerance(self._bundle, self._job.precision)

    def _used(self) -> _Alone:
        assert self._alone is not None, "settings were chosen before"
        return self._alone

    def _turns(self, rounds: int, measure: Callable[[_Alone], float]) -> list[float]:
        """Medians of all settings, tried in turns."""
        if not self._all:
            every = all_settings(len(os.sched_getaffinity(0)))
            self._all = [_Alone(self._graph, self._job, settings, *self._of_tiles) for settings in every]
        found = [[measure(alone) for alone in self._all] for _ in range(rounds)]
        for alone in self._all:
            alone.check(self._tolerance)
        return [median(of) for of in zip(*found, strict=True)]

    def _chosen(self, place: int, found: list[float]) -> Answer:
        self._alone = self._all[place]
        tried = [(alone.settings, one) for alone, one in zip(self._all, found, strict=True)]
        return Answer(tiles_per_s=found[place], settings=self._alone.settings, tried=tried)


def main() -> None:
    """Serve requests until there are no more."""
    job, server = msgspec.json.decode(sys.argv[1], type=Job), None
    for line in sys.stdin:
        try:
            server = server or _Server(job)
            answer = server.answer(msgspec.json.decode(line, type=Request))
        except HeatlineError as error:
            answer = Answer(error=sayable(str(error)))
        print(msgspec.json.encode(answer).decode(), flush=True)


if __name__ == "__main__":
    main()
