"""`heatline bench delivery`: events at a high rate through journal, live and a durable consumer, beside inspection.

The line inspects at a share of the rate that it could, and where that makes too few events, a second camera brings
frames of a wrong size beside: they are told as every frame is, and not inspected.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.delivery.consumer import read
from bench.file_system import file_system
from bench.machine import commit
from bench.processes import cpu_s
from bench.watched_line import Keys, WatchedLine
from edge.bundle import Bundle
from edge.errors import BenchError
from edge.inference import Precision
from edge.wire.events import Event, StatusEvent, VerdictEvent

SHARE_OF_HIGHEST = 0.8
SETTLE_S = 3.0
"""After the first event, before anything counts."""
FRAMES_FOR_A_RATE = 5000
HIGHEST_FPS = 10_000.0
WAITING_FRAMES = 16
LAST_WITHIN_S = 30.0
ENDS_WITHIN_S = 30.0
MOST_GROWTH_MS = 100.0
"""By which the durable consumer may fall back from a window's first quarter to its last: more is a queue that grows."""
NEAR_ENOUGH = 0.98


class Times(msgspec.Struct, frozen=True):
    """Of many events, ms."""

    p50: float
    p95: float
    p99: float
    most: float

    @classmethod
    def of(cls, nanoseconds: Sequence[int] | NDArray[np.int64]) -> "Times":
        p50, p95, p99, most = np.percentile(np.asarray(nanoseconds) / 1e6, (50, 95, 99, 100)).tolist()
        return cls(p50, p95, p99, most)

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f} ms, p95 {self.p95:.1f}, p99 {self.p99:.1f}, at most {self.most:.1f}"


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which all events were looked at."""

    journal: bool
    """Whether the line kept one, and a durable consumer followed."""
    seconds: float
    events: int
    """That were told live."""
    events_per_s: float
    inspected_per_s: float
    verdicts: dict[str, int]
    """Frames by verdict, those without one by the reason."""
    not_heard: int
    """Events that were sent and not heard live."""
    not_followed: int
    """Events that were heard live as journalled and did not come to the durable consumer."""
    live: Times
    """From capture to receipt by a live subscriber."""
    told: Times
    """From the hand-over to the publisher to receipt by a live subscriber."""
    durable: Times | None
    """From capture to receipt by the durable consumer."""
    added: Times | None
    """From receipt by the live subscriber to receipt by the durable consumer, of the same event."""
    added_growth_ms: float | None
    """By how much that was more in the window's last quarter than in its first, at the median."""
    cpu: dict[str, float]
    """Cores: of the service, its cameras, the durable consumer and this process, which listens live."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    bundle: str
    model: str
    precision: Precision
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
    precision: Precision,
    *,
    events_per_s: float,
    seconds: float,
    repetitions: int,
    folder: Path | None,
    say: Callable[[str], None],
) -> Delivery:
    """Find the highest rate, then run the line at a share of it, in turns with a journal and without.

    Args:
        events_per_s: at least so many.
        seconds: of each window.
        folder: where journals are kept meanwhile; None: where temporary files are.
    Raises:
        BenchError: a process failed, or ended.
    """
    highest_fps = _highest_fps(bundle, precision)
    inspected_fps = SHARE_OF_HIGHEST * highest_fps
    refused_fps = max(events_per_s - inspected_fps, 0.0)
    say(
        f"{highest_fps:.0f} frames/s at most; {inspected_fps:.0f} are inspected"
        + (f", {refused_fps:.0f} of a wrong size beside" if refused_fps else "")
    )
    cameras = [_camera("inspected", bundle, inspected_fps)]
    if refused_fps:
        cameras.append({**_camera("refused", bundle, refused_fps), "size": [1, 1]})
    windows = []
    for number in range(repetitions):
        for journal in (True, False) if number % 2 == 0 else (False, True):
            window = _window(bundle, precision, cameras, seconds, journal, folder)
            windows.append(window)
            say(f"{'with' if journal else 'without'} a journal: {window.events_per_s:.0f} events/s, live {window.live}")
    return Delivery(
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        precision=precision,
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
    tile_px = bundle.manifest.grid.tile_px
    return {
        "kind": "pattern",
        "name": name,
        "draw_size": [tile_px, tile_px],
        "rate_fps": rate_fps,
        "waiting_frames": WAITING_FRAMES,
    }


def _highest_fps(bundle: Bundle, precision: Precision) -> float:
    """At which a camera that waits for the inspection has its frames inspected."""
    camera: Keys = {**_camera("inspected", bundle, HIGHEST_FPS), "frames": FRAMES_FOR_A_RATE, "on_overload": "block"}
    told: list[int] = []
    with _line(bundle, precision, [camera], journal=False, folder=None) as line:
        stopped = False
        while not stopped:
            heard = line.next()
            if heard is not None and isinstance(heard.event, VerdictEvent):
                told.append(heard.at_ns)
            stopped = heard is not None and _has_stopped(heard.event)
        line.await_exit()
    return (len(told) - 1) / ((told[-1] - told[0]) / 1e9)


def _window(
    bundle: Bundle, precision: Precision, cameras: Sequence[Keys], seconds: float, journal: bool, folder: Path | None
) -> Window:
    """Run the line, let it settle, and look at every event that is told within a time."""
    heard: list[tuple[VerdictEvent, int]] = []
    with (
        _line(bundle, precision, cameras, journal=journal, folder=folder) as line,
        _followed(line.journal_address) as following,
    ):
        line.until(lambda event: isinstance(event, VerdictEvent), 60.0, "the first event")
        line.listen_for(SETTLE_S)
        of = {"service": [line.pid], "cameras": line.camera_pids(), "live listener": [os.getpid()]}
        if following is not None:
            of["durable consumer"] = [following.pid]
        not_heard_before, began_ns = line.not_heard, time.monotonic_ns()
        before = _cpu(of)
        ended_ns = began_ns + round(seconds * 1e9)
        while time.monotonic_ns() < ended_ns:
            if (one := line.next()) is not None and isinstance(one.event, VerdictEvent):
                heard.append((one.event, one.at_ns))
        took_s = (time.monotonic_ns() - began_ns) / 1e9
        cpu = {name: (taken - before[name]) / took_s for name, taken in _cpu(of).items()}
        line.stop()  # a durable consumer is given what there is before it ends
        not_heard = line.not_heard - not_heard_before
        followed = None if following is None else following.end()
    return _window_of(heard, followed, took_s, not_heard, cpu)


def _window_of(
    heard: Sequence[tuple[VerdictEvent, int]],
    followed: dict[int, int] | None,
    seconds: float,
    not_heard: int,
    cpu: dict[str, float],
) -> Window:
    """What came of it.

    Args:
        heard: events and when they came live, monotonic ns.
        followed: when events came to the durable consumer, by seq; None: there was none.
    """
    verdicts: Counter[str] = Counter()
    for event, _ in heard:
        verdicts[event.reason or event.verdict] += event.frames
    captured = np.array([event.times.captured_monotonic_ns for event, _ in heard], np.int64)
    handed_over = captured + np.array([round(event.latency_ms * 1e6) for event, _ in heard], np.int64)
    live = np.array([at_ns for _, at_ns in heard], np.int64)
    durable = added = growth_ms = None
    missing = 0
    if followed is not None:
        came = [followed.get(event.seq) for event, _ in heard]
        there = np.array([each is not None for each in came])
        missing = int(np.count_nonzero(~there))
        at_ns = np.array([each for each in came if each is not None], np.int64)
        if len(at_ns):
            durable, added = Times.of(at_ns - captured[there]), Times.of(at_ns - live[there])
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
        live=Times.of(live - captured),
        told=Times.of(live - handed_over),
        durable=durable,
        added=added,
        added_growth_ms=growth_ms,
        cpu=cpu,
    )


@contextmanager
def _line(
    bundle: Bundle, precision: Precision, cameras: Sequence[Keys], *, journal: bool, folder: Path | None
) -> Iterator[WatchedLine]:
    with (
        tempfile.TemporaryDirectory(dir=folder) as place,
        WatchedLine(Path(place), bundle.path, precision, cameras, journal=journal) as line,
    ):
        yield line


class _Following:
    """A durable consumer's process."""

    def __init__(self, process: "subprocess.Popen[bytes]", path: Path) -> None:
        self.pid, self._process, self._path = process.pid, process, path

    def end(self) -> dict[int, int]:
        """When each event came to it."""
        self._process.terminate()
        try:
            code = self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"the durable consumer did not end within {ENDS_WITHIN_S:.0f} s") from error
        if code:
            raise BenchError(f"the durable consumer ended with exit code {code}; see its output above")
        return read(self._path)


