"""A line as a line PC runs it, in a process of its own, and a subscriber to it in this one."""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from bench.processes import camera_processes
from bench.watched_process import HEATLINE, WatchedProcess
from edge.delivery.client.gap_detector import Gap
from edge.delivery.client.subscriber import Subscriber
from edge.errors import BenchError
from edge.inference import Precision
from edge.wire.events import CountedEvent, Event, Message, StatusEvent, VerdictEvent

POLL_SECONDS = 0.02
"""How long to wait for an event before looking at the clock again."""
START_WITHIN_SECONDS = 60.0
STOP_WITHIN_SECONDS = 30.0
SILENCE_SECONDS = 30
Keys = Mapping[str, str | int | float | Sequence[Any]]
"""Of a table of the configuration."""
ALL_GOOD: Keys = {"score": 1e9, "check_plausibility": False}
"""A score threshold that no tile reaches: on a line that runs well, nearly all frames are good."""


@dataclass(frozen=True)
class Heard:
    """An event, and when it was heard on the host's monotonic clock."""

    event: Event
    at_ns: int


def line_process(config: Path, log: Path | None, *, env: Mapping[str, str] | None = None) -> WatchedProcess:
    """`heatline run`, to be started."""
    return WatchedProcess("the service", [*HEATLINE, "run", config], log, env=env)


