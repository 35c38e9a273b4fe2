"""`make soak`: growth, latency and ledger of the service over a long time (docs/bench.md)."""

import contextlib
import os
import re
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import StatisticsError, linear_regression

import msgspec
import numpy as np

from heatline.edge.bundle import Bundle
from heatline.edge.wire.events import Account, AlarmEvent, Event, StatusEvent, VerdictEvent
from tests.edge.lines import running, tree, write_line_with
from tests.edge.secured import free_port
from tests.system.command import Result, counts, parser, positive, report_line, run

BLOCKS = 8
T_95 = 1.894578605061305
"""One-sided 95 % point of Student's t with BLOCKS - 1 degrees of freedom."""
LEAST_PER_BLOCK = 3
TARGET_BYTES_PER_FRAME = 20.0
"""For the upper bound: a line with ten frames a second then grows by less than 20 MB a day."""
SHARE_OF_HIGHEST = 0.9
HIGHEST_FPS = 10_000.0
ALL_STAGES = """heatmaps = "always"
[engine]
precision = "f32"
[thresholds]
score = -1e9
check_plausibility = false
"""
"""Every frame passes all stages: regions are found, and its heatmap is sent."""
SAMPLE_EVERY_S = 1.0
WARM_UP = 0.2
"""Share of the first samples, which count for no slope: caches fill, pools grow."""
WAITING_FRAMES = 16
"""Enough that a short load of the machine loses no frame."""
SILENCE_SECONDS = 120.0
PROGRESS_LINES = 10
"""Lines of progress in a run."""


class Slope(msgspec.Struct, frozen=True, kw_only=True):
    """Slope of a quantity over frames."""

    per_frame: float
    """The mean of the blocks' slopes."""
    upper_95: float
    """Upper bound of the growth per frame, with a confidence of 95 %."""
    of_blocks: list[float]


def slope(frames: Sequence[float], values: Sequence[float]) -> Slope | None:
    """Return the slope of a quantity over frames, with an upper bound; None: too few samples.

    Residuals of memory about a straight line are correlated, so samples are cut into blocks with a slope each, and the
    bound is Student's t of these slopes: R. Ibragimov and U. K. Mueller, t-Statistic Based Correlation and
    Heterogeneity Robust Inference, Journal of Business & Economic Statistics 28 (2010).

    Args:
        frames: numbers of frames at the samples, ascending.
        values: one for each sample.
    """
    if len(frames) < BLOCKS * LEAST_PER_BLOCK:
        return None
    x, y = np.asarray(frames, np.float64), np.asarray(values, np.float64)
    blocks = zip(np.array_split(x, BLOCKS), np.array_split(y, BLOCKS), strict=True)
    try:
        slopes = np.array([linear_regression(*block).slope for block in blocks])
    except StatisticsError:
        return None  # no frame came within a block
    mean, error = slopes.mean(), slopes.std(ddof=1) / np.sqrt(BLOCKS)
    return Slope(per_frame=float(mean), upper_95=float(mean + T_95 * error), of_blocks=slopes.tolist())


