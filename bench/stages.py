"""`heatline bench stages`: the time of each stage of a frame, from a camera to a subscriber, at several sizes.

Every stage is the line's own code on a frame of golden tiles, of which a tenth is defective. Stages run in interleaved
rounds, and after each round a stage's result is checked: a stage that skips work is an error.
"""

import queue
import select
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import heatline.edge.cli  # noqa: F401  (keeps libraries to one thread, as the service does; they read that when first imported)
from heatline.bench.engines import engine_in, in_own_process
from heatline.bench.machine import file_system
from heatline.bench.pictures import golden_mosaic
from heatline.bench.spread import Spread, interleaved
from heatline.bench.watched_line import free_address
from heatline.edge.bundle import Bundle, VerifiedEngine
from heatline.edge.cameras.base import Opened
from heatline.edge.cameras.pattern import pattern
from heatline.edge.cameras.process import CameraProcess, FireTrigger
from heatline.edge.cameras.settings import PatternSettings
from heatline.edge.colour import to_rgb
from heatline.edge.delivery.journal_writer import JournalWriter
from heatline.edge.delivery.publisher import Publisher
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import BenchError
from heatline.edge.frames import Frame, Stamp
from heatline.edge.geometry import Stitcher
from heatline.edge.geometry.tiling import cut_tile
from heatline.edge.inference import Precision, infer
from heatline.edge.inspection.inspector import Inspector, Outcome, Setup
from heatline.edge.inspection.verdict import Judgement, Thresholds, judge
from heatline.edge.reference.reference import Reference
from heatline.edge.service.events import verdict_message
from heatline.edge.util.process import NamedThread
from heatline.edge.wire.events import Message, VerdictEvent, from_frames, to_frames

CAMERA = "bench"
DEFECTIVE_SHARE = 0.1
"""Share of the tiles, those with the highest logits, and of the cells of a defective tile that a defect covers."""
ROUNDS, FRAMES, SETTLE_FRAMES = 15, 8, 3
"""Interleaved rounds of all stages, and frames of a stage in a round and before the first one."""
AT_REST_SECONDS = 0.01
"""Pause after a round: a library's threads may spin for a while."""
NEAR_ENOUGH = 1e-3
"""Share of the largest logit: how far an answer may be from the one that the same tile had before."""
WITHIN_SECONDS = 30.0
KEEP_BYTES = 4 << 30
NUMBERS = ("seq", "previous_seq", "journal_id")
"""What publisher and journal add to an event."""


@dataclass(frozen=True)
class Prepared:
    """A picture, the network's answers, and the setup that judges it.

    The answers set the thresholds, so that a frame of any bundle has a share of defects.
    """

    setup: Setup
    picture: NDArray[np.uint8]
    """RGB [H, W, 3]."""
    stitcher: Stitcher
    logits: NDArray[np.float32]
    maps: NDArray[np.float32]

    def frame(self) -> Frame:
        """Return a frame as the pipeline takes it from a frame queue."""
        return Frame(Stamp(CAMERA, 1, number=1), self.picture, "RGB8")

    def judgement(self) -> Judgement:
        """Inspect the frame."""
        return self.setup.inspector.finish(self.setup.inspector.start(self.frame()))

    def message(self) -> Message:
        """Return the event of the frame, with its heatmap."""
        return verdict_message("bench", Outcome(self.frame().stamp, judgement=self.judgement(), setup=self.setup))


def size_of(hw: tuple[int, int]) -> str:
    """Format a frame's height and width.

    >>> size_of((480, 640))
    '640x480'
    """
    return f"{hw[1]}x{hw[0]}"