class RunningLine:
    """A line's process, and what is heard of it.

    Args:
        process: of the line.
        events: a subscriber to it; how long it waits is how long `next` does.
    """

    def __init__(self, process: WatchedProcess, events: Subscriber) -> None:
        self.process, self._events = process, events
        self._last_seq: int | None = None
        self.not_heard = 0
        """Events that were sent after the first one that came, and did not come."""
        self.lost: list[Gap] = []
        """What the subscriber said of them."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def camera_pids(self) -> list[int]:
        """Of its cameras' processes, as they are now."""
        return camera_processes(self.pid)

    def require_cameras(self, pids: Sequence[int]) -> None:
        """See that they are the cameras' processes still: one that came for another grabbed nothing meanwhile.

        Raises:
            BenchError: they are not.
        """
        if set(pids) != (now := set(self.camera_pids())):
            raise BenchError(
                f"{len(set(pids) - now)} of {len(pids)} cameras' processes ended while they were measured; nothing of "
                f"it counts, measure again: {self.process.log_tail()}"
            )

    def next(self) -> Heard | None:
        """The next event; None where none came within a moment.

        Raises:
            BenchError: the service has ended, and nothing more comes.
        """
        message = self._events.receive()
        if isinstance(message, Gap):
            self.lost.append(message)
        if not isinstance(message, Message):
            self.process.require_running()
            return None
        heard = Heard(message.event, time.monotonic_ns())
        if isinstance(heard.event, CountedEvent):
            if self._last_seq is not None:
                self.not_heard += heard.event.seq - self._last_seq - 1
            self._last_seq = heard.event.seq
        return heard

    def until(self, wanted: Callable[[Event], bool], within_s: float, what: str) -> Event:
        """The next event that is wanted.

        Args:
            what: is waited for, in words.
        Raises:
            BenchError: none came in time, or the service has ended.
        """
        give_up = time.monotonic() + within_s
        while time.monotonic() < give_up:
            if (heard := self.next()) is not None and wanted(heard.event):
                return heard.event
        raise BenchError(f"{what}: nothing of it was heard within {within_s:.0f} s; {self.process.log_tail()}")

    def listen_for(self, seconds: float) -> None:
        """Hear what comes, and pay no heed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.next()

    def stop(self) -> float:
        """End it by SIGTERM; returns seconds until it said STOPPED, by its own stamp.

        Raises:
            BenchError: it did not in time, or ended with an error.
        """
        began_at_ns = time.time_ns()
        self.ask_to_stop()
        stopped = self.until(has_stopped, STOP_WITHIN_SECONDS, "the end after SIGTERM")
        assert isinstance(stopped, StatusEvent)
        self.await_exit()
        return (stopped.at_ns - began_at_ns) / 1e9

    def ask_to_stop(self) -> None:
        """Send SIGTERM; what it says until it has stopped is still to be heard."""
        self.process.terminate()

    def await_exit(self) -> None:
        """Wait for the end of a service that has said STOPPED.

        Raises:
            BenchError: it did not end in time, or ended with an error.
        """
        self.process.require_success(STOP_WITHIN_SECONDS)


class WatchedLine(RunningLine):
    """A line whose configuration is written for it. Running between `with` and its end.

    Args:
        folder: where its configuration and its log are kept; empty.
        bundle: path of the bundle.
        thresholds: keys of that table; by default nearly no frame has a defect.
        heatmaps: `events.heatmaps`: which events carry theirs.
        journal: whether it keeps one, and serves it.
        engine: keys of that table, beside the precision.
        tiles: keys of that table.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        precision: Precision,
        cameras: Sequence[Keys],
        *,
        thresholds: Keys = ALL_GOOD,
        heatmaps: str = "defect",
        journal: bool = False,
        engine: Keys = {},  # noqa: B006  (it is not changed)
        tiles: Keys = {},  # noqa: B006  (the same)
    ) -> None:
        self.address, self.commands_address = free_address(), f"ipc://{folder.absolute()}/commands"
        self.journal_address = free_address() if journal else None
        config = folder / "line.toml"
        events: Keys = {
            "bind": self.address,
            "wait_for_subscriber_s": START_WITHIN_SECONDS,
            "heatmaps": heatmaps,
        }
        tables = {
            "engine": {"precision": precision, **engine},
            "thresholds": {**thresholds, "check_plausibility": False},  # its frames are drawn, and of any size
            "tiles": tiles,
            "events": events,
            "commands": {"bind": self.commands_address},
        }
        if self.journal_address is not None:
            tables["journal"] = {"folder": str(folder.absolute()), "bind": self.journal_address}
        write_line_file(config, bundle, cameras, tables)
        super().__init__(line_process(config, folder / "log"), self._listener())

    def _listener(self) -> Subscriber:
        return Subscriber(self.address, timeout_s=POLL_SECONDS)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The service and its cameras stand still meanwhile, wherever they are, as a debugger would have them.

        It is listened to anew afterwards: who stands still for seconds looks gone, so that ZeroMQ hangs up on either
        side, and what is said before the listener is back is missed.
        """
        pids = [self.pid, *self.camera_pids()]
        try:
            _send(pids, signal.SIGSTOP)
            yield
        finally:
            _send(pids, signal.SIGCONT)
            self._events.close()
            self._events, self._last_seq = self._listener(), None

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()  # its cameras end with it
        self._events.close()


def run_line(
    config: Path, address: str, received: Path, *, within_seconds: float
) -> tuple[list[VerdictEvent], StatusEvent]:
    """Run a line whose cameras come to an end, while `heatline watch` shows its events.

    Args:
        config: should wait for a subscriber, or the first events may be missed.
        address: its `events.bind`.
        received: folder for what the subscriber saves; replaced.
    Returns:
        Every verdict event, and the last status.
    Raises:
        BenchError: a process failed or did not end in time, or the line never said that it had stopped.
    """
    shutil.rmtree(received, ignore_errors=True)
    watch: list[str | Path] = [*HEATLINE, "watch", address, "--save", received, "--timeout", str(SILENCE_SECONDS)]
    with WatchedProcess("the subscriber", watch, None) as watching, line_process(config, None) as service:
        watching.start()
        service.start()
        service.require_success(within_seconds)
        watching.require_success()
    lines = (received / "events.jsonl").read_bytes().splitlines()
    events: list[Event] = [msgspec.json.decode(line, type=Event) for line in lines]
    last = events[-1] if events else None
    if last is None or not has_stopped(last):
        raise BenchError("the line never said that it had stopped; see the output above")
    assert isinstance(last, StatusEvent)
    return [event for event in events if isinstance(event, VerdictEvent)], last


def has_stopped(event: Event) -> bool:
    """Whether it is a line's last one."""
    return isinstance(event, StatusEvent) and event.state == "STOPPED"


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def write_line_file(path: Path, bundle: Path, cameras: Sequence[Keys], tables: Mapping[str, Keys]) -> None:
    """The configuration of a line, whose bundle may be signed by nobody."""
    path.write_text(
        _toml_table("", {"bundle": str(bundle.absolute()), "allow_unsigned": True})
        + "".join(_toml_table("[[cameras]]", keys) for keys in cameras)
        + "".join(_toml_table(f"[{name}]", keys) for name, keys in tables.items())
    )


def _toml_table(heading: str, keys: Keys) -> str:
    """A table of TOML, whose text, numbers and booleans are written as in JSON."""
    return "\n".join([heading, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]) + "\n\n"


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # whoever asks for its next event is told that it ended
            os.kill(pid, number)
