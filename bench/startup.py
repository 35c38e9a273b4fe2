"""`heatline bench startup`: time from the start of the service's process to READY, and to the first verdict.

Measures the phases of a start with files in memory, with and without the model cache. The service is started as by
systemd, and its notifications get timestamps.
"""

import itertools
import socket
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from heatline.bench.processes import cpu_ns
from heatline.bench.spread import Spread, interleaved
from heatline.bench.watched_line import POLL_SECONDS, Keys, RunningLine, free_address, line_process, write_line_file
from heatline.bench.watched_process import WatchedProcess
from heatline.edge.bundle import Bundle
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import BenchError
from heatline.edge.inference import Precision
from heatline.edge.wire.events import VerdictEvent

BEFORE_FIRST_STATUS = "Python and imports"
AFTER_READY = "subscriber and first frame"
PHASES = ("loading the bundle", "compiling", "running the golden tiles", "opening the cameras")
"""Statuses that a service sends before it is ready. A start without one of them does not count."""
STATUS, READY = "STATUS=NOT_READY: ", "READY=1"
WITHIN_SECONDS, ENDED_WITHIN_SECONDS = 180.0, 60.0
CACHED, WARM = "cached", "warm"
"""Conditions: with the compiled graph in the model cache, and without a model cache."""


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

    condition: str
    ready_s: Spread
    first_verdict_s: Spread
    cpu_ready_s: Spread
    phases_s: dict[str, Spread]
    """In their order. The sum of the medians is about that of `first_verdict_s`."""


class StartUp(msgspec.Struct, frozen=True, kw_only=True):
    """All results."""

    bundle: str
    model: str
    precision: Precision
    frame_hw: tuple[int, int]
    repetitions: int
    conditions: list[Starts]


class LineFile:
    """A line with one `pattern` camera that shows one frame, and its configuration.

    Args:
        folder: an empty one.
    """

    def __init__(self, folder: Path, bundle: Bundle, precision: Precision, frame_hw: tuple[int, int]) -> None:
        self.folder, self.bundle, self.precision = folder, bundle, precision
        self.events = free_address()
        self.path, self.log = folder / "line.toml", folder / "log"
        camera: Keys = {"kind": "pattern", "name": "top", "draw_size": frame_hw[::-1], "frames": 1}
        tables: dict[str, Keys] = {
            "engine": {"precision": precision},
            "thresholds": {"check_plausibility": False},  # the drawn frame does not show the bundle's product
            # The first frame is shown after a subscriber has connected, so that its event is not missed.
            "events": {"bind": self.events, "wait_for_subscriber_s": WITHIN_SECONDS},
        }
        write_line_file(self.path, bundle.path, [camera], tables)

    def start(self, cache: Path | None) -> Start:
        """Start the service, and wait for its first verdict and its end.

        Args:
            cache: the folder of its model cache; None: it has none.
        Raises:
            BenchError: the start failed or left out a phase.
        """
        address = self.folder / "notify"
        for file in (address, self.log):
            file.unlink(missing_ok=True)
        env = {"NOTIFY_SOCKET": str(address)} | ({} if cache is None else {"CACHE_DIRECTORY": str(cache)})
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
            line_process(self.path, self.log, env=env) as process,
        ):
            notified.bind(str(address))
            notified.settimeout(0.1)
            began_s = time.monotonic()
            process.start()
            statuses = _until_ready(process, notified)
            cpu_ready_s = cpu_ns(process.pid) / 1e9
            notified.close()  # a socket that is open and not read would block the service
            verdict_s = self._first_verdict(process)
            process.require_success(ENDED_WITHIN_SECONDS)  # its camera has shown its last frame
        names = [BEFORE_FIRST_STATUS, *(status for status, _ in statuses[:-1]), AFTER_READY]
        moments = [began_s, *(at_s for _, at_s in statuses), verdict_s]
        phases: dict[str, float] = {}
        for name, (from_s, to_s) in zip(names, itertools.pairwise(moments), strict=True):
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
        if (event.bundle and event.bundle.digest, event.precision) != (self.bundle.digest, self.precision):
            raise BenchError(f"the first verdict is by {event.bundle} in {event.precision}: {event}")
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
    report_line: Callable[[str], None],
) -> StartUp:
    """Start the service under all conditions in interleaved rounds.

    Raises:
        BenchError: a start failed, did not use that precision, or compiled what the model cache has.
    """
    starts: dict[str, list[Start]] = {WARM: [], CACHED: []}
    with TemporaryDirectory(prefix="heatline-bench-") as folder:
        line, cache = LineFile(Path(folder), bundle, precision, frame_hw), Path(folder) / "cache"
        cache.mkdir(mode=0o700)
        line.start(cache)  # fills the cache, and reads all files into memory
        for number, order in enumerate(interleaved(starts, repetitions), 1):
            for condition in order:
                cached = _files(cache)
                starts[condition].append(line.start(cache if condition == CACHED else None))
                if not cached or _files(cache) != cached:
                    raise BenchError(f"a start that was to be {condition} compiled a graph into its model cache")
            report_line(f"round {number} of {repetitions}")
    return StartUp(
        bundle=bundle.path.name,
        model=bundle.manifest.model.name,
        precision=precision,
        frame_hw=frame_hw,
        repetitions=repetitions,
        conditions=[_starts(condition, these) for condition, these in starts.items()],
    )


def _files(cache: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def _starts(condition: str, these: list[Start]) -> Starts:
    return Starts(
        condition=condition,
        ready_s=Spread.of([one.ready_s for one in these]),
        first_verdict_s=Spread.of([one.first_verdict_s for one in these]),
        cpu_ready_s=Spread.of([one.cpu_ready_s for one in these]),
        phases_s={name: Spread.of([one.phases_s[name] for one in these]) for name in these[0].phases_s},
    )