def prepare(bundle: Bundle, verified: VerifiedEngine, hw: tuple[int, int]) -> Prepared:
    """Make a frame of golden tiles and inspect it.

    Args:
        hw: its height and width, px.

    A graph that compares gets the frame itself as reference, as the bundle's has another size.

    Raises:
        EngineError: the engine failed.
        BenchError: the graph compares, and the frame cannot be aligned.
    """
    picture = golden_mosaic(bundle, hw, seed=0)
    references = {"": Reference(picture)} if verified.engine.compares else {}
    inspector = Inspector(bundle.manifest, verified.engine, references=references)
    inspector.thresholds = Thresholds(np.inf, np.inf, None)
    pending = inspector.start(Frame(Stamp(CAMERA, 1, number=1), picture, "RGB8"))
    judgement = inspector.finish(pending)
    if judgement.misaligned is not None:
        raise BenchError(
            f"a frame of {size_of(hw)} px of golden tiles cannot be aligned even with itself: {judgement.misaligned}; "
            "choose a larger frame"
        )
    logits, stitcher = pending.logits, pending.stitcher
    highest = np.argsort(logits)[-max(1, round(len(logits) * DEFECTIVE_SHARE)) :]
    cells = np.concatenate([judgement.heatmap[stitcher.tile_cells(int(tile))].ravel() for tile in highest])
    score, evidence = float(logits[highest[0]]), float(np.quantile(cells, 1 - DEFECTIVE_SHARE))
    inspector.thresholds = Thresholds.of(bundle.manifest.calibration, score, evidence)
    setup = Setup(bundle, verified, inspector, acting=False, heatmaps="always")
    return Prepared(setup, picture, stitcher, logits, pending.maps)


@dataclass(frozen=True)
class Stage:
    """A stage of one frame, ready to run repeatedly without the others."""

    run: Callable[[], Any]
    """Runs the stage once, and returns its result."""
    check: Callable[[Any], None]
    """Checks the result of the last run; raises a BenchError if the run did not do all of its work."""
    seconds: Callable[[Any], float] | None = None
    """Returns the time of a run by the timestamps of its result; None: a clock around the run counts."""


def require(holds: bool, condition: str) -> None:
    """Raise if a run did not do its work; `condition` begins with "that"."""
    if not holds:
        raise BenchError(
            f"a stage's time counts for nothing, as its result is wrong: expected {condition}; report this"
        )


def grab(prepared: Prepared, at_end: ExitStack) -> Stage:
    """From a picture's capture in the process of a triggered `pattern` camera to a frame in this process."""
    hw = prepared.stitcher.grid.frame_hw
    settings = PatternSettings(name=CAMERA, draw_size=hw[::-1], rate_fps=None, trigger="software")
    process = CameraProcess(settings)
    at_end.callback(process.close, 0.0)
    fired, arrived = 0, list[Frame]()

    def wait_for(kind: type[Any]) -> Any:
        give_up = time.monotonic() + WITHIN_SECONDS
        while time.monotonic() < give_up:
            if isinstance(news := process.receive(), kind):
                return news
            select.select([process], [], [], 1.0)
        raise BenchError(f"the camera's process sent no {kind.__name__} within {WITHIN_SECONDS:.0f} s")

    def run() -> tuple[Frame, int]:
        nonlocal fired
        while arrived:
            arrived.pop().release()
        fired += 1
        process.send(FireTrigger(fired, time.monotonic_ns() + round(WITHIN_SECONDS * 1e9)))
        arrived.append(wait_for(Frame))
        return arrived[0], time.monotonic_ns()

    def check(found: tuple[Frame, int]) -> None:
        drawn = to_rgb(pattern(fired, hw), "Mono8")
        newest = found[0].stamp.frame_id == fired and np.array_equal(found[0].image, drawn)
        require(newest, "that the frame is the camera's newest picture")

    wait_for(Opened)
    return Stage(run, check, lambda found: (found[1] - found[0].stamp.captured_monotonic_ns) / 1e9)


def tile(prepared: Prepared, _: ExitStack) -> Stage:
    """From a frame in memory to all its tiles."""
    grid = prepared.stitcher.grid
    tiles = grid.tiles(prepared.picture)

    def run() -> None:
        grid.cut(prepared.picture, tiles)

    def check(_: None) -> None:
        expected = np.empty_like(tiles[0])
        for one, (y, x) in zip(tiles, grid.origins_yx, strict=True):
            cut_tile(prepared.picture, y, x, expected)
            require(np.array_equal(one, expected), "that all tiles were cut")
        tiles[:] = 0  # the next run must write all of them

    return Stage(run, check)


