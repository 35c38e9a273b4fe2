"""Turns of services for which a frame always waits, of an idle one, and of the bare engine, interleaved."""

import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from heatline.bench.end_to_end.line import (
    FIRST_WITHIN_SECONDS,
    SETTLE_FRAMES,
    SETTLE_SECONDS,
    Line,
    ReceivedVerdict,
    Scene,
    count_unreported,
    due_ns,
    running,
)
from heatline.bench.engines import Settings, in_own_process
from heatline.bench.processes import cpu_ns, tree
from heatline.bench.spread import Spread
from heatline.bench.watched_line import Keys, free_address
from heatline.edge.errors import BenchError
from heatline.edge.util.process import NamedThread

if TYPE_CHECKING:
    from heatline.bench.end_to_end.bare import Bare

FRAMES_AT_REST = 2
"""Frames that were in the engine, or just behind it, when the service was stopped."""
PERIOD_FRAMES = 4.0
"""From one frame to the next, in the bare engine's time per frame: one for the service, one for the engine, two in
reserve, as the machine's speed may fall to a half."""
LEAST_PERIOD_S = 0.05
CHOOSE_ROUNDS = 5
LOST_AT_MOST = 10
"""Events of lost frames, per frame that is to be timed."""
GOOD_EVERY = 4
"""One of so many GOOD frames is to be stored, so that pictures are written all the time."""
VIEWERS = 2
START_SECONDS = 10.0
"""For recorder and page to start, while the service is stopped: a busy one leaves them so little of the processor that
it would take minutes."""
CONNECT_SECONDS = 2.0
"""Before each turn: connections end while a service is stopped for long."""
RETRY_SECONDS, OPEN_SECONDS, LARGEST_PICTURE = 0.2, 60.0, 1 << 24


class Turn(NamedTuple):
    """A turn of a service for which a frame always waits."""

    frames_per_s: float
    """From one frame's event to another's."""
    cpu_ms: dict[str, float]
    """Processor time per frame: of the service, of its cameras' processes, and of all other children."""


def service_turn(line: Line, seconds: float) -> Turn:
    """Measure the service for some seconds.

    Raises:
        BenchError: a frame was lost, or a process ended.
    """
    service, cameras = line.watched.pid, line.watched.camera_pids()
    others = sorted({*tree(service)} - {service, *cameras})
    pids = {"service": [service], "cameras": cameras, "others": others}
    for _ in range(FRAMES_AT_REST):  # they were in flight while it was stopped
        line.wait()
    first = line.wait()
    before = {name: sum(map(cpu_ns, of)) for name, of in pids.items()}
    received = [line.wait()]
    while received[-1].at_ns - first.at_ns < seconds * 1e9:
        received.append(line.wait())
    cpu = {name: sum(map(cpu_ns, of)) - before[name] for name, of in pids.items()}
    line.watched.require_cameras(cameras)
    if not {*others} <= {*tree(service)}:
        raise BenchError(f"a process beside the service ended meanwhile: {line.watched.process.log_tail()}")
    if lost := {one.event.reason for one in (first, *received)} - {None}:
        raise BenchError(f"frames of cameras that wait for room were lost: {lost}")
    took_s = (received[-1].at_ns - first.at_ns) / 1e9
    return Turn(len(received) / took_s, {name: ns / 1e6 / len(received) for name, ns in cpu.items()})


