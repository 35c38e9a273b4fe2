"""`make delivery`: delay of events at a high rate, live and durable, during inspection (docs/bench.md).

The line inspects at a share of its highest rate. If that makes too few events, a second camera brings frames of a wrong
size, which are reported like every frame and not inspected.
"""

import sys
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from heatline.bench.machine import commit, file_system
from heatline.bench.spread import Latency
from heatline.bench.watched_line import Keys, WatchedLine, has_stopped
from heatline.bench.watched_process import WatchedProcess
from heatline.edge.bundle import Bundle
from heatline.edge.errors import BenchError
from heatline.edge.wire.events import VerdictEvent
from tests.system.chaos.clients import ClientPlan, Got, client_command, head_of, read_record
from tests.system.command import Result, counts, parser, positive, report_line, run

SHARE_OF_HIGHEST = 0.8
REPETITIONS = 3
"""Windows with a journal, and windows without."""
SETTLE_S = 3.0
"""From the first event to the window."""
FIRST_WITHIN_S = 60.0
NEAR_ENOUGH = 0.98
FRAMES_FOR_A_RATE = 5000
HIGHEST_FPS = 10_000.0
WAITING_FRAMES = 16


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

    bundle: str
    commit: str | None
    disk: str
    """File system of the journal."""
    events_per_s: float
    """Wanted rate."""
    highest_fps: float
    """Rate at which the line inspects frames that always wait, without a journal."""
    inspected_fps: float
    """Of the camera whose frames are inspected."""
    refused_fps: float
    """Of the camera whose frames have a wrong size."""
    windows: list[Window]


def one_tile_camera(name: str, bundle: Bundle, rate_fps: float) -> Keys:
    """Return the keys of a camera with frames of one tile."""
    size = [bundle.manifest.grid.tile_px] * 2
    return {
        "kind": "pattern", "name": name, "draw_size": size, "rate_fps": rate_fps, "waiting_frames": WAITING_FRAMES
    }  # fmt: skip


def measure_highest_fps(bundle: Bundle) -> float:
    """Measure the rate at which frames of a waiting camera are inspected.

    Raises:
        BenchError: the line ended.
    """
    camera: Keys = {
        **one_tile_camera("inspected", bundle, HIGHEST_FPS), "frames": FRAMES_FOR_A_RATE, "on_overload": "block"
    }  # fmt: skip
    reported: list[int] = []
    with tempfile.TemporaryDirectory() as place, WatchedLine(Path(place), bundle.path, "f32", [camera]) as line:
        while (received := line.next()) is None or not has_stopped(received.event):
            if received is not None and isinstance(received.event, VerdictEvent):
                reported.append(received.at_ns)
        line.await_exit()
    return (len(reported) - 1) / ((reported[-1] - reported[0]) / 1e9)


def measure_delivery(
    bundle: Bundle,
    *,
    events_per_s: float,
    seconds: float,
    report_line: Callable[[str], None],
    repetitions: int = REPETITIONS,
) -> Delivery:
    """Measure the highest rate, then run the line at a share of it, in interleaved windows with a journal and without.

    Args:
        events_per_s: wanted rate.
        seconds: of each window.
    Raises:
        BenchError: a process failed, or ended.
    """
    highest_fps = measure_highest_fps(bundle)
    inspected_fps = SHARE_OF_HIGHEST * highest_fps
    refused_fps = max(events_per_s - inspected_fps, 0.0)
    report_line(
        f"{highest_fps:.0f} frames/s at most; {inspected_fps:.0f} are inspected, {refused_fps:.0f} have a wrong size"
    )
    cameras = [one_tile_camera("inspected", bundle, inspected_fps)]
    if refused_fps:
        cameras.append({**one_tile_camera("refused", bundle, refused_fps), "size": [1, 1]})
    windows = []
    for number in range(repetitions):
        for journal in (True, False) if number % 2 == 0 else (False, True):
            windows.append(window := _window(bundle, cameras, seconds, journal))
            report_line(f"{window.name}: {window.events_per_s:.0f} events/s, live {window.sending} after the hand-over")
    return Delivery(
        bundle=bundle.path.name,
        commit=commit(),
        disk=file_system(Path(tempfile.gettempdir())),
        events_per_s=events_per_s,
        highest_fps=highest_fps,
        inspected_fps=inspected_fps,
        refused_fps=refused_fps,
        windows=windows,
    )


