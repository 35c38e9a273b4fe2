"""`heatline follow`: receives every event of a line, and stores it for good before it acknowledges it."""

import contextlib
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import click
import msgspec
import zmq

from heatline.edge.cli.output import FiniteRange, say, topic_option
from heatline.edge.delivery.client import require_authorized
from heatline.edge.delivery.follower import Follower, forget
from heatline.edge.errors import EventsLostError, InputError
from heatline.edge.target import KeyFiles, endpoint_of, key_options
from heatline.edge.util.files import open_locked, sync_folder, writing
from heatline.edge.util.process import interruptions_held_back, sigterm_as_ctrl_c
from heatline.edge.util.text import format_count
from heatline.edge.wire.following import LARGEST_WINDOW, Delivered, Numbered, Start
from heatline.edge.wire.requests import UNREADABLE

EVENT_PREFIX = b'{"type":"'
PAUSE_SECONDS = 5.0

Sink = Callable[[Sequence[Delivered]], None]
"""Stores events, in order: when it returns, it has stored them for good."""


@click.command(epilog="Example: heatline follow line1 --name mes1 --jsonl events.jsonl")
@click.argument("line")
@click.option("--name", required=True, help="The consumer's name: the line stores its position under this name.")
@topic_option
@click.option("--exec", "command", help="Command to run for each event, until it succeeds.")
@click.option("--jsonl", type=click.Path(path_type=Path), help="File to which each event is appended once.")
@click.option(
    "--from",
    "start",
    type=click.Choice(["first", "next"]),
    default="first",
    show_default=True,
    help="Where a new name starts: at the first event in the journal, or at the next event.",
)
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option("--timeout", "timeout_s", type=FiniteRange(min=0), help="Stop after so many seconds without an event.")
@click.option("--forget", "to_forget", is_flag=True, help="Delete this consumer: the line keeps no events for it.")
@key_options
def follow(
    line: str,
    name: str,
    topics: tuple[str, ...],
    command: str | None,
    jsonl: Path | None,
    start: Start,
    count: int | None,
    timeout_s: float | None,
    to_forget: bool,
    key_files: KeyFiles,
) -> None:
    """Receive every event of LINE, also those of an outage.

    Starts at the first event that was not acknowledged under this name.
    LINE is a line's name, its TOML file, or the address at which it serves its journal.

    Prints one event per line, as JSON. With --jsonl, appends each event once to a file, and acknowledges it when it is
    on the disk. With --exec, runs a command for each event. The command gets the event on its standard input, and its
    key and topic in HEATLINE_KEY and HEATLINE_TOPIC. If it fails, it is run again after a pause, until it succeeds.

    Events that are lost are reported on standard error, and at the end the number of events received.
    """
    if command is not None and jsonl is not None:
        raise click.UsageError("--exec and --jsonl exclude each other; follow under two names")
    if command is not None and not command.strip():
        raise click.UsageError("--exec is empty; name a command to run for each event")
    address, keys = endpoint_of(line, "journal", key_files)
    if to_forget:
        forget(address, name, keys=keys)
        click.echo(f"consumer {name} is deleted")
        return
    require_authorized(address, keys, zmq.DEALER)
    with contextlib.ExitStack() as open_:
        open_.enter_context(sigterm_as_ctrl_c())
        sink: Sink = _print
        if command is not None:
            sink = partial(_run_until_it_succeeds, command)
        elif jsonl is not None:
            sink = open_.enter_context(appending(jsonl))
        events = open_.enter_context(
            Follower(address, name, topics=topics, start=start, timeout_s=timeout_s, keys=keys)
        )
        at_once = LARGEST_WINDOW if command is None else 1
        received, last = 0, ""
        while count is None or received < count:
            try:
                batch = events.receive_batch(at_once if count is None else min(count - received, at_once))
            except EventsLostError as lost:
                say(f"heatline: {lost}", err=True)
                continue
            if not batch:
                break
            sink(batch)
            received, last = received + len(batch), f", the last is {batch[-1].key}"
            if received == count:
                events.acknowledge()
        say(f"{format_count(received, 'event')} received{last}", err=True)


def _print(events: Sequence[Delivered]) -> None:
    """Write each event to standard output, as one line of JSON."""
    sys.stdout.buffer.writelines(_line(event) for event in events)
    sys.stdout.buffer.flush()


def _run_until_it_succeeds(command: str, events: Sequence[Delivered]) -> None:
    """Run a shell command for each event, with its header on standard input, until it succeeds."""
    for event in events:
        environment = os.environ | {"HEATLINE_KEY": event.key, "HEATLINE_TOPIC": event.topic}
        while True:
            try:
                code = _run(command, _line(event), environment)
            except (OSError, ValueError) as error:
                failure = f"could not be started ({error})"
            else:
                if code == 0:
                    break
                failure = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
            say(f"heatline: the command {failure} at event {event.key}; trying again in {PAUSE_SECONDS:g} s", err=True)
            time.sleep(PAUSE_SECONDS)


def _run(command: str, text: bytes, environment: Mapping[str, str]) -> int:
    """Run a shell command, and return its exit code; an interruption kills it, also while it is being started."""
    process: subprocess.Popen[bytes] | None = None
    try:
        with interruptions_held_back():
            process = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env=environment)
        process.communicate(text)
        return process.wait()
    except BaseException:
        if process is not None:
            process.kill()
            process.wait()
        raise


@contextlib.contextmanager
def appending(path: Path) -> Iterator[Sink]:
    """Provide a sink that appends each event to a file, once, as a line of JSON. All of its errors are InputErrors."""
    with contextlib.ExitStack() as at_end:
        with writing(path):
            try:
                fd = open_locked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            except BlockingIOError as error:
                raise InputError(f"{path} is being written by another follower; name another file") from error
            at_end.callback(os.close, fd)
            sync_folder(path.absolute().parent)
            last: Numbered | Delivered | None = _event_of(_last_line(path, fd), path)

        def append(events: Sequence[Delivered]) -> None:
            nonlocal last
            new = [each for each in events if last is None or last.journal_id != each.journal_id or each.seq > last.seq]
            if not new:
                return
            with writing(path):
                left = memoryview(b"".join(map(_line, new)))
                while left:  # what an interruption leaves of the last event is cut off at the next start
                    left = left[os.write(fd, left) :]
                os.fsync(fd)
            last = new[-1]

        yield append


def _last_line(path: Path, fd: int) -> bytes:
    """Return a file's last complete line. Cut off an incomplete line that a crash has left."""
    size = os.fstat(fd).st_size
    if not size:
        return b""
    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as content:
        ends = max(0, content.rfind(b"\n"))
        last = content[content.rfind(b"\n", 0, ends) + 1 : ends]
        torn = content[content.rfind(b"\n") + 1 :]
    if torn:
        # Only a file of events is cut.
        if _event_of(last, path) is None and not torn.startswith(EVENT_PREFIX[: len(torn)]):
            raise InputError(f"{path} does not hold events of a journal; name another file")
        os.ftruncate(fd, size - len(torn))
        say(f"heatline: {path} ended with an incomplete event, which was cut off", err=True)
    return last


def _event_of(line: bytes, path: Path) -> Numbered | None:
    """Return the event in a file's last line; None if the line is empty."""
    try:
        return msgspec.json.decode(line, type=Numbered) if line else None
    except UNREADABLE as error:
        raise InputError(f"the last line of {path} is not an event of a journal; name another file") from error


def _line(event: Delivered) -> bytes:
    return event.header.replace(b"\n", b" ") + b"\n"  # JSON has line breaks only between its tokens
