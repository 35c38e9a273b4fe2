"""One long run of the real service, heard to its end by a subscriber, with its processes looked at now and then."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.camera_rates import HIGHEST_FPS, Load
from bench.soak.process_tree import TreeSample, sample_tree
from bench.soak.slope import Slope, slope
from bench.soak.tally import SoakTally
from bench.watched_line import Keys, WatchedLine
from edge.bundle import Bundle
from edge.errors import BenchError
from edge.inference import Precision
from edge.wire.events import Account, Event, VerdictEvent

ALL_DEFECTIVE: Keys = {"score": -1e9}
HEATMAPS = "always"
"""Every frame goes the whole way: regions are looked for, and its heatmap is sent."""
WARM_UP = 0.2
"""Share of the samples that come first and count for no slope: caches fill, pools grow to what they need."""
WAITING_FRAMES = 16
"""So that a moment in which the machine does something else loses no frame of a rate that can be held."""
SILENCE_SECONDS = 120.0


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """Of a quantity, from the first sample to the last."""

    at_start: int
    at_end: int
    most: int


class SoakRun(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one run."""

    rate_fps: float | None
    """None: as fast as frames are inspected."""
    frames_planned: int
    frames: int
    """That were told of."""
    ended_early: bool
    took_s: float
    """From the first frame's event to the last one's."""
    verdicts: dict[str, int]
    """Frames by verdict, those without one by the reason."""
    events_missing: int
    events_out_of_order: int
    alarms: dict[str, int]
    ledger: Account | None
    ledger_balanced: bool
    pss_slope: Slope | None
    """Bytes a frame, of all processes together, after the warm-up; None: too few samples."""
    own_slope: Slope | None
    """Of what no file backs: others who come and go with the same libraries do not change it, as they do the PSS."""
    pss_bytes: Growth
    own_bytes: Growth
    file_bytes: Growth
    descriptors: Growth
    threads: Growth
    processes: Growth
    latency_p99_ms: tuple[float, float] | None
    """Of the first tenth of the frames and of the last, from capture to the hand-over to the publisher."""
    samples: dict[str, list[int]]
    """Columns: frames told of until then, and what was seen of the processes."""


class Samples:
    """Of the processes, by the frame at which they were taken."""

    def __init__(self) -> None:
        self.columns: dict[str, list[int]] = {"frames": []}

    def add(self, frames: int, sample: TreeSample) -> None:
        self.columns["frames"].append(frames)
        for name, value in msgspec.structs.asdict(sample).items():
            self.columns.setdefault(name, []).append(value)

    def slope(self, name: str) -> Slope | None:
        """Of a column, after the warm-up."""
        from_here = round(WARM_UP * len(self.columns["frames"]))
        return slope(self.columns["frames"][from_here:], self.columns[name][from_here:])

    def growth(self, name: str) -> Growth:
        """Of a column, with the warm-up."""
        values = self.columns[name]
        return Growth(at_start=values[0], at_end=values[-1], most=max(values))


class Look(NamedTuple):
    """A sample that counts once it is known that the camera's process went on after it: the last ones may miss it."""

    frames: int
    sample: TreeSample
    at_ns: int
    """Monotonic."""

    def is_followed_by(self, event: Event) -> bool:
        """Whether it tells of a frame that was taken later."""
        return isinstance(event, VerdictEvent) and event.times.captured_monotonic_ns > self.at_ns


def soak(
    bundle: Bundle,
    precision: Precision,
    load: Load,
    frames: int,
    rate_fps: float | None,
    *,
    sample_every_s: float,
    stopping: Callable[[], bool],
    show: Callable[[int, TreeSample], None],
) -> SoakRun:
    """Run a line with one camera until it has shown so many frames, or until told to stop.

    Args:
        rate_fps: None: the camera waits for the inspection, so that every frame is inspected.
        stopping: whether to end early, in order.
        show: is told of each sample, and how many frames had been told of.
    Raises:
        BenchError: the service failed, told of no more frames, or ended before there was anything to say.
    """
    (keys,) = load.keys(rate_fps or HIGHEST_FPS[load.kind], "")
    policy = "drop_oldest" if rate_fps else "block"
    keys = {**keys, "frames": frames, "on_overload": policy, "waiting_frames": WAITING_FRAMES}
    tally, samples = SoakTally(frames), Samples()
    look: Look | None = None
    asked_to_stop = False
    began_s: float | None = None
    due_s = last_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        WatchedLine(Path(folder), bundle.path, precision, [keys], thresholds=ALL_DEFECTIVE, heatmaps=HEATMAPS) as line,
    ):
        while not tally.stopped:
            if stopping() and not asked_to_stop:
                line.ask_to_stop()
                asked_to_stop = True
            heard, now_s, before = line.next(), time.monotonic(), tally.frames
            if heard is not None:
                tally.add(heard.event)
                if look is not None and look.is_followed_by(heard.event):
                    samples.add(look.frames, look.sample)
                    show(look.frames, look.sample)
                    look = None
            if tally.frames > before:
                began_s, last_s = began_s or now_s, now_s
            elif now_s > last_s + SILENCE_SECONDS:
                raise BenchError(f"no frame was told of for {SILENCE_SECONDS:.0f} s, after {before} of {frames}")
            if tally.frames and look is None and now_s >= due_s:
                if (sample := sample_tree(line.pid)) is not None:
                    look = Look(tally.frames, sample, time.monotonic_ns())
                due_s = now_s + sample_every_s
        if not asked_to_stop:
            line.await_exit()
    if began_s is None or not samples.columns["frames"]:
        raise BenchError("the run ended before anything was seen of it; have it show more frames")
    return SoakRun(
        rate_fps=rate_fps,
        frames_planned=frames,
        frames=tally.frames,
        ended_early=asked_to_stop,
        took_s=last_s - began_s,
        verdicts=dict(tally.verdicts),
        events_missing=tally.missing,
        events_out_of_order=tally.out_of_order,
        alarms=dict(tally.alarms),
        ledger=tally.account,
        ledger_balanced=tally.balanced,
        pss_slope=samples.slope("pss_bytes"),
        own_slope=samples.slope("own_bytes"),
        pss_bytes=samples.growth("pss_bytes"),
        own_bytes=samples.growth("own_bytes"),
        file_bytes=samples.growth("file_bytes"),
        descriptors=samples.growth("descriptors"),
        threads=samples.growth("threads"),
        processes=samples.growth("processes"),
        latency_p99_ms=tally.latencies.p99_ms(),
        samples=samples.columns,
    )