def inference(prepared: Prepared, _: ExitStack) -> Stage:
    """From the tiles to all answers of the engine."""
    engine, tiles = prepared.setup.verified.engine, prepared.stitcher.grid.tiles(prepared.picture)
    difference = None
    if engine.compares:
        difference = Reference(prepared.picture).compare(prepared.picture, prepared.stitcher.grid)
    most = NEAR_ENOUGH * float(np.abs(prepared.logits).max())

    def check(found: tuple[NDArray[np.float32], NDArray[np.float32]]) -> None:
        off = np.abs(found[0] - prepared.logits).max()
        require(bool(off <= most), f"that the engine answers as before (off by {off:.2g}, allowed {most:.2g})")

    return Stage(lambda: infer(engine, tiles, difference), check)


def judging(prepared: Prepared, _: ExitStack) -> Stage:
    """From the answers to the heatmap, the verdict and its regions."""
    expected, thresholds = prepared.judgement(), prepared.setup.inspector.thresholds
    return Stage(
        lambda: judge(prepared.logits, prepared.maps, prepared.stitcher, thresholds),
        lambda found: _same(found, expected),
    )


def encode(prepared: Prepared, _: ExitStack) -> Stage:
    """From the judgement to topic, header and the heatmap's PNG."""
    outcome = Outcome(prepared.frame().stamp, judgement=prepared.judgement(), setup=prepared.setup)
    expected = prepared.message()

    def check(parts: list[bytes]) -> None:
        message = from_frames(parts)
        assert isinstance(message.event, VerdictEvent)
        assert isinstance(expected.event, VerdictEvent)
        require(message.event.regions == expected.event.regions, "that the event has the frame's regions")
        require(message.png == expected.png, "that it carries its heatmap")

    return Stage(lambda: to_frames(verdict_message("bench", outcome)), check)


def publish(prepared: Prepared, at_end: ExitStack, *, journal: bool = False) -> Stage:
    """From the hand-over to the publisher to the receipt by a live subscriber in another process, over TCP.

    Args:
        journal: whether the event is first stored in a journal in the folder for temporary files, and synced.
    Raises:
        BenchError: nothing is received, or the journal takes no events there.
    """
    message, address, writer = prepared.message(), free_address(), None
    if journal:
        place = Path(at_end.enter_context(tempfile.TemporaryDirectory()))
        writer = JournalWriter("bench", "0" * 32, place, KEEP_BYTES, lambda _: {})
        at_end.callback(writer.close)
    publisher = Publisher(address, writer)
    publisher.start()
    at_end.callback(publisher.close)
    listener = at_end.enter_context(in_own_process(Listener, address))
    if not publisher.wait_for_subscriber(WITHIN_SECONDS):
        raise BenchError(f"no subscriber connected to {address} within {WITHIN_SECONDS:.0f} s")

    def run() -> tuple[int, int, Message]:
        began_ns = time.monotonic_ns()
        publisher.send(message)
        return began_ns, *listener.received()

    def check(found: tuple[int, int, Message]) -> None:
        state = None if writer is None else writer.state()
        require(writer is None or (state is not None and state.live_only is None), "that the journal takes events")
        given = {key: getattr(message.event, key) for key in NUMBERS}
        event = msgspec.structs.replace(found[2].event, **given)
        require((event, found[2].png) == (message.event, message.png), "that the received message is the sent one")

    return Stage(run, check, lambda found: (found[1] - found[0]) / 1e9)


class Listener:
    """A live subscriber, in a process of its own."""

    def __init__(self, address: str) -> None:
        self._messages: queue.Queue[tuple[int, Message]] = queue.Queue()
        NamedThread("listener", self._listen, address).start()

    def received(self) -> tuple[int, Message]:
        """Return the next message, and the time of its receipt on the monotonic clock, which all processes share, ns.

        Raises:
            BenchError: none comes.
        """
        try:
            return self._messages.get(timeout=WITHIN_SECONDS)
        except queue.Empty:
            raise BenchError(f"no event was received within {WITHIN_SECONDS:.0f} s") from None

    def _listen(self, address: str) -> None:
        with Subscriber(address, topics=["verdict."]) as events:
            for message in events:
                if isinstance(message, Message):
                    self._messages.put((time.monotonic_ns(), message))


