"""`heatline bench soak`: whether the service holds out. Does it grow, does it slow down, does it lose count?"""

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

import msgspec

from bench.camera_rates import Load
from bench.machine import commit
from bench.soak.process_tree import TreeSample
from bench.soak.run import Growth, SoakRun, soak
from bench.soak.slope import Slope
from edge.bundle import Bundle
from edge.errors import BenchError
from edge.inference import Precision

TARGET_BYTES_PER_FRAME = 20.0
"""For the upper bound: a line of ten frames a second then grows by less than 20 MB a day."""
OTHERS = "where that is less, others came and went that share its libraries: run it on a machine that is quiet"
INTERRUPTED = "Ctrl-C"
SHARE_OF_HIGHEST = 0.9
FRAMES_FOR_A_RATE = 5000
"""To have the highest rate from, where no other run tells it."""

Show = Callable[[str, int, int, TreeSample], None]
"""Is told which run it is, its frames, how many of them were told of, and what is seen of the processes."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is run, and how closely it is looked at."""

    frames: int
    """To inspect as fast as it goes; 0: none."""
    minutes: float
    """At a share of the highest rate; 0: none."""
    sample_every_s: float
    judges_growth: bool
    """Whether it is long enough for that."""


def full_plan(frames: int, minutes: float) -> Plan:
    """Figures that are worth a quotation."""
    return Plan(frames=frames, minutes=minutes, sample_every_s=1.0, judges_growth=True)


def quick_plan() -> Plan:
    """Whether all of it runs; what it says of growth is that of the warm-up."""
    return Plan(frames=2000, minutes=0.1, sample_every_s=0.05, judges_growth=False)


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """All that was seen."""

    bundle: str
    model: str
    precision: Precision
    commit: str | None
    """Of the code that ran; none where it is no checkout. `-dirty` where files were changed since."""
    plan: Plan
    load: Load
    runs: list[SoakRun]
    highest_fps: float | None
    """At which it inspects frames that are always there; none: it was not looked for."""
    cut_short_by: str | None
    """Why there is no more of it."""


def measure_soak(bundle: Bundle, precision: Precision, plan: Plan, *, show: Show) -> Soak:
    """Run the service as fast as it goes, and then for long at a share of the rate that this was.

    Frames are as large as one tile, so that the way of a frame costs as much as it can beside its inference. Ctrl-C
    ends the run at hand in order, and so does a service that fails; what was seen until then is told. Only in the main
    thread.
    """
    tile_px = bundle.manifest.grid.tile_px
    load = Load("pattern", 1, (tile_px, tile_px))
    runs: list[SoakRun] = []
    highest_fps: float | None = None
    cut_short_by: str | None = None

    def run(frames: int, rate_fps: float | None) -> SoakRun:
        with interrupts_noted() as noted:
            try:
                one = soak(
                    bundle,
                    precision,
                    load,
                    frames,
                    rate_fps,
                    sample_every_s=plan.sample_every_s,
                    stopping=noted,
                    show=functools.partial(show, run_in_words(rate_fps), frames),
                )
            except BenchError as error:  # Ctrl-C on a terminal is for the service too, and may hit it as it begins
                if noted():
                    raise KeyboardInterrupt from error
                raise
            if plan.frames or rate_fps:
                runs.append(one)
            if noted():
                raise KeyboardInterrupt
            return one

    try:
        fast = run(plan.frames or FRAMES_FOR_A_RATE, None)
        highest_fps = fast.frames / fast.took_s
        if plan.minutes:
            rate_fps = SHARE_OF_HIGHEST * highest_fps
            run(max(round(rate_fps * 60 * plan.minutes), 1), rate_fps)
    except KeyboardInterrupt:
        cut_short_by = INTERRUPTED
    except BenchError as error:
        cut_short_by = str(error)
    return Soak(
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        precision=precision,
        commit=commit(),
        plan=plan,
        load=load,
        runs=runs,
        highest_fps=highest_fps,
        cut_short_by=cut_short_by,
    )


@contextlib.contextmanager
def interrupts_noted() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C is noted and nothing else, the next one is as ever. Gives a function that says if it came."""
    came = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


# What it comes to.


def faults(found: Soak) -> list[str]:
    """What must not be, in words; none: the service held out for as long as it was looked at."""
    wrong = [
        f"{run_in_words(run.rate_fps)}: {fault}"
        for run in found.runs
        for fault in _faults(run, found.plan.judges_growth)
    ]
    return wrong if found.cut_short_by in (None, INTERRUPTED) else [*wrong, found.cut_short_by]


def _faults(run: SoakRun, judges_growth: bool) -> Iterator[str]:
    if run.events_missing or run.events_out_of_order:
        yield f"{run.events_missing} events were missing and {run.events_out_of_order} out of order"
    if not run.ledger_balanced:
        yield "the ledger did not add up to the events"
    if run.alarms:
        yield f"the camera died: {_counts(run.alarms)}"
    lost = {reason: count for reason, count in run.verdicts.items() if reason not in ("GOOD", "DEFECT")}
    if lost and run.rate_fps is None and not run.ended_early:
        yield f"frames were not inspected, though the camera waits: {_counts(lost)}"
    judged = run.pss_slope if judges_growth and not run.ended_early else None
    if judged is not None and judged.upper_95 > TARGET_BYTES_PER_FRAME:
        yield (
            f"its PSS may grow by {judged.upper_95:.1f} bytes a frame, the target is {TARGET_BYTES_PER_FRAME:g}"
            + ("" if run.own_slope is None else f" (its own memory by {run.own_slope.upper_95:.1f}; {OTHERS})")
        )


def run_in_words(rate_fps: float | None) -> str:
    """Which run it is."""
    if rate_fps is None:
        return "as fast as it goes"
    return f"at {rate_fps:.4g} frames/s, {100 * SHARE_OF_HIGHEST:.0f} % of the highest rate"


def to_facts(run: SoakRun) -> dict[str, str]:
    """Names and values, for people."""
    latency = "too few frames to have tenths"
    if run.latency_p99_ms is not None:
        latency = "{:.1f} ms in the first tenth, {:.1f} ms in the last".format(*run.latency_p99_ms)
    return {
        "frames": f"{run.frames} of {run.frames_planned} in {run.took_s:.0f} s" + ", ended early" * run.ended_early,
        "verdicts": _counts(run.verdicts),
        "PSS": _memory(run.pss_bytes, run.pss_slope),
        "of that its own": _memory(run.own_bytes, run.own_slope),
        "pages of files": _megabytes(run.file_bytes),
        "descriptors": _growth(run.descriptors),
        "threads": _growth(run.threads),
        "processes": _growth(run.processes),
        "latency p99": latency,
        "events": f"{run.events_missing} missing, {run.events_out_of_order} out of order",
        "ledger": "balanced" if run.ledger_balanced else f"not balanced: {run.ledger}",
        "alarms": _counts(run.alarms) or "none",
    }


def _memory(growth: Growth, grows: Slope | None) -> str:
    if grows is None:
        return f"too few samples to say how it grows; {_megabytes(growth)}"
    return f"{grows.per_frame:+.2f} bytes a frame, at most {grows.upper_95:+.2f}; {_megabytes(growth)}"


def _megabytes(growth: Growth) -> str:
    start, end, most = (one / 1e6 for one in (growth.at_start, growth.at_end, growth.most))
    return f"{start:.2f} MB at first, {end:.2f} at the end, at most {most:.2f}"


def _growth(growth: Growth) -> str:
    return f"{growth.at_start} at first, {growth.at_end} at the end, at most {growth.most}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
