"""`heatline bench tune`: the engine's best settings for one machine, one bundle and one line's frames.

Settings are searched in this process, where a frame goes through the line's inspector. That is fast, but leaves out
what shares the cores with the engine on a line: so the best are compared with the present ones in the real service.
"""

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import msgspec
import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from heatline.bench.end_to_end.line import Scene
from heatline.bench.end_to_end.rates import Window, run_window
from heatline.bench.engines import inspect_pipelined
from heatline.bench.pictures import golden_mosaic
from heatline.bench.spread import Spread, interleaved
from heatline.bench.watched_line import Keys
from heatline.edge.bundle import Bundle, open_bundle
from heatline.edge.bundle.golden import GoldenTilesError
from heatline.edge.cameras.settings import CameraSettings
from heatline.edge.config import LineConfig, load_config
from heatline.edge.config.engine import EngineConfig
from heatline.edge.config.products import ThresholdsConfig
from heatline.edge.errors import BenchError, BundleError, EngineError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import WHOLE_FRAME
from heatline.edge.inference import PRECISIONS, Precision
from heatline.edge.inference.engine import PROCESSOR
from heatline.edge.inspection.inspector import ANY_CAMERA, PendingFrame, Setup, product_references
from heatline.edge.service.changeover import prepare
from heatline.edge.util.files import read_toml
from heatline.edge.util.process import cores
from heatline.edge.wire.events import VerdictEvent

BATCHES = (1, 2, 4, 8)
BATCHES_ELSEWHERE = (1, 4, 8, 16)
"""On other devices than the processor."""
BATCHES_OF_ONE_REQUEST = (1, 8)
"""With ONNX Runtime, which infers one request at a time."""
NUMBERS = ("threads", "streams", "batch")
"""Keys of an engine whose values are numbers."""
LEAST_ALONE, LEAST_AT_ONCE, LEAST_ON_THE_LINE = 4, 2, 20
"""Frames of each camera: one at a time, at the highest rate, and in the service."""
HEADROOM = 0.85
"""A rate is sustained up to this share of the highest."""
FAR_BEHIND, ENOUGH = 0.6, 4
"""Share of the highest rate of all: slower candidates are dropped after the first round, while enough are left."""
ALIKE = 1.03
"""Latencies within this factor count as equal; then fewer threads are better."""
RANKED_AT = 90
"""Percentile of the latencies by which candidates are ranked: of few frames, a higher one is that of one frame."""
ROUNDS = 5
"""Rounds of present and chosen settings. A difference counts if all rounds show it: 1 in 32 by chance."""
ROUND_SECONDS = 6
"""Length of a round's run of the service, relative to that of a candidate in the first round of the search."""
MAY_LOSE_IN = 1
"""Rounds in which frames may be lost, as the machine may do something else."""
LEAST_GAIN = 0.02
"""A smaller gain does not count."""
NEVER_FROZEN = 100_000
"""Frames are compared as those of a real camera, but a camera here has one picture only."""


class Tried(msgspec.Struct, kw_only=True):
    """Results of one candidate."""

    engine: EngineConfig
    times_as_fast: list[float] = []
    """Highest rate over the line's rate, in each round."""
    latencies_ms: list[float] = []
    """Latencies of all frames that were shown one at a time."""
    left_out: str | None = None
    """Why the candidate cannot be used on this machine."""

    @property
    def fastest(self) -> float:
        """Median of `times_as_fast`."""
        return float(np.median(self.times_as_fast)) if self.times_as_fast else 0.0

    @property
    def sustains(self) -> bool:
        """Whether the line's rate leaves headroom to the highest."""
        return self.fastest * HEADROOM >= 1

    @property
    def latency_ms(self) -> float:
        """The percentile of the latencies that counts; infinite if there are none."""
        return float(np.percentile(self.latencies_ms, RANKED_AT)) if self.latencies_ms else math.inf

    def __str__(self) -> str:
        result = self.left_out or f"{self.fastest:.2f} times the rate"
        return f"{self.engine}: " + (f"p90 {self.latency_ms:.1f} ms, " if self.latencies_ms else "") + result


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate as the result has it."""

    engine: str
    latency_p90_ms: float | None
    """None: it was dropped before."""
    times_the_rate: float
    left_out: str | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Both settings in the real service, after the search, whose best was also lucky and had all cores."""

    present: list[Window]
    chosen: list[Window]
    """By round, interleaved."""
    latency_p90: Spread
    """Chosen over present, by rounds."""
    better_in: int
    """Rounds in which the chosen settings had the lower p90; where neither keeps up, in which they inspected more."""
    gain: float
    """By how much, as a share, at the median."""


