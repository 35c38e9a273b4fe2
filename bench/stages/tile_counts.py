"""Cost of a tile in frames of few and of many tiles: of the pipeline, compared with the engine alone."""

import math
import time
from collections.abc import Callable, Sequence
from time import perf_counter

import msgspec

from heatline.bench.pipelined import inspect_pipelined
from heatline.bench.spread import Spread, interleaved
from heatline.bench.stages.inspecting import ReadyInputs, require_answers, same
from heatline.bench.stages.prepared import Prepared, prepare, size_of
from heatline.bench.stages.stage import AT_REST_SECONDS
from heatline.edge.bundle import Bundle, VerifiedEngine
from heatline.edge.errors import BenchError

TILES_PER_RUN = 480
"""Fewest tiles of a run, in whole frames."""
LEAST_FRAMES = 6
"""Frames of a run: the first and the last one overlap with one other frame only."""


class TileCost(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of a tile in frames of one number of tiles, of which a tenth is defective."""

    tiles: int
    size: str
    frames: int
    """In a run."""
    whole_ms_per_tile: Spread
    """From `Inspector.start` to the end of `Inspector.finish`, two frames at once."""
    bare_ms_per_tile: Spread
    """Of the line's engine with its inputs ready, in the same rounds."""
    over_bare: Spread
    """Their ratio by rounds."""


def measure_tile_counts(
    bundle: Bundle, verified: VerifiedEngine, counts: Sequence[int], rounds: int, done: Callable[[], None]
) -> list[TileCost]:
    """Time frames of these numbers of tiles in interleaved rounds.

    Args:
        done: called after each round of each number, of the pipeline and of the engine.
    Raises:
        EngineError: the engine failed.
        BenchError: a verdict changed.
    """
    grid = bundle.manifest.grid
    frames = [prepare(bundle, verified, hw_of(tiles, grid.tile_px, grid.overlap_px)) for tiles in dict.fromkeys(counts)]
    pairs = [(_Pipeline(prepared), _EngineAlone(prepared)) for prepared in frames]
    runners = [runner for pair in pairs for runner in pair]
    for runner in runners:
        runner.run(1)
        done()
    for order in interleaved(runners, rounds):
        for runner in order:
            time.sleep(AT_REST_SECONDS)
            runner.ms_per_tile.append(runner.run(runner.frames) * 1e3 / (runner.frames * len(runner.prepared.grid)))
            done()
    return [_cost(whole, bare) for whole, bare in pairs]


def hw_of(tiles: int, tile_px: int, overlap_px: int) -> tuple[int, int]:
    """Return height and width, px, of the frame closest to a square that has a number of tiles.

    >>> hw_of(6, 224, 2)
    (446, 668)
    """
    rows = next(rows for rows in range(math.isqrt(tiles), 0, -1) if tiles % rows == 0)
    step = tile_px - overlap_px
    return tile_px + (rows - 1) * step, tile_px + (tiles // rows - 1) * step


def spread_of_cost(costs: Sequence[TileCost]) -> float | None:
    """Return by how much the most expensive tile costs more than the cheapest, as a share; None: there is one cost."""
    medians = [one.whole_ms_per_tile.median for one in costs]
    return max(medians) / min(medians) - 1 if len(medians) > 1 else None


class _Pipeline:
    """Inspection of frames of one size, two at once."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.frames = max(LEAST_FRAMES, math.ceil(TILES_PER_RUN / len(prepared.grid)))
        self.ms_per_tile: list[float] = []
        """In each round."""
        self._expected = prepared.judgement(prepared.defective)

    def run(self, frames: int) -> float:
        """Return the seconds for some frames, whose verdicts are checked after the clock has stopped."""
        prepared, inspector = self.prepared, self.prepared.defective.inspector
        shown = (prepared.frame() for _ in range(frames))
        began = perf_counter()
        judged = inspect_pipelined(prepared.engine, inspector.start, shown, inspector.finish)
        seconds = perf_counter() - began
        if len(judged) != frames or not all(same(one, self._expected) for one in judged):
            raise BenchError(f"the verdict of one of {frames} frames changed, so their time is wrong; report it")
        return seconds


class _EngineAlone(_Pipeline):
    """The line's engine alone on as many tiles."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(prepared)
        self._ready = ReadyInputs(prepared)

    def run(self, frames: int) -> float:
        self._ready.refill()
        began = perf_counter()
        logits = self._ready.infer(frames * len(self.prepared.grid))
        seconds = perf_counter() - began
        require_answers(logits, self.prepared, frames)
        return seconds


def _cost(whole: _Pipeline, bare: _Pipeline) -> TileCost:
    pairs = zip(whole.ms_per_tile, bare.ms_per_tile, strict=True)
    return TileCost(
        tiles=len(whole.prepared.grid),
        size=size_of(whole.prepared.hw),
        frames=whole.frames,
        whole_ms_per_tile=Spread.of(whole.ms_per_tile),
        bare_ms_per_tile=Spread.of(bare.ms_per_tile),
        over_bare=Spread.of([one / other for one, other in pairs]),
    )
