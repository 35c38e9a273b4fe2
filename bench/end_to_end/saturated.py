"""The service with a frame always waiting, in turns with the bare engine: what share of the engine does it use?"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from bench.end_to_end.line import SETTLE_SECONDS, Line, Scene, running
from bench.processes import ThreadTime, cpu_ns, thread_times
from bench.spread import Spread
from edge.errors import BenchError
from edge.service.loading import ENGINE_THREADS

if TYPE_CHECKING:
    from bench.end_to_end.bare import Bare

CAMERAS, OTHERS = "cameras", "others"
MOST_TOLD = 6
"""Names of threads; those that take less are told together."""
FRAMES_AT_REST = 2
"""Frames that were with the engine, or just behind it, when the service was made to stand still."""


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """CPU time of a frame, ms, medians of the rounds."""

    inference_ms: float
    """Of the engine's own threads."""
    rest_ms: dict[str, float]
    """Of the service's other threads by the first words of their names, and of its cameras' processes, the dearest
    first and those that take least together."""
    rest_share: float
    """Of the sum."""


class Saturated(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    seconds: float
    """Of each turn of either."""
    service_tiles_per_s: Spread
    service_frames_per_s: Spread
    engine_tiles_per_s: Spread
    service_over_engine: float
    """Of the medians."""
    service_over_engine_spread: Spread
    """Of the ratios, each to the mean of the engine's turn before and the one after."""
    service_turns_tiles_per_s: list[float] = []
    engine_turns_tiles_per_s: list[float] = []
    """As they were measured: one of the engine before each of the service, and one after the last."""
    cpu_ms_per_frame: dict[str, Spread]
    """Of the service, and of its cameras' processes."""
    processor: Processor | None = None
    """Where the CPU time goes; None where the kernel did not tell."""


def saturate(scene: Scene, bare: "Bare", *, seconds: float, rounds: int, say: Callable[[str], None]) -> Saturated:
    """Run both in turns, the engine first and last; the service stands still while it is not its turn.

    Raises:
        BenchError: a process failed, or the service judged a picture otherwise than it must.
    """
    engine: list[float] = []
    service: list[float] = []
    cpu: dict[str, list[float]] = {"service": [], CAMERAS: []}
    threads: list[dict[str, float]] = []
    with running(scene, None, waits=True) as line:
        line.settle(scene.cameras)
        line.hear_until(time.monotonic_ns() + round(SETTLE_SECONDS * 1e9))

        def engine_turn() -> float:
            with line.watched.paused():
                return bare.tiles_per_s(seconds)

        engine.append(engine_turn())
        for number in range(rounds):
            turn = _service_turn(line, seconds)
            service.append(turn.frames_per_s * scene.tiles)
            threads.append(turn.thread_ms)
            for name, ms in turn.cpu_ms.items():
                cpu[name].append(ms)
            engine.append(engine_turn())
            say(f"round {number + 1} of {rounds}: service {service[-1]:.0f} tiles/s, bare engine {engine[-1]:.0f}")
    beside = [(before + after) / 2 for before, after in itertools.pairwise(engine)]
    return Saturated(
        seconds=seconds,
        service_tiles_per_s=Spread.of(service),
        service_frames_per_s=Spread.of([one / scene.tiles for one in service]),
        engine_tiles_per_s=Spread.of(engine),
        service_over_engine=median(service) / median(engine),
        service_over_engine_spread=Spread.of([one / other for one, other in zip(service, beside, strict=True)]),
        service_turns_tiles_per_s=service,
        engine_turns_tiles_per_s=engine,
        cpu_ms_per_frame={name: Spread.of(of) for name, of in cpu.items()},
        processor=processor_of(threads, median(cpu[CAMERAS])),
    )


def processor_of(threads: Sequence[Mapping[str, float]], cameras_ms: float) -> Processor | None:
    """From each round's CPU time per frame, ms, by the names of threads; None where the engine's is not among it."""
    names = {name for one in threads for name in one}
    taken = {name: median(one.get(name, 0.0) for one in threads) for name in names}
    inference_ms = taken.pop(ENGINE_THREADS, 0.0)
    if not inference_ms:
        return None
    ranked = sorted([*taken.items(), (CAMERAS, cameras_ms)], key=lambda each: -each[1])
    rest = dict(ranked[:MOST_TOLD])
    if others := ranked[MOST_TOLD:]:
        rest[OTHERS] = sum(ms for _, ms in others)
    rest_ms = sum(rest.values())
    return Processor(inference_ms=inference_ms, rest_ms=rest, rest_share=rest_ms / (inference_ms + rest_ms))


def taken_between(before: Mapping[int, ThreadTime], after: Mapping[int, ThreadTime]) -> dict[str, int]:
    """Processor time by the first words of threads' names, ns: all that grab are told together."""
    taken: dict[str, int] = {}
    for thread, (name, ns) in after.items():
        word = name.partition(" ")[0]
        taken[word] = taken.get(word, 0) + ns - (before[thread].ns if thread in before else 0)
    return taken


class _Turn(NamedTuple):
    frames_per_s: float
    """Counted from one frame's event to another's."""
    cpu_ms: dict[str, float]
    """Per frame."""
    thread_ms: dict[str, float]
    """The same of the service's threads."""


def _service_turn(line: Line, seconds: float) -> _Turn:
    pids = {"service": [line.watched.pid], CAMERAS: line.watched.camera_pids()}
    for _ in range(FRAMES_AT_REST):  # they were under way while it stood still
        line.wait()
    first = line.wait()
    before = {name: sum(map(cpu_ns, of)) for name, of in pids.items()}
    threads_before = thread_times(line.watched.pid)
    told = [line.wait()]
    while told[-1].at_ns - first.at_ns < seconds * 1e9:
        told.append(line.wait())
    cpu = {name: sum(map(cpu_ns, of)) - before[name] for name, of in pids.items()}
    threads = taken_between(threads_before, thread_times(line.watched.pid))
    line.watched.require_cameras(pids[CAMERAS])
    if lost := {one.event.reason for one in (first, *told)} - {None}:
        raise BenchError(f"of frames that waited for room, some were lost: {lost}")
    took_s = (told[-1].at_ns - first.at_ns) / 1e9
    return _Turn(
        len(told) / took_s,
        {name: ns / 1e6 / len(told) for name, ns in cpu.items()},
        {name: ns / 1e6 / len(told) for name, ns in threads.items()},
    )