class Saturated(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of the service and of the bare engine."""

    service_tiles_per_s: Spread
    service_frames_per_s: Spread
    engine_tiles_per_s: Spread
    service_over_engine: float
    """Ratio of the medians."""
    service_over_engine_spread: Spread
    """Ratios by round, each to the mean of the engine's turn before and the one after."""
    cpu_ms_per_frame: dict[str, Spread]
    """Processor time of the service, and of its cameras' processes."""


def saturate(
    scene: Scene, tiles: int, bare: "Bare", *, seconds: float, rounds: int, report_line: Callable[[str], None]
) -> Saturated:
    """Interleave turns of both, the engine first and last; the service is stopped during the engine's turns.

    Args:
        tiles: of a frame.
    Raises:
        BenchError: a process failed, or the service reported a wrong verdict.
    """
    with running(scene, None) as line:
        line.settle(len(scene.cameras))
        line.receive_until(time.monotonic_ns() + round(SETTLE_SECONDS * 1e9))

        def engine_turn() -> float:
            with line.watched.paused():
                return bare.tiles_per_s(seconds)

        turns, engine = list[Turn](), [engine_turn()]
        for number in range(rounds):
            turns.append(service_turn(line, seconds))
            engine.append(engine_turn())
            service = turns[-1].frames_per_s * tiles
            report_line(f"round {number + 1} of {rounds}: service {service:.0f} tiles/s, bare engine {engine[-1]:.0f}")
    frames_per_s = [turn.frames_per_s for turn in turns]
    around = [(before + after) / 2 for before, after in itertools.pairwise(engine)]
    return Saturated(
        service_tiles_per_s=Spread.of([tiles * one for one in frames_per_s]),
        service_frames_per_s=Spread.of(frames_per_s),
        engine_tiles_per_s=Spread.of(engine),
        service_over_engine=tiles * median(frames_per_s) / median(engine),
        service_over_engine_spread=Spread.of(
            [tiles * one / other for one, other in zip(frames_per_s, around, strict=True)]
        ),
        cpu_ms_per_frame=_cpu_of(turns),
    )


def _cpu_of(turns: Sequence[Turn]) -> dict[str, Spread]:
    return {name: Spread.of([turn.cpu_ms[name] for turn in turns]) for name in turns[0].cpu_ms}


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """Times of single frames, of the service and of the bare engine."""

    engine: Settings
    """Settings with which the bare engine infers a frame's tiles fastest."""
    lost: int
    """In all rounds; none on a machine that does nothing else."""
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
    engine, engine_ms = bare.choose_for_frames(CHOOSE_ROUNDS)
    period_s = max(PERIOD_FRAMES * engine_ms / 1e3, LEAST_PERIOD_S)
    name, keys = next(iter(scene.cameras.items()))
    rates, lost = {name: 1 / period_s}, 0
    service, alone = list[list[float]](), list[list[float]]()
    """ms, by round and frame."""
    with running(replace(scene, cameras={name: keys}), rates) as line:
        line.settle(1)
        for _ in range(SETTLE_FRAMES):
            line.wait()
        cameras = line.watched.camera_pids()
        for number in range(rounds):
            received: list[ReceivedVerdict] = []
            alone.append([])
            while len(alone[-1]) < frames:
                received.append(one := line.wait())
                if one.event.reason is None:
                    alone[-1].append(bare.frame_ms())
                elif len(received) > LOST_AT_MOST * frames:
                    raise BenchError(f"an idle service loses frame after frame: {one.event.reason}")
            line.watched.require_cameras(cameras)
            lost += count_unreported(received) + sum(one.event.frames for one in received if one.event.reason)
            timed = zip(received, due_ns(received, rates), strict=True)
            service.append([(one.at_ns - due) / 1e6 for one, due in timed if one.event.reason is None])
            report_line(
                f"round {number + 1} of {rounds}: frame {median(service[-1]):.1f} ms, its tiles alone "
                f"{median(alone[-1]):.1f} ms"
            )
    pairs = [list(zip(*of, strict=True)) for of in zip(service, alone, strict=True)]
    return Idle(
        engine=engine,
        lost=lost,
        frame_ms=Spread.of([median(of) for of in service]),
        engine_ms=Spread.of([median(of) for of in alone]),
        extra_ms=Spread.of([median(one - other for one, other in of) for of in pairs]),
        frame_p99_ms=float(np.percentile(np.concatenate(service), 99)),
        engine_p99_ms=float(np.percentile(np.concatenate(alone), 99)),
    )


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """A service that stores evidence and serves the page to viewers, compared with one that does neither."""

    frames_per_s: Spread
    plain_frames_per_s: Spread
    over_plain: Spread
    """Of the turns, each to the mean of the plain turns before and after it."""
    cpu_ms_per_frame: dict[str, Spread]
    """Processor time of the service, of its cameras' processes, and of the processes beside it."""
    stored: int
    """Pictures that were stored in all turns, by the line's status, which comes once a second."""
    skipped: int
    """Pictures that should have been stored and were not."""
    shown: int
    """Pictures that all viewers got in all turns."""


def measure_beside(scene: Scene, *, seconds: float, rounds: int, report_line: Callable[[str], None]) -> Beside:
    """Interleave turns of both services, a plain one first and last; the other one is stopped with all its children.

    Raises:
        BenchError: a process failed, a service reported a wrong verdict, or nothing was stored or shown.
    """
    with ExitStack() as stack:
        report_line("starting both services")
        folder = stack.enter_context(TemporaryDirectory(prefix="heatline-bench-"))
        address = free_address().removeprefix("tcp://")
        tables: dict[str, Keys] = {
            "evidence": {"folder": str(Path(folder) / "evidence"), "good_every": GOOD_EVERY},
            "web": {"listen": address},
        }
        plain = stack.enter_context(running(scene, None))
        plain.settle(len(scene.cameras))
        busy = stack.enter_context(running(replace(scene, tables={**scene.tables, **tables}), None))
        viewers = stack.enter_context(in_own_process(Viewers, address, VIEWERS))
        with plain.watched.paused():
            _await_work(busy, viewers, len(scene.cameras))

        def turn(line: Line, other: Line) -> Turn:
            with other.watched.paused():
                line.receive_until(time.monotonic_ns() + round(CONNECT_SECONDS * 1e9))
                return service_turn(line, seconds)

        before, shown = busy.evidence, sum(viewers.pictures())
        plain_turns, turns = [turn(plain, busy)], list[Turn]()
        for number in range(rounds):
            turns.append(turn(busy, plain))
            plain_turns.append(turn(plain, busy))
            rates = f"{turns[-1].frames_per_s:.3f} frames/s, plain {plain_turns[-1].frames_per_s:.3f}"
            report_line(f"round {number + 1} of {rounds}: {rates}")
        stored, skipped = busy.evidence.kept - before.kept, busy.evidence.skipped - before.skipped
        shown = sum(viewers.pictures()) - shown
    if not (stored + skipped and shown):
        raise BenchError(f"{stored + skipped} pictures were to be stored, and {shown} were shown: nothing was compared")
    rates_of = [one.frames_per_s for one in plain_turns]
    around = [(one + other) / 2 for one, other in itertools.pairwise(rates_of)]
    return Beside(
        frames_per_s=Spread.of([one.frames_per_s for one in turns]),
        plain_frames_per_s=Spread.of(rates_of),
        over_plain=Spread.of([one.frames_per_s / other for one, other in zip(turns, around, strict=True)]),
        cpu_ms_per_frame=_cpu_of(turns),
        stored=stored,
        skipped=skipped,
        shown=shown,
    )


def _await_work(line: Line, viewers: "Viewers", cameras: int) -> None:
    """Wait until frames are inspected, a picture is stored, and every viewer has got one."""
    line.settle(cameras)
    with line.watched.paused(children_run=True):
        time.sleep(START_SECONDS)
    give_up = time.monotonic() + FIRST_WITHIN_SECONDS
    while not (line.evidence.kept and all(viewers.pictures())):
        line.next()
        if time.monotonic() > give_up:
            raise BenchError(
                f"no picture was stored or shown within {FIRST_WITHIN_SECONDS:.0f} s; {line.watched.process.log_tail()}"
            )


class Viewers:
    """Viewers of a page as browsers are: each reads everything, and acknowledges each picture as soon as it has it.

    A browser acknowledges a picture only after it has drawn it, and runs on another machine. So these viewers get more
    pictures than browsers would, and take processor time that browsers would not: it counts against the service.

    Args:
        address: `HOST:PORT` of the page. A viewer connects again whenever its connection ends.
        count: number of viewers.
    """

    def __init__(self, address: str, count: int) -> None:
        self._pictures = [0] * count
        for number in range(count):
            NamedThread(f"viewer {number}", self._view, f"ws://{address}/live", number).start()

    def pictures(self) -> list[int]:
        """Return the number of pictures that each viewer has got."""
        return list(self._pictures)

    def _view(self, url: str, number: int) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        options: dict[str, Any] = {"compression": None, "proxy": None, "ping_interval": None}
        while True:
            with (
                contextlib.suppress(OSError, WebSocketException),
                connect(url, max_size=LARGEST_PICTURE, open_timeout=OPEN_SECONDS, **options) as page,
            ):
                while True:
                    message: dict[str, Any] = msgspec.json.decode(page.recv())
                    if message["type"] != "picture":
                        continue
                    for _ in ("frame", "heatmap")[: 1 if message["heatmap"] is None else 2]:
                        page.recv()
                    ack = {"type": "ack", "camera": message["camera"], "id": message["id"]}
                    page.send(msgspec.json.encode(ack).decode())
                    self._pictures[number] += 1
            time.sleep(RETRY_SECONDS)
