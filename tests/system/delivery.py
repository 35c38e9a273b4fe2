"""`make delivery`: how late events are at a high rate, live and durable, beside inspection (docs/chaos.md).

The line inspects at a share of the rate that it could, and where that makes too few events, a second camera brings
frames of a wrong size beside: they are reported as every frame is, and not inspected.
"""

import os
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.machine import commit, file_system
from bench.processes import cpu_s
from bench.spread import Latency
from bench.watched_line import Keys, WatchedLine, has_stopped
from bench.watched_process import WatchedProcess
from edge.bundle import Bundle
from edge.errors import BenchError
from edge.wire.events import VerdictEvent
from tests.system.chaos.client import Role, client_command
from tests.system.chaos.records import Got, head_of, read_record
from tests.system.command import Result, counts, parser, positive, report_line, run

SHARE_OF_HIGHEST = 0.8
REPETITIONS = 3
"""Of windows with a journal, and of windows without."""
SETTLE_S = 3.0
"""After the first event, before anything counts."""
FIRST_WITHIN_S = 60.0
FRAMES_FOR_A_RATE = 5000
HIGHEST_FPS = 10_000.0
WAITING_FRAMES = 16
MOST_GROWTH_MS = 100.0
"""By which the durable consumer may fall back from a window's first quarter to its last: more is a queue that grows."""
NEAR_ENOUGH = 0.98


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which all events were looked at."""

    journal: bool
    """Whether the line kept one, and a durable consumer followed."""
    seconds: float
    events: int
    """That were heard live."""
    events_per_s: float
    inspected_per_s: float
    verdicts: dict[str, int]
    """Frames by verdict, those without one by the reason."""
    not_heard: int
    """Events that were sent and not heard live."""
    not_followed: int
    """Events that were heard live as journalled and did not come to the durable consumer."""
    live: Latency
    """From capture to receipt by a live subscriber."""
    told: Latency
    """From the hand-over to the publisher to receipt by a live subscriber."""
    durable: Latency | None
    """From capture to receipt by the durable consumer."""
    added: Latency | None
    """From receipt by the live subscriber to receipt by the durable consumer, of the same event."""
    added_growth_ms: float | None
    """By how much that was more in the window's last quarter than in its first, at the median."""
    cpu: dict[str, float]
    """Cores: of the service, its cameras, the durable consumer and this process, which listens live."""

    @property
    def name(self) -> str:
        return "with a journal" if self.journal else "without a journal"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    bundle: str
    commit: str | None
    disk: str
    """File system of the journal."""
    events_per_s: float
    """That were wanted."""
    highest_fps: float
    """At which the line inspects frames that are always there, without a journal."""
    inspected_fps: float
    """Of the camera whose frames are inspected."""
    refused_fps: float
    """Of the camera whose frames have a wrong size."""
    windows: list[Window]


def measure_delivery(
    bundle: Bundle,
    *,
    events_per_s: float,
    seconds: float,
    folder: Path | None,
    report_line: Callable[[str], None],
    repetitions: int = REPETITIONS,
) -> Delivery:
    """Find the highest rate, then run the line at a share of it, in turns with a journal and without.

    Args:
        events_per_s: at least so many.
        seconds: of each window.
        folder: where journals are kept meanwhile; None: where temporary files are.
    Raises:
        BenchError: a process failed, or ended.
    """
    highest_fps = _highest_fps(bundle)
    inspected_fps = SHARE_OF_HIGHEST * highest_fps
    refused_fps = max(events_per_s - inspected_fps, 0.0)
    report_line(
        f"{highest_fps:.0f} frames/s at most; {inspected_fps:.0f} are inspected, {refused_fps:.0f} have a wrong size"
    )
    cameras = [_camera("inspected", bundle, inspected_fps)]
    if refused_fps:
        cameras.append({**_camera("refused", bundle, refused_fps), "size": [1, 1]})
    windows = []
    for number in range(repetitions):
        for journal in (True, False) if number % 2 == 0 else (False, True):
            windows.append(window := _window(bundle, cameras, seconds, journal, folder))
            report_line(f"{window.name}: {window.events_per_s:.0f} events/s, live {window.live}")
    return Delivery(
        bundle=bundle.path.name,
        commit=commit(),
        disk=file_system(folder or Path(tempfile.gettempdir())),
        events_per_s=events_per_s,
        highest_fps=highest_fps,
        inspected_fps=inspected_fps,
        refused_fps=refused_fps,
        windows=windows,
    )


