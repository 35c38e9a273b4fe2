"""How long a line takes to notice that a camera is dead, and to inspect again: each fault made on purpose, with events'
own stamps held against the moment of the deed.
"""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from bench.camera_rates import Load
from bench.gige_device import GigeDevice
from bench.spread import Spread
from bench.watched_line import START_WITHIN_SECONDS, WatchedLine
from edge.bundle import Bundle
from edge.errors import BenchError
from edge.inference import Precision
from edge.wire.events import AlarmEvent, Event, StatusEvent, VerdictEvent

CAMERA = "cam0"
FPS = 25.0
STEADY_FRAMES = 8
"""Inspected one after the other, before a fault is made."""
NOTICED_WITHIN_SECONDS = 30.0
BACK_WITHIN_SECONDS = 60.0
ASKED_AFTER_SECONDS = 2.0
"""A camera that waits for triggers is asked once a second from then on."""

FaultName = Literal[
    "camera process killed",
    "camera process stopped",
    "device without power",
    "picture frozen",
    "idle device without power",
]
SINCE: dict[FaultName, str] = {
    "camera process killed": "the deed",
    "camera process stopped": "the deed",
    "device without power": "the device is back",
    "picture frozen": "the picture moves again",
    "idle device without power": "the device is back",
}
"""From when on its recovery is counted. It ends with the event of the first frame that is inspected, of an idle camera
with the alarm's end."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One fault that was noticed, and got over."""

    noticed_as: str
    """The alarm's word."""
    noticed_ms: float
    """From the deed to the alarm."""
    gone_ms: float | None
    """How long the device was away after the alarm."""
    recovered_ms: float


class FaultTimes(msgspec.Struct, frozen=True, kw_only=True):
    """One fault, made again and again."""

    load: Load
    fault: FaultName
    noticed_ms: Spread
    recovered_ms: Spread
    recovery_since: str
    samples: list[Sample]


class Scenario(msgspec.Struct, frozen=True):
    """One camera at 25 frames a second, or one that waits for triggers, and what is done to it."""

    load: Load
    faults: tuple[FaultName, ...]
    idle: bool = False


def measure_faults(
    scenario: Scenario,
    bundle: Bundle,
    precision: Precision,
    *,
    repeats: int,
    gone_s: Sequence[float],
    gige_address: str,
    say: Callable[[str], None],
) -> list[FaultTimes]:
    """Make each fault in turn, over and over, on one running service.

    Args:
        gone_s: how long devices stay away after the alarm, one after the other: a camera that is gone is looked for at
            longer and longer intervals, and may come back at any moment of one.
    Raises:
        BenchError: a fault was not noticed, or not got over, or a process did not do what it should.
    """
    load, samples = scenario.load, {fault: list[Sample]() for fault in scenario.faults}
    with ExitStack() as at_end:
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory()))
        device = None
        if load.kind == "genicam":
            device = at_end.enter_context(GigeDevice(gige_address, load.hw, FPS))
            device.switch_on()
        keys = [{**each, **({"trigger": "software"} if scenario.idle else {})} for each in load.keys(FPS, gige_address)]
        line = at_end.enter_context(WatchedLine(folder, bundle.path, precision, keys))
        for number in range(repeats):
            for fault in scenario.faults:
                victim = _Victim(line, device, gone_s[number % len(gone_s)], number / repeats)
                samples[fault].append(sample := _MAKE[fault](victim))
                say(
                    f"{load}, {fault}: noticed as {sample.noticed_as} after {sample.noticed_ms:.0f} ms, "
                    f"recovered {sample.recovered_ms:.0f} ms after {SINCE[fault]}"
                )
        line.stop()
    return [
        FaultTimes(
            load=load,
            fault=fault,
            noticed_ms=Spread.of([one.noticed_ms for one in of]),
            recovered_ms=Spread.of([one.recovered_ms for one in of]),
            recovery_since=SINCE[fault],
            samples=of,
        )
        for fault, of in samples.items()
    ]