def _window(bundle: Bundle, cameras: Sequence[Keys], seconds: float, journal: bool) -> Window:
    """Run the line, wait until it has settled, and receive every event of a window."""
    received: list[tuple[VerdictEvent, int]] = []
    with (
        tempfile.TemporaryDirectory() as place,
        WatchedLine(Path(place), bundle.path, "f32", cameras, journal=journal) as line,
    ):
        record = Path(place) / "record"
        command = client_command(ClientPlan(name="bench", kind="Follower"), line.journal_address or "", record)
        with WatchedProcess("the durable consumer", command, None) as following:
            if journal:
                following.start()
            line.until(lambda event: isinstance(event, VerdictEvent), FIRST_WITHIN_S, "the first event")
            line.receive_for(SETTLE_S)
            not_received_before, began_ns = line.not_received, time.monotonic_ns()
            ended_ns = began_ns + round(seconds * 1e9)
            while time.monotonic_ns() < ended_ns:
                if (one := line.next()) is not None and isinstance(one.event, VerdictEvent):
                    received.append((one.event, one.at_ns))
            took_s = (time.monotonic_ns() - began_ns) / 1e9
            line.stop()  # a durable consumer gets all events before the line ends
            not_received = line.not_received - not_received_before
            if journal:
                following.require_running()
            return window_of(received, came_at(record) if journal else None, took_s, not_received)


def came_at(record: Path) -> dict[int, int]:
    """Return when each event first came to a client, by its seq; monotonic, ns, by the clock of this process."""
    offset_ns = time.time_ns() - time.monotonic_ns()
    came: dict[int, int] = {}
    for item in read_record(record):
        if isinstance(item, Got):
            came.setdefault(head_of(item.header).seq, item.at_ns - offset_ns)
    return came


def window_of(
    received: Sequence[tuple[VerdictEvent, int]], followed: Mapping[int, int] | None, seconds: float, not_received: int
) -> Window:
    """Count and time the events of a window.

    Args:
        received: events with the time of their live receipt, monotonic ns.
        followed: times of receipt by the durable consumer, by seq; None: there was none.
    Raises:
        BenchError: no event came.
    """
    if not received:
        raise BenchError(f"no event came within a window of {seconds:g} s; give --seconds more")
    verdicts: Counter[str] = Counter()
    for event, _ in received:
        verdicts[event.reason or event.verdict] += event.frames
    handed_over = [event.times.captured_monotonic_ns + event.latency_ms * 1e6 for event, _ in received]
    sending = [at_ns - ns for (_, at_ns), ns in zip(received, handed_over, strict=True)]
    came = {} if followed is None else followed
    added = [came[event.seq] - at_ns for event, at_ns in received if event.seq in came]
    return Window(
        journal=followed is not None,
        events_per_s=len(received) / seconds,
        verdicts=dict(verdicts),
        not_received=not_received,
        not_followed=0 if followed is None else len(received) - len(added),
        sending=latency_of(sending),
        added=latency_of(added) if added else None,
    )


def latency_of(nanoseconds: Sequence[float]) -> Latency:
    """Return the percentiles of some times."""
    return Latency.of(np.array(nanoseconds) / 1e6)


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


def to_facts(found: Delivery) -> dict[str, str]:
    """Describe the medians of the windows of a kind for people, by name and value."""
    facts = {
        "load": f"{found.inspected_fps:.0f} frames/s inspected, {100 * SHARE_OF_HIGHEST:.0f} % of "
        f"{found.highest_fps:.0f}; "
        f"{found.refused_fps:.0f} of a wrong size; events wanted: {found.events_per_s:.0f} a second",
    }
    for name in ("with a journal", "without a journal"):
        windows = [window for window in found.windows if window.name == name]
        rate = np.median([window.events_per_s for window in windows])
        facts[f"{name}: events"] = f"{rate:.0f} a second"
        facts[f"{name}: hand-over to live"] = _medians([window.sending for window in windows])
        if added := [window.added for window in windows if window.added is not None]:
            facts[f"{name}: durable after live"] = _medians(added)
    return facts


def _medians(latencies: Sequence[Latency]) -> str:
    medians = np.median([msgspec.structs.astuple(one) for one in latencies], axis=0).tolist()
    return str(Latency(**dict(zip(Latency.__struct_fields__, medians, strict=True))))


def _measure(arguments: Namespace, bundle: Bundle) -> Result:
    found = measure_delivery(
        bundle,
        events_per_s=arguments.events,
        seconds=arguments.seconds,
        report_line=report_line,
    )
    return Result(found, to_facts(found), faults(found))


def main() -> None:
    options = parser("Measure the delay of events, live and durable, at a high rate during inspection.")
    options.add_argument(
        "--events", type=positive(float, or_zero=True), default=500.0, help="events per second, at least"
    )
    options.add_argument("--seconds", type=positive(float), default=20.0, help="duration of each window")
    sys.exit(run("delivery", options.parse_args(), _measure))


if __name__ == "__main__":
    main()
