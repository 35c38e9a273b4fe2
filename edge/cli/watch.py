"""`heatline watch`."""

import time
from collections import deque
from pathlib import Path
from typing import BinaryIO, Self

import click
import msgspec
import zmq
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from edge.cli.fitted_table import fitted_table
from edge.cli.formatting import describe_account, describe_camera, describe_handshake, describe_in_force, local_time
from edge.cli.options import FiniteRange, topic_option
from edge.cli.output import json_option, print_json, table_console, visible
from edge.cli.target import KeyFiles, endpoint_of, key_options
from edge.delivery.client.gap_detector import Gap
from edge.delivery.client.handshake_probe import require_authorized
from edge.delivery.client.subscriber import LineLost, NewBoot, Notice, Subscriber
from edge.errors import MessageError
from edge.util.os_errors import writing
from edge.wire.events import AlarmEvent, ChangeEvent, Event, JournalEvent, Message, StatusEvent, VerdictEvent

ROWS_KEPT = 200
LINES_BESIDE_ROWS = 8
ALWAYS_HEARD = "status", "alarm", "change", "journal"
"""They tell that the line has stopped, that a camera is dead, what is in force, and whether events are kept."""
SILENT_SECONDS = 5.0
"""A line says how it is about once a second: after that it is down, or does not let us listen any more."""
HEADINGS = "seq", "time", "camera", "frame", "verdict", "score", "regions", "peak x,y", "ms"
NUMBERS = "seq", "score", "regions", "ms"
GO_FIRST = "peak x,y", "ms", "score", "seq"
"""Of a narrow terminal: what stays says when, where, what and why."""
MAY_BE_CUT = {"regions": 24, "frame": 12}
"""Sentences and file names, to so many characters; the log and --json have all of them."""
STYLES = {"GOOD": "green", "DEFECT": "bold red", "NO_VERDICT": "bold yellow"}
STATE_STYLES = {"READY": "bold green", "BUSY": "bold yellow", "DEGRADED": "bold yellow", "NOT_READY": "bold red"}


