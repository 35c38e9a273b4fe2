"""`make cameras`: how soon a line notices dead cameras, and inspects again (docs/cameras.md). Each fault is injected,
and its time is compared with the timestamps of events.
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from heatline.bench.machine import commit
from heatline.bench.spread import Spread
from heatline.bench.watched_line import START_WITHIN_SECONDS, WatchedLine
from heatline.edge.bundle import Bundle
from heatline.edge.cameras import aravis
from heatline.edge.errors import BenchError, CameraError, MissingExtraError
from heatline.edge.wire.events import AlarmEvent, Event, VerdictEvent
from tests.edge.gv_cameras import AravisCamera, aravis_camera, noise
from tests.system.command import Result, parser, report_line, run

FPS, HW = 25.0, (480, 640)
STEADY_FRAMES = 8
"""Number of inspected frames before a fault is injected."""
NOTICED_WITHIN_SECONDS, BACK_WITHIN_SECONDS = 30.0, 60.0

Kind = Literal["genicam", "pattern"]
KILLED, STOPPED, NO_POWER, FROZEN = (
    "camera process killed", "camera process stopped", "device without power", "picture frozen"
)  # fmt: skip
FAULTS: dict[Kind, list[str]] = {"pattern": [KILLED, STOPPED], "genicam": [KILLED, STOPPED, NO_POWER, FROZEN]}


class FaultTimes(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, injected several times."""

    kind: Kind
    fault: str
    noticed_as: list[str]
    """Reason of each alarm."""
    noticed_ms: Spread
    """Time from the fault to the alarm."""
    recovered_ms: Spread
    """Time to the event of the first inspected frame: from the fault, or from when a device's own fault has ended."""


class Cameras(msgspec.Struct, frozen=True, kw_only=True):
    """Results of all measurements."""

    bundle: str
    commit: str | None
    """Commit of the code that ran; with `-dirty` if files were changed since."""
    faults: list[FaultTimes]
    failed: dict[str, str]
    """Measurements that failed, or need a library that is not installed, with the reason."""


def measure_cameras(
    bundle: Bundle, faults: dict[Kind, list[str]], gone_s: list[float], report: Callable[[str], None]
) -> Cameras:
    """Inject the faults of each kind of camera, also after one that failed.

    Args:
        gone_s: how long devices stay missing after the alarm; each fault is injected once for each. The line tries to
            open a missing camera at growing intervals, and the camera may return at any moment of one.
    """
    found = Cameras(bundle=bundle.path.name, commit=commit(), faults=[], failed={})
    for kind, names in faults.items():
        try:
            found.faults.extend(_measure(kind, names, bundle, gone_s, report))
        except (BenchError, CameraError, MissingExtraError) as error:
            found.failed[kind] = str(error)
    return found


def _measure(
    kind: Kind, faults: list[str], bundle: Bundle, gone_s: list[float], report: Callable[[str], None]
) -> list[FaultTimes]:
    samples: dict[str, list[tuple[str, float, float]]] = {fault: [] for fault in faults}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        keys: dict[str, str | float | list[int]] = {"kind": kind, "name": "cam0", "rate_fps": FPS}
        device = None
        if kind == "genicam":
            aravis.load()
            device = stack.enter_context(aravis_camera(pictures=noise(4, *HW), rate_fps=FPS))
            keys["address"] = device.address
        else:
            keys["draw_size"] = list(HW[::-1])
        with WatchedLine(folder, bundle.path, "f32", [keys]) as line:
            for gone in gone_s:
                for fault in faults:
                    samples[fault].append(_inject(fault, line, device, gone))
                    report(f"{kind}, {fault}: {samples[fault][-1]}")
            line.stop()
    return [
        FaultTimes(
            kind=kind,
            fault=fault,
            noticed_as=[reason for reason, _, _ in of],
            noticed_ms=Spread.of([noticed for _, noticed, _ in of]),
            recovered_ms=Spread.of([recovered for _, _, recovered in of]),
        )
        for fault, of in samples.items()
    ]


def _inject(fault: str, line: WatchedLine, device: AravisCamera | None, gone_s: float) -> tuple[str, float, float]:
    """Inject a fault into a steady camera, end it when the line has noticed it, and wait for the recovery.

    Returns:
        the reason of the alarm, and the times until the alarm and until the recovery, ms.
    """
    for _ in range(STEADY_FRAMES):
        line.until(_is_inspected, START_WITHIN_SECONDS, "frames that are inspected")
    (pid,) = line.camera_pids()
    injected_ns = since_ns = time.time_ns()
    if fault == NO_POWER and device is not None:
        device.kill()
    elif fault == FROZEN and device is not None:
        device.tell("freeze", frozen=True)
    else:
        os.kill(pid, signal.SIGKILL if fault == KILLED else signal.SIGSTOP)
    alarm = line.until(
        lambda event: isinstance(event, AlarmEvent) and event.active and event.at_ns >= injected_ns,
        NOTICED_WITHIN_SECONDS,
        "an alarm",
    )
    assert isinstance(alarm, AlarmEvent)
    if fault in (NO_POWER, FROZEN) and device is not None:
        if fault == NO_POWER:
            line.receive_for(gone_s)
            device.start()
        else:
            device.tell("freeze", frozen=False)
        since_ns = time.time_ns()
    after_ns = max(since_ns, alarm.at_ns)
    event = line.until(
        lambda event: _is_inspected(event) and _captured_ns(event) > after_ns,
        BACK_WITHIN_SECONDS,
        "a frame that is inspected again",
    )
    assert isinstance(event, VerdictEvent)
    inspected_ms = _captured_ns(event) / 1e6 + event.latency_ms
    return alarm.alarm, (alarm.at_ns - injected_ns) / 1e6, inspected_ms - since_ns / 1e6


def _is_inspected(event: Event) -> bool:
    return isinstance(event, VerdictEvent) and event.verdict != "NO_VERDICT"


def _captured_ns(event: Event) -> int:
    assert isinstance(event, VerdictEvent)
    return event.times.captured_at_ns


def _run(_: Namespace, bundle: Bundle) -> Result:
    cameras = measure_cameras(bundle, FAULTS, [0.5, 1.0, 2.0, 3.0, 4.0], report_line)
    facts = {
        f"{one.kind}, {one.fault}": f"noticed after {one.noticed_ms:.0f} ms, recovered after {one.recovered_ms:.0f} ms"
        for one in cameras.faults
    }
    return Result(cameras, facts, [f"{name}: {reason}" for name, reason in cameras.failed.items()])


if __name__ == "__main__":
    arguments = parser("Measure how soon a line notices dead cameras, and inspects again.").parse_args()
    sys.exit(run("cameras", arguments, _run))