class SoakRun(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one run."""

    rate_fps: float | None
    """None: the highest rate."""
    frames_planned: int
    frames: int
    """Reported frames."""
    took_s: float
    """From the first frame's event to the last one's."""
    verdicts: dict[str, int]
    """Frames by verdict; those without one by the reason."""
    events_missing: int
    alarms: dict[str, int]
    ledger: Account | None
    ledger_balanced: bool
    pss_slope: Slope | None
    """Bytes per frame, of all processes together, after the warm-up; None: too few samples."""
    latency_p99_ms: tuple[float, float] | None
    """Of the first tenth of the frames and of the last, from capture to the hand-over to the publisher."""
    samples: dict[str, list[int]]
    """Columns: frames reported so far, and the sampled quantities."""

    @property
    def fps(self) -> float:
        """Rate at which it reported frames."""
        return self.frames / self.took_s

    @property
    def name(self) -> str:
        """Name of the run."""
        if self.rate_fps is None:
            return "at the highest rate"
        return f"at {self.rate_fps:.4g} frames/s, {100 * SHARE_OF_HIGHEST:.0f} % of the highest rate"


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    runs: list[SoakRun]
    highest_fps: float
    """Rate at which it inspects frames that always wait."""


class Tally:
    """Counts of all events of a line with one camera."""

    def __init__(self) -> None:
        self.frames = self.events = 0
        """Reported frames, and received events that are not statuses."""
        self.verdicts: Counter[str] = Counter()
        """Frames by verdict; those without one by the reason."""
        self.latencies_ms: list[float] = []
        self.alarms: Counter[str] = Counter()
        self.account: Account | None = None
        """Ledger of the last status event."""
        self.stopped = False
        self.missing = 0
        """Events that are not statuses, and were sent before the last status and not received."""
        self._unbalanced = 0

    def add(self, event: Event) -> None:
        """Count the next received event."""
        self.events += not isinstance(event, StatusEvent)
        if isinstance(event, StatusEvent):
            self.missing = event.last_seq - self.events
            (self.account,) = event.ledger.values()
            self._unbalanced += not self.account.balanced
            self.stopped = event.state == "STOPPED"
        elif isinstance(event, AlarmEvent):
            self.alarms[event.alarm] += event.active
        elif isinstance(event, VerdictEvent):
            self.frames += event.frames
            self.verdicts[event.reason or event.verdict] += event.frames
            self.latencies_ms.append(event.latency_ms)

    @property
    def balanced(self) -> bool:
        """Whether the ledger was balanced in each status, and agrees with the events at the end."""
        last, inspected = self.account, self.verdicts["GOOD"] + self.verdicts["DEFECT"]
        if last is None or self._unbalanced or not self.stopped:
            return False
        return (last.captured, last.inspected, last.in_flight) == (self.frames, inspected, 0)

    @property
    def latency_p99_ms(self) -> tuple[float, float] | None:
        """p99 of the first tenth of the frames and of the last; None: too few frames."""
        if not (tenth := len(self.latencies_ms) // 10):
            return None
        first, last = self.latencies_ms[:tenth], self.latencies_ms[-tenth:]
        return float(np.percentile(first, 99)), float(np.percentile(last, 99))


def sample_tree(root: int) -> Mapping[str, int]:
    """Measure a process and its descendants; empty if it has ended. Processes that end meanwhile are left out.

    `pss_bytes` is the proportional set size: of memory that several processes map, each counts its share. `own_bytes`
    is the part of it that no file backs: heaps, stacks, shared memory. `file_bytes` are pages of files in memory,
    summed over processes: other processes that map the same files do not change it.
    """
    total: Counter[str] = Counter()
    for pid in tree(root):
        with contextlib.suppress(OSError, KeyError):  # it has ended, or is ending and has no memory any more
            process = Path(f"/proc/{pid}")
            text = (process / "smaps_rollup").read_text() + (process / "status").read_text()
            size = {name: 1024 * int(kib) for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
            total.update(
                pss_bytes=size["Pss"],
                own_bytes=size["Pss_Anon"] + size["Pss_Shmem"],
                file_bytes=size["RssFile"],
                descriptors=len(os.listdir(process / "fd")),
                threads=len(os.listdir(process / "task")),
                processes=1,
            )
    return total


def soak(
    bundle: Bundle,
    frames: int,
    rate_fps: float | None,
    *,
    frame_hw: tuple[int, int],
    sample_every_s: float = SAMPLE_EVERY_S,
    tables: str = ALL_STAGES,
) -> SoakRun:
    """Run a line with one camera for a number of frames. `rate_fps`: None: the camera waits for the inspection, so that
    every frame is inspected."""
    camera = {
        "kind": "pattern",
        "draw_size": [frame_hw[1], frame_hw[0]],
        "rate_fps": rate_fps or HIGHEST_FPS,
        "frames": frames,
        "on_overload": "drop_oldest" if rate_fps else "block",
        "waiting_frames": WAITING_FRAMES,
    }
    tally, columns, port = Tally(), defaultdict[str, list[int]](list), free_port()
    pending: tuple[int, Mapping[str, int]] | None = None
    """A sample counts after a frame that was captured later has come: the last ones may lack the camera's process."""
    began_s: float | None = None
    due_s = last_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file = write_line_with(Path(folder), bundle.path, port.local, {"cam0": camera}, tables)
        with running(file, port.local) as line:
            while not tally.stopped:
                event, now_s, before = line.poll(), time.monotonic(), tally.frames
                if event is not None:
                    tally.add(event)
                if isinstance(event, VerdictEvent) and pending and event.times.captured_monotonic_ns > pending[0]:
                    for name, value in pending[1].items():
                        columns[name].append(value)
                    pending = None
                if tally.frames > before:
                    began_s, last_s = began_s or now_s, now_s
                    if tally.frames * PROGRESS_LINES // frames > before * PROGRESS_LINES // frames:
                        report_line(f"{tally.frames} of {frames} frames")
                assert now_s < last_s + SILENCE_SECONDS, f"no frame was reported any more, after {before} of {frames}"
                if tally.frames and pending is None and now_s >= due_s:
                    if sample := sample_tree(line.process.pid):
                        pending = time.monotonic_ns(), {"frames": tally.frames, **sample}
                    due_s = now_s + sample_every_s
            assert line.exit_code() == 0
    assert began_s is not None
    assert columns, "the run ended before the first sample; give --frames more"
    steady = slice(round(WARM_UP * len(columns["frames"])), None)
    return SoakRun(
        rate_fps=rate_fps,
        frames_planned=frames,
        frames=tally.frames,
        took_s=last_s - began_s,
        verdicts=dict(tally.verdicts),
        events_missing=tally.missing,
        alarms=dict(tally.alarms),
        ledger=tally.account,
        ledger_balanced=tally.balanced,
        pss_slope=slope(columns["frames"][steady], columns["pss_bytes"][steady]),
        latency_p99_ms=tally.latency_p99_ms,
        samples=dict(columns),
    )


def measure_soak(bundle: Bundle, frames: int, minutes: float) -> Soak:
    """Run the service at its highest rate, and then for a long time at a share of that rate.

    Frames are as large as one tile, so that all work besides inference counts as much as possible.

    Args:
        frames: to inspect at the highest rate.
        minutes: of the second run; 0: leave it out.
    """
    hw = (bundle.manifest.grid.tile_px,) * 2
    runs = [fast := soak(bundle, frames, None, frame_hw=hw)]
    if minutes:
        rate_fps = SHARE_OF_HIGHEST * fast.fps
        runs.append(soak(bundle, max(round(rate_fps * 60 * minutes), 1), rate_fps, frame_hw=hw))
    return Soak(runs=runs, highest_fps=fast.fps)


def faults(run: SoakRun) -> Iterator[str]:
    """Yield all faults, one sentence each."""
    if run.events_missing:
        yield f"{run.events_missing} events were missing"
    if not run.ledger_balanced:
        yield "the ledger does not agree with the events"
    if run.alarms:
        yield f"the camera died: {counts(run.alarms)}"
    lost = {reason: count for reason, count in run.verdicts.items() if reason not in ("GOOD", "DEFECT")}
    if lost and run.rate_fps is None:
        yield f"frames were not inspected, though the camera waits: {counts(lost)}"
    if run.pss_slope is not None and run.pss_slope.upper_95 > TARGET_BYTES_PER_FRAME:
        yield (
            f"its PSS may grow by {run.pss_slope.upper_95:.1f} bytes a frame, the target is {TARGET_BYTES_PER_FRAME:g}"
        )


def _measure(arguments: Namespace, bundle: Bundle) -> Result:
    found = measure_soak(bundle, arguments.frames, arguments.minutes)
    return found, [f"{run.name}: {fault}" for run in found.runs for fault in faults(run)]


def main() -> None:
    options = parser("Run the service for a long time, and measure its growth, its latency and its ledger.")
    options.add_argument("--frames", type=positive(int), default=100_000, help="at the highest rate")
    options.add_argument(
        "--minutes", type=positive(float, or_zero=True), default=30.0, help="at 90 %% of that rate; 0: leave out"
    )
    sys.exit(run("soak", options.parse_args(), _measure))


if __name__ == "__main__":
    main()
