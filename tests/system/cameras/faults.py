"""Measures how long a line takes to notice a dead camera, and to inspect again. Each fault is injected, and its time is
compared with the timestamps of events.
"""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from heatline.bench.spread import Spread
from heatline.bench.watched_line import START_WITHIN_SECONDS, WatchedLine
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError
from heatline.edge.wire.events import AlarmEvent, Event, StatusEvent, VerdictEvent
from tests.edge.gv_cameras import AravisCamera
from tests.system.cameras.rates import Load

CAMERA = "cam0"
FPS = 25.0
STEADY_FRAMES = 8
"""Number of inspected frames before a fault is injected."""
NOTICED_WITHIN_SECONDS = 30.0
BACK_WITHIN_SECONDS = 60.0
IDLE_SECONDS = 2.0
"""How long a camera has waited for triggers before a fault is injected."""

FaultName = Literal[
    "camera process killed",
    "camera process stopped",
    "device without power",
    "picture frozen",
    "idle device without power",
]
DEVICE_FAULTS: dict[FaultName, str] = {
    "device without power": "the device is back",
    "picture frozen": "the picture moves again",
    "idle device without power": "the device is back",
}
"""Start of the recovery of these faults; that of the others starts with the fault. Recovery ends with the event of the
first inspected frame, for an idle camera with the end of the alarm."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One fault that was noticed and ended."""

    noticed_as: str
    """Reason of the alarm."""
    noticed_ms: float
    """Time from the fault to the alarm."""
    gone_ms: float | None
    """How long the device was missing after the alarm."""
    recovered_ms: float


