"""A single frame on a service that has nothing else to do, beside the engine's time for its tiles."""

from collections.abc import Callable
from itertools import pairwise

import msgspec
import numpy as np

from bench.end_to_end.bare_engine import BareEngine
from bench.end_to_end.line import Scene
from bench.end_to_end.requests import ChooseForFrames, Frames
from bench.end_to_end.window import run_window
from bench.engine_settings import Settings
from bench.spread import Spread
from edge.errors import BenchError

BUSY = 0.4
"""Share of the time in which a frame is inspected: the rest is long enough for all to come to rest."""
LEAST_PERIOD_S = 0.05
CHOOSE_ROUNDS = 5


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    rate_fps: float
    engine: Settings
    """With which the bare engine has a frame's tiles ready soonest."""
    frames: int
    """Of each round."""
    lost: int
    """Of all rounds; none, on a machine that does nothing else."""
    frame_ms: Spread
    """Medians of the rounds: from capture to the receipt of the event."""
    engine_ms: Spread
    """Medians of the rounds: the bare engine, for as many tiles, at the same rate."""
    extra_ms: Spread
    """The difference, round by round, to the mean of the engine's turn before and the one after."""


def measure_idle(scene: Scene, bare: BareEngine, *, frames: int, rounds: int, say: Callable[[str], None]) -> Idle:
    """Run both in turns, the engine first and last.

    Raises:
        BenchError: no frame came through, or the service judged a picture otherwise than it must.
    """
    chosen = bare.ask(ChooseForFrames(CHOOSE_ROUNDS))
    assert chosen.settings is not None
    by_itself = min(ms for _, ms in chosen.tried)
    period_s = max(by_itself / 1e3 / BUSY, LEAST_PERIOD_S)

    def alone() -> float:
        return float(np.median(bare.ask(Frames(frames, period_s)).frame_ms))

    lost, service, engine = 0, list[float](), [alone()]
    for number in range(rounds):
        window = run_window(scene, 1 / period_s, frames * period_s)
        if window.latency is None:
            raise BenchError(f"on an idle service no frame was inspected: {window.dropped | window.failed}")
        lost += window.frames - window.inspected
        service.append(window.latency.p50)
        engine.append(alone())
        say(f"round {number + 1} of {rounds}: frame {service[-1]:.1f} ms, its tiles alone {engine[-1]:.1f} ms")
    beside = [(before + after) / 2 for before, after in pairwise(engine)]
    return Idle(
        rate_fps=1 / period_s,
        engine=chosen.settings,
        frames=frames,
        lost=lost,
        frame_ms=Spread.of(service),
        engine_ms=Spread.of(engine),
        extra_ms=Spread.of([one - other for one, other in zip(service, beside, strict=True)]),
    )
