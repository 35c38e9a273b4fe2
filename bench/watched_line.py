"""A line in a process of its own, as on a line PC, with a subscriber in this process."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from heatline.bench.processes import camera_processes, tree
from heatline.bench.watched_process import HEATLINE, WatchedProcess
from heatline.edge.delivery.subscriber import Subscriber
from heatline.edge.errors import BenchError
from heatline.edge.inference import Precision
from heatline.edge.wire.events import Event, Message, StatusEvent

POLL_SECONDS = 0.02
"""How long to wait for an event before the clock is read again."""
START_WITHIN_SECONDS = 60.0
STOP_WITHIN_SECONDS = 30.0
Keys = Mapping[str, str | int | float | Sequence[Any]]
"""Keys and values of a table of the configuration."""
ALL_GOOD: Keys = {"score": 1e9}
"""A score threshold that no tile reaches, as nearly all frames of a good line are good."""


@dataclass(frozen=True)
class ReceivedEvent:
    """An event and the time of its receipt, by the host's monotonic clock."""

    event: Event
    at_ns: int


def line_process(config: Path, log: Path | None, *, env: Mapping[str, str] | None = None) -> WatchedProcess:
    """Return a process of `heatline run` that is not started yet."""
    return WatchedProcess("the service", [*HEATLINE, "run", config], log, env=env)


class RunningLine:
    """A line's process and its events.

    Args:
        process: of the line.
        events: a subscriber to the line; its timeout is that of `next`.
    """

    def __init__(self, process: WatchedProcess, events: Subscriber) -> None:
        self.process, self._events = process, events

    @property
    def pid(self) -> int:
        return self.process.pid

    def camera_pids(self) -> list[int]:
        """Return the ids of its cameras' processes, as they are now."""
        return camera_processes(self.pid)

    def require_cameras(self, pids: Sequence[int]) -> None:
        """Raise a BenchError if a camera's process was replaced by another one, which grabbed nothing meanwhile."""
        if set(pids) != (now := set(self.camera_pids())):
            raise BenchError(
                f"{len(set(pids) - now)} of {len(pids)} cameras' processes ended while they were measured; measure "
                f"again: {self.process.log_tail()}"
            )

    def next(self) -> ReceivedEvent | None:
        """Return the next event; None if none came within the subscriber's timeout. BenchError: the service ended."""
        message = self._events.receive()
        if not isinstance(message, Message):
            self.process.require_running()
            return None
        return ReceivedEvent(message.event, time.monotonic_ns())

    def until(self, wanted: Callable[[Event], bool], within_s: float, description: str) -> Event:
        """Return the next event that is wanted.

        Args:
            description: of the wanted event, for messages.
        Raises:
            BenchError: none came in time, or the service has ended.
        """
        give_up = time.monotonic() + within_s
        while time.monotonic() < give_up:
            if (received := self.next()) is not None and wanted(received.event):
                return received.event
        raise BenchError(f"{description}: no event came within {within_s:.0f} s; {self.process.log_tail()}")

    def stop(self) -> None:
        """End the service by SIGTERM; raise a BenchError if it does not stop in time, or with an error."""
        self.process.send_signal(signal.SIGTERM)
        self.until(has_stopped, STOP_WITHIN_SECONDS, "the end after SIGTERM")
        self.process.require_success(STOP_WITHIN_SECONDS)


class WatchedLine(RunningLine):
    """A line with a configuration of its own; the service runs inside the `with` block.

    Args:
        folder: an empty one, for its configuration and its log.
        bundle: path of the bundle.
        tables: of its configuration; without `thresholds` no frame has a defect.
        journal: whether it writes a journal and serves it.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        precision: Precision,
        cameras: Sequence[Keys],
        *,
        tables: Mapping[str, Keys] = {},
        journal: bool = False,
    ) -> None:
        self.address = free_address()
        config = folder / "line.toml"
        events: Keys = {"bind": self.address, "wait_for_subscriber_s": START_WITHIN_SECONDS}
        tables = {
            **tables,
            "engine": {**tables.get("engine", {}), "precision": precision},
            # Its frames are drawn, and of any size.
            "thresholds": {**tables.get("thresholds", ALL_GOOD), "check_plausibility": False},
            "events": {**events, **tables.get("events", {})},
        }
        if journal:
            tables["journal"] = {"folder": str(folder.absolute()), "bind": free_address()}
        write_line_file(config, bundle, cameras, tables)
        super().__init__(line_process(config, folder / "log"), self._new_subscriber())

    def _new_subscriber(self) -> Subscriber:
        return Subscriber(self.address, timeout_s=POLL_SECONDS)

    @contextmanager
    def paused(self, *, children_run: bool = False) -> Iterator[None]:
        """Stop the service and all its children by SIGSTOP for the duration of the `with` block.

        Args:
            children_run: stop only the service and its cameras.

        A new subscriber connects afterwards, as ZeroMQ disconnects a process that was stopped for seconds. Events that
        are sent before it is connected are missed.
        """
        pids = [self.pid, *self.camera_pids()] if children_run else tree(self.pid)
        try:
            _send(pids, signal.SIGSTOP)
            yield
        finally:
            _send(pids, signal.SIGCONT)
            self._events.close()
            self._events = self._new_subscriber()

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.kill()  # its cameras end with it
        self._events.close()


def has_stopped(event: Event) -> bool:
    """Return whether an event is a line's last one."""
    return isinstance(event, StatusEvent) and event.state == "STOPPED"


def free_address() -> str:
    """Return an address of this host whose port is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def write_line_file(path: Path, bundle: Path, cameras: Sequence[Keys], tables: Mapping[str, Keys]) -> None:
    """Write the configuration of a line, which takes an unsigned bundle."""
    path.write_text(
        _toml_table("", {"bundle": str(bundle.absolute()), "allow_unsigned": True})
        + "".join(_toml_table("[[cameras]]", keys) for keys in cameras)
        + "".join(_toml_table(f"[{name}]", keys) for name, keys in tables.items())
    )


def _toml_table(heading: str, keys: Keys) -> str:
    """Return a table of TOML, whose text, numbers and booleans are written as in JSON."""
    return "\n".join([heading, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]) + "\n\n"


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # the next call of `next` raises that it ended
            os.kill(pid, number)