class FaultTimes(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, injected several times."""

    load: Load
    fault: FaultName
    noticed_ms: Spread
    recovered_ms: Spread
    recovery_since: str
    samples: list[Sample]

    @property
    def fact(self) -> str:
        """Description for people."""
        noticed_as = ", ".join(sorted({sample.noticed_as for sample in self.samples}))
        return (
            f"noticed as {noticed_as} after {self.noticed_ms:.0f} ms, recovered after {self.recovered_ms:.0f} ms since "
            f"{self.recovery_since}"
        )


class Scenario(msgspec.Struct, frozen=True):
    """One camera at 25 frames per second, or one that waits for triggers, and its faults."""

    load: Load
    faults: tuple[FaultName, ...]
    idle: bool = False


def scenarios(pattern: Load, gige: Load) -> tuple[Scenario, ...]:
    """Return all faults by camera."""
    return (
        Scenario(pattern, ("camera process killed", "camera process stopped")),
        Scenario(gige, ("camera process killed", "camera process stopped", "device without power", "picture frozen")),
        Scenario(gige, ("idle device without power",), idle=True),
    )


def measure_faults(
    scenario: Scenario, bundle: Bundle, *, repeats: int, gone_s: Sequence[float], report_line: Callable[[str], None]
) -> list[FaultTimes]:
    """Inject the faults in turn, several times, on one running service.

    Args:
        gone_s: how long devices stay missing after the alarm, in turn: the line tries to open a missing camera at
            growing intervals, and the camera may return at any moment of one.
    Raises:
        BenchError: a fault was not noticed, or did not end, or a process failed.
        MissingExtraError: the load needs a library that is not installed.
    """
    load, samples = scenario.load, {fault: list[Sample]() for fault in scenario.faults}
    trigger = {"trigger": "software"} if scenario.idle else {}
    with tempfile.TemporaryDirectory() as folder, load.device(FPS) as device:
        keys = [{**each, **trigger} for each in load.keys(FPS, device)]
        with WatchedLine(Path(folder), bundle.path, "f32", keys) as line:
            for number in range(repeats):
                for fault in scenario.faults:
                    camera = _Camera(line, device, gone_s[number % len(gone_s)], number / repeats)
                    samples[fault].append(sample := camera.inject(fault))
                    report_line(f"{load}, {fault}: {sample}")
            line.stop()
    return [
        FaultTimes(
            load=load,
            fault=fault,
            noticed_ms=Spread.of([one.noticed_ms for one in of]),
            recovered_ms=Spread.of([one.recovered_ms for one in of]),
            recovery_since=DEVICE_FAULTS.get(fault, "the fault"),
            samples=of,
        )
        for fault, of in samples.items()
    ]


@dataclass
class _Camera:
    """The only camera of a line, with functions that inject faults."""

    line: WatchedLine
    device: AravisCamera | None
    gone_s: float
    phase: float
    """0 to 1: position of the fault in an interval."""

    def inject(self, fault: FaultName) -> Sample:
        """Inject a fault into a steady camera, end it when the line has noticed it, and wait for the recovery."""
        idle = fault == "idle device without power"
        if idle:
            self._await_idle()
        else:
            for _ in range(STEADY_FRAMES):
                self.line.until(_is_inspected, START_WITHIN_SECONDS, "frames that are inspected")
        with self._process() as process:
            injected_ns = time.time_ns()
            if fault in DEVICE_FAULTS:
                alarm = self._inject_into_device(fault, injected_ns)
            else:
                number = signal.SIGKILL if fault == "camera process killed" else signal.SIGSTOP
                signal.pidfd_send_signal(process, number)
                alarm = self._await_alarm(injected_ns)
            back_ns = time.time_ns() if fault in DEVICE_FAULTS else None
            recovered_ns = self._await_end_of_alarm() if idle else self._await_inspection(back_ns or alarm.at_ns)
        return Sample(
            noticed_as=alarm.alarm,
            noticed_ms=(alarm.at_ns - injected_ns) / 1e6,
            gone_ms=None if back_ns is None else (back_ns - alarm.at_ns) / 1e6,
            recovered_ms=(recovered_ns - (back_ns or injected_ns)) / 1e6,
        )

    def _inject_into_device(self, fault: FaultName, injected_ns: int) -> AlarmEvent:
        """Make the device itself fail until some time after the alarm."""
        assert self.device is not None
        if fault == "picture frozen":
            self.device.freeze()
            alarm = self._await_alarm(injected_ns)
            self.device.freeze(False)
        else:
            self.device.kill()
            alarm = self._await_alarm(injected_ns)
            self.line.receive_for(self.gone_s)
            self.device.start()
        return alarm

    @contextlib.contextmanager
    def _process(self) -> Iterator[int]:
        """Provide a descriptor of the camera's process, which is continued at the end if it still exists."""
        pids = self.line.camera_pids()
        if len(pids) != 1:
            raise BenchError(f"the line has {len(pids)} camera processes, expected one")
        process = os.pidfd_open(pids[0])
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGCONT)
            os.close(process)

    def _await_idle(self) -> None:
        self.line.until(
            lambda event: isinstance(event, StatusEvent) and event.cameras[CAMERA].state == "IDLE",
            START_WITHIN_SECONDS,
            "a camera that waits for triggers",
        )
        self.line.receive_for(IDLE_SECONDS + self.phase)

    def _await_alarm(self, injected_ns: int) -> AlarmEvent:
        """Wait for the first alarm after this time."""
        alarm = self.line.until(
            lambda event: isinstance(event, AlarmEvent) and event.active and event.at_ns >= injected_ns,
            NOTICED_WITHIN_SECONDS,
            "an alarm",
        )
        assert isinstance(alarm, AlarmEvent)
        return alarm

    def _await_inspection(self, after_ns: int) -> int:
        """Return when the event of the first inspected frame that was captured after this time was sent."""
        event = self.line.until(
            lambda event: _is_inspected(event) and _captured_ns(event) > after_ns,
            BACK_WITHIN_SECONDS,
            "a frame that is inspected again",
        )
        assert isinstance(event, VerdictEvent)
        return _captured_ns(event) + round(event.latency_ms * 1e6)

    def _await_end_of_alarm(self) -> int:
        """Return when the alarm ended."""
        alarm = self.line.until(
            lambda event: isinstance(event, AlarmEvent) and not event.active, BACK_WITHIN_SECONDS, "the alarm's end"
        )
        assert isinstance(alarm, AlarmEvent)
        return alarm.at_ns


def _is_inspected(event: Event) -> bool:
    return isinstance(event, VerdictEvent) and event.verdict != "NO_VERDICT"


def _captured_ns(event: Event) -> int:
    assert isinstance(event, VerdictEvent)
    return event.times.captured_at_ns
