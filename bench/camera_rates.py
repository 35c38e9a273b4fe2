"""The highest frame rate at which no frame is lost: through the service to its events, and of the camera path alone.

A rate is tried by running cameras at it and looking at every frame that was taken within a window. It is kept up with
if each of them came, was inspected and was heard of, and the last ones no later after their capture than the first.
"""

import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.bare_engine import BareEngine, read_graph, unlike
from bench.gige_device import GigeDevice, picture
from bench.processes import camera_processes, cpu_s
from bench.proven import engine_in
from bench.spread import Spread
from bench.turns import in_turns
from bench.watched_line import POLL_SECONDS, Keys, WatchedLine
from edge.bundle import Bundle
from edge.cameras.base import EndOfFrames
from edge.cameras.pattern import pattern
from edge.cameras.settings import CameraSettings
from edge.cameras.supervisor import SupervisedCamera
from edge.colour import to_rgb
from edge.errors import BenchError
from edge.frames import Frame
from edge.geometry import TileGrid
from edge.inference import Precision, infer
from edge.wire.events import VerdictEvent

PACKET_BYTES = 8000
SETTLE_SECONDS = 0.5
"""The first frames wait while the rest of the service starts: what becomes of them is no matter of rate."""
SETTLE_FRAMES = 3
LEAST_FRAMES = 16
"""Of each camera in a window: of fewer, too many may wait unseen in the buffers of a line that does not keep up."""
FIRST_WITHIN_SECONDS = 60.0
LAST_WITHIN_SECONDS = 10.0
"""After a window: a line that keeps up is not so late."""
NEAR_ENOUGH = 0.98
"""Of the frames that were to come: a camera may round its rate."""
MOST_GROWTH = 0.03
"""By how much of the time that passes frames may become later: more is a queue that grows."""
STEP = 1.36
"""From one rate to the next until one is kept up with and one is not; halved twice, they lie within 8 %."""
WITHIN = 1.08
HIGHEST_FPS: Mapping[str, float] = {"genicam": 1000.0, "pattern": 10_000.0}
"""That they can be set to, by kind."""
STEP_DOWN = 1.05
"""From a rate that was kept up with once and not again."""
TRIES_TO_HOLD = 8
"""Beside those that are wanted."""
ENGINE_ROUNDS = 5
"""Of the bare engine, before a row is measured and after."""
LEAST_TILES_PER_ROUND = 96
LEAST_TOLERANCE = 1e-3
"""Of its largest logit, by which its answers may be off."""
FIRST_SHARE = 0.85
"""Of the bare engine's tiles: where the search to the event begins."""
FIRST_MEGAPIXELS_PER_S: Mapping[str, float] = {"genicam": 400.0, "pattern": 1500.0}
"""Where the search of the camera path alone begins, by kind."""

Way = Literal["to event", "camera path"]


class Load(msgspec.Struct, frozen=True):
    """Cameras that are all alike."""

    kind: Literal["genicam", "pattern"]
    cameras: int
    hw: tuple[int, int]

    def __str__(self) -> str:
        what = "GigE Vision" if self.kind == "genicam" else "pattern"
        number = f"{self.cameras} x " if self.cameras > 1 else ""
        return f"{number}{what} {self.hw[1]}x{self.hw[0]} Mono8"

    @property
    def frame_bytes(self) -> int:
        return self.hw[0] * self.hw[1]

    def picture(self) -> NDArray[np.uint8]:
        """A picture such as they show, Mono8."""
        return picture(self.hw) if self.kind == "genicam" else pattern(1, self.hw)

    def keys(self, rate_fps: float, gige_address: str) -> list[Keys]:
        """Their tables in a configuration."""
        own: Keys = {"draw_size": [self.hw[1], self.hw[0]]}
        if self.kind == "genicam":
            own = {"address": gige_address, "packet_bytes": PACKET_BYTES}
        return [
            {"kind": self.kind, "name": f"cam{number}", "rate_fps": rate_fps, **own} for number in range(self.cameras)
        ]


