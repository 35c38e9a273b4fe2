"""`make delivery`: delay of events at a high rate, live and durable, during inspection (docs/bench.md).

The line inspects at a share of its highest rate. If that makes too few events, a second camera brings frames of a wrong
size, which are reported like every frame and not inspected.
"""

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from heatline.edge.bundle import Bundle
from heatline.edge.wire.events import CountedEvent, VerdictEvent
from tests.edge.lines import running, write_line_with
from tests.edge.secured import free_port
from tests.system.chaos.clients import Client, ClientPlan, Got, head_of, read_record
from tests.system.command import ALL_GOOD, Result, counts, parser, positive, report_line, run
from tests.system.soak import WAITING_FRAMES, soak

SHARE_OF_HIGHEST = 0.8
REPETITIONS = 3
"""Windows with a journal, and windows without."""
SETTLE_S = 3.0
"""From the first event to the window."""
NEAR_ENOUGH = 0.98
FRAMES_FOR_A_RATE = 5000


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of many delays, ms."""

    p50: float
    p90: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, nanoseconds: Sequence[float]) -> "Latency":
        p50, p90, p95, p99, most = np.percentile(np.array(nanoseconds) / 1e6, (50, 90, 95, 99, 100)).tolist()
        return cls(p50=p50, p90=p90, p95=p95, p99=p99, most=most)

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f} ms, p95 {self.p95:.1f}, p99 {self.p99:.1f}, at most {self.most:.1f}"


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """Counts and delays of all events of a window."""

    journal: bool
    """Whether the line wrote a journal, and a durable consumer followed it."""
    events_per_s: float
    """Events that were received live."""
    verdicts: dict[str, int]
    """Frames by verdict; those without one by the reason."""
    not_received: int
    """Events that were sent and not received live."""
    not_followed: int
    """Events that were received live as journalled and did not come to the durable consumer."""
    sending: Latency
    """From the hand-over to the publisher to receipt by a live subscriber."""
    added: Latency | None
    """From receipt by the live subscriber to receipt by the durable consumer, of the same event."""

    @property
    def name(self) -> str:
        return "with a journal" if self.journal else "without a journal"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    disk: str
    """File system of the journal, on which the duration of a sync depends."""
    events_per_s: float
    """Wanted rate."""
    highest_fps: float
    """Rate at which the line inspects frames that always wait, without a journal."""
    inspected_fps: float
    """Of the camera whose frames are inspected."""
    refused_fps: float
    """Of the camera whose frames have a wrong size."""
    windows: list[Window]


def measure_delivery(
    bundle: Bundle, *, events_per_s: float, seconds: float, repetitions: int = REPETITIONS
) -> Delivery:
    """Measure the highest rate, then run the line at a share of it, in interleaved windows with a journal and without.
    `events_per_s`: wanted rate. `seconds`: of each window."""
    hw = (bundle.manifest.grid.tile_px,) * 2
    highest_fps = soak(bundle, FRAMES_FOR_A_RATE, None, frame_hw=hw, tables=ALL_GOOD).fps
    inspected_fps = SHARE_OF_HIGHEST * highest_fps
    refused_fps = max(events_per_s - inspected_fps, 0.0)
    report_line(
        f"{highest_fps:.0f} frames/s at most; {inspected_fps:.0f} are inspected, {refused_fps:.0f} have a wrong size"
    )
    camera = {"kind": "pattern", "draw_size": hw, "waiting_frames": WAITING_FRAMES}
    cameras: dict[str, dict[str, Any]] = {"inspected": {**camera, "rate_fps": inspected_fps}}
    if refused_fps:
        cameras["refused"] = {**camera, "rate_fps": refused_fps, "size": [1, 1]}
    windows = []
    for number in range(repetitions):
        for journal in (True, False) if number % 2 == 0 else (False, True):
            windows.append(window := _window(bundle, cameras, seconds, journal))
            report_line(f"{window.name}: {window.events_per_s:.0f} events/s, live {window.sending} after the hand-over")
    return Delivery(
        disk=subprocess.check_output(["stat", "-f", "-c", "%T", tempfile.gettempdir()], text=True).strip(),
        events_per_s=events_per_s,
        highest_fps=highest_fps,
        inspected_fps=inspected_fps,
        refused_fps=refused_fps,
        windows=windows,
    )


def _window(bundle: Bundle, cameras: Mapping[str, Mapping[str, Any]], seconds: float, journal: bool) -> Window:
    """Run the line, wait until it has settled, and receive every event of a window."""
    received: list[tuple[CountedEvent, int]] = []
    events, port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as at_end:
        tables = f'[journal]\nfolder = "{folder}/journal"\nbind = "{port.local}"' if journal else ""
        file = write_line_with(Path(folder), bundle.path, events.local, cameras, ALL_GOOD + tables)
        line = at_end.enter_context(running(file, events.local))
        consumer = Client(ClientPlan(name="bench", kind="Follower"), port.local, Path(folder))
        at_end.callback(consumer.process.kill)
        if journal:
            consumer.process.start()
        line.until(lambda event: isinstance(event, VerdictEvent))
        began_ns = time.monotonic_ns() + round(SETTLE_S * 1e9)
        ended_ns = began_ns + round(seconds * 1e9)
        while (now_ns := time.monotonic_ns()) < ended_ns:
            if isinstance(event := line.poll(), CountedEvent) and now_ns >= began_ns:
                received.append((event, time.monotonic_ns()))
        line.end()  # a durable consumer gets all events before the line ends
        fault = consumer.process.ended()
        assert fault is None, fault
        return window_of(received, came_at(consumer.record) if journal else None, seconds)


def came_at(record: Path) -> dict[int, int]:
    """Return when each event first came to a client, by its seq; monotonic, ns, by the clock of this process."""
    offset_ns = time.time_ns() - time.monotonic_ns()
    came: dict[int, int] = {}
    for item in read_record(record):
        if isinstance(item, Got):
            came.setdefault(head_of(item.header).seq, item.at_ns - offset_ns)
    return came


def window_of(
    received: Sequence[tuple[CountedEvent, int]], followed: Mapping[int, int] | None, seconds: float
) -> Window:
    """Count and time the events of a window. `received`: events with the time of their live receipt, monotonic ns.
    `followed`: times of receipt by the durable consumer, by seq; None: there was none."""
    verdicts = [(event, at_ns) for event, at_ns in received if isinstance(event, VerdictEvent)]
    assert verdicts, f"no event came within a window of {seconds:g} s; give --seconds more"
    frames: Counter[str] = Counter()
    for event, _ in verdicts:
        frames[event.reason or event.verdict] += event.frames
    came = {} if followed is None else followed
    added = [came[event.seq] - at_ns for event, at_ns in verdicts if event.seq in came]
    return Window(
        journal=followed is not None,
        events_per_s=len(verdicts) / seconds,
        verdicts=dict(frames),
        not_received=received[-1][0].seq - received[0][0].seq + 1 - len(received),
        not_followed=0 if followed is None else len(verdicts) - len(added),
        sending=Latency.of(
            [at_ns - event.times.captured_monotonic_ns - event.latency_ms * 1e6 for event, at_ns in verdicts]
        ),
        added=Latency.of(added) if added else None,
    )


def faults(found: Delivery) -> list[str]:
    """Return all faults, one sentence each; empty: the rate was sustained."""
    wrong = []
    for window in found.windows:
        if window.events_per_s < NEAR_ENOUGH * found.events_per_s:
            wrong.append(f"{window.name}: {window.events_per_s:.0f} events a second came, not {found.events_per_s:.0f}")
        allowed = ("GOOD", "DEFECT", "failed.wrong_size")
        if lost := {reason: count for reason, count in window.verdicts.items() if reason not in allowed}:
            wrong.append(f"{window.name}: frames were lost: {counts(lost)}")
        if window.not_received or window.not_followed:
            missing = f"{window.not_received} events were not received live, {window.not_followed} not durably"
            wrong.append(f"{window.name}: {missing}")
    return wrong


def _measure(arguments: Namespace, bundle: Bundle) -> Result:
    found = measure_delivery(bundle, events_per_s=arguments.events, seconds=arguments.seconds)
    return found, faults(found)


def main() -> None:
    options = parser("Measure the delay of events, live and durable, at a high rate during inspection.")
    options.add_argument(
        "--events", type=positive(float, or_zero=True), default=500.0, help="events per second, at least"
    )
    options.add_argument("--seconds", type=positive(float), default=20.0, help="duration of each window")
    sys.exit(run("delivery", options.parse_args(), _measure))


if __name__ == "__main__":
    main()