@click.command(epilog="Example: heatline watch line1")
@click.argument("line")
@topic_option
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many verdicts.")
@click.option("--timeout", "timeout_s", type=FiniteRange(min=0), help="Stop when nothing came for so many seconds.")
@click.option("--save", type=click.Path(path_type=Path), help="Folder to keep events.jsonl and heatmaps (SEQ.png) in.")
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

    The newest is at the bottom; with --json, every event's header, one per line.
    LINE is a line's name, its TOML file, or the address of its events.

    Stops by itself when the line says that it has stopped.
    """
    table = EventTable()
    address, keys = endpoint_of(line, "events", key_files)
    require_authorized(address, keys, zmq.SUB)
    with (
        _Saver(save) as saver,
        Subscriber(
            address,
            topics={*topics, *ALWAYS_HEARD},
            timeout_s=SILENT_SECONDS if timeout_s is None and keys is not None else timeout_s,
            keys=keys,
        ) as events,
        table.live(hidden=as_json) as live,
    ):
        verdicts = 0
        while True:
            try:
                heard = events.receive()
            except MessageError as error:  # somebody else's message must not end the watch
                click.echo(f"heatline: {error}", err=True)
                continue
            if heard is None:
                require_authorized(address, keys, zmq.SUB)  # its key may have been revoked
                if timeout_s is None:
                    continue
                return
            if not isinstance(heard, Message):
                if as_json:
                    click.echo(f"heatline: {visible(str(heard))}", err=True)
                else:
                    table.add_notice(heard)
                    live.update(table)
                continue
            event = heard.event
            if event.topic.startswith(topics):
                saver.keep(heard)
                if as_json:
                    print_json(event)
            if not as_json:
                table.add(event)
                live.update(table)
            verdicts += isinstance(event, VerdictEvent)
            if (count and verdicts >= count) or (isinstance(event, StatusEvent) and event.state == "STOPPED"):
                return


class _Saver:
    """Keeps messages in a folder, or nowhere."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lines: BinaryIO | None = None

    def __enter__(self) -> Self:
        if self._folder is not None:
            with writing(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._lines = (self._folder / "events.jsonl").open("wb")
        return self

    def keep(self, message: Message) -> None:
        if self._folder is None or self._lines is None:
            return
        with writing(self._folder):
            self._lines.write(msgspec.json.encode(message.event) + b"\n")
            self._lines.flush()
            if message.png is not None and isinstance(message.event, VerdictEvent):
                (self._folder / f"{message.event.seq:06d}.png").write_bytes(message.png)

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.close()


class EventTable:
    """A table of the last verdicts, the line's status below it."""

    def __init__(self) -> None:
        self._rows: deque[tuple[Text | str, ...]] = deque(maxlen=ROWS_KEPT)
        self._status = Text("waiting for the line", style="dim")

    def live(self, hidden: bool) -> Live:
        """A live display of it; hidden, nothing is drawn."""
        return Live(self, console=table_console(quiet=hidden), refresh_per_second=8)

    def add(self, event: Event) -> None:
        """Take one more event in."""
        if isinstance(event, AlarmEvent):
            what = Text(f"DEAD: {event.alarm}" if event.active else "is back", style="bold red")
            self._rows.append((str(event.seq), _clock(event.at_ns), event.camera, "", what, *[""] * 4))
            return
        if isinstance(event, StatusEvent):
            self._status = _status(event)
            return
        if isinstance(event, ChangeEvent):
            what = Text("in force", style="bold green") if event.applied else Text("refused", style="bold red")
            said = describe_in_force(event.product, event.bundle) if event.applied else event.detail or ""
            self._rows.append((str(event.seq), _clock(event.at_ns), "", event.change, what, "", Text(said), "", ""))
            return
        if isinstance(event, JournalEvent):
            what = Text(event.kind, style="bold green" if event.kind in ("begun", "recording") else "bold red")
            self._rows.append(
                (str(event.seq), _clock(event.at_ns), "", "journal", what, "", Text(event.detail), "", "")
            )
            return
        highest = event.regions[0] if event.regions else None
        self._rows.append(
            (
                str(event.seq),
                _clock(event.times.captured_at_ns),
                event.camera,
                Text(_frame(event)),  # as Text: a name may hold brackets
                Text(event.verdict, style=STYLES[event.verdict]),
                "" if event.frame_score is None else f"{event.frame_score:.2f}",
                Text(_reason(event) or str(len(event.regions) or "")),
                f"{highest.peak_xy[0]},{highest.peak_xy[1]}" if highest else "",
                f"{event.latency_ms:.0f}",
            )
        )

    def add_notice(self, notice: Notice) -> None:
        """Say what was missed, that the line was started again, or that it is silent."""
        seq, detail = "", visible(str(notice))
        match notice:
            case Gap():
                what, seq = "missed", f"after {notice.after_seq} up to {notice.through_seq}"
                detail = visible(notice.topic)
            case NewBoot():
                what = "new boot"
            case LineLost():
                what = "silence"
        row = Text(what, style="bold yellow"), "", Text(detail), "", ""
        self._rows.append((seq, _clock(time.time_ns()), "", "", *row))

    def __rich_console__(self, console: Console, _options: ConsoleOptions) -> RenderResult:
        # A live display must fit the screen, and the newest rows are those to see; a file takes all.
        is_screen = console.is_terminal
        rows = list(self._rows)[-max(console.height - LINES_BESIDE_ROWS, 5) :] if is_screen else list(self._rows)
        yield fitted_table(HEADINGS, rows, console.width, numbers=NUMBERS, go_first=GO_FIRST, may_be_cut=MAY_BE_CUT)
        yield self._status
        if not console.is_terminal:
            yield ""


def _status(event: StatusEvent) -> Text:
    """The line, whether the next part may come, what is in force, and each camera's frames."""
    said = Text(f"{event.line}: {event.state}", style="bold")
    said.append(", ").append(describe_handshake(event.handshake), style=STATE_STYLES[event.handshake.state])
    if event.product is not None:
        said.append(f", product {event.product}")
    if event.handshake.detail is not None:
        said.append(f"\n{event.handshake.detail}", style="not bold")
    for camera, account in event.ledger.items():
        state = event.cameras.get(camera)
        how = "" if state is None else f" {describe_camera(state)}"
        said.append(f"\n{camera}{how}: {describe_account(account)}", style="not bold")
    return said


def _reason(event: VerdictEvent) -> str | None:
    """Why there is no verdict; of a frame that was taken and failed, with what was wrong with it."""
    if event.reason is None or event.detail is None or not event.reason.startswith("failed."):
        return event.reason
    return f"{event.reason}: {event.detail}"


def _frame(event: VerdictEvent) -> str:
    """Which frame, or which run of frames, and of which part."""
    name = event.source or ("none" if event.frame_id is None else str(event.frame_id))
    if event.frames > 1:
        name += f" to {event.last_frame_id} ({event.frames})"
    return name if event.part_id is None else f"{name} [{event.part_id}]"


def _clock(at_ns: int) -> str:
    return local_time(at_ns, "%H:%M:%S")
