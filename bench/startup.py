"""`heatline bench startup`: from the start of the service's process to READY, and to the first verdict.

Where that time goes, with files in memory or on the disk, with and without the cache of compiled graphs. The service is
started as systemd does it, with its notifications stamped as they come.
"""

import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import msgspec

from bench.engine_process import require_engine_in
from bench.processes import cpu_s
from bench.spread import Spread
from bench.watched_line import POLL_SECONDS, Keys, RunningLine, free_address, line_process, write_line_file
from bench.watched_process import WatchedProcess
from edge.bundle import Bundle
from edge.delivery.client.subscriber import Subscriber
from edge.errors import BenchError
from edge.inference import Precision
from edge.wire.events import VerdictEvent

BEFORE_THE_FIRST_WORD = "Python and imports"
AFTER_READY = "subscriber and first frame"
SAID = ("loading the bundle", "compiling", "running the golden tiles", "opening the cameras")
"""What a service does before it is ready, in its own words. One that leaves something out is not what is timed."""
STATUS, READY = "STATUS=NOT_READY: ", "READY=1"
WITHIN_SECONDS = 180.0
ENDED_WITHIN_SECONDS = 60.0
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
Condition = Literal["cold", "cold, cached", "warm", "cached"]
"""Cold: files on the disk, as after power-on; else in memory. Cached: with the graph as it was compiled before."""
IN_WORDS: Mapping[Condition, str] = {
    "cold": "files on the disk, no model cache",
    "cold, cached": "files on the disk, with the model cache",
    "warm": "files in memory, no model cache",
    "cached": "files in memory, with the model cache",
}
CacheUse = Literal["taken from", "left alone", "filled anew"]
COLD: Sequence[Condition] = ("cold", "cold, cached")
CACHED: Sequence[Condition] = ("cold, cached", "cached")
"""Starts with the model cache: of a line PC at power-on, and of a service that starts again."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one, from the start of its process, s."""

    ready_s: float
    first_verdict_s: float
    """Until a subscriber that connected once it was READY had it."""
    cpu_ready_s: float
    """Processor time that the service had taken by READY, beside that of its cameras' processes."""
    phases_s: dict[str, float]
    """What it did one after the other, in its own words; they add up to `first_verdict_s`."""


class Starts(msgspec.Struct, frozen=True, kw_only=True):
    """All starts under one condition."""

    ready_s: Spread
    first_verdict_s: Spread
    cpu_ready_s: Spread
    phases_s: dict[str, Spread]
    """In their order. The medians add up to about that of `first_verdict_s`."""
    ready_to_warm: Spread
    """Over the one of the same turn that was warm."""
    starts: list[Start]


class StartUp(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    bundle: str
    model: str
    precision: Precision
    frame_hw: tuple[int, int]
    bytes_of_bundle: int
    repetitions: int
    conditions: dict[Condition, Starts]
    why_not_cold: str | None
    """Why files could not be had from the disk; None: they were."""


class LineFile:
    """A line of one drawn camera that shows one frame, whose file is written for it.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path, bundle: Bundle, precision: Precision, frame_hw: tuple[int, int]) -> None:
        self.folder, self.bundle, self.precision = folder, bundle, precision
        self.events = free_address()
        self.path, self.log = folder / "line.toml", folder / "log"
        height, width = frame_hw
        camera: Keys = {"kind": "pattern", "name": "top", "draw_size": [width, height], "frames": 1}
        # The first frame is shown once somebody has subscribed, so that its event is not missed.
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
            cache: the folder that it may keep compiled graphs in; None: it has none.
        Raises:
            BenchError: it did not do what it should.
        """
        given = {} if cache is None else {"CACHE_DIRECTORY": str(cache)}
        address = self.folder / "notify"
        for left in (address, self.log):
            left.unlink(missing_ok=True)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
            line_process(self.path, self.log, env={**given, "NOTIFY_SOCKET": str(address)}) as process,
        ):
            notified.bind(str(address))
            notified.settimeout(0.1)
            began_s = time.monotonic()
            process.start()
            said = _until_ready(process, notified)
            cpu_ready_s = cpu_s(process.pid)
            # Closed as by a systemd that ends: one that does not read what comes would hold the service up.
            notified.close()
            verdict_s = self._first_verdict(process)
            process.require_success(ENDED_WITHIN_SECONDS)  # its camera has shown its last frame
        moments = [began_s, *(at_s for _, at_s in said), verdict_s]
        phases: dict[str, float] = {}
        for name, (from_s, to_s) in zip(
            [BEFORE_THE_FIRST_WORD, *(word for word, _ in said[:-1]), AFTER_READY],
            itertools.pairwise(moments),
            strict=True,
        ):
            phases[name] = phases.get(name, 0.0) + to_s - from_s
        return Start(
            ready_s=said[-1][1] - began_s,
            first_verdict_s=verdict_s - began_s,
            cpu_ready_s=cpu_ready_s,
            phases_s=phases,
        )

    def _first_verdict(self, process: WatchedProcess) -> float:
        """When it was heard, monotonic, s."""
        with Subscriber(self.events, timeout_s=POLL_SECONDS) as events:
            line = RunningLine(process, events)
            event = line.until(lambda event: isinstance(event, VerdictEvent), WITHIN_SECONDS, "a verdict")
            heard_s = time.monotonic()
        assert isinstance(event, VerdictEvent)
        if (event.bundle.digest, event.precision) != (self.bundle.digest, self.precision):
            raise BenchError(f"the first verdict is by {event.bundle.name} in {event.precision}: {event}")
        if event.verdict == "NO_VERDICT":
            raise BenchError(f"the first frame was not inspected: {event.reason}, {event.detail}")
        return heard_s


