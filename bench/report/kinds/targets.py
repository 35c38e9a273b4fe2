"""What the figures are to be, beside what they are: every file that says something of a target has its line."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from bench.end_to_end.end_to_end import EndToEnd
from bench.peers.peers import PeersBench
from bench.peers.systems import ENGINE, OURS
from bench.report.content import Block, Column, shown, table
from bench.report.files import Result
from bench.report.kinds.stages import WITHIN
from bench.stages.stages import StagesBench
from bench.startup.startup import StartUp

SERVICE_OVER_ENGINE = {"mobilenetv3_large_d": 0.95, "efficientnetv2_s_d": 0.98}
"""By model, of frames of 5 MP."""
LARGE_PX = 5_000_000
EXTRA_MS, JITTER_PERIODS, PSS_MB = 5.0, 0.25, 400.0
PEER, TIMES_PEER = "grad-cam", 10.0


class Held(NamedTuple):
    """One figure beside its target."""

    what: str
    of: str
    target: str
    found: float
    reached: bool


def blocks(results: Sequence[Result]) -> list[Block]:
    """One table; a line per figure and file.

    Args:
        results: of which each is what its kind says.
    """
    held = [(one, result) for result in results for one in _held(result)]
    if not held:
        return []
    columns = [Column(name, True) for name in ("what", "of", "target")]
    rows = [
        (one.what, one.of, one.target, shown(one.found), "yes" if one.reached else "no", result.file)
        for one, result in held
    ]
    used = tuple({id(result): result for _, result in held}.values())
    return [
        Block(
            "Figures to reach",
            tables=(table([*columns, "found", Column("reached", True), Column("file", True)], rows),),
            results=used,
        )
    ]


def _held(result: Result) -> Iterator[Held]:
    for one in result.measurements:
        match result.kind:
            case "end-to-end":
                yield from _end_to_end(msgspec.convert(one, EndToEnd))
            case "peers":
                yield from _peers(msgspec.convert(one, PeersBench))
            case "stages":
                yield from _stages(msgspec.convert(one, StagesBench))
            case "startup":
                yield from _startup(msgspec.convert(one, StartUp))


def _end_to_end(found: EndToEnd) -> Iterator[Held]:
    height, width = found.frame_hw
    of = f"{found.model} {found.precision}, {width}x{height}"
    if height * width < LARGE_PX:
        return
    if found.saturated is not None and found.model in SERVICE_OVER_ENGINE:
        share, target = found.saturated.service_over_engine, SERVICE_OVER_ENGINE[found.model]
        yield Held("service over engine, saturated", of, f"{target:g}", share, share >= target)
    if found.idle is not None:
        extra = found.idle.extra_ms.median
        yield Held(
            "latency of a frame on an idle service, beyond its tiles in the engine, ms",
            of,
            f"+{EXTRA_MS:g}",
            extra,
            extra <= EXTRA_MS,
        )
    window = found.window
    if window is not None and window.jitter_periods is not None:
        jitter = window.jitter_periods
        yield Held(
            "p99 - p50 from capture to event, frame periods",
            of,
            f"under {JITTER_PERIODS:g}",
            jitter,
            jitter < JITTER_PERIODS,
        )
    if window is not None and found.cameras == 1:
        yield Held("PSS of the service's processes, MB", of, f"under {PSS_MB:g}", window.pss_mb, window.pss_mb < PSS_MB)


def _peers(found: PeersBench) -> Iterator[Held]:
    of = f"{found.model} {found.precision}, {found.frame_hw[1]}x{found.frame_hw[0]}"
    systems = {one.name: one for one in found.systems}
    if PEER in systems:
        times = systems[PEER].ours_to_it
        yield Held(f"frames per second, over {PEER}", of, f"{TIMES_PEER:g}", times, times >= TIMES_PEER)
    others = [one for one in found.systems if one.name not in (ENGINE, OURS)]
    if others and OURS in systems:
        best, ours = max(others, key=lambda one: one.to_engine), systems[OURS].to_engine
        target = f"over {shown(best.to_engine)}, the best other: {best.name}"
        yield Held("share of the engine", of, target, ours, ours > best.to_engine)


def _stages(found: StagesBench) -> Iterator[Held]:
    spread, counts = found.cost_per_tile_spread, [one.tiles for one in found.cost_per_tile]
    if spread is not None and counts:
        of = f"{found.model} {found.precision}, {min(counts)} to {max(counts)} tiles"
        yield Held("dearest tile over the cheapest, %", of, f"within {100 * WITHIN:g}", 100 * spread, spread <= WITHIN)


def _startup(found: StartUp) -> Iterator[Held]:
    if "cached" in found.conditions:
        ready = found.conditions["cached"].ready_s.median
        target = found.target_ready_s
        of = f"{found.model} {found.precision}"
        yield Held("process start to READY with a model cache, s", of, f"under {target:g}", ready, ready < target)