class Tune(msgspec.Struct, frozen=True, kw_only=True):
    """All results, and the chosen settings."""

    line: str
    bundle: str
    model: str
    frames: list[str]
    cores: int
    present: str
    chosen: str
    why: str
    """Reason of the choice."""
    table: str
    """The chosen settings as the table [engine] of a line's file."""
    comparison: Comparison | None
    """None: the present settings are the best of the search."""
    tried: list[Row]


def measure_tune(
    bundle_path: Path,
    line: Path,
    *,
    precisions: Sequence[Precision],
    frame_hw: tuple[int, int] | None,
    rate_fps: float | None,
    seconds: float,
    rounds: int = ROUNDS,
    report_line: Callable[[str], None],
) -> Tune:
    """Find the best settings for a bundle with the frames of a line.

    Args:
        precisions: to choose among; none: all of the bundle. A precision that the line's file sets is used in any case.
        frame_hw, rate_fps: of all cameras, instead of those of the line's file; None: those of the file.
        seconds: length of a candidate's run in the first round.
        rounds: rounds of present and chosen settings at the end.
    Raises:
        BundleError, ConfigError, CameraError, EngineError: the line could not be run with this bundle.
        BenchError: a size or rate is unknown.
    """
    from heatline.edge.inference.devices import devices

    bundle = open_bundle(bundle_path)
    config = _with_bundle(load_config(line), bundle_path)
    present, own = spelled_out(config.engine, cores()), frozenset(read_toml(line).get("engine", {}))
    shown = shown_by(config, bundle, frame_hw=frame_hw, rate_fps=rate_fps)
    now = Tried(engine=present)
    with opened(now, config) as setup:
        if setup is None:
            raise BenchError(f"the present settings, {present}, cannot be used on this machine: {now.left_out}")
        most_tiles = max(
            len(setup.inspector.stitcher(one.picture.shape[:2], setup.areas[one.camera]).grid) for one in shown
        )
    wanted = [present.precision] if "precision" in own else list(precisions or bundle.manifest.precisions)
    usable = [
        one for one in dict.fromkeys(wanted) if one in bundle.manifest.precisions and not bundle.manifest.fails(one)
    ]
    if not usable:
        raise BundleError(
            f"{bundle.path} has no graph that passed its gate in {' or '.join(wanted)}; name another --precision, or "
            "leave it out"
        )
    engines = candidates(config.engine, own, cores=cores(), precisions=usable, devices=devices(), most_tiles=most_tiles)
    tried = [Tried(engine=engine) for engine in dict.fromkeys([*engines, present])]
    report_line(f"{', '.join(map(str, shown))}; at most {most_tiles} tiles; {cores()} cores; now: {present}")
    best = search(tried, config, shown, seconds=seconds, report_line=report_line)
    comparison, chosen, why = None, present, "the present settings are the best of the search"
    if best.engine != present:
        report_line(f"comparing the present settings with {best.engine} in the service")
        run = partial(on_the_line, config=config, bundle=bundle, shown=shown)
        comparison = compare(present, best.engine, run, ROUND_SECONDS * seconds, rounds, report_line)
        better, why = is_better(comparison)
        chosen = best.engine if better else present
    return Tune(
        line=str(line),
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        frames=[str(one) for one in shown],
        cores=cores(),
        present=str(present),
        chosen=str(chosen),
        why=why,
        table="\n".join(["[engine]", *(f"{key} = {json.dumps(value)}" for key, value in asdict(chosen).items())]),
        comparison=comparison,
        tried=[
            Row(
                engine=str(one.engine),
                latency_p90_ms=one.latency_ms if one.latencies_ms else None,
                times_the_rate=one.fastest,
                left_out=one.left_out,
            )
            for one in sorted(tried, key=lambda one: (-len(one.latencies_ms), one.latency_ms, -one.fastest))
        ],
    )