class Tries(msgspec.Struct, frozen=True, kw_only=True):
    """How much is tried."""

    seconds: float
    """Length of the windows in which a rate is held."""
    search_seconds: float
    """Of those in which it is looked for."""
    search: int
    """Most windows to look for it in."""
    holds: int
    """Windows in which the rate must be kept up with."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Cameras run at one rate, and every frame that was taken within a window. CPU times are of that window too."""

    asked_fps: float
    """Of each camera."""
    seconds: float
    """Length of the window; of one in which a frame was lost, up to then."""
    came_fps: float
    """Frames that came, of the camera of which fewest came."""
    frames: int
    """That came through, all cameras together."""
    lost: dict[str, int]
    """By reason: dropped, failed, lost on the way, or an event that was not heard."""
    latency_p50_ms: float | None
    """From capture (of a GigE Vision camera: the arrival of its first packet) until it was heard of here."""
    latency_p99_ms: float | None
    latency_growth_ms: float | None
    """By how much the window's last quarter was later than its first."""
    cpu_ms_per_frame: dict[str, float]
    """Of the service (of the camera path alone: this process), its camera processes, and the GigE Vision device."""
    kept_up: bool
    stopped_ms: float | None = None
    """From SIGTERM until the service said STOPPED."""

    @property
    def why_not(self) -> str:
        """Why it was not kept up with, in words."""
        if self.lost:
            return "lost: " + ", ".join(f"{reason} {count}" for reason, count in self.lost.items())
        if self.came_fps < NEAR_ENOUGH * self.asked_fps:
            return f"cameras came at {self.came_fps:.1f}/s"
        return f"frames came later and later, by {self.latency_growth_ms or 0:.0f} ms"


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """The highest rate that was held, and all that was tried. Spreads are over the windows in which it was held."""

    load: Load
    way: Way
    rate_fps: float | None
    """Of each camera; none: no rate was kept up with."""
    limited_by: str | None
    """What went wrong at the lowest rate that was not kept up with; none: there was none, it may go faster."""
    bytes_per_s: float | None
    """Of pixels as the cameras send them, all together."""
    latency_p50_ms: Spread | None
    latency_p99_ms: Spread | None
    cpu_ms_per_frame: dict[str, Spread]
    stopped_ms: Spread | None
    """Of every service that was ended, whether it had kept up or not."""
    tiles_per_frame: int | None
    bare_tiles_per_s: Spread | None
    """Of the engine alone on the same tiles, before and after."""
    share_of_bare: float | None
    """Tiles a second at that rate over the bare engine's median."""
    held: list[Trial]
    tried: list[Trial]
    bare_tiles_per_s_samples: list[float]


def measure_rate_to_event(
    load: Load,
    bundle: Bundle,
    precision: Precision,
    tries: Tries,
    *,
    gige_address: str,
    say: Callable[[str], None],
) -> Rate:
    """Of `heatline run` with one subscriber, both on this machine.

    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        BenchError: nor in that precision, or a process or the bare engine did not do what it should.
    """
    tiles = _tiles(load, bundle)
    engine, wrong = _bare_engine(bundle, precision, tiles)
    per_frame = len(tiles) * load.cameras

    def attempt(rate_fps: float, seconds: float) -> Trial:
        return through_service(load, bundle, precision, rate_fps, seconds, gige_address, device)

    with _device(load, gige_address) as device:
        bare = _bare_tiles_per_s(engine, len(tiles))
        first_fps = FIRST_SHARE * median(bare) / per_frame
        held, tried = find_highest(attempt, first_fps, HIGHEST_FPS[load.kind], tries, _saying(load, "to event", say))
        bare += _bare_tiles_per_s(engine, len(tiles))
    if fault := wrong():
        raise BenchError(f"the bare engine does not do the work that is timed: {fault}")
    return _rate(load, "to event", held, tried, len(tiles), bare)


def measure_camera_path(load: Load, tries: Tries, *, gige_address: str, say: Callable[[str], None]) -> Rate:
    """Of one camera's process and the shared memory, to a receiver in this process that releases frames at once.

    Raises:
        CameraError: the camera cannot be opened.
        BenchError: a process did not do what it should.
    """
    first_fps = FIRST_MEGAPIXELS_PER_S[load.kind] * 1e6 / load.frame_bytes

    def attempt(rate_fps: float, seconds: float) -> Trial:
        return through_camera_path(load, rate_fps, seconds, gige_address, device)

    with _device(load, gige_address) as device:
        held, tried = find_highest(attempt, first_fps, HIGHEST_FPS[load.kind], tries, _saying(load, "camera path", say))
    return _rate(load, "camera path", held, tried)


# Looking for the rate.


