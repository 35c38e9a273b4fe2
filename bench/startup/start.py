"""One start of the service as systemd makes it, with its notifications stamped as they come."""

import itertools
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from bench.processes import cpu_s
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


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one, from the start of its process, s."""

    ready_s: float
    first_verdict_s: float
    """Until a subscriber that connected once it was READY had it."""
    cpu_ready_s: float
    """Processor time that the service had taken by READY, beside that of its cameras' processes."""
    phases_s: dict[str, float]
    """What it did one after the other, in its own words; they add up to `first_verdict_s`."""


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

    def start(self, cache: Path | None, *, options: Sequence[str] = ()) -> Start:
        """Start the service, and wait for its first verdict and its end.

        Args:
            cache: the folder that it may keep compiled graphs in; None: it has none.
            options: of Python.
        Raises:
            BenchError: it did not do what it should.
        """
        given = {} if cache is None else {"CACHE_DIRECTORY": str(cache)}
        address = self.folder / "notify"
        for left in (address, self.log):
            left.unlink(missing_ok=True)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
            line_process(self.path, self.log, env={**given, "NOTIFY_SOCKET": str(address)}, options=options) as process,
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


def import_times_ms(log: str) -> Mapping[str, float]:
    """What importing took by itself, by library, of what `python -X importtime` wrote; the longest first.

    >>> import_times_ms("import time: self [us] | cumulative | imported package\\nimport time: 1500 | 1500 | zmq.error")
    {'zmq': 1.5}
    """
    taken: dict[str, float] = {}
    for line in log.splitlines():
        head, _, rest = line.partition(":")
        self_us, *_, name = (part.strip() for part in rest.split("|")) if rest.count("|") == 2 else ("", "")
        if head != "import time" or not self_us.isdigit():
            continue
        library = name.split(".")[0]
        if library in sys.stdlib_module_names:
            library = "standard library"
        taken[library] = taken.get(library, 0.0) + int(self_us) / 1e3
    return dict(sorted(taken.items(), key=lambda item: -item[1]))