def _with_bundle(config: LineConfig, path: Path) -> LineConfig:
    """Return the configuration of the product that has the bundle; else the line's, with that bundle."""
    names: list[str | None] = [product.name for product in config.products]
    for name in names or [None]:
        of_product = config.of_product(name)
        if of_product.require_bundle().resolve() == path.resolve():
            return of_product
    # The line's thresholds are logits of another bundle.
    return replace(config.of_product(config.product), bundle=path.absolute(), thresholds=ThresholdsConfig())


# Candidates.


def spelled_out(engine: EngineConfig, cores: int) -> EngineConfig:
    """Replace every 0, which leaves a number to the engine, by the number itself.

    >>> str(spelled_out(EngineConfig(), 4))
    'openvino in f32, 4 threads, 4 streams, batches of 1'
    """
    if engine.kind == "onnxruntime":
        return replace(engine, threads=engine.threads or cores, streams=0, batch=engine.batch or 8)
    if engine.device != PROCESSOR:
        return replace(engine, threads=0, batch=engine.batch or 1)
    threads = engine.threads or cores
    return replace(engine, threads=threads, streams=engine.streams or threads, batch=engine.batch or 1)


def candidates(
    fixed: EngineConfig,
    own: Collection[str],
    *,
    cores: int,
    precisions: Sequence[Precision],
    devices: Sequence[str],
    most_tiles: int,
) -> list[EngineConfig]:
    """Return all settings to try.

    Args:
        fixed: has the values of keys that must not change.
        own: these keys.
        cores: number of cores that may be used.
        most_tiles: tiles of a frame; a larger batch would never be full.
    """
    tried: list[EngineConfig] = []
    for precision in precisions:
        # All cores, one less for the rest of the line, and half of them; 1, 2, 4, ... streams and one per thread.
        for threads in dict.fromkeys([cores, max(1, cores - 1), max(1, cores // 2)]):
            for streams in dict.fromkeys([*(2**power for power in range(threads.bit_length())), threads]):
                on_processor = EngineConfig(precision=precision, threads=threads, streams=streams)
                tried += [replace(on_processor, batch=batch) for batch in BATCHES]
        for device in devices:
            if device != PROCESSOR:
                elsewhere = EngineConfig(device=device, precision=precision)
                tried += [replace(elsewhere, batch=batch) for batch in BATCHES_ELSEWHERE]
        if precision in PRECISIONS["onnxruntime"]:
            other = EngineConfig(kind="onnxruntime", precision=precision, threads=cores)
            tried += [replace(other, batch=batch) for batch in BATCHES_OF_ONE_REQUEST]
    numbers = {key: getattr(fixed, key) for key in own if key in NUMBERS}
    found = (
        spelled_out(replace(each, **numbers), cores)
        for each in tried
        if each.batch <= most_tiles
        and all(getattr(each, key) == getattr(fixed, key) for key in own if key not in NUMBERS)
    )
    return list(dict.fromkeys(each for each in found if each.streams <= max(each.threads, fixed.streams)))


# Frames of the line's cameras.


@dataclass(frozen=True, eq=False)
class Shown:
    """Frames of one camera."""

    camera: str
    rate_fps: float
    picture: NDArray[np.uint8]
    """RGB [H, W, 3]."""

    def __str__(self) -> str:
        height, width = self.picture.shape[:2]
        return f"{self.camera} {width}x{height} at {self.rate_fps:g}/s"


def shown_by(
    config: LineConfig, bundle: Bundle, *, frame_hw: tuple[int, int] | None, rate_fps: float | None
) -> list[Shown]:
    """Return the frames of a line's cameras. If the bundle compares frames with a reference, this is shown.

    Args:
        frame_hw: of all cameras, instead of the configured sizes; None: as configured.
        rate_fps: the same for the rate.
    Raises:
        BenchError: a size or a rate is unknown, or a reference has another size.
        BundleError: a camera has no reference.
    """
    sizes = {camera.name: _size(camera, frame_hw) for camera in config.cameras}
    references, shown = product_references(bundle, sizes), list[Shown]()
    for camera in config.cameras:
        hw, rate = sizes[camera.name], rate_fps or getattr(camera, "rate_fps", None)
        if rate is None:
            raise BenchError(f"the rate of camera {camera.name} is unknown; give it with --fps")
        if references:
            picture = (references.get(camera.name) or references[ANY_CAMERA]).rgb
        elif hw is None:
            raise BenchError(f"the size of camera {camera.name} is unknown; give it with --size")
        else:
            picture = golden_mosaic(bundle, hw, seed=0, lowest=1)  # nearly all frames of a good line are good
        if frame_hw is not None and picture.shape[:2] != frame_hw:
            raise BenchError("frames are compared with a reference of another size; leave --size out")
        shown.append(Shown(camera.name, float(rate), picture))
    return shown


def _size(camera: CameraSettings, given_hw: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return height and width, px; None if only the camera knows them."""
    stated = [getattr(camera, key, None) for key in ("size", "draw_size", "frame_size")]
    stated.append((getattr(camera, "region", None) or ())[2:] or None)  # left, top, width, height
    known = next((tuple(one) for one in stated if isinstance(one, tuple)), None)
    if given_hw is None:
        return None if known is None else (known[1], known[0])
    if (camera.roi or camera.exclude) and known != given_hw[::-1]:
        raise BenchError(f"the regions of camera {camera.name} are of frames of {camera.size}; leave --size out")
    return given_hw


# The search, by successive halving in this process: the better half of the candidates runs again for twice as long.


def search(
    tried: Sequence[Tried],
    config: LineConfig,
    shown: Sequence[Shown],
    *,
    seconds: float,
    report_line: Callable[[str], None],
) -> Tried:
    """Find the best of the candidates, of which one at least can be used, and fill in the results of each.

    Args:
        seconds: length of a candidate's run in the first round.
    Raises:
        BundleError, ConfigError: the bundle cannot be used at all.
    """
    left, with_latency = list(tried), False
    while len(left) > 1 or not with_latency:
        report_line(f"{len(left)} settings: measuring {'latency' if with_latency else 'the highest rates'}")
        for one in left:
            with opened(one, config) as setup:
                if setup is not None:
                    trial = Trial(setup, shown)
                    one.times_as_fast.append(trial.times_as_fast(seconds / 2))
                    one.latencies_ms += trial.alone_ms(seconds) if with_latency and one.sustains else []
            report_line(f"  {one}")
        left = rank([one for one in left if one.left_out is None])
        if with_latency:
            left, seconds = left[: math.ceil(len(left) / 2)][::-1], 2 * seconds  # reversed, so that drift favours none
        else:
            left.sort(key=lambda one: -one.fastest)
            slowest = FAR_BEHIND * left[0].fastest
            left, with_latency = [one for at, one in enumerate(left) if at < ENOUGH or one.fastest >= slowest], True
    return left[0]


def rank(tried: Sequence[Tried]) -> list[Tried]:
    """Sort the best first: of those that sustain the rate by the latency, then the others by their highest rate."""
    sustaining, others = ([one for one in tried if one.sustains == wanted] for wanted in (True, False))
    alike_ms = ALIKE * min((one.latency_ms for one in sustaining), default=0.0)
    sustaining.sort(
        key=lambda one: (max(one.latency_ms, alike_ms), one.engine.threads, one.engine.streams, one.engine.batch)
    )
    return [*sustaining, *sorted(others, key=lambda one: -one.fastest)]


@contextmanager
def opened(one: Tried, config: LineConfig) -> Iterator[Setup | None]:
    """Give the setup of a candidate, compiled and verified as on the line; None if it cannot be used.

    Raises:
        BundleError, ConfigError: the bundle cannot be used at all.
    """
    try:
        setup = prepare(replace(config, engine=one.engine)).setup
    except (EngineError, GoldenTilesError) as error:
        one.left_out = str(error)
        yield None
        return
    assert isinstance(setup, Setup)  # there is a bundle
    try:
        one.left_out = setup.verified.fell_back
        yield setup if one.left_out is None else None
    finally:
        setup.verified.engine.close()


class Trial:
    """Settings of the engine, and the line's pictures to try them on, as fast as the inspector takes them.

    Args:
        shown: frames of the cameras.
    """

    def __init__(self, setup: Setup, shown: Sequence[Shown]) -> None:
        self._setup, self._shown = setup, shown

    def alone_ms(self, seconds: float) -> list[float]:
        """Return the latencies of frames one at a time.

        Args:
            seconds: length of the run, which has some frames of each camera at least.
        """
        self._inspect(self._shown)  # caches fill
        taken_ms: list[float] = []
        ends = time.monotonic() + seconds
        while time.monotonic() < ends or len(taken_ms) < LEAST_ALONE * len(self._shown):
            for one in self._shown:
                began = time.perf_counter()
                self._inspect([one])
                taken_ms.append((time.perf_counter() - began) * 1e3)
        return taken_ms

    def times_as_fast(self, seconds: float) -> float:
        """Return the highest rate over the line's rate, with a frame always waiting.

        Args:
            seconds: about the length of the run, which has some frames at least.
        """
        few_s = 1 / min(one.rate_fps for one in self._shown)
        many_s = max(LEAST_AT_ONCE * few_s, few_s * seconds / self._seconds_for(few_s))
        return many_s / self._seconds_for(many_s)

    def _seconds_for(self, at_rate_s: float) -> float:
        """Return how long the frames take that come within `at_rate_s` at the line's rates."""
        due = [
            (number / one.rate_fps, place)
            for place, one in enumerate(self._shown)
            for number in range(max(1, round(one.rate_fps * at_rate_s)))
        ]
        began = time.perf_counter()
        self._inspect([self._shown[place] for _, place in sorted(due)])
        return time.perf_counter() - began

    def _inspect(self, shown: Sequence[Shown]) -> None:
        """Inspect a frame of each, as the pipeline does."""
        setup = self._setup

        def start(frame: Frame) -> PendingFrame:
            return setup.inspector.start(frame, setup.areas.get(frame.stamp.camera, WHOLE_FRAME))

        frames = (Frame(Stamp(one.camera, 1, number=1), one.picture, "RGB8") for one in shown)
        judged = inspect_pipelined(setup.verified.engine, start, frames, setup.inspector.finish)
        assert all(math.isfinite(one.score) for one in judged), "the engine's golden tiles were right"


# The comparison in the real service.


def on_the_line(
    engine: EngineConfig, seconds: float, *, config: LineConfig, bundle: Bundle, shown: Sequence[Shown]
) -> Window:
    """Start the service with this setting, and follow every frame of a window.

    Args:
        seconds: length of the window, which has some frames at least.
    Raises:
        BenchError: the service failed, or inspected in another precision.
    """

    def require_precision(event: VerdictEvent) -> None:
        if event.frame_score is not None and event.precision != engine.precision:
            raise BenchError(f"a line with {engine} inspected in {event.precision}")

    rates = {one.camera: one.rate_fps for one in shown}
    settings = {camera.name: camera for camera in config.cameras}
    with TemporaryDirectory(prefix="heatline-bench-") as place:
        scene = Scene(
            bundle=bundle,
            precision=engine.precision,
            cameras={one.camera: _camera(one, settings[one.camera], Path(place) / one.camera) for one in shown},
            check=require_precision,
            tables={
                "engine": _set_keys(engine),
                "thresholds": _set_keys(config.thresholds),
                "tiles": _set_keys(config.tiles),
                "events": {"heatmaps": config.events.heatmaps},
            },
            journal=config.journal.retain_mib > 0,
        )
        found = run_window(scene, rates, max(seconds, LEAST_ON_THE_LINE / min(rates.values())))
    if found.latency is None:
        raise BenchError(f"with {engine} no frame was inspected on a line; give a lower rate with --fps")
    return found


def _camera(shown: Shown, settings: CameraSettings, folder: Path) -> Keys:
    """Return the keys of a camera that shows one picture from memory, with the settings of the line's own camera."""
    folder.mkdir()
    cv2.imwrite(str(folder / "picture.bmp"), np.ascontiguousarray(shown.picture[..., ::-1]))
    return {
        "path": str(folder),
        "size": shown.picture.shape[1::-1],
        "waiting_frames": settings.waiting_frames,
        "frozen_after_frames": NEVER_FROZEN,
        "roi": settings.roi,
        "exclude": settings.exclude,
    }


def _set_keys(table: msgspec.Struct) -> Keys:
    """Return the keys of a table that are set."""
    return {key: value for key, value in asdict(table).items() if value is not None}


def compare(
    present: EngineConfig,
    chosen: EngineConfig,
    run: Callable[[EngineConfig, float], Window],
    seconds: float,
    rounds: int,
    report_line: Callable[[str], None],
) -> Comparison:
    """Run both in interleaved rounds, each time in a new service; errors as of `on_the_line`."""
    seen: dict[EngineConfig, list[Window]] = {present: [], chosen: []}
    for number, order in enumerate(interleaved(seen, rounds), 1):
        for engine in order:
            seen[engine].append(run(engine, seconds))
        report_line(f"  round {number} of {rounds}: " + "; then ".join(str(of[-1].latency) for of in seen.values()))
    p90 = _ratios(seen[present], seen[chosen], _p90_ms)
    ratios = p90
    if not (_sustains(seen[present]) or _sustains(seen[chosen])):
        ratios = _ratios(seen[present], seen[chosen], lambda one: 1 / one.inspected)
    return Comparison(
        present=seen[present],
        chosen=seen[chosen],
        latency_p90=Spread.of(p90),
        better_in=sum(ratio < 1 for ratio in ratios),
        gain=1 - float(np.median(ratios)),
    )


def is_better(found: Comparison) -> tuple[bool, str]:
    """Return whether the chosen settings are better by more than chance, and the reason."""
    if (keeps := _sustains(found.chosen)) != _sustains(found.present):
        return keeps, f"only {'they' if keeps else 'the present ones'} keep up with the rate"
    rounds = len(found.chosen)
    better = found.better_in == rounds and found.gain >= LEAST_GAIN
    than_chance = "" if better else f"; it takes all {rounds} and {100 * LEAST_GAIN:.0f} % to be more than chance"
    share = f"in {found.better_in} of {rounds} rounds, at the median by {100 * found.gain:.0f} %"
    return better, f"better {share}{than_chance}"


def _ratios(before: Sequence[Window], after: Sequence[Window], of: Callable[[Window], float]) -> list[float]:
    return [of(now) / of(then) for then, now in zip(before, after, strict=True)]


def _sustains(rounds: Sequence[Window]) -> bool:
    lost = [bool(one.dropped or one.failed or one.unreported) for one in rounds]
    return sum(lost) <= MAY_LOSE_IN


def _p90_ms(one: Window) -> float:
    """A round has few frames: a higher percentile would be that of the slowest frame."""
    assert one.latency is not None, "each window has inspected frames"
    return one.latency.p90
