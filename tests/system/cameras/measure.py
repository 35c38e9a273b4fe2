"""All measurements of cameras, in turn."""

import contextlib
from collections.abc import Callable, Iterator

import msgspec

from heatline.bench.end_to_end.rates import Tries
from heatline.bench.machine import commit
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError, CameraError, MissingExtraError
from tests.system.cameras.faults import FaultTimes, Scenario, measure_faults, scenarios
from tests.system.cameras.rates import Load, Rate, measure_rate

GIGE, PATTERN = Load("genicam", 1, (2048, 2048)), Load("pattern", 1, (480, 640))


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to measure, and how often."""

    tries: Tries = Tries(seconds=4.0, search_seconds=1.5, search=8, holds=3)
    to_event: tuple[Load, ...] = (GIGE, Load("pattern", 4, (480, 640)))
    camera_path: tuple[Load, ...] = (GIGE, PATTERN, Load("pattern", 1, (2048, 2448)))
    scenarios: tuple[Scenario, ...] = scenarios(PATTERN, Load("genicam", 1, (480, 640)))
    repeats: int = 5
    """Number of injections of every fault."""
    gone_s: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.0)


class Cameras(msgspec.Struct, frozen=True, kw_only=True):
    """Results of all measurements."""

    bundle: str
    commit: str | None
    """Commit of the code that ran; with `-dirty` if files were changed since."""
    plan: Plan
    rates: list[Rate]
    faults: list[FaultTimes]
    left_out: dict[str, str]
    """Measurements that need a library that is not installed, with the reason."""
    failed: dict[str, str] = {}
    """Measurements that failed, with the reason."""


def measure_cameras(bundle: Bundle, plan: Plan, report_line: Callable[[str], None]) -> Cameras:
    """Run all measurements in turn, also after one that failed.

    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine.
    """
    left_out: dict[str, str] = {}
    failed: dict[str, str] = {}
    results = Cameras(
        bundle=bundle.path.name, commit=commit(), plan=plan, rates=[], faults=[], left_out=left_out, failed=failed
    )

    @contextlib.contextmanager
    def if_possible(load: Load, name: str) -> Iterator[None]:
        try:
            yield
        except MissingExtraError as error:
            left_out[f"{load}, {name}"] = str(error)
            report_line(f"left out: {load}, {name}: {error}")
        except (BenchError, CameraError) as error:
            failed[f"{load}, {name}"] = str(error)
            report_line(f"failed: {load}, {name}: {error}")

    for load in plan.to_event:
        with if_possible(load, "to event"):
            results.rates.append(measure_rate(load, "to event", bundle, plan.tries, report_line))
    for load in plan.camera_path:
        with if_possible(load, "camera path"):
            results.rates.append(measure_rate(load, "camera path", bundle, plan.tries, report_line))
    for scenario in plan.scenarios:
        with if_possible(scenario.load, ", ".join(scenario.faults)):
            results.faults.extend(
                measure_faults(scenario, bundle, repeats=plan.repeats, gone_s=plan.gone_s, report_line=report_line)
            )
    return results


def faults(results: Cameras) -> list[str]:
    """Return all faults, one sentence each."""
    return [f"{name}: {reason}" for name, reason in results.failed.items()]