def _camera(name: str, bundle: Bundle, rate_fps: float) -> Keys:
    """Frames of one tile."""
    size = [bundle.manifest.grid.tile_px] * 2
    return {
        "kind": "pattern", "name": name, "draw_size": size, "rate_fps": rate_fps, "waiting_frames": WAITING_FRAMES
    }  # fmt: skip


def _highest_fps(bundle: Bundle) -> float:
    """At which a camera that waits for the inspection has its frames inspected."""
    camera: Keys = {**_camera("inspected", bundle, HIGHEST_FPS), "frames": FRAMES_FOR_A_RATE, "on_overload": "block"}
    reported: list[int] = []
    with _line(bundle, [camera], journal=False, folder=None) as line:
        while (heard := line.next()) is None or not has_stopped(heard.event):
            if heard is not None and isinstance(heard.event, VerdictEvent):
                reported.append(heard.at_ns)
        line.await_exit()
    return (len(reported) - 1) / ((reported[-1] - reported[0]) / 1e9)


def _window(bundle: Bundle, cameras: Sequence[Keys], seconds: float, journal: bool, folder: Path | None) -> Window:
    """Run the line, let it settle, and look at every event that is reported within a time."""
    heard: list[tuple[VerdictEvent, int]] = []
    with tempfile.TemporaryDirectory() as place, _line(bundle, cameras, journal=journal, folder=folder) as line:
        record = Path(place) / "record"
        role = Role(name="bench", record=str(record), topics=[""], journal=line.journal_address)
        with WatchedProcess("the durable consumer", client_command(role), None) as following:
            if journal:
                following.start()
            line.until(lambda event: isinstance(event, VerdictEvent), FIRST_WITHIN_S, "the first event")
            line.receive_for(SETTLE_S)
            of = {"service": [line.pid], "cameras": line.camera_pids(), "live listener": [os.getpid()]}
            if journal:
                of["durable consumer"] = [following.pid]
            not_heard_before, began_ns, cpu_before = line.not_received, time.monotonic_ns(), _cpu(of)
            ended_ns = began_ns + round(seconds * 1e9)
            while time.monotonic_ns() < ended_ns:
                if (one := line.next()) is not None and isinstance(one.event, VerdictEvent):
                    heard.append((one.event, one.at_ns))
            took_s = (time.monotonic_ns() - began_ns) / 1e9
            cpu = {name: (taken - cpu_before[name]) / took_s for name, taken in _cpu(of).items()}
            line.stop()  # a durable consumer is given what there is before it ends
            not_heard = line.not_received - not_heard_before
            if journal:
                following.require_running()
            return window_of(heard, came_at(record) if journal else None, took_s, not_heard, cpu)


def came_at(record: Path) -> dict[int, int]:
    """When each event first came to a client, by its seq; monotonic, ns, as this process has it now."""
    offset_ns = time.time_ns() - time.monotonic_ns()
    came: dict[int, int] = {}
    for item in read_record(record):
        if isinstance(item, Got):
            came.setdefault(head_of(item.header).seq, item.at_ns - offset_ns)
    return came


def window_of(
    heard: Sequence[tuple[VerdictEvent, int]],
    followed: Mapping[int, int] | None,
    seconds: float,
    not_heard: int,
    cpu: dict[str, float],
) -> Window:
    """What came of it.

    Args:
        heard: events and when they came live, monotonic ns.
        followed: when events came to the durable consumer, by seq; None: there was none.
    Raises:
        BenchError: no event came.
    """
    if not heard:
        raise BenchError(f"no event came within a window of {seconds:g} s; give --seconds more")
    verdicts: Counter[str] = Counter()
    for event, _ in heard:
        verdicts[event.reason or event.verdict] += event.frames
    captured = np.array([event.times.captured_monotonic_ns for event, _ in heard], np.int64)
    handed_over = captured + np.array([round(event.latency_ms * 1e6) for event, _ in heard], np.int64)
    live = np.array([at_ns for _, at_ns in heard], np.int64)
    durable = added = growth_ms = None
    missing = 0
    if followed is not None:
        there = np.array([event.seq in followed for event, _ in heard])
        missing = int(np.count_nonzero(~there))
        at_ns = np.array([followed[event.seq] for event, _ in heard if event.seq in followed], np.int64)
        if len(at_ns):
            durable, added = latency_of(at_ns - captured[there]), latency_of(at_ns - live[there])
            lag_ms = (at_ns - live[there]) / 1e6
            quarter = max(len(lag_ms) // 4, 1)
            growth_ms = float(np.median(lag_ms[-quarter:]) - np.median(lag_ms[:quarter]))
    return Window(
        journal=followed is not None,
        seconds=seconds,
        events=len(heard),
        events_per_s=len(heard) / seconds,
        inspected_per_s=(verdicts["GOOD"] + verdicts["DEFECT"]) / seconds,
        verdicts=dict(verdicts),
        not_heard=not_heard,
        not_followed=missing,
        live=latency_of(live - captured),
        told=latency_of(live - handed_over),
        durable=durable,
        added=added,
        added_growth_ms=growth_ms,
        cpu=cpu,
    )


def latency_of(nanoseconds: NDArray[np.int64]) -> Latency:
    """Return the percentiles of some times."""
    return Latency.of(nanoseconds / 1e6)


@contextmanager
def _line(bundle: Bundle, cameras: Sequence[Keys], *, journal: bool, folder: Path | None) -> Iterator[WatchedLine]:
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        WatchedLine(Path(place), bundle.path, "f32", cameras, journal=journal) as line,
    ):
        yield line


