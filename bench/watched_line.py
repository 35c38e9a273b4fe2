"""The service as a line PC runs it, in a process of its own, and a subscriber to it in this one."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from bench.log_tail import log_tail
from bench.processes import camera_processes
from edge.delivery.client.subscriber import Subscriber
from edge.errors import BenchError
from edge.inference import Precision
from edge.wire.events import CountedEvent, Event, Message, StatusEvent

POLL_SECONDS = 0.02
"""How long to wait for an event before looking at the clock again."""
START_WITHIN_SECONDS = 60.0
STOP_WITHIN_SECONDS = 30.0
Keys = Mapping[str, str | int | float | Sequence[Any]]
"""Of a table of the configuration."""
ALL_GOOD: Keys = {"score": 1e9, "check_plausibility": False}
"""A score threshold that no tile reaches: on a line that runs well, nearly all frames are good."""


@dataclass(frozen=True)
class Heard:
    """An event, and when it was heard on the host's monotonic clock."""

    event: Event
    at_ns: int


_ENDS_WITH_US = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
"""A bench that is killed leaves no service behind, which would take its part of whatever is measured next."""


class WatchedLine:
    """`heatline run` on a configuration made for it. Running between `with` and its end.

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
        self._log = folder / "log"
        self._config = folder / "line.toml"
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
        write_line_file(self._config, bundle, cameras, tables)
        self._events = self._listener()
        self._process: subprocess.Popen[bytes] | None = None
        self._log_file: IO[bytes] | None = None
        self._last_seq: int | None = None
        self.not_heard = 0
        """Events that were sent after the first one that came, and did not come."""

    def _listener(self) -> Subscriber:
        return Subscriber(self.address, timeout_s=POLL_SECONDS)

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is not running"
        return self._process.pid

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
                f"it counts, measure again: {log_tail(self._log)}"
            )

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

    def next(self) -> Heard | None:
        """The next event; None where none came within a moment.

        Raises:
            BenchError: the service has ended.
        """
        message = self._events.receive()
        if not isinstance(message, Message):
            if self._process is not None and self._process.poll() is not None:
                raise BenchError(f"the service ended with exit code {self._process.returncode}: {log_tail(self._log)}")
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
        raise BenchError(f"{what}: nothing of it was heard within {within_s:.0f} s; {log_tail(self._log)}")

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
        assert self._process is not None, "it is not running"
        began_at_ns = time.time_ns()
        self.ask_to_stop()
        stopped = self.until(
            lambda event: isinstance(event, StatusEvent) and event.state == "STOPPED",
            STOP_WITHIN_SECONDS,
            "the end after SIGTERM",
        )
        assert isinstance(stopped, StatusEvent)
        self.await_exit()
        return (stopped.at_ns - began_at_ns) / 1e9

    def ask_to_stop(self) -> None:
        """Send SIGTERM; what it says until it has stopped is still to be heard."""
        assert self._process is not None, "it is not running"
        self._process.send_signal(signal.SIGTERM)

    def await_exit(self) -> None:
        """Wait for the end of a service that has said STOPPED.

        Raises:
            BenchError: it did not end in time, or ended with an error.
        """
        assert self._process is not None, "it is not running"
        try:
            code = self._process.wait(STOP_WITHIN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"the service said STOPPED and went on for {STOP_WITHIN_SECONDS:.0f} s") from error
        if code:
            raise BenchError(f"the service ended with exit code {code}: {log_tail(self._log)}")

    def __enter__(self) -> Self:
        self._log_file = self._log.open("wb")
        self._process = subprocess.Popen(
            [*_ENDS_WITH_US, sys.executable, "-m", "edge.cli.main", "run", str(self._config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log_file,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        assert self._log_file is not None
        self._process.kill()  # no harm to one that has ended; its cameras end with it
        self._process.wait()
        self._log_file.close()
        self._events.close()


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def write_line_file(path: Path, bundle: Path, cameras: Sequence[Keys], tables: Mapping[str, Keys]) -> None:
    """The configuration of a line, whose bundle may be signed by nobody."""
    path.write_text(
        toml_table("", {"bundle": str(bundle.absolute()), "allow_unsigned": True})
        + "".join(toml_table("[[cameras]]", keys) for keys in cameras)
        + "".join(toml_table(f"[{name}]", keys) for name, keys in tables.items())
    )


def toml_table(heading: str, keys: Keys) -> str:
    """A table of TOML, whose text, numbers and booleans are written as in JSON."""
    return "\n".join([heading, *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]) + "\n\n"


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # whoever asks for its next event is told that it ended
            os.kill(pid, number)
