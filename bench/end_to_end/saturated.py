"""Rate of a service for which a frame always waits, compared with the bare engine in interleaved rounds."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from heatline.bench.end_to_end.line import SETTLE_SECONDS, Line, Scene, running
from heatline.bench.processes import ThreadTime, cpu_ns, thread_times
from heatline.bench.spread import Spread
from heatline.edge.errors import BenchError
from heatline.edge.service.loading import ENGINE_THREADS

if TYPE_CHECKING:
    from heatline.bench.end_to_end.bare import Bare

CAMERAS, OTHERS = "cameras", "others"
MOST_NAMES = 6
"""Names of threads that are listed; the others are summed up."""
FRAMES_AT_REST = 2
"""Frames that were in the engine, or just behind it, when the service was stopped."""


class Processor(msgspec.Struct, frozen=True, kw_only=True):
    """Processor time of a frame, ms, medians of the rounds."""

    inference_ms: float
    """Of the engine's own threads."""
    rest_ms: dict[str, float]
    """Of the service's other threads, by the first words of their names, and of its cameras' processes: the largest
    first, and the smallest summed up."""
    rest_share: float
    """Their share of the whole."""


class Saturated(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of the service and of the bare engine."""

    seconds: float
    """Length of each turn of the service and of the engine."""
    service_tiles_per_s: Spread
    service_frames_per_s: Spread
    engine_tiles_per_s: Spread
    service_over_engine: float
    """Ratio of the medians."""
    service_over_engine_spread: Spread
    """Ratios by round, each to the mean of the engine's turn before and the one after."""
    service_turns_tiles_per_s: list[float] = []
    engine_turns_tiles_per_s: list[float] = []
    """In their order: a turn of the engine before each of the service, and one after the last."""
    cpu_ms_per_frame: dict[str, Spread]
    """Processor time of the service, and of its cameras' processes."""
    processor: Processor | None = None
    """Division of the processor time; None if the kernel did not report it."""


def saturate(
    scene: Scene, bare: "Bare", *, seconds: float, rounds: int, report_line: Callable[[str], None]
) -> Saturated:
    """Interleave turns of both, the engine first and last; the service is stopped during the engine's turns.

    Raises:
        BenchError: a process failed, or the service reported a wrong verdict.
    """
    engine: list[float] = []
    service: list[float] = []
    cpu: dict[str, list[float]] = {"service": [], CAMERAS: []}
    threads: list[dict[str, float]] = []
    with running(scene, None, waits=True) as line:
        line.settle(scene.cameras)
        line.receive_until(time.monotonic_ns() + round(SETTLE_SECONDS * 1e9))

        def engine_turn() -> float:
            with line.watched.paused():
                return bare.tiles_per_s(seconds)

        engine.append(engine_turn())
        for number in range(rounds):
            turn = service_turn(line, seconds)
            service.append(turn.frames_per_s * scene.tiles)
            threads.append(turn.thread_ms)
            for name, ms in turn.cpu_ms.items():
                cpu[name].append(ms)
            engine.append(engine_turn())
            report_line(
                f"round {number + 1} of {rounds}: service {service[-1]:.0f} tiles/s, bare engine {engine[-1]:.0f}"
            )
    around = [(before + after) / 2 for before, after in itertools.pairwise(engine)]
    return Saturated(
        seconds=seconds,
        service_tiles_per_s=Spread.of(service),
        service_frames_per_s=Spread.of([one / scene.tiles for one in service]),
        engine_tiles_per_s=Spread.of(engine),
        service_over_engine=median(service) / median(engine),
        service_over_engine_spread=Spread.of([one / other for one, other in zip(service, around, strict=True)]),
        service_turns_tiles_per_s=service,
        engine_turns_tiles_per_s=engine,
        cpu_ms_per_frame={name: Spread.of(of) for name, of in cpu.items()},
        processor=processor_of(threads, median(cpu[CAMERAS])),
    )


def processor_of(threads: Sequence[Mapping[str, float]], cameras_ms: float) -> Processor | None:
    """Divide the processor time of a frame; None if no thread is the engine's.

    Args:
        threads: of each round, ms per frame by the names of threads.
        cameras_ms: of the cameras' processes.
    """
    names = {name for one in threads for name in one}
    taken = {name: median(one.get(name, 0.0) for one in threads) for name in names}
    inference_ms = taken.pop(ENGINE_THREADS, 0.0)
    if not inference_ms:
        return None
    ranked = sorted([*taken.items(), (CAMERAS, cameras_ms)], key=lambda each: -each[1])
    rest = dict(ranked[:MOST_NAMES])
    if others := ranked[MOST_NAMES:]:
        rest[OTHERS] = sum(ms for _, ms in others)
    rest_ms = sum(rest.values())
    return Processor(inference_ms=inference_ms, rest_ms=rest, rest_share=rest_ms / (inference_ms + rest_ms))


def taken_between(before: Mapping[int, ThreadTime], after: Mapping[int, ThreadTime]) -> dict[str, int]:
    """Return the processor time between two samples by the first words of threads' names, ns."""
    taken: dict[str, int] = {}
    for thread, (name, ns) in after.items():
        word = name.partition(" ")[0]
        taken[word] = taken.get(word, 0) + ns - (before[thread].ns if thread in before else 0)
    return taken


class Turn(NamedTuple):
    """A turn of a service for which a frame always waits."""

    frames: int
    frames_per_s: float
    """From one frame's event to another's."""
    cpu_ms: dict[str, float]
    """Per frame."""
    thread_ms: dict[str, float]
    """Per frame, of the service's threads."""


def service_turn(line: Line, seconds: float, children: Mapping[str, str] = {}) -> Turn:
    """Measure the service for some seconds.

    Args:
        children: modules of its children whose processor time is to be measured, too, by names for the result.
    Raises:
        BenchError: a frame was lost, or a camera's process ended.
    """
    pids = {"service": [line.watched.pid], CAMERAS: line.watched.camera_pids()}
    pids |= {name: line.watched.pids_of(module) for name, module in children.items()}
    for _ in range(FRAMES_AT_REST):  # they were in flight while it was stopped
        line.wait()
    first = line.wait()
    before = {name: sum(map(cpu_ns, of)) for name, of in pids.items()}
    threads_before = thread_times(line.watched.pid)
    received = [line.wait()]
    while received[-1].at_ns - first.at_ns < seconds * 1e9:
        received.append(line.wait())
    cpu = {name: sum(map(cpu_ns, of)) - before[name] for name, of in pids.items()}
    threads = taken_between(threads_before, thread_times(line.watched.pid))
    line.watched.require_cameras(pids[CAMERAS])
    for name, module in children.items():
        if len(pids[name]) != 1 or line.watched.pids_of(module) != pids[name]:
            raise BenchError(f"the process {name} ended while it was measured: {line.watched.process.log_tail()}")
    if lost := {one.event.reason for one in (first, *received)} - {None}:
        raise BenchError(f"frames of cameras that wait for room were lost: {lost}")
    took_s = (received[-1].at_ns - first.at_ns) / 1e9
    return Turn(
        len(received),
        len(received) / took_s,
        {name: ns / 1e6 / len(received) for name, ns in cpu.items()},
        {name: ns / 1e6 / len(received) for name, ns in threads.items()},
    )
