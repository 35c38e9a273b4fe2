"""`heatline watch` and `heatline view`: show a line at work, in a terminal or as a page."""

import contextlib
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

import click
import msgspec
import zmq
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from heatline.edge.cli.options import FiniteRange, topic_option
from heatline.edge.cli.output import json_option, make_empty, print_json, say, table_console, visible
from heatline.edge.delivery.client import require_authorized
from heatline.edge.delivery.subscriber import Gap, NewBoot, Notice, Subscriber
from heatline.edge.describe import (
    EventText,
    describe_event,
    describe_frames,
    describe_state,
    happened_at_ns,
    local_time,
)
from heatline.edge.errors import MessageError
from heatline.edge.target import KeyFiles, endpoint_of, key_options
from heatline.edge.util.extras import require_extra
from heatline.edge.util.files import writing
from heatline.edge.wire.events import Event, Message, StatusEvent, VerdictEvent

MAX_ROWS = 200
LINES_BESIDE_ROWS = 8
ALWAYS_SUBSCRIBED = "status", "alarm", "drift", "change", "journal"
"""These events report that the line has stopped, a camera's death, the active setup, and whether events are stored."""
SILENT_SECONDS = 5.0
"""A line publishes its status about once a second: after this silence it is down, or refuses this client."""
HEADINGS = "seq", "time", "camera", "frame", "event", "detail"
WIDEST_FRAME = 10
"""Characters of a file's name that leave room for the detail on a narrow terminal."""
NARROW = 120
STATE_STYLES = {"READY": "bold green", "BUSY": "bold yellow", "DEGRADED": "bold yellow", "NOT_READY": "bold red"}


@click.command(epilog="Example: heatline watch line1")
@click.argument("line")
@topic_option
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many verdicts.")
@click.option("--timeout", "timeout_s", type=FiniteRange(min=0), help="Stop after so many seconds without an event.")
@click.option("--save", type=click.Path(path_type=Path), help="New folder for events.jsonl and heatmaps (SEQ.png).")
@key_options
@json_option
def watch(
    line: str,
    topics: tuple[str, ...],
    count: int | None,
    timeout_s: float | None,
    save: Path | None,
    key_files: KeyFiles,
    as_json: bool,
) -> None:
    """Show LINE's events as they come.

    The newest event is at the bottom. With --json, prints each event's header on one line.
    LINE is a line's name, its TOML file, or the address of its events.

    Ends when the line reports that it has stopped.
    """
    table = EventTable()
    address, keys = endpoint_of(line, "events", key_files)
    require_authorized(address, keys, zmq.SUB)
    with contextlib.ExitStack() as stack:
        saved = None
        if save is not None:
            stack.enter_context(writing(save))
            make_empty(save, "--save")
            saved = stack.enter_context((save / "events.jsonl").open("wb"))
        events = stack.enter_context(
            Subscriber(
                address,
                topics={*topics, *ALWAYS_SUBSCRIBED},
                timeout_s=SILENT_SECONDS if timeout_s is None and keys is not None else timeout_s,
                keys=keys,
            )
        )
        live = stack.enter_context(Live(table, console=table_console(quiet=as_json), refresh_per_second=8))
        verdicts = 0
        while True:
            try:
                received = events.receive()
            except MessageError as error:  # a message of another program must not end the watch
                say(f"heatline: {error}", err=True)
                continue
            if received is None:
                require_authorized(address, keys, zmq.SUB)  # its key may have been revoked
                if timeout_s is None:
                    continue
                return
            if not isinstance(received, Message):
                if as_json:
                    say(f"heatline: {received}", err=True)
                table.add_notice(received)
                live.update(table)
                continue
            event = received.event
            if event.topic.startswith(topics):
                if save is not None and saved is not None:
                    _save(received, save, saved)
                if as_json:
                    print_json(event)
            table.add(event)
            live.update(table)
            verdicts += isinstance(event, VerdictEvent)
            if (count and verdicts >= count) or (isinstance(event, StatusEvent) and event.state == "STOPPED"):
                return


def _save(message: Message, folder: Path, lines: BinaryIO) -> None:
    lines.write(msgspec.json.encode(message.event) + b"\n")
    lines.flush()
    if message.png is not None and isinstance(message.event, VerdictEvent):
        (folder / f"{message.event.seq:06d}.png").write_bytes(message.png)


class EventTable:
    """A table of the last events, with the line's status below it."""

    def __init__(self) -> None:
        self._rows: deque[tuple[str, str, EventText]] = deque(maxlen=MAX_ROWS)
        self._status = Text("waiting for the line", style="dim")

    def add(self, event: Event) -> None:
        """Add an event."""
        if isinstance(event, StatusEvent):
            self._status = _status(event)
        else:
            self._rows.append((str(event.seq), _clock(happened_at_ns(event)), describe_event(event)))

    def add_notice(self, notice: Notice) -> None:
        """Add a row for missed events, a restart of the line, or its silence."""
        seq, detail = "", str(notice)
        what = "new boot" if isinstance(notice, NewBoot) else "silence"
        if isinstance(notice, Gap):
            seq, what, detail = f"after {notice.after_seq} up to {notice.through_seq}", "missed", notice.topic
        self._rows.append((seq, _clock(time.time_ns()), EventText("", "", what, detail, "yellow")))

    def __rich_console__(self, console: Console, _options: ConsoleOptions) -> RenderResult:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in HEADINGS:
            is_cut = heading in ("frame", "detail")  # file names and sentences; --json prints all of them
            widest = WIDEST_FRAME if heading == "frame" and console.width < NARROW else None
            table.add_column(heading, justify="right" if heading == "seq" else "left", no_wrap=not is_cut)
            table.columns[-1].max_width = widest
        # A live display must fit the screen, so it shows the newest rows; a file gets all rows.
        is_screen = console.is_terminal
        rows = list(self._rows)[-max(console.height - LINES_BESIDE_ROWS, 5) :] if is_screen else list(self._rows)
        for seq, at, event in rows:
            what = Text(event.what, style=f"bold {event.colour}")
            table.add_row(seq, at, event.camera, _one_line(event.subject), what, _one_line(event.detail))
        yield table
        yield self._status
        if not is_screen:
            yield ""


def _one_line(text: str) -> Text:
    """Return a text that is cut instead of wrapped. A name may hold brackets, which are no markup."""
    return Text(visible(text), no_wrap=True, overflow="ellipsis")


def _status(event: StatusEvent) -> Text:
    """Describe the line: whether it is ready for the next part, the active product, and each camera's frames."""
    text = Text(f"{event.line}: {event.state}, ", style="bold")
    state, *more = describe_state(event).splitlines()
    text.append(state, style=STATE_STYLES[event.handshake.state])
    for line in [*more, *(f"{camera} {describe_frames(event, camera)}" for camera in event.ledger)]:
        text.append(f"\n{visible(line)}", style="not bold")
    return text


def _clock(at_ns: int) -> str:
    return local_time(at_ns, "%H:%M:%S")


@click.command(epilog="Example: heatline view line1")
@click.argument("line")
@click.option(
    "--listen", help="Address of the page, HOST:PORT; port 0: any free one. Default: web.listen of the line's file."
)
def view(line: str, listen: str | None) -> None:
    """Serve a page that shows LINE at work, until Ctrl-C.

    The page shows pictures, verdicts, and why. The line need not run: then the page shows the last verdicts of its
    journal, with their pictures in its evidence store. LINE is a line's name or its TOML file, on this PC.
    """
    require_extra("view")
    from heatline.edge.monitor.page import serve

    serve(line, listen, lambda url: click.echo(f"open {url} (Ctrl-C ends the page)"))