@contextmanager
def _followed(address: str | None) -> Iterator[_Following | None]:
    if address is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "came"
        process = subprocess.Popen([sys.executable, "-m", "bench.delivery.consumer", address, str(path)])
        try:
            yield _Following(process, path)
        finally:
            process.kill()
            process.wait()


def _cpu(of: dict[str, list[int]]) -> dict[str, float]:
    return {name: sum(map(cpu_s, pids)) for name, pids in of.items()}


def _has_stopped(event: Event) -> bool:
    return isinstance(event, StatusEvent) and event.state == "STOPPED"


# What it comes to.


def faults(found: Delivery) -> list[str]:
    """What must not be, in words; none: the rate was sustained."""
    wrong = []
    for window in found.windows:
        where = "with a journal" if window.journal else "without a journal"
        if window.events_per_s < NEAR_ENOUGH * found.events_per_s:
            wrong.append(f"{where}: {window.events_per_s:.0f} events a second came, not {found.events_per_s:.0f}")
        lost = {
            reason: count
            for reason, count in window.verdicts.items()
            if reason not in ("GOOD", "DEFECT", "failed.wrong_size")
        }
        if lost:
            wrong.append(f"{where}: frames were lost: {', '.join(f'{name} {count}' for name, count in lost.items())}")
        if window.not_heard or window.not_followed:
            wrong.append(f"{where}: {window.not_heard} events were not heard live, {window.not_followed} not durably")
        if window.added_growth_ms is not None and window.added_growth_ms > MOST_GROWTH_MS:
            wrong.append(f"{where}: the durable consumer fell back by {window.added_growth_ms:.0f} ms")
    return wrong


