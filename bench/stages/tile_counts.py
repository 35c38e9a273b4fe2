"""What a tile costs in frames of few tiles and of many: the whole way, as in the pipeline, beside the engine alone."""

import math
import time
from collections.abc import Callable, Sequence
from time import perf_counter

import msgspec

from bench.pipelined import inspect_pipelined
from bench.spread import Spread, interleaved
from bench.stages.inspecting import ReadyInputs, require_answers, same
from bench.stages.prepared import Prepared, prepare, size_of
from bench.stages.stage import AT_REST_SECONDS
from edge.bundle import Bundle, VerifiedEngine
from edge.errors import BenchError

TILES_PER_RUN = 480
"""At least so many, in whole frames."""
LEAST_FRAMES = 6
"""Of a run: before the first and after the last, nothing goes on beside them."""


class TileCost(msgspec.Struct, frozen=True, kw_only=True):
    """Frames of one number of tiles, of which a tenth is defective."""

    tiles: int
    size: str
    frames: int
    """Per run."""
    whole_ms_per_tile: Spread
    """From `Inspector.start` to the end of `Inspector.finish`, two frames side by side."""
    bare_ms_per_tile: Spread
    """Our engine with its inputs ready, in the same turns."""
    over_bare: Spread
    """The one over the other, turn by turn."""


def measure_tile_counts(
    bundle: Bundle, verified: VerifiedEngine, counts: Sequence[int], rounds: int, done: Callable[[], None]
) -> list[TileCost]:
    """Time frames of all these numbers of tiles in turns.

    Args:
        done: called after each round of each, and of the engine by itself.
    Raises:
        EngineError: the engine failed.
        BenchError: a frame was not judged as it was before.
    """
    grid = bundle.manifest.grid
    frames = [prepare(bundle, verified, hw_of(tiles, grid.tile_px, grid.overlap_px)) for tiles in dict.fromkeys(counts)]
    pairs = [(_Way(prepared), _BareWay(prepared)) for prepared in frames]
    ways = [way for pair in pairs for way in pair]
    for way in ways:
        way.run(1)
        done()
    for order in interleaved(ways, rounds):
        for way in order:
            time.sleep(AT_REST_SECONDS)
            way.ms_per_tile.append(way.run(way.frames) * 1e3 / (way.frames * len(way.prepared.grid)))
            done()
    return [_cost(whole, bare) for whole, bare in pairs]


def hw_of(tiles: int, tile_px: int, overlap_px: int) -> tuple[int, int]:
    """Height and width, px, of the frame closest to a square that has so many tiles.

    >>> hw_of(6, 224, 2)
    (446, 668)
    """
    rows = next(rows for rows in range(math.isqrt(tiles), 0, -1) if tiles % rows == 0)
    step = tile_px - overlap_px
    return tile_px + (rows - 1) * step, tile_px + (tiles // rows - 1) * step


def spread_of_cost(costs: Sequence[TileCost]) -> float | None:
    """By how much the dearest tile costs more than the cheapest one, as a share; None where there is but one."""
    medians = [one.whole_ms_per_tile.median for one in costs]
    return max(medians) / min(medians) - 1 if len(medians) > 1 else None


class _Way:
    """The whole way of frames of one size, two side by side."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.frames = max(LEAST_FRAMES, math.ceil(TILES_PER_RUN / len(prepared.grid)))
        self.ms_per_tile: list[float] = []
        """Of the rounds."""
        self._expected = prepared.judgement(prepared.defective)

    def run(self, frames: int) -> float:
        """Seconds for so many frames; what came of them is looked at after the clock was stopped."""
        prepared, inspector = self.prepared, self.prepared.defective.inspector
        shown = (prepared.frame() for _ in range(frames))
        began = perf_counter()
        judged = inspect_pipelined(prepared.engine, inspector.start, shown, inspector.finish)
        seconds = perf_counter() - began
        if len(judged) != frames or not all(same(one, self._expected) for one in judged):
            raise BenchError(f"not all of {frames} frames were judged as before, so their time says nothing; report it")
        return seconds


class _BareWay(_Way):
    """The engine by itself on as many tiles."""

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


def _cost(whole: _Way, bare: _Way) -> TileCost:
    pairs = zip(whole.ms_per_tile, bare.ms_per_tile, strict=True)
    return TileCost(
        tiles=len(whole.prepared.grid),
        size=size_of(whole.prepared.hw),
        frames=whole.frames,
        whole_ms_per_tile=Spread.of(whole.ms_per_tile),
        bare_ms_per_tile=Spread.of(bare.ms_per_tile),
        over_bare=Spread.of([one / other for one, other in pairs]),
    )
