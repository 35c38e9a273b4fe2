"""Where `heatline follow` puts events. When `take` returns, a sink has stored them for good."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import click
import msgspec

from heatline.edge.cli.output import visible
from heatline.edge.errors import InputError
from heatline.edge.util.files import open_locked, replacing, sync_folder, writing
from heatline.edge.wire.following import LARGEST_WINDOW, Delivered

EVENT_PREFIX = b'{"type":"'
READ_BACKWARD_BYTES = 64 << 10
"""Bytes read at a time from the end of a file, in search of its last line."""
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
SIGNAL_CHECK_SECONDS = 1.0
"""How long a signal may wait that arrives just before a system call."""


class Sink(Protocol):
    """Takes events, in order."""

    at_most: int
    """Most events per call of `take`."""

    def take(self, events: Sequence[Delivered]) -> None:
        """Store events.

        Raises:
            InputError: they cannot be stored, and must be delivered again.
        """


class Standard:
    """Writes each event to standard output, as one line of JSON."""

    at_most = LARGEST_WINDOW

    def take(self, events: Sequence[Delivered]) -> None:
        sys.stdout.buffer.writelines(_line(event) for event in events)
        sys.stdout.buffer.flush()


class JsonLines:
    """Appends each event that is not in a file yet to it, as one line of JSON.

    Raises:
        InputError: the file cannot be used, or another follower writes to it.
    """

    at_most = LARGEST_WINDOW

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            try:
                self._fd = open_locked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            except BlockingIOError as error:
                raise InputError(f"{path} is being written by another follower; name another file") from error
            try:
                sync_folder(path.absolute().parent)
                self._last = self._event_of(self._last_line())
            except BaseException:
                os.close(self._fd)
                raise

    def take(self, events: Sequence[Delivered]) -> None:
        new = [event for event in events if not self._has(event)]
        if not new:
            return
        size = os.fstat(self._fd).st_size
        with writing(self._path):
            try:
                left = memoryview(b"".join(map(_line, new)))
                while left:
                    left = left[os.write(self._fd, left) :]
                os.fsync(self._fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, size)
                raise
        self._last = new[-1].journal_id, new[-1].seq

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _has(self, event: Delivered) -> bool:
        return self._last is not None and self._last[0] == event.journal_id and event.seq <= self._last[1]

    def _last_line(self) -> bytes:
        """Return the file's last complete line. Cut off an incomplete line that a crash has left."""
        size = end = os.fstat(self._fd).st_size
        tail = b""
        while end and tail.count(b"\n") < 2:
            begin = max(0, end - READ_BACKWARD_BYTES)
            tail = os.pread(self._fd, end - begin, begin) + tail
            end = begin
        complete, _, torn = tail.rpartition(b"\n")
        last = complete.rpartition(b"\n")[2]
        if torn:
            # Only a file of events is cut.
            if self._event_of(last) is None and not torn.startswith(EVENT_PREFIX[: len(torn)]):
                raise InputError(f"{self._path} does not hold events of a journal; name another file")
            os.ftruncate(self._fd, size - len(torn))
            click.echo(f"heatline: {self._path} ended with an incomplete event, which was cut off", err=True)
        return last

    def _event_of(self, line: bytes) -> tuple[str, int] | None:
        if not line:
            return None
        try:
            known = msgspec.json.decode(line, type=_Known)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(
                f"the last line of {self._path} is not an event of a journal; name another file"
            ) from error
        return known.journal_id, known.seq


class _Known(msgspec.Struct):
    journal_id: str
    seq: int


class Command:
    """Runs a shell command for each event until it succeeds.

    Args:
        command: the shell command. It gets the event's header on its standard input.
        heatmaps: the folder of the events' pictures, if they are stored.
    """

    at_most = 1

    def __init__(self, command: str, heatmaps: "Heatmaps | None") -> None:
        self._command, self._heatmaps = command, heatmaps
        self._process: subprocess.Popen[bytes] | None = None
        self._interruptions = 0

    @property
    def interrupted(self) -> bool:
        """Whether the user interrupted the follower while the last command ran."""
        return self._interruptions > 0

    def take(self, events: Sequence[Delivered]) -> None:
        for event in events:
            pause_s = FIRST_PAUSE_SECONDS
            while (failure := self._run(event)) is not None:
                if self.interrupted:
                    raise KeyboardInterrupt
                click.echo(
                    f"heatline: the command {failure} at event {visible(event.key)}; trying again in {pause_s:g} s",
                    err=True,
                )
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_SECONDS)

    def _run(self, event: Delivered) -> str | None:
        """Run the command to its end, also when the user interrupts. Return how it failed; None if it succeeded."""
        picture = None if self._heatmaps is None else self._heatmaps.path_of(event)
        environment = {
            "HEATLINE_KEY": event.key,
            "HEATLINE_TOPIC": event.topic,
            "HEATLINE_HEATMAP": "" if picture is None else str(picture.absolute()),
        }
        with open(os.memfd_create("event"), "w+b") as header, self._deferred_interrupts():
            header.write(_line(event))
            header.flush()
            header.seek(0)
            # In its own process group, so that Ctrl-C does not reach it.
            try:
                self._process = subprocess.Popen(
                    self._command, shell=True, stdin=header, env=os.environ | environment, process_group=0
                )
            except (OSError, ValueError) as error:
                return f"could not be started ({error})"
            self._kill_if_requested()  # the second interrupt may have come while the command started
            code = _wait(self._process)
            self._process = None
        if code == 0:
            return None
        return f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"

    @contextlib.contextmanager
    def _deferred_interrupts(self) -> Iterator[None]:
        """Wait for the command at the first interrupt, and kill it at the second."""
        before = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, *_: object) -> None:
        self._interruptions += 1
        if self._interruptions == 1:
            click.echo("heatline: waiting for the command to end; interrupt again to kill it", err=True)
        self._kill_if_requested()

    def _kill_if_requested(self) -> None:
        if self._interruptions > 1 and self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(self._process.pid, signal.SIGKILL)


def _wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a process, and return its exit code.

    A signal that arrives between Python's check for signals and the system call does not interrupt the call, so the
    wait ends now and then.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(SIGNAL_CHECK_SECONDS)


class Heatmaps:
    """A folder of events' pictures, KEY.png.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def path_of(self, event: Delivered) -> Path | None:
        """Return the path of an event's picture; None if it has none."""
        return None if event.png is None else self._folder / f"{event.key}.png"

    def write(self, events: Sequence[Delivered]) -> None:
        """Write the events' pictures. Each write is atomic.

        Raises:
            InputError: a picture cannot be written.
        """
        with writing(self._folder):
            for event in events:
                if event.png is not None and (path := self.path_of(event)) is not None:
                    with replacing(path) as new:
                        new.write_bytes(event.png)
            sync_folder(self._folder)


def _line(event: Delivered) -> bytes:
    return event.header.replace(b"\n", b" ") + b"\n"  # JSON has line breaks only between its tokens