def find_highest(
    attempt: Callable[[float, float], Trial],
    first_fps: float,
    most_fps: float,
    tries: Tries,
    say: Callable[[str], None],
) -> tuple[list[Trial], list[Trial]]:
    """Look for the highest rate that is kept up with, then hold it.

    Args:
        attempt: runs at a rate, for so many seconds.
        first_fps: where to begin.
        most_fps: highest rate that there is.
    Returns:
        the trials at the rate that was held, none where there was no such rate; and all trials in their order.
    """
    tried: list[Trial] = []
    kept = missed = None  # the highest rate that was kept up with, and the lowest above it that was not
    rate_fps = first_fps

    def run(rate_fps: float, seconds: float) -> Trial:
        tried.append(attempt(rate_fps, seconds))
        say(f"{rate_fps:g} frames/s: {'kept up' if tried[-1].kept_up else tried[-1].why_not}")
        return tried[-1]

    while len(tried) < tries.search:
        rate_fps = min(float(f"{rate_fps:.3g}"), most_fps)
        if run(rate_fps, tries.search_seconds).kept_up:
            kept = rate_fps
        else:
            missed = rate_fps
        if kept == most_fps or (kept and missed and missed / kept <= WITHIN):
            break
        rate_fps = math.sqrt(kept * missed) if kept and missed else kept * STEP if kept else rate_fps / STEP
    if kept is None:
        return [], tried
    # A search of windows as long as those of holding has held the rate once.
    as_long = tries.search_seconds >= tries.seconds
    held = [trial for trial in tried if trial.asked_fps == kept and trial.kept_up and as_long]
    for _ in range(tries.holds + TRIES_TO_HOLD):
        if len(held) >= tries.holds:
            return held, tried
        trial = run(kept, tries.seconds)
        if trial.kept_up:
            held.append(trial)
        else:
            held, kept = [], float(f"{kept / STEP_DOWN:.3g}")
    return (held if len(held) >= tries.holds else []), tried


def _rate(
    load: Load,
    way: Way,
    held: list[Trial],
    tried: list[Trial],
    tiles_per_frame: int | None = None,
    bare: Sequence[float] = (),
) -> Rate:
    rate_fps = held[0].asked_fps if held else None
    missed = [trial for trial in tried if not trial.kept_up and trial.asked_fps >= (rate_fps or 0)]
    share = None
    if rate_fps and tiles_per_frame and bare:
        share = rate_fps * load.cameras * tiles_per_frame / median(bare)
    stopped = [trial.stopped_ms for trial in tried if trial.stopped_ms is not None]
    return Rate(
        load=load,
        way=way,
        rate_fps=rate_fps,
        limited_by=min(missed, key=lambda trial: trial.asked_fps).why_not if missed else None,
        bytes_per_s=rate_fps * load.cameras * load.frame_bytes if rate_fps else None,
        latency_p50_ms=_spread(trial.latency_p50_ms for trial in held),
        latency_p99_ms=_spread(trial.latency_p99_ms for trial in held),
        cpu_ms_per_frame={
            of: Spread.of([trial.cpu_ms_per_frame[of] for trial in held])
            for of in (held[0].cpu_ms_per_frame if held else ())
        },
        stopped_ms=_spread(stopped),
        tiles_per_frame=tiles_per_frame,
        bare_tiles_per_s=_spread(bare),
        share_of_bare=share,
        held=held,
        tried=tried,
        bare_tiles_per_s_samples=list(bare),
    )


