"""`heatline bench startup`: time from the start of the service's process to READY, and to the first verdict.

Measures the phases of a start with files in memory or on the disk, with and without the model cache. The service is
started as by systemd, and its notifications get timestamps.
"""

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec

from heatline.bench.engine_process import require_engine_in
from heatline.bench.processes import cpu_s
from heatline.bench.spread import Spread
from heatline.bench.watched_line import POLL_SECONDS, Keys, RunningLine, free_address, line_process, write_line_file
from heatline.bench.watched_process import WatchedProcess
from heatline.edge.bundle import Bundle
from heatline.edge.delivery.client.subscriber import Subscriber
from heatline.edge.errors import BenchError
from heatline.edge.inference import Precision
from heatline.edge.wire.events import VerdictEvent

BEFORE_FIRST_STATUS = "Python and imports"
AFTER_READY = "subscriber and first frame"
PHASES = ("loading the bundle", "compiling", "running the golden tiles", "opening the cameras")
"""Statuses that a service sends before it is ready. A start without one of them does not count."""
STATUS, READY = "STATUS=NOT_READY: ", "READY=1"
WITHIN_SECONDS = 180.0
ENDED_WITHIN_SECONDS = 60.0
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
Condition = Literal["cold", "cold, cached", "warm", "cached"]
"""Cold: files on the disk, as after power-on; else in memory. Cached: with the compiled graph in the model cache."""
DESCRIPTIONS: Mapping[Condition, str] = {
    "cold": "files on the disk, no model cache",
    "cold, cached": "files on the disk, with the model cache",
    "warm": "files in memory, no model cache",
    "cached": "files in memory, with the model cache",
}
CacheUse = Literal["taken from", "left alone", "refilled"]
COLD: Sequence[Condition] = ("cold", "cold, cached")
CACHED: Sequence[Condition] = ("cold, cached", "cached")
"""Starts with the model cache: of a line PC at power-on, and of a service that starts again."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Times of one start from the start of its process, s."""

    ready_s: float
    first_verdict_s: float
    """Until a subscriber that connected after READY received it."""
    cpu_ready_s: float
    """Processor time of the service's process until READY, without its cameras' processes."""
    phases_s: dict[str, float]
    """Phases in their order, by the service's statuses; their sum is `first_verdict_s`."""


class Starts(msgspec.Struct, frozen=True, kw_only=True):
    """All starts under one condition."""

    ready_s: Spread
    first_verdict_s: Spread
    cpu_ready_s: Spread
    phases_s: dict[str, Spread]
    """In their order. The sum of the medians is about that of `first_verdict_s`."""
    ready_to_warm: Spread
    """READY over that of the warm start of the same round."""
    starts: list[Start]