def to_facts(found: Delivery) -> dict[str, str]:
    """Names and values, for people: of windows with a journal and without, medians."""
    kept = [window for window in found.windows if window.journal]
    bare = [window for window in found.windows if not window.journal]
    facts = {
        "load": f"{found.inspected_fps:.0f} frames/s inspected, {SHARE_OF_HIGHEST:.0%} of {found.highest_fps:.0f}; "
        f"{found.refused_fps:.0f} of a wrong size beside; events wanted: {found.events_per_s:.0f} a second",
        "journal on": found.disk,
    }
    for name, windows in (("with a journal", kept), ("without", bare)):
        if not windows:
            continue
        facts |= {
            f"{name}: events": f"{_median(windows, lambda w: w.events_per_s):.0f} a second, of which "
            f"{_median(windows, lambda w: w.inspected_per_s):.0f} of inspected frames",
            f"{name}: live": _times(windows, lambda w: w.live),
            f"{name}: hand-over to live": _times(windows, lambda w: w.told),
        }
        if windows is kept:
            facts |= {
                f"{name}: durable": _times(windows, lambda w: w.durable),
                f"{name}: durable after live": _times(windows, lambda w: w.added),
            }
        cores = {who: _median(windows, lambda w, who=who: w.cpu.get(who, 0.0)) for who in windows[0].cpu}  # type: ignore[misc]
        facts[f"{name}: cores"] = ", ".join(f"{who} {share:.2f}" for who, share in cores.items())
    return facts


def _median(windows: Sequence[Window], of: Callable[[Window], float]) -> float:
    return float(np.median([of(window) for window in windows]))


def _times(windows: Sequence[Window], of: Callable[[Window], Times | None]) -> str:
    """The medians of the windows' figures."""
    found = [times for times in map(of, windows) if times is not None]
    if not found:
        return "none came"
    columns = zip(*map(msgspec.structs.astuple, found), strict=True)
    return str(Times(*(float(np.median(column)) for column in columns)))