def _cpu(of: dict[str, list[int]]) -> dict[str, float]:
    return {name: sum(map(cpu_s, pids)) for name, pids in of.items()}


def faults(found: Delivery) -> list[str]:
    """What must not be, in words; none: the rate was sustained."""
    wrong = []
    for window in found.windows:
        if window.events_per_s < NEAR_ENOUGH * found.events_per_s:
            wrong.append(f"{window.name}: {window.events_per_s:.0f} events a second came, not {found.events_per_s:.0f}")
        allowed = ("GOOD", "DEFECT", "failed.wrong_size")
        if lost := {reason: count for reason, count in window.verdicts.items() if reason not in allowed}:
            wrong.append(f"{window.name}: frames were lost: {counts(lost)}")
        if window.not_heard or window.not_followed:
            missing = f"{window.not_heard} events were not heard live, {window.not_followed} not durably"
            wrong.append(f"{window.name}: {missing}")
        if window.added_growth_ms is not None and window.added_growth_ms > MOST_GROWTH_MS:
            wrong.append(f"{window.name}: the durable consumer fell back by {window.added_growth_ms:.0f} ms")
    return wrong


def to_facts(found: Delivery) -> dict[str, str]:
    """Names and values, for people: the medians of the windows of a kind."""
    facts = {
        "load": f"{found.inspected_fps:.0f} frames/s inspected, {SHARE_OF_HIGHEST:.0%} of {found.highest_fps:.0f}; "
        f"{found.refused_fps:.0f} of a wrong size beside; events wanted: {found.events_per_s:.0f} a second",
        "journal on": found.disk,
    }
    for name in ("with a journal", "without a journal"):
        windows = [window for window in found.windows if window.name == name]
        rates = [(window.events_per_s, window.inspected_per_s) for window in windows]
        events, inspected = np.median(rates, axis=0)
        facts |= {
            f"{name}: events": f"{events:.0f} a second, of which {inspected:.0f} of inspected frames",
            f"{name}: live": _medians([window.live for window in windows]),
            f"{name}: hand-over to live": _medians([window.told for window in windows]),
        }
        if durable := [window.durable for window in windows if window.durable is not None]:
            facts[f"{name}: durable"] = _medians(durable)
            facts[f"{name}: durable after live"] = _medians([one.added for one in windows if one.added is not None])
        cores = {who: np.median([window.cpu[who] for window in windows]) for who in windows[0].cpu}
        facts[f"{name}: cores"] = ", ".join(f"{who} {share:.2f}" for who, share in cores.items())
    return facts


def _medians(latencies: Sequence[Latency]) -> str:
    p50, p95, p99, most = np.median([msgspec.structs.astuple(one) for one in latencies], axis=0).tolist()
    return str(Latency(p50=p50, p95=p95, p99=p99, most=most))


def _measure(arguments: Namespace, bundle: Bundle) -> Result:
    found = measure_delivery(
        bundle,
        events_per_s=arguments.events,
        seconds=arguments.seconds,
        folder=arguments.folder,
        report_line=report_line,
    )
    return Result(found, to_facts(found), faults(found))


def main() -> None:
    options = parser("How late are events, live and durable, at a high rate and beside inspection?")
    options.add_argument("--events", type=positive(float, or_zero=True), default=500.0, help="a second, at the least")
    options.add_argument("--seconds", type=positive(float), default=20.0, help="of each window")
    options.add_argument("--folder", type=Path, help="to keep journals in; where temporary files are unless given")
    sys.exit(run("delivery", options.parse_args(), _measure))


if __name__ == "__main__":
    main()