class StartUp(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    bundle: str
    model: str
    precision: Precision
    frame_hw: tuple[int, int]
    bytes_of_bundle: int
    repetitions: int
    conditions: dict[Condition, Starts]
    why_not_cold: str | None
    """Why files could not be read from the disk; None: they were."""


class LineFile:
    """A line with one `pattern` camera that shows one frame, and its configuration.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path, bundle: Bundle, precision: Precision, frame_hw: tuple[int, int]) -> None:
        self.folder, self.bundle, self.precision = folder, bundle, precision
        self.events = free_address()
        self.path, self.log = folder / "line.toml", folder / "log"
        height, width = frame_hw
        camera: Keys = {"kind": "pattern", "name": "top", "draw_size": [width, height], "frames": 1}
        # The first frame is shown after a subscriber has connected, so that its event is not missed.
        events: Keys = {"bind": self.events, "wait_for_subscriber_s": WITHIN_SECONDS}
        tables: dict[str, Keys] = {
            "engine": {"precision": precision},
            "thresholds": {"check_plausibility": False},  # the drawn frame does not show the bundle's product
            "events": events,
        }
        write_line_file(self.path, bundle.path, [camera], tables)

    def start(self, cache: Path | None) -> Start:
        """Start the service, and wait for its first verdict and its end.

        Args:
            cache: the folder of its model cache; None: it has none.
        Raises:
            BenchError: the start failed or left out a phase.
        """
        given = {} if cache is None else {"CACHE_DIRECTORY": str(cache)}
        address = self.folder / "notify"
        for file in (address, self.log):
            file.unlink(missing_ok=True)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
            line_process(self.path, self.log, env={**given, "NOTIFY_SOCKET": str(address)}) as process,
        ):
            notified.bind(str(address))
            notified.settimeout(0.1)
            began_s = time.monotonic()
            process.start()
            statuses = _until_ready(process, notified)
            cpu_ready_s = cpu_s(process.pid)
            # A socket that is open and not read would block the service.
            notified.close()
            verdict_s = self._first_verdict(process)
            process.require_success(ENDED_WITHIN_SECONDS)  # its camera has shown its last frame
        moments = [began_s, *(at_s for _, at_s in statuses), verdict_s]
        phases: dict[str, float] = {}
        for name, (from_s, to_s) in zip(
            [BEFORE_FIRST_STATUS, *(status for status, _ in statuses[:-1]), AFTER_READY],
            itertools.pairwise(moments),
            strict=True,
        ):
            phases[name] = phases.get(name, 0.0) + to_s - from_s
        return Start(
            ready_s=statuses[-1][1] - began_s,
            first_verdict_s=verdict_s - began_s,
            cpu_ready_s=cpu_ready_s,
            phases_s=phases,
        )

    def _first_verdict(self, process: WatchedProcess) -> float:
        """Return when the first verdict was received, monotonic, s."""
        with Subscriber(self.events, timeout_s=POLL_SECONDS) as events:
            line = RunningLine(process, events)
            event = line.until(lambda event: isinstance(event, VerdictEvent), WITHIN_SECONDS, "a verdict")
            received_s = time.monotonic()
        assert isinstance(event, VerdictEvent)
        if (event.bundle.digest, event.precision) != (self.bundle.digest, self.precision):
            raise BenchError(f"the first verdict is by {event.bundle.name} in {event.precision}: {event}")
        if event.verdict == "NO_VERDICT":
            raise BenchError(f"the first frame was not inspected: {event.reason}, {event.detail}")
        return received_s


def _until_ready(process: WatchedProcess, notified: socket.socket) -> list[tuple[str, float]]:
    """Return the service's statuses with their times, READY last."""
    statuses: list[tuple[str, float]] = []
    give_up_s = time.monotonic() + WITHIN_SECONDS
    while not statuses or statuses[-1][0] != READY:
        try:
            lines = notified.recv(4096).decode().split("\n")
        except TimeoutError:
            process.require_running()
            if time.monotonic() > give_up_s:
                late = f"{READY} did not come within {WITHIN_SECONDS:.0f} s"
                raise BenchError(f"{late}: {process.log_tail()}") from None
            continue
        at_s = time.monotonic()
        statuses += [(line.removeprefix(STATUS), at_s) for line in lines if line == READY or line.startswith(STATUS)]
    left_out = set(PHASES) - {status for status, _ in statuses}
    if left_out:
        raise BenchError(f"the service was READY without {', '.join(sorted(left_out))}; that is not its whole start")
    return statuses


def measure_startup(
    bundle: Bundle,
    precision: Precision,
    *,
    frame_hw: tuple[int, int],
    repetitions: int,
    done: Callable[[], None] = lambda: None,
) -> StartUp:
    """Start the service under all conditions in interleaved rounds.

    Args:
        done: called after each start.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine, or lacks that precision.
        BenchError: it cannot be used in that precision; or a start failed.
    """
    require_engine_in(bundle, precision)
    starts: dict[Condition, list[Start]] = {}
    why_not_cold = _drop_files_from_memory()
    with TemporaryDirectory(prefix="heatline-bench-") as folder:
        line, cache = LineFile(Path(folder), bundle, precision, frame_hw), Path(folder) / "cache"
        cache.mkdir(mode=0o700)
        line.start(cache)  # fills the cache, and reads all files into memory
        done()
        for number in range(repetitions):
            for condition in _round(number, cold=why_not_cold is None):
                if condition in COLD:
                    _drop_files_from_memory()
                with _use_of(cache) as use:
                    starts.setdefault(condition, []).append(line.start(cache if condition in CACHED else None))
                    if (found := use()) != (expected := "taken from" if condition in CACHED else "left alone"):
                        raise BenchError(
                            f"the model cache of a start that was to be {condition} was {found}, expected {expected}; "
                            "report this"
                        )
                done()
    return StartUp(
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        precision=precision,
        frame_hw=frame_hw,
        bytes_of_bundle=sum(file.stat().st_size for file in bundle.path.iterdir()),
        repetitions=repetitions,
        conditions={
            condition: _starts(starts[condition], starts["warm"]) for condition in DESCRIPTIONS if condition in starts
        },
        why_not_cold=why_not_cold,
    )


def starts_in_all(repetitions: int) -> int:
    """Return the largest number of starts, for a bar of progress."""
    return len(DESCRIPTIONS) * repetitions + 1


def _round(number: int, *, cold: bool) -> list[Condition]:
    """Return the order of the conditions, which is rotated from round to round."""
    these: list[Condition] = [condition for condition in DESCRIPTIONS if cold or condition not in COLD]
    first = number % len(these)
    return [*these[first:], *these[:first]]


def _drop_files_from_memory() -> str | None:
    """Drop files from memory, but for libraries of this process; return why that is not possible, or None."""
    try:
        os.sync()
        DROP_CACHES.write_text("3")
    except OSError as error:
        return f"{DROP_CACHES} cannot be written ({error.strerror}); it takes root"
    return None


@contextmanager
def _use_of(cache: Path) -> Iterator[Callable[[], CacheUse]]:
    """Give a function to call after a start, which returns how the start used the model cache."""
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    for path in before:  # by its time of access, the kernel notes a reading after this
        os.utime(path, ns=(0, before[path]))

    def use() -> CacheUse:
        after = {path: path.stat() for path in cache.iterdir()}
        if {path: status.st_mtime_ns for path, status in after.items()} != before:
            return "refilled"
        return "taken from" if any(status.st_atime_ns for status in after.values()) else "left alone"

    yield use


def _starts(these: Sequence[Start], warm: Sequence[Start]) -> Starts:
    return Starts(
        ready_s=Spread.of([one.ready_s for one in these]),
        first_verdict_s=Spread.of([one.first_verdict_s for one in these]),
        cpu_ready_s=Spread.of([one.cpu_ready_s for one in these]),
        phases_s={name: Spread.of([one.phases_s[name] for one in these]) for name in these[0].phases_s},
        ready_to_warm=Spread.of([one.ready_s / other.ready_s for one, other in zip(these, warm, strict=True)]),
        starts=list(these),
    )


def to_facts(found: StartUp, *, is_virtual: bool = False) -> dict[str, object]:
    """Describe the results for people, by name and value.

    Args:
        is_virtual: whether the machine is virtual.
    """
    height, width = found.frame_hw
    facts: dict[str, object] = {
        "line": f"{found.bundle} ({found.bytes_of_bundle / 1e6:.0f} MB) in {found.precision}, one drawn camera of "
        f"{width}x{height} px",
        "figures": f"median (lowest to highest) of {found.repetitions} starts, from the start of the process",
    }
    for condition, starts in found.conditions.items():
        facts[DESCRIPTIONS[condition]] = (
            f"READY after {starts.ready_s:.2f} s, {starts.ready_to_warm.median:.2f} of warm; processor time by then "
            f"{starts.cpu_ready_s:.2f} s; first verdict after {starts.first_verdict_s:.2f} s"
        )
        facts[f"{condition}, phases"] = ", ".join(
            f"{name} {taken.median:.2f}" for name, taken in starts.phases_s.items()
        )
    if found.why_not_cold is not None:
        facts["cold"] = f"not measured: {found.why_not_cold}"
    elif is_virtual:
        facts["cold"] = "this machine is virtual: its host may still hold the files in memory; a real disk is slower"
    return facts
