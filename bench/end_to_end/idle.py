"""Latency of one frame on an idle service, compared with the engine's time for its tiles."""

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from heatline.bench.bare_engine import Settings
from heatline.bench.end_to_end.line import SETTLE_FRAMES, ReceivedVerdict, Scene, count_unreported, due_ns, running
from heatline.bench.spread import Spread
from heatline.edge.errors import BenchError

if TYPE_CHECKING:
    from heatline.bench.end_to_end.bare import Bare

PERIOD_FRAMES = 4.0
"""From one frame to the next, in the bare engine's time per frame: one for the service, one for the engine, two in
reserve, as the machine's speed may fall to a half."""
LEAST_PERIOD_S = 0.05
CHOOSE_ROUNDS = 5
LOST_AT_MOST = 10
"""Events of lost frames, per frame that is to be timed."""


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """Times of single frames, of the service and of the bare engine."""

    rate_fps: float
    engine: Settings
    """Settings with which the bare engine infers a frame's tiles fastest."""
    frames: int
    """In each round."""
    lost: int
    """In all rounds; none on a machine that does nothing else."""
    crowded: int = 0
    """Frames in all rounds that overlapped with the next one: they and the engine's turn took longer than a period."""
    frame_ms: Spread
    """Medians of the rounds, from when a frame was due to the receipt of its event."""
    engine_ms: Spread
    """Medians of the rounds, of the bare engine for as many tiles, right after each frame of the service."""
    extra_ms: Spread
    """Medians of the rounds, of each frame's time less the engine's time right after it."""
    frame_p99_ms: float
    engine_p99_ms: float
    """p99 over all rounds, of the service and of the engine."""


def measure_idle(scene: Scene, bare: "Bare", *, frames: int, rounds: int, report_line: Callable[[str], None]) -> Idle:
    """Time service and engine frame by frame, interleaved, so that other load of the machine affects both alike.

    Only one camera runs, however many the scene has.

    Raises:
        BenchError: most frames were lost, or the service reported a wrong verdict.
    """
    chosen = bare.choose_for_frames(CHOOSE_ROUNDS)
    period_s = max(PERIOD_FRAMES * chosen.figure / 1e3, LEAST_PERIOD_S)
    lost, crowded, service, engine, extra = 0, 0, list[float](), list[float](), list[float]()
    all_frames, all_alone = list[float](), list[float]()
    with running(replace(scene, cameras=1), 1 / period_s, waits=False) as line:
        line.settle(1)
        cameras = line.watched.camera_pids()
        for number in range(rounds):
            received: list[ReceivedVerdict] = []
            alone_ms: list[float] = []
            settles = SETTLE_FRAMES if number == 0 else 0
            while len(alone_ms) < frames + settles:
                received.append(one := line.wait())
                if one.event.reason is None:
                    alone_ms.append(bare.frame_ms())
                elif len(received) > LOST_AT_MOST * (frames + settles):
                    raise BenchError(f"an idle service loses frame after frame: {one.event.reason}")
            line.watched.require_cameras(cameras)
            lost += count_unreported(received) + sum(
                one.event.frames for one in received if one.event.reason is not None
            )
            dues = due_ns(received, 1 / period_s)
            took_ms = [
                (one.at_ns - due) / 1e6 for one, due in zip(received, dues, strict=True) if one.event.reason is None
            ]
            del took_ms[:settles], alone_ms[:settles]
            alone = zip(took_ms, alone_ms, strict=True)
            crowded += sum(one + other > period_s * 1e3 for one, other in alone)
            service.append(median(took_ms))
            engine.append(median(alone_ms))
            extra.append(median(one - other for one, other in zip(took_ms, alone_ms, strict=True)))
            all_frames += took_ms
            all_alone += alone_ms
            report_line(
                f"round {number + 1} of {rounds}: frame {service[-1]:.1f} ms, its tiles alone {engine[-1]:.1f} ms"
            )
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