def whole(prepared: Prepared, _: ExitStack) -> Stage:
    """The inspection of one frame, from `Inspector.start` to the end of `Inspector.finish`."""
    expected = prepared.judgement()
    return Stage(prepared.judgement, lambda found: _same(found, expected))


def _same(found: Judgement, expected: Judgement) -> None:
    same = found.verdict == expected.verdict and found.regions == expected.regions
    require(same and bool(found.regions), "that verdict and regions are those of the frame")


STAGES: Mapping[str, Callable[[Prepared, ExitStack], Stage]] = {
    "grab": grab,
    "tile": tile,
    "infer": inference,
    "judge": judging,
    "encode": encode,
    "publish": publish,
    "journal and publish": lambda prepared, at_end: publish(prepared, at_end, journal=True),
    "whole inspection": whole,
}
"""Functions by name that make a stage of a prepared frame; what they open is closed by the `ExitStack`."""


class StageCost(msgspec.Struct, frozen=True, kw_only=True):
    """Cost of a stage at one size, per frame."""

    size: str
    """Width and height of the frame, px."""
    tiles: int
    stage: str
    ms: Spread
    """Over the rounds' medians."""
    p99_ms: float
    """Over all runs."""


class StagesBench(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    bundle: str
    model: str
    precision: Precision
    engine: str
    batch: int
    rounds: int
    frames: int
    """Per stage and round."""
    journal_on: str
    """The journal's file system."""
    rows: list[StageCost]


def measure_stages(
    bundle: Bundle,
    precision: Precision,
    *,
    sizes: Sequence[tuple[int, int]],
    rounds: int = ROUNDS,
    frames: int = FRAMES,
    report_line: Callable[[str], None],
) -> StagesBench:
    """Time all stages in interleaved rounds, one size after the other.

    Args:
        sizes: of frames, height and width, px.
        frames: per stage and round.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
        BenchError: it cannot be used in that precision; or a stage did not do its work.
    """
    verified = engine_in(bundle, precision)
    rows: list[StageCost] = []
    for hw in dict.fromkeys(sizes):
        prepared = prepare(bundle, verified, hw)
        tiles = len(prepared.stitcher.grid)
        report_line(f"{size_of(hw)}, {tiles} tiles: {rounds} rounds of {frames} frames of each stage")
        with ExitStack() as at_end:
            stages = {name: make(prepared, at_end) for name, make in STAGES.items()}
            for stage in stages.values():
                run_round(stage, SETTLE_FRAMES)
            seconds: dict[str, list[list[float]]] = {name: [] for name in stages}
            for order in interleaved(stages, rounds):
                for name in order:
                    seconds[name].append(run_round(stages[name], frames))
        rows += [
            StageCost(
                size=size_of(hw),
                tiles=tiles,
                stage=name,
                ms=Spread.of([1e3 * median(each) for each in of]),
                p99_ms=1e3 * float(np.percentile(np.concatenate(of), 99)),
            )
            for name, of in seconds.items()
        ]
    return StagesBench(
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        precision=precision,
        engine=verified.engine.name,
        batch=verified.engine.batch,
        rounds=rounds,
        frames=frames,
        journal_on=file_system(Path(tempfile.gettempdir())),
        rows=rows,
    )


def run_round(stage: Stage, frames: int) -> list[float]:
    """Return the seconds of each of some runs, the last of which is checked."""
    seconds: list[float] = []
    for _ in range(frames):
        began = perf_counter()
        made = stage.run()
        took = perf_counter() - began
        seconds.append(took if stage.seconds is None else stage.seconds(made))
    stage.check(made)
    time.sleep(AT_REST_SECONDS)
    return seconds
