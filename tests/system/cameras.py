"""`make cameras`: how soon a line notices dead cameras, and inspects again (docs/cameras.md). Each fault is injected,
and its time is compared with the timestamps of events.
"""

import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from heatline.edge.bundle import Bundle
from heatline.edge.cameras import aravis
from heatline.edge.errors import CameraError, MissingExtraError
from heatline.edge.wire.events import AlarmEvent
from tests.edge.gv_cameras import AravisCamera, aravis_camera, noise
from tests.edge.lines import RunningLine, children, running, write_line_with
from tests.edge.secured import free_port
from tests.system.command import ALL_GOOD, Result, parser, report_line, run

FPS, HW = 25.0, (480, 640)
STEADY_FRAMES = 8
"""Number of inspected frames before a fault is injected."""

Kind = Literal["genicam", "pattern"]
KILLED, STOPPED, NO_POWER, FROZEN = (
    "camera process killed", "camera process stopped", "device without power", "picture frozen"
)  # fmt: skip
FAULTS: dict[Kind, list[str]] = {"pattern": [KILLED, STOPPED], "genicam": [KILLED, STOPPED, NO_POWER, FROZEN]}


class Spread(msgspec.Struct, frozen=True):
    """Median and extremes of one figure over all repetitions."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


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

    faults: list[FaultTimes]
    failed: dict[str, str]
    """Measurements that failed, or need a library that is not installed, with the reason."""


def measure_cameras(bundle: Bundle, faults: dict[Kind, list[str]], gone_s: list[float]) -> Cameras:
    """Inject the faults of each kind of camera, also after one that failed. `gone_s`: how long devices stay missing
    after the alarm; each fault is injected once for each. The line tries to open a missing camera at growing intervals,
    and the camera may return at any moment of one."""
    found = Cameras(faults=[], failed={})
    for kind, names in faults.items():
        try:
            found.faults.extend(_measure(kind, names, bundle, gone_s))
        except (AssertionError, CameraError, MissingExtraError) as error:
            found.failed[kind] = str(error)
    return found


def _measure(kind: Kind, faults: list[str], bundle: Bundle, gone_s: list[float]) -> list[FaultTimes]:
    samples: dict[str, list[tuple[str, float, float]]] = {fault: [] for fault in faults}
    with contextlib.ExitStack() as stack:
        folder, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
        keys: dict[str, Any] = {"kind": kind, "rate_fps": FPS}
        device = None
        if kind == "genicam":
            aravis.load()
            device = stack.enter_context(aravis_camera(pictures=noise(4, *HW), rate_fps=FPS))
            keys["address"] = device.address
        else:
            keys["draw_size"] = list(HW[::-1])
        file = write_line_with(folder, bundle.path, port.local, {"cam0": keys}, ALL_GOOD)
        line = stack.enter_context(running(file, port.local))
        for gone in gone_s:
            for fault in faults:
                samples[fault].append(_inject(fault, line, device, gone))
                report_line(f"{kind}, {fault}: {samples[fault][-1]}")
        line.end()
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


def _inject(fault: str, line: RunningLine, device: AravisCamera | None, gone_s: float) -> tuple[str, float, float]:
    """Inject a fault into a steady camera, end it when the line has noticed it, and wait for the recovery.

    Returns:
        the reason of the alarm, and the times until the alarm and until the recovery, ms.
    """
    line.until_inspected_frames(STEADY_FRAMES)
    (pid,) = children(line.process.pid)
    injected_ns = since_ns = time.time_ns()
    if fault == NO_POWER and device is not None:
        device.kill()
    elif fault == FROZEN and device is not None:
        device.tell("freeze", frozen=True)
    else:
        os.kill(pid, signal.SIGKILL if fault == KILLED else signal.SIGSTOP)
    alarm: AlarmEvent = line.until(
        lambda event: isinstance(event, AlarmEvent) and event.active and event.at_ns >= injected_ns
    )
    if fault == NO_POWER and device is not None:
        back_s = time.monotonic() + gone_s
        while time.monotonic() < back_s:
            line.poll()
        device.start()
        since_ns = time.time_ns()
    elif fault == FROZEN and device is not None:
        device.tell("freeze", frozen=False)
        since_ns = time.time_ns()
    after_ns = max(since_ns, alarm.at_ns)
    while (event := line.until_inspected()).times.captured_at_ns <= after_ns:
        pass
    recovered_ms = (event.times.captured_at_ns - since_ns) / 1e6 + event.latency_ms
    return alarm.alarm, (alarm.at_ns - injected_ns) / 1e6, recovered_ms


def _run(_: Namespace, bundle: Bundle) -> Result:
    cameras = measure_cameras(bundle, FAULTS, [0.5, 1.0, 2.0, 3.0, 4.0])
    return cameras, [f"{name}: {reason}" for name, reason in cameras.failed.items()]


if __name__ == "__main__":
    arguments = parser("Measure how soon a line notices dead cameras, and inspects again.").parse_args()
    sys.exit(run("cameras", arguments, _run))
