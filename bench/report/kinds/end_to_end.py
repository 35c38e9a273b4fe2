"""The whole way, from capture to a subscriber: how late events are, how fast the service is, what rate it holds."""

from collections.abc import Sequence

from bench.camera_rates import Trial
from bench.end_to_end.end_to_end import WHOLE, EndToEnd, to_facts
from bench.end_to_end.highest import Highest
from bench.end_to_end.saturated import Processor
from bench.end_to_end.window import Window
from bench.report.content import Block, Column, Plot, Table, facts, shown, table
from bench.report.files import Result
from bench.report.plots import Distribution, Stack, distributions, stacks

INFERENCE = "inference"


def blocks(result: Result) -> list[Block]:
    """One for all runs of a file."""
    return [_block(one) for one in result.decoded(EndToEnd)]


def _block(found: EndToEnd) -> Block:
    height, width = found.frame_hw
    cameras = f"{found.cameras} camera{'s' * (found.cameras > 1)}"
    heading = f"{found.model} in {found.precision}, {width}x{height} px, {cameras}"
    processor = None if found.saturated is None else found.saturated.processor
    plots = (
        *(() if processor is None else _processor(processor)),
        *(() if found.window is None else _latencies(found.window)),
    )
    tables = [facts(to_facts(found)), *([] if found.highest is None else _rates(found.highest))]
    cut_short = f"This run is not whole, and nothing of it counts for a target: {found.ended}."
    return Block(heading, () if found.ended == WHOLE else (cut_short,), plots, tuple(tables))


def _processor(processor: Processor) -> tuple[Plot, ...]:
    """Where the processor's time goes, with inference and without."""
    rest, unit = list(processor.rest_ms.items()), "ms of processor time per frame"
    names = (INFERENCE, *processor.rest_ms)
    caption = "The saturated service: the engine's threads, the service's own by their names, its cameras' processes."
    title = "Processor time of a frame"
    return (
        Plot(stacks([Stack("service", [(INFERENCE, processor.inference_ms), *rest])], title, unit, names), caption),
        Plot(stacks([Stack("service", rest)], f"{title}, without inference", unit, names)),
    )


def _latencies(window: Window) -> tuple[Plot, ...]:
    latency = window.latency
    if latency is None:
        return ()
    marked = (
        ("p50", 0.5, latency.p50),
        ("p95", 0.95, latency.p95),
        ("p99", 0.99, latency.p99),
        ("max", 1.0, latency.most),
    )
    rate = "as fast as it goes" if window.rate_fps is None else f"at {shown(window.rate_fps)} frames/s of each camera"
    upper_ms, counts = zip(*latency.bins, strict=True)
    # A bin's upper end may lie above the latest frame, which is what the curve ends at.
    drawn = Distribution(rate, [min(ms, latency.most) for ms in upper_ms], counts, marked)
    caption = f"Share of the {shown(window.inspected)} inspected frames whose event was heard so soon after capture."
    return (Plot(distributions([drawn], "Latency from capture to event"), caption),)


def _rates(highest: Highest) -> list[Table]:
    columns = (
        *("asked, frames/s", "came", "seconds", "p50, ms", "p99, ms"),
        *(Column("kept up", True), Column("lost", True)),
    )
    return [
        table(columns, [_trial(one) for one in trials], title)
        for trials, title in ((highest.held, "The highest rate, held"), (highest.tried, "Rates that were tried"))
        if trials
    ]


def _trial(one: Trial) -> Sequence[str]:
    lost = ", ".join(f"{reason} {count}" for reason, count in one.lost.items())
    times = (shown(one.latency_p50_ms), shown(one.latency_p99_ms))
    return (
        *(shown(one.asked_fps), shown(one.came_fps), shown(one.seconds), *times),
        *("yes" if one.kept_up else "no", lost or "none"),
    )