def _until_ready(process: WatchedProcess, notified: socket.socket) -> list[tuple[str, float]]:
    """What the service said it does, and when, READY last."""
    said: list[tuple[str, float]] = []
    give_up_s = time.monotonic() + WITHIN_SECONDS
    while not said or said[-1][0] != READY:
        try:
            words = notified.recv(4096).decode().split("\n")
        except TimeoutError:
            process.require_running()
            if time.monotonic() > give_up_s:
                late = f"{READY} did not come within {WITHIN_SECONDS:.0f} s"
                raise BenchError(f"{late}: {process.log_tail()}") from None
            continue
        at_s = time.monotonic()
        said += [(word.removeprefix(STATUS), at_s) for word in words if word == READY or word.startswith(STATUS)]
    left_out = set(SAID) - {word for word, _ in said}
    if left_out:
        raise BenchError(f"the service was READY without {', '.join(sorted(left_out))}; that is not its whole start")
    return said


def measure_startup(
    bundle: Bundle,
    precision: Precision,
    *,
    frame_hw: tuple[int, int],
    repetitions: int,
    done: Callable[[], None] = lambda: None,
) -> StartUp:
    """Start the service under all conditions in turns.

    Args:
        done: is told after each start.
    Raises:
        BundleError, EngineError: the bundle cannot be used on this machine, or lacks that precision.
        BenchError: it cannot be used in that precision; or the service did not start as it should.
    """
    require_engine_in(bundle, precision)
    starts: dict[Condition, list[Start]] = {}
    why_not_cold = _drop_files_from_memory()
    with TemporaryDirectory(prefix="heatline-bench-") as folder:
        line, cache = LineFile(Path(folder), bundle, precision, frame_hw), Path(folder) / "cache"
        cache.mkdir(mode=0o700)
        line.start(cache)  # which fills it, and brings all files into memory
        done()
        for number in range(repetitions):
            for condition in _turn(number, cold=why_not_cold is None):
                if condition in COLD:
                    _drop_files_from_memory()
                with _use_of(cache) as use:
                    starts.setdefault(condition, []).append(line.start(cache if condition in CACHED else None))
                    if (came := use()) != (expected := "taken from" if condition in CACHED else "left alone"):
                        raise BenchError(
                            f"a start that was to be {condition} did not use the model cache as it should: it was "
                            f"{came}, expected {expected}; report this"
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
            condition: _starts(starts[condition], starts["warm"]) for condition in IN_WORDS if condition in starts
        },
        why_not_cold=why_not_cold,
    )


def starts_in_all(repetitions: int) -> int:
    """At most, for a bar of progress."""
    return len(IN_WORDS) * repetitions + 1


def _turn(number: int, *, cold: bool) -> list[Condition]:
    """The conditions in their order, the first of which is another one each time."""
    these: list[Condition] = [condition for condition in IN_WORDS if cold or condition not in COLD]
    first = number % len(these)
    return [*these[first:], *these[:first]]


def _drop_files_from_memory() -> str | None:
    """Have files read from the disk again; why that cannot be, in words. Libraries that this process uses stay."""
    try:
        os.sync()
        DROP_CACHES.write_text("3")
    except OSError as error:
        return f"{DROP_CACHES} cannot be written ({error.strerror}); it takes root"
    return None


@contextmanager
def _use_of(cache: Path) -> Iterator[Callable[[], CacheUse]]:
    """What a start makes of the graphs there, asked after it.

    One that was taken goes back as the very file, with a new time; one that was refused makes room for another file.
    """
    with ExitStack() as at_end:
        # Held open meanwhile: the number of a file that is gone would go to the next one.
        held = {path: at_end.enter_context(path.open("rb")) for path in cache.iterdir()}
        before = {path: os.fstat(file.fileno()) for path, file in held.items()}

        def use() -> CacheUse:
            after = {path: path.stat() for path in cache.iterdir()}
            if after.keys() != before.keys() or not all(os.path.samestat(after[path], before[path]) for path in after):
                return "filled anew"
            used = any(after[path].st_mtime_ns != before[path].st_mtime_ns for path in after)
            return "taken from" if used else "left alone"

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
    """The same for people.

    Args:
        is_virtual: whether the machine is, as `bench.machine` tells.
    """
    height, width = found.frame_hw
    facts: dict[str, object] = {
        "line": f"{found.bundle} ({found.bytes_of_bundle / 1e6:.0f} MB) in {found.precision}, one drawn camera of "
        f"{width}x{height} px",
        "figures": f"median (lowest to highest) of {found.repetitions} starts, from the start of the process",
    }
    for condition, starts in found.conditions.items():
        facts[IN_WORDS[condition]] = (
            f"READY after {starts.ready_s:.2f} s, {starts.ready_to_warm.median:.2f} of warm; processor time by then "
            f"{starts.cpu_ready_s:.2f} s; first verdict after {starts.first_verdict_s:.2f} s"
        )
        facts[f"{condition}, of that"] = ", ".join(
            f"{name} {taken.median:.2f}" for name, taken in starts.phases_s.items()
        )
    if found.why_not_cold is not None:
        facts["cold"] = f"not measured: {found.why_not_cold}"
    elif is_virtual:
        facts["cold"] = "this machine is virtual: its host may hold the files in memory still, so a real disk is slower"
    return facts
