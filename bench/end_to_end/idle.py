"""A single frame on a service that has nothing else to do, beside the engine's time for its tiles."""

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.bare_engine import Settings
from bench.end_to_end.line import SETTLE_FRAMES, Scene, Told, due_ns, missed, running
from bench.spread import Spread
from edge.errors import BenchError

if TYPE_CHECKING:
    from bench.end_to_end.bare import Bare

PERIOD_FRAMES = 4.0
"""From one frame to the next, in frames of the bare engine: one for the service, one for the engine, and as much rest,
for a machine that falls to half its speed meanwhile."""
LEAST_PERIOD_S = 0.05
CHOOSE_ROUNDS = 5
LOST_AT_MOST = 10
"""Runs of lost frames, per frame that is to be timed."""


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    rate_fps: float
    engine: Settings
    """With which the bare engine has a frame's tiles ready soonest."""
    frames: int
    """Of each round."""
    lost: int
    """Of all rounds; none, on a machine that does nothing else."""
    crowded: int = 0
    """Of all rounds: frames that were not alone, as they and the engine's turn after them took longer than a period."""
    frame_ms: Spread
    """Medians of the rounds: from when a frame was due to the receipt of its event."""
    engine_ms: Spread
    """Medians of the rounds: the bare engine, for as many tiles, each time right after a frame of the service."""
    extra_ms: Spread
    """Medians of the rounds: each frame of the service, less the engine's time right after it."""
    frame_p99_ms: float
    engine_p99_ms: float
    """Of all rounds: how steady each of them is by itself."""


def measure_idle(scene: Scene, bare: "Bare", *, frames: int, rounds: int, say: Callable[[str], None]) -> Idle:
    """Have both do one frame after the other in turns, so that whatever else the machine does hits both alike.

    One camera, however many the scene has: its frame is the only one.

    Raises:
        BenchError: hardly a frame came through, or the service judged a picture otherwise than it must.
    """
    chosen = bare.choose_for_frames(CHOOSE_ROUNDS)
    period_s = max(PERIOD_FRAMES * chosen.figure / 1e3, LEAST_PERIOD_S)
    lost, crowded, service, engine, extra = 0, 0, list[float](), list[float](), list[float]()
    all_frames, all_alone = list[float](), list[float]()
    with running(replace(scene, cameras=1), 1 / period_s, waits=False) as line:
        line.settle(1)
        cameras = line.watched.camera_pids()
        for number in range(rounds):
            told: list[Told] = []
            alone_ms: list[float] = []
            settles = SETTLE_FRAMES if number == 0 else 0
            while len(alone_ms) < frames + settles:
                told.append(one := line.wait())
                if one.event.reason is None:
                    alone_ms.append(bare.frame_ms())
                elif len(told) > LOST_AT_MOST * (frames + settles):
                    raise BenchError(f"on an idle service frame after frame is lost: {one.event.reason}")
            line.watched.require_cameras(cameras)
            lost += missed(told) + sum(one.event.frames for one in told if one.event.reason is not None)
            dues = due_ns(told, 1 / period_s)
            took_ms = [(one.at_ns - due) / 1e6 for one, due in zip(told, dues, strict=True) if one.event.reason is None]
            del took_ms[:settles], alone_ms[:settles]
            alone = zip(took_ms, alone_ms, strict=True)
            crowded += sum(one + other > period_s * 1e3 for one, other in alone)
            service.append(median(took_ms))
            engine.append(median(alone_ms))
            extra.append(median(one - other for one, other in zip(took_ms, alone_ms, strict=True)))
            all_frames += took_ms
            all_alone += alone_ms
            say(f"round {number + 1} of {rounds}: frame {service[-1]:.1f} ms, its tiles alone {engine[-1]:.1f} ms")
    return Idle(
        rate_fps=1 / period_s,
        engine=chosen.settings,
        frames=frames,
        lost=lost,
        crowded=crowded,
        frame_ms=Spread.of(service),
        engine_ms=Spread.of(engine),
        extra_ms=Spread.of(extra),
        frame_p99_ms=float(np.percentile(all_frames, 99)),
        engine_p99_ms=float(np.percentile(all_alone, 99)),
    )