def _spread(values: Iterator[float | None] | Sequence[float]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None


def _saying(load: Load, way: Way, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda line: say(f"{load}, {way}: {line}")


# One trial.


class Seen(NamedTuple):
    """A frame that came through, or word of some that did not."""

    camera: str
    captured_ns: int
    heard_ns: int
    frames: int
    lost: str | None
    """Why they did not come through."""


def through_service(
    load: Load,
    bundle: Bundle,
    precision: Precision,
    rate_fps: float,
    seconds: float,
    gige_address: str,
    device: GigeDevice | None,
) -> Trial:
    """Try a rate through a service that is started for it, to the events that are heard here.

    Raises:
        BenchError: the service did not do what it should.
    """
    with tempfile.TemporaryDirectory() as folder:
        keys = load.keys(rate_fps, gige_address)
        with WatchedLine(Path(folder), bundle.path, precision, keys) as line:

            def look() -> Seen | None:
                heard = line.next()
                if heard is None or not isinstance(event := heard.event, VerdictEvent):
                    return None
                captured_ns = event.times.captured_monotonic_ns
                return Seen(event.camera, captured_ns, heard.at_ns, event.frames, event.reason)

            trial = run_trial(
                look,
                load.cameras,
                rate_fps,
                seconds,
                lambda: {"service": [line.pid], "cameras": line.camera_pids(), **_pid_of(device)},
            )
            if line.not_heard:
                lost = trial.lost | {"not heard": line.not_heard}
                trial = msgspec.structs.replace(trial, lost=lost, kept_up=False)
            return msgspec.structs.replace(trial, stopped_ms=line.stop() * 1e3)


def through_camera_path(
    load: Load, rate_fps: float, seconds: float, gige_address: str, device: GigeDevice | None
) -> Trial:
    """Try a rate with one camera whose process this one starts, and release its frames as they come.

    Raises:
        CameraError: it cannot be opened.
        BenchError: nothing comes from it.
    """
    settings = msgspec.convert(load.keys(rate_fps, gige_address)[0], CameraSettings)
    camera = SupervisedCamera(settings, lambda alarm: None)

    def look() -> Seen | None:
        try:
            item = camera.grab(POLL_SECONDS)
        except EndOfFrames as error:
            raise BenchError(f"camera {camera.name} showed its last frame, and should have none") from error
        if item is None:
            return None
        lost = None
        if isinstance(item, Frame):
            item.release()
        else:
            lost = f"{item.kind}.{item.reason}"
        stamp = item.stamp
        return Seen(stamp.camera, stamp.captured_monotonic_ns, time.monotonic_ns(), stamp.frames, lost)

    own = os.getpid()
    with ExitStack() as at_end:
        at_end.callback(camera.close)
        camera.open()
        return run_trial(
            look,
            1,
            rate_fps,
            seconds,
            lambda: {"receiver": [own], "cameras": camera_processes(own), **_pid_of(device)},
        )


def run_trial(
    look: Callable[[], Seen | None],
    cameras: int,
    rate_fps: float,
    seconds: float,
    processes: Callable[[], Mapping[str, Sequence[int]]],
) -> Trial:
    """Look at every frame that is taken within a window; at the first that is lost, no further.

    Args:
        look: the next frame, or None where nothing came within a moment.
        cameras: how many there are.
        rate_fps: of each of them.
        seconds: length of the window; longer where the rate makes too few frames.
        processes: whose CPU time is taken, by name.
    Raises:
        BenchError: from some camera nothing comes.
    """
    began_ns = _settle(look, cameras, rate_fps)
    seconds = max(seconds, LEAST_FRAMES / rate_fps)
    ended_ns = began_ns + round(seconds * 1e9)
    of = processes()
    cpu_before: dict[str, float] = {}
    cpu_after: dict[str, float] = {}
    seen: list[Seen] = []
    over: set[str] = set()
    lost: Counter[str] = Counter()
    while len(over) < cameras and not lost:
        now_ns = time.monotonic_ns()
        if now_ns >= began_ns and not cpu_before:
            cpu_before = _cpu_s(of)
        if now_ns >= ended_ns and not cpu_after:
            cpu_after = _cpu_s(of)
        if now_ns > ended_ns + LAST_WITHIN_SECONDS * 1e9:
            lost["nothing came any more"] += 1
        one = look()
        if one is None or one.captured_ns < began_ns:
            continue
        if one.captured_ns >= ended_ns:
            over.add(one.camera)
        elif one.lost is None:
            seen.append(one)
        else:
            lost[one.lost] += one.frames
    if lost:
        seconds = max((time.monotonic_ns() - began_ns) / 1e9, 1e-9)
        return trial_of(rate_fps, seconds, cameras, seen, dict(lost), {})
    cpu_after = cpu_after or _cpu_s(of)
    cpu = {name: taken - cpu_before[name] for name, taken in cpu_after.items()}
    return trial_of(rate_fps, seconds, cameras, seen, {}, cpu)


def _settle(look: Callable[[], Seen | None], cameras: int, rate_fps: float) -> int:
    """Wait for every camera's first frame that comes through; returns when the window begins, monotonic ns."""
    there: set[str] = set()
    give_up = time.monotonic() + FIRST_WITHIN_SECONDS
    while len(there) < cameras:
        if time.monotonic() > give_up:
            raise BenchError(
                f"frames of {len(there)} of {cameras} cameras came through within {FIRST_WITHIN_SECONDS:.0f} s"
            )
        if (one := look()) is not None and one.lost is None:
            there.add(one.camera)
    return time.monotonic_ns() + round(max(SETTLE_SECONDS, SETTLE_FRAMES / rate_fps) * 1e9)


def trial_of(
    rate_fps: float, seconds: float, cameras: int, seen: list[Seen], lost: dict[str, int], cpu: Mapping[str, float]
) -> Trial:
    """What came of a window.

    Args:
        seconds: its length.
        seen: all frames that came through.
        lost: those that did not, by reason.
        cpu: seconds, by whose they are.
    """
    count = Counter(one.camera for one in seen)
    fewest = min(count.values()) if len(count) == cameras else 0
    in_order = sorted(seen, key=lambda one: one.captured_ns)
    latencies = np.array([one.heard_ns - one.captured_ns for one in in_order]) / 1e6
    quarter = len(latencies) // 4
    growth_ms = float(np.median(latencies[-quarter:]) - np.median(latencies[:quarter])) if quarter else None
    # From the middle of the first quarter to that of the last, three quarters of the time pass.
    growth_allowed_ms = MOST_GROWTH * 0.75 * seconds * 1e3 + 0.25 * 1e3 / rate_fps
    # Whether the window's ends fell before or after a frame is chance.
    all_came = fewest + 1 >= NEAR_ENOUGH * rate_fps * seconds
    return Trial(
        asked_fps=rate_fps,
        seconds=seconds,
        came_fps=fewest / seconds,
        frames=len(seen),
        lost=lost,
        latency_p50_ms=float(np.median(latencies)) if seen else None,
        latency_p99_ms=float(np.percentile(latencies, 99)) if seen else None,
        latency_growth_ms=growth_ms,
        cpu_ms_per_frame={of: taken * 1e3 / len(seen) for of, taken in cpu.items()} if seen else {},
        kept_up=not lost and all_came and growth_ms is not None and growth_ms <= growth_allowed_ms,
    )


def _cpu_s(of: Mapping[str, Sequence[int]]) -> dict[str, float]:
    return {name: sum(map(cpu_s, pids)) for name, pids in of.items()}


def _pid_of(device: GigeDevice | None) -> dict[str, list[int]]:
    return {} if device is None else {"device": [device.pid]}


@contextmanager
def _device(load: Load, address: str) -> Iterator[GigeDevice | None]:
    if load.kind != "genicam":
        yield None
        return
    with GigeDevice(address, load.hw) as device:
        device.switch_on()
        yield device


# The bare engine.


def _tiles(load: Load, bundle: Bundle) -> NDArray[np.uint8]:
    """Those of one frame: [count, tile, tile, 3]."""
    grid = bundle.manifest.grid
    tiles = TileGrid(load.hw, grid.tile_px, grid.overlap_px)
    cut = np.empty((len(tiles), grid.tile_px, grid.tile_px, 3), np.uint8)
    tiles.cut(to_rgb(load.picture(), "Mono8"), cut)
    return cut


def _bare_engine(
    bundle: Bundle, precision: Precision, tiles: NDArray[np.uint8]
) -> tuple[BareEngine, Callable[[], str | None]]:
    """As the service has it by default, a stream per core; and what asks whether its answers are wrong, and why."""
    proven = engine_in(bundle, precision)
    try:
        first = tiles[: proven.engine.batch]
        logits, _ = infer(proven.engine, first)
    finally:
        proven.engine.close()
    graph = bundle.manifest.graph_for(precision)
    assert graph is not None, "the bundle was proven in this precision"
    cores = len(os.sched_getaffinity(0))
    engine = BareEngine(read_graph(bundle.path / graph), precision, first, threads=cores, streams=cores)
    engine.run(cores + 1)  # so that every request has an answer
    tolerance = max(LEAST_TOLERANCE, bundle.manifest.tolerances[precision])
    return engine, lambda: unlike(engine, logits, tolerance)


def _bare_tiles_per_s(engine: BareEngine, per_frame: int) -> list[float]:
    """Of rounds that each take as many tiles as one frame has, or as many frames as make a round worth timing."""
    tiles = per_frame * math.ceil(LEAST_TILES_PER_ROUND / per_frame)
    requests = math.ceil(tiles / engine.batch)
    seconds = in_turns({"engine": engine.run}, ENGINE_ROUNDS, requests)
    return [requests * engine.batch / one for one in seconds["engine"]]
