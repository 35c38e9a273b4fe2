"""What a tile costs in frames of few tiles and of many: the whole way, as in the pipeline, beside the engine alone."""

import math
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

import msgspec

from bench.spread import Spread
from bench.stages.infer import BareEngine, require_answers
from bench.stages.prepared import Prepared, prepare, size_of
from bench.stages.rest import rest
from bench.stages.whole import same
from bench.turns import turns
from edge.bundle import Bundle, ProvenEngine
from edge.errors import BenchError
from edge.inspection.inspector import PendingFrame
from edge.inspection.pipeline import FRAMES_WITH_ENGINE
from edge.inspection.verdict import Judgement

TILES_PER_RUN = 480
"""At least so many, in whole frames."""
LEAST_FRAMES = 6
"""Of a run: before the first and after the last, nothing goes on beside them."""
JUDGED_WITHIN_SECONDS = 600.0


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
    bundle: Bundle, proven: ProvenEngine, counts: Sequence[int], rounds: int, done: Callable[[], None]
) -> list[TileCost]:
    """Time frames of all these numbers of tiles in turns.

    Args:
        done: called after each round of each, and of the engine by itself.
    Raises:
        EngineError: the engine failed.
        BenchError: a frame was not judged as it was before.
    """
    grid = bundle.manifest.grid
    ways: dict[int, tuple[_Timed, _Timed]] = {}
    for tiles in dict.fromkeys(counts):
        prepared = prepare(bundle, proven, hw_of(tiles, grid.tile_px, grid.overlap_px))
        assert len(prepared.grid) == tiles
        whole = partial(_whole, expected=prepared.judgement(prepared.defective))
        bare = partial(_bare, engine=BareEngine(prepared))
        ways[tiles] = _Timed(prepared, whole, done), _Timed(prepared, bare, done)
    timed = [one for both in ways.values() for one in both]
    for one in timed:
        one.settle()
    for order in turns(timed, rounds):
        for one in order:
            one(TILES_PER_RUN)
    return [_cost(*both) for both in ways.values()]


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


class _Timed:
    """A way to do frames in rounds; times itself, so that looking at what came of it costs nothing.

    Args:
        way: does so many frames, and returns the seconds that it took.
    """

    def __init__(self, prepared: Prepared, way: Callable[[Prepared, int], float], done: Callable[[], None]) -> None:
        self.prepared, self._way, self._done = prepared, way, done
        self.frames = 0
        self.ms_per_tile: list[float] = []
        """Of the rounds."""

    def settle(self) -> None:
        """A frame that does not count."""
        self._way(self.prepared, 1)
        self._done()

    def __call__(self, tiles: int) -> None:
        """A round of so many tiles at the least."""
        a_frame = len(self.prepared.grid)
        self.frames = max(LEAST_FRAMES, math.ceil(tiles / a_frame))
        rest()
        self.ms_per_tile.append(self._way(self.prepared, self.frames) * 1e3 / (self.frames * a_frame))
        self._done()


def _cost(whole: _Timed, bare: _Timed) -> TileCost:
    pairs = zip(whole.ms_per_tile, bare.ms_per_tile, strict=True)
    return TileCost(
        tiles=len(whole.prepared.grid),
        size=size_of(whole.prepared.hw),
        frames=whole.frames,
        whole_ms_per_tile=Spread.of(whole.ms_per_tile),
        bare_ms_per_tile=Spread.of(bare.ms_per_tile),
        over_bare=Spread.of([one / other for one, other in pairs]),
    )


def _whole(prepared: Prepared, frames: int, expected: Judgement) -> float:
    """One thread hands frames to the engine and takes in its answers, while another judges, as in the pipeline."""
    engine, inspector = prepared.engine, prepared.defective.inspector
    started = queue.Queue[PendingFrame | None](FRAMES_WITH_ENGINE)
    judged: list[Judgement] = []
    faults: list[Exception] = []

    def judge() -> None:
        while (pending := started.get()) is not None:
            try:
                judged.append(inspector.finish(pending))
            except Exception as error:  # raised by the thread that waits for this one
                faults.append(error)

    judging = threading.Thread(target=judge, name="judge", daemon=True)
    began = perf_counter()
    judging.start()
    for _ in range(frames):
        pending = inspector.start(prepared.frame())
        while started.full() and engine.collect():
            pass
        started.put(pending)
    engine.drain()
    started.put(None)
    judging.join(JUDGED_WITHIN_SECONDS)
    seconds = perf_counter() - began
    if faults:
        raise faults[0]
    if len(judged) != frames or not all(same(one, expected) for one in judged):
        raise BenchError(f"of {frames} frames not all were judged as before, so their time says nothing; report this")
    return seconds


def _bare(prepared: Prepared, frames: int, engine: BareEngine) -> float:
    engine.refill()
    began = perf_counter()
    engine.infer(frames * len(prepared.grid))
    seconds = perf_counter() - began
    require_answers(engine.logits, prepared, frames)
    return seconds
