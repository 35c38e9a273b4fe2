"""What cameras cost a line, and how it takes their deaths: all that `heatline bench cameras` measures."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from bench.camera_faults import FaultTimes, Scenario, measure_faults
from bench.camera_rates import Load, Rate, Tries, measure_camera_path, measure_rate_to_event
from bench.machine import commit
from edge.bundle import Bundle
from edge.errors import BenchError, CameraError, MissingExtraError
from edge.inference import Precision

RATE_COLUMNS = (
    *("cameras", "way", "frames/s each", "of the bare engine", "MB/s", "latency p50, ms", "latency p99, ms"),
    *("CPU ms/frame", "SIGTERM to STOPPED, ms", "limited by"),
)
FAULT_COLUMNS = ("camera", "fault", "noticed as", "noticed after, ms", "recovered after, ms", "counted from")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured, and how much of it."""

    tries: Tries
    to_event: tuple[Load, ...]
    camera_path: tuple[Load, ...]
    scenarios: tuple[Scenario, ...]
    repeats: int
    """Of every fault."""
    gone_s: tuple[float, ...]


def full_plan(seconds: float, repeats: int) -> Plan:
    """Figures that are worth a quotation."""
    gige, pattern = Load("genicam", 1, (2048, 2048)), Load("pattern", 1, (480, 640))
    return Plan(
        tries=Tries(seconds=seconds, search_seconds=min(1.5, seconds), search=8, holds=3),
        to_event=(gige, Load("pattern", 4, (480, 640))),
        camera_path=(gige, pattern, Load("pattern", 1, (2048, 2448))),
        scenarios=_scenarios(pattern, Load("genicam", 1, (480, 640))),
        repeats=repeats,
        gone_s=(0.5, 1.0, 2.0, 3.0, 4.0),
    )


def quick_plan() -> Plan:
    """Small frames and short looks: whether all of it runs, not how fast."""
    gige, pattern = Load("genicam", 1, (240, 320)), Load("pattern", 1, (240, 320))
    return Plan(
        tries=Tries(seconds=0.5, search_seconds=0.5, search=2, holds=1),
        to_event=(gige, Load("pattern", 4, (240, 320))),
        camera_path=(gige, pattern),
        scenarios=_scenarios(pattern, gige),
        repeats=1,
        gone_s=(0.2,),
    )


def _scenarios(pattern: Load, gige: Load) -> tuple[Scenario, ...]:
    return (
        Scenario(pattern, ("camera process killed", "camera process stopped")),
        Scenario(gige, ("camera process killed", "camera process stopped", "device without power", "picture frozen")),
        Scenario(gige, ("idle device without power",), idle=True),
    )


class CamerasBench(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    bundle: str
    model: str
    precision: Precision
    commit: str | None
    """Of the code that ran; none where it is no checkout. `-dirty` where files were changed since."""
    plan: Plan
    took_s: float
    rates: list[Rate]
    faults: list[FaultTimes]
    left_out: dict[str, str]
    """What could not be measured, and why."""


def measure_cameras(
    bundle: Bundle, precision: Precision, plan: Plan, *, gige_address: str, say: Callable[[str], None]
) -> CamerasBench:
    """Measure one thing after the other. What cannot be measured is left out, with the reason.

    Args:
        gige_address: of this machine, where GigE Vision devices are made.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
    """
    began_s = time.monotonic()
    rates: list[Rate] = []
    faults: list[FaultTimes] = []
    left_out: dict[str, str] = {}

    @contextlib.contextmanager
    def if_possible(load: Load, what: str) -> Iterator[None]:
        try:
            yield
        except (BenchError, CameraError, MissingExtraError) as error:
            left_out[f"{load}, {what}"] = str(error)
            say(f"left out: {load}, {what}: {error}")

    for load in plan.to_event:
        with if_possible(load, "to event"):
            rates.append(measure_rate_to_event(load, bundle, precision, plan.tries, gige_address=gige_address, say=say))
    for load in plan.camera_path:
        with if_possible(load, "camera path"):
            rates.append(measure_camera_path(load, plan.tries, gige_address=gige_address, say=say))
    for scenario in plan.scenarios:
        with if_possible(scenario.load, ", ".join(scenario.faults)):
            faults += measure_faults(
                scenario,
                bundle,
                precision,
                repeats=plan.repeats,
                gone_s=plan.gone_s,
                gige_address=gige_address,
                say=say,
            )
    return CamerasBench(
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        precision=precision,
        commit=commit(),
        plan=plan,
        took_s=time.monotonic() - began_s,
        rates=rates,
        faults=faults,
        left_out=left_out,
    )


def to_markdown(found: CamerasBench) -> str:
    """Two tables, and what was left out."""
    return "\n\n".join(
        [
            f"{found.bundle} ({found.model}) in {found.precision}, commit {found.commit or 'unknown'}; medians, "
            "(lowest to highest)",
            _table(RATE_COLUMNS, [rate_row(rate) for rate in found.rates]),
            _table(FAULT_COLUMNS, [fault_row(fault) for fault in found.faults]),
            *(f"Left out: {what}: {why}" for what, why in found.left_out.items()),
        ]
    )


def rate_row(rate: Rate) -> list[str]:
    """Its cells below `RATE_COLUMNS`."""
    return [
        str(rate.load),
        rate.way,
        _or_none(rate.rate_fps, "g"),
        _or_none(rate.share_of_bare, ".0%"),
        _or_none(None if rate.bytes_per_s is None else rate.bytes_per_s / 1e6, ".0f"),
        _or_none(rate.latency_p50_ms, ".1f"),
        _or_none(rate.latency_p99_ms, ".1f"),
        ", ".join(f"{of} {spread.median:.2f}" for of, spread in rate.cpu_ms_per_frame.items()),
        _or_none(rate.stopped_ms, ".0f"),
        rate.limited_by or "",
    ]


def fault_row(times: FaultTimes) -> list[str]:
    """Its cells below `FAULT_COLUMNS`."""
    return [
        str(times.load),
        times.fault,
        ", ".join(sorted({sample.noticed_as for sample in times.samples})),
        f"{times.noticed_ms:.0f}",
        f"{times.recovered_ms:.0f}",
        times.recovery_since,
    ]


def _or_none(value: object, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