@dataclass
class _Victim:
    """A line with one camera, and what can be done to it."""

    line: WatchedLine
    device: GigeDevice | None
    gone_s: float
    phase: float
    """0 to 1: where in an interval to do it."""

    def await_steady(self) -> None:
        for _ in range(STEADY_FRAMES):
            self.line.until(_is_inspected, START_WITHIN_SECONDS, "frames that are inspected")

    def await_idle(self) -> None:
        self.line.until(
            lambda event: isinstance(event, StatusEvent) and event.cameras[CAMERA].state == "IDLE",
            START_WITHIN_SECONDS,
            "a camera that waits for triggers",
        )
        self.line.listen_for(ASKED_AFTER_SECONDS + self.phase)

    def camera_pid(self) -> int:
        pids = self.line.camera_pids()
        if len(pids) != 1:
            raise BenchError(f"the line has {len(pids)} camera processes, expected one")
        return pids[0]

    def noticed(self, done_ns: int) -> AlarmEvent:
        """The alarm of what was done then."""
        alarm = self.line.until(
            lambda event: isinstance(event, AlarmEvent) and event.active and event.at_ns >= done_ns,
            NOTICED_WITHIN_SECONDS,
            "an alarm",
        )
        assert isinstance(alarm, AlarmEvent)
        return alarm

    def inspected_ns(self, after_ns: int) -> int:
        """When the first frame's event went out that was captured after then and inspected."""
        event = self.line.until(
            lambda event: _is_inspected(event) and _captured_ns(event) > after_ns,
            BACK_WITHIN_SECONDS,
            "a frame that is inspected again",
        )
        assert isinstance(event, VerdictEvent)
        return _captured_ns(event) + round(event.latency_ms * 1e6)

    def over_ns(self) -> int:
        """When the alarm ended."""
        alarm = self.line.until(
            lambda event: isinstance(event, AlarmEvent) and not event.active, BACK_WITHIN_SECONDS, "the alarm's end"
        )
        assert isinstance(alarm, AlarmEvent)
        return alarm.at_ns

    def without_power(self) -> tuple[int, AlarmEvent, int]:
        """Cut the device's power until after the alarm: when it was cut, the alarm, and when it was back."""
        assert self.device is not None
        done_ns = time.time_ns()
        self.device.cut_power()
        alarm = self.noticed(done_ns)
        self.line.listen_for(self.gone_s)
        self.device.switch_on()
        return done_ns, alarm, time.time_ns()


def _killed(victim: _Victim) -> Sample:
    victim.await_steady()
    pid, done_ns = victim.camera_pid(), time.time_ns()
    os.kill(pid, signal.SIGKILL)
    alarm = victim.noticed(done_ns)
    return _sample(alarm, done_ns, None, done_ns, victim.inspected_ns(alarm.at_ns))


def _stopped(victim: _Victim) -> Sample:
    victim.await_steady()
    with _stoppable(victim.camera_pid()) as process:
        done_ns = time.time_ns()
        signal.pidfd_send_signal(process, signal.SIGSTOP)
        alarm = victim.noticed(done_ns)
        return _sample(alarm, done_ns, None, done_ns, victim.inspected_ns(alarm.at_ns))


def _cut(victim: _Victim) -> Sample:
    victim.await_steady()
    done_ns, alarm, back_ns = victim.without_power()
    return _sample(alarm, done_ns, back_ns, back_ns, victim.inspected_ns(back_ns))


def _frozen(victim: _Victim) -> Sample:
    assert victim.device is not None
    victim.await_steady()
    done_ns = time.time_ns()
    victim.device.freeze(True)
    alarm = victim.noticed(done_ns)
    victim.device.freeze(False)
    back_ns = time.time_ns()
    return _sample(alarm, done_ns, back_ns, back_ns, victim.inspected_ns(back_ns))


def _cut_idle(victim: _Victim) -> Sample:
    victim.await_idle()
    done_ns, alarm, back_ns = victim.without_power()
    return _sample(alarm, done_ns, back_ns, back_ns, victim.over_ns())


_MAKE: dict[FaultName, Callable[[_Victim], Sample]] = {
    "camera process killed": _killed,
    "camera process stopped": _stopped,
    "device without power": _cut,
    "picture frozen": _frozen,
    "idle device without power": _cut_idle,
}


def _sample(alarm: AlarmEvent, done_ns: int, back_ns: int | None, since_ns: int, recovered_ns: int) -> Sample:
    return Sample(
        noticed_as=alarm.alarm,
        noticed_ms=(alarm.at_ns - done_ns) / 1e6,
        gone_ms=None if back_ns is None else (back_ns - alarm.at_ns) / 1e6,
        recovered_ms=(recovered_ns - since_ns) / 1e6,
    )


@contextlib.contextmanager
def _stoppable(pid: int) -> Iterator[int]:
    """A descriptor of a process that will be stopped: should the line not kill it, it would stay for ever."""
    process = os.pidfd_open(pid)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)


def _is_inspected(event: Event) -> bool:
    return isinstance(event, VerdictEvent) and event.verdict != "NO_VERDICT"


def _captured_ns(event: Event) -> int:
    assert isinstance(event, VerdictEvent)
    return event.times.captured_at_ns
